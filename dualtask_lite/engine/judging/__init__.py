"""Judging a model: metrics, evaluation, ablation, statistics, leaks, disagreement."""
