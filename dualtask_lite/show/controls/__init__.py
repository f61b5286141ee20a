"""Interactive controls of the lessons: sliders that call functions of the package."""

from dualtask_lite.show.controls.conversion import conversion_explorer
from dualtask_lite.show.controls.distance import distance_explorer
from dualtask_lite.show.controls.metrics import metric_explorer
from dualtask_lite.show.controls.training import TrainingMonitor, training_monitor
from dualtask_lite.show.controls.views import view_explorer

__all__ = [
    "TrainingMonitor",
    "conversion_explorer",
    "distance_explorer",
    "metric_explorer",
    "training_monitor",
    "view_explorer",
]
