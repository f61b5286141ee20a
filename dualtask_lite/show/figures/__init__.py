"""Static figures, each with alt text made from the same numbers that it draws."""

from dualtask_lite.rows import Row
from dualtask_lite.show.figures.cases import FIELD, centres_side_by_side, histogram, orthogonal, preview
from dualtask_lite.show.figures.framework import framework
from dualtask_lite.show.figures.learning import learning_curves
from dualtask_lite.show.figures.method import core_and_shell, embeddings
from dualtask_lite.show.figures.network import network_diagram
from dualtask_lite.show.figures.scores import dice_by_volume, scores
from dualtask_lite.show.figures.swap import patients_by_scanner
from dualtask_lite.show.figures.training import Example, curves, gradients

__all__ = [
    "FIELD",
    "Example",
    "Row",
    "centres_side_by_side",
    "core_and_shell",
    "curves",
    "dice_by_volume",
    "embeddings",
    "framework",
    "gradients",
    "histogram",
    "learning_curves",
    "network_diagram",
    "orthogonal",
    "patients_by_scanner",
    "preview",
    "scores",
]
