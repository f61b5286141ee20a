"""Settings, training, prediction, evaluation, export and benchmarks."""
