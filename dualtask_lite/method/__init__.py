"""The method of the paper, in PyTorch; imports nothing else of the package."""

from dualtask_lite.method.contrast import core_and_shell, dilate, draw_voxels, draw_windows, gather, nt_xent
from dualtask_lite.method.convert import (
    distance_to_probability,
    gradient_alive,
    logit_to_distance,
    soft_distance,
    threshold_conversion,
)
from dualtask_lite.method.distance import BAND, from_band, published_distance, signed_distance, to_band
from dualtask_lite.method.losses import (
    PAPER_WEIGHTS,
    TERMS,
    Objective,
    Target,
    conv_distance_term,
    conv_mask_term,
    dice_loss,
    distance_term,
    feat_term,
    out_term,
    seg_term,
    slice_term,
)
from dualtask_lite.method.network import STRIDE, DualTaskNet, Outputs
from dualtask_lite.method.views import View, apply_view, draw_view, random_view, saturation, shows_anatomy

__all__ = [
    "BAND",
    "PAPER_WEIGHTS",
    "STRIDE",
    "TERMS",
    "DualTaskNet",
    "Objective",
    "Outputs",
    "Target",
    "View",
    "apply_view",
    "conv_distance_term",
    "conv_mask_term",
    "core_and_shell",
    "dice_loss",
    "dilate",
    "distance_term",
    "distance_to_probability",
    "draw_view",
    "draw_voxels",
    "draw_windows",
    "feat_term",
    "from_band",
    "gather",
    "gradient_alive",
    "logit_to_distance",
    "nt_xent",
    "out_term",
    "published_distance",
    "random_view",
    "saturation",
    "seg_term",
    "shows_anatomy",
    "signed_distance",
    "slice_term",
    "soft_distance",
    "threshold_conversion",
    "to_band",
]
