"""Making it run: settings, training, prediction, metrics, evaluation."""
