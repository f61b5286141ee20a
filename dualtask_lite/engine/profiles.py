"""Settings of the named profiles and of the stages; all other settings have the defaults of ``engine.config``."""

from __future__ import annotations

from typing import Any

# A short training must show an effect within a lesson. So the profile uses a high temperature, more weight near the
# surface, a ramp, no weight standardisation at width 8 (METHOD, "A first trial"), small patches for more steps per
# minute, and no flips, because learning mirrored anatomy takes longer than a lesson.
_LAPTOP: dict[str, Any] = {
    "sample": {"patch": [32, 32, 24], "foreground": 0.9},
    "augment": {"flip": 0.0, "elastic": 0.0},
    "network": {"width": 8, "standardise": False},
    "views": {"count": 1},
    "objective": {
        "weights": {"seg": 1.0, "dist": 1.0, "conv_mask": 1.0, "conv_distance": 1.0},
        "tau": 3.0,
        "surface_weight": 5.0,
        "ramp": 0.3,
    },
    "optimiser": {
        "name": "adamw",
        "lr": 4e-3,
        "weight_decay": 1e-4,
        "schedule": "onecycle",
        "steps": 400,
        "batch": 4,
    },
    "prediction": {"flips": 1, "overlap": 0.25},
}
PROFILES: dict[str, dict[str, Any]] = {
    "laptop": _LAPTOP,
    # Like laptop, but with three times as many cases, and so many steps that the baseline becomes clearly better on its
    # training hospitals than on a new one: before that, no regulariser helps (METHOD, "A second trial"). It takes hours
    # on a CPU.
    "reference": {
        **_LAPTOP,
        "data": {"source": "phantom-48", "validation": 0.1},
        "optimiser": {**_LAPTOP["optimiser"], "steps": 2_400},
        "machine": {"validate_every": 300},
    },
    "colab": {
        "network": {"width": 16},
        "sample": {"spacing": [2.0, 2.0, 2.5], "patch": [96, 96, 64]},
        "objective": {"tau": 2.0, "surface_weight": 5.0, "ramp": 0.3},
        "optimiser": {"name": "adamw", "lr": 1e-3, "schedule": "onecycle", "steps": 2_000, "batch": 2},
        "machine": {"workers": 2},
    },
    "gpu": {
        "sample": {"spacing": [1.0, 1.0, 2.0], "patch": [160, 160, 96]},
        "objective": {"tau": 1.0, "surface_weight": 5.0, "ramp": 0.3},
        "optimiser": {"name": "adamw", "lr": 5e-4, "schedule": "onecycle", "steps": 10_000, "batch": 2},
        "machine": {"workers": 8, "cache_regions": True, "validate_every": 500, "checkpoint_every": 500},
    },
    # The published recipe without its traps: two views, all terms, Adam with polynomial decay.
    "paper": {
        "sample": {"spacing": [0.8, 0.8, 2.5], "patch": [192, 160, 64]},
        "objective": {"tau": 1.0},
        "machine": {"workers": 8, "cache_regions": True, "validate_every": 1_000, "checkpoint_every": 500},
    },
}
# Stages that process the whole abdomen use a coarser grid.
COARSE: dict[str, dict[str, Any]] = {
    "laptop": {"sample": {"spacing": [5.0, 5.0, 5.0], "patch": [32, 32, 24]}, "optimiser": {"steps": 250}},
    "reference": {"sample": {"spacing": [5.0, 5.0, 5.0], "patch": [32, 32, 24]}, "optimiser": {"steps": 1_600}},
    "colab": {"sample": {"spacing": [3.0, 3.0, 3.0], "patch": [96, 96, 64]}},
    "gpu": {"sample": {"spacing": [2.0, 2.0, 2.5], "patch": [160, 128, 96]}},
    "paper": {"sample": {"spacing": [1.6, 1.6, 2.5], "patch": [192, 160, 96]}},
}
# The coarse stage processes the region around the pancreas in one patch of at most 6 million voxels; the fine stage
# uses a tight box around the tumour.
TUMOUR: dict[str, dict[str, Any]] = {
    "tumour-coarse": {"sample": {"patch": [256, 224, 104]}},
    "tumour-fine": {"sample": {"patch": [160, 160, 64], "foreground": 1.0}},
}
# The slice head and the contrast need a tumour: METHOD uses them in the tumour stages only.
TUMOUR_TERMS = ("feat", "slice")
