"""How good a model is: metrics, evaluation, ablation, statistics, leaks, disagreement."""
