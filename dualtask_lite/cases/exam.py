"""An instructor's own exam: hospital D with other patients and other values, so that no two courses share one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from dualtask_lite.cases.phantom import Centre, centres, make_phantom
from dualtask_lite.cases.sources import PHANTOM_CASES, PHANTOM_SEED
from dualtask_lite.errors import DualTaskError

SHIFT, LARGEST_SHIFT = 0.1, 0.3  # share by which a value may change; a larger one would reorder tissues by brightness
_SCANNER = ("field_of_view_mm", "slice_mm", "noise_hu", "kernel_voxels")
_SHARES = ("solid", "iso", "cystic")


def make_exam(
    folder: str | Path,
    *,
    seed: int,
    shift: float = SHIFT,
    cases: int | None = None,
    size: Sequence[int] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write the data of a new exam; the same seed and shift give the same voxels.

    Args:
        folder: to write to; it is created.
        seed: of the patients and of the values; 0 is the embedded exam's, which learners have.
        shift: share by which each value of D may change, up or down; see ``shifted``.
        cases: by default as many as the embedded exam has.
        size: voxels along x, y and z, see ``make_case``.
        progress: called with the number of finished cases and of all cases.

    Returns:
        The folder.

    Raises:
        DualTaskError: when the seed is the embedded exam's, the shift is too large, or the folder cannot be written.
    """
    if seed == PHANTOM_SEED:
        raise DualTaskError(f"seed {seed} is that of the embedded exam, which learners have", "choose another seed")
    centre = shifted(seed, shift)
    return make_phantom(
        folder,
        cases=PHANTOM_CASES["exam"] if cases is None else cases,
        seed=seed,
        size=size,
        centres_to_write={centre.name: centre},
        progress=progress,
    )


def shifted(seed: int, shift: float = SHIFT) -> Centre:
    """Hospital D with each of its values changed by a random share of at most ``shift``, up or down.

    This applies to the scanner (attenuation, field of view, slices, noise, kernel) and to the lesions (kinds, contrast,
    diameters).

    Args:
        seed: draws the shares.
        shift: 0 leaves D as it is.

    Raises:
        DualTaskError: when the shift is negative or larger than ``LARGEST_SHIFT``.
    """
    if not 0 <= shift <= LARGEST_SHIFT:
        raise DualTaskError(f"the shift {shift:g} is not between 0 and {LARGEST_SHIFT:g}", "choose a share such as 0.1")
    (centre,) = centres(exam=True).values()
    rng = np.random.default_rng([seed, *centre.name.encode()])

    def vary(value: float) -> float:
        return round(float(value * (1 + shift * rng.uniform(-1, 1))), 3)

    scanner: dict[str, Any] = {name: vary(getattr(centre, name)) for name in _SCANNER}
    tumours: dict[str, Any] = {
        name: vary(value) if name in _SHARES else (vary(value[0]), value[1])
        for name, value in asdict(centre.tumours).items()
    }
    return replace(
        centre,
        hu={tissue: vary(hu) for tissue, hu in centre.hu.items()},
        tumours=replace(centre.tumours, **tumours),
        **scanner,
    )
