"""Cache of training regions on disk: cut once, then memory-mapped by every process and run that needs them.

The key of a region is a hash of its CT, its label, the settings that affect it, and the code that cuts it. Processes
share mapped pages, and the system evicts them when memory is short, so a training on thousands of CTs needs no more
memory than a training on a few. The folder ``regions`` of the cache may be removed at any time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from dualtask_lite.cases import dicom, grid, masks
from dualtask_lite.cases.case import Case
from dualtask_lite.cases.digests import file_digests
from dualtask_lite.cases.masks import Box
from dualtask_lite.engine.config import STAGES, Settings
from dualtask_lite.engine.data import dataset
from dualtask_lite.engine.data.dataset import Region, training_region
from dualtask_lite.errors import DualTaskError
from dualtask_lite.files import whole_file
from dualtask_lite.machine import host_memory
from dualtask_lite.resources import cache_folder

_MODULES = (dataset, grid, masks)  # the code that cuts a region

Track = Callable[[Sequence[Case]], Iterable[Case]]


def training_regions(cases: Sequence[Case], settings: Settings, track: Track = iter) -> list[Region]:
    """The regions that a stage trains on: in memory, or mapped from disk with ``machine.cache_regions``.

    Args:
        cases: labelled cases.
        settings: of the run.
        track: iterates over the cases, for example with a progress bar.

    Raises:
        DualTaskError: when a case cannot be read or has no label, or the regions do not fit into memory.
    """
    if settings.machine.cache_regions:
        return [mapped_region(case, settings) for case in track(cases)]
    regions: list[Region] = []
    for case in track(cases):
        regions.append(training_region(case, settings))
        _check_host_memory(regions, len(cases))
    return regions


def mapped_region(case: Case, settings: Settings) -> Region:
    """The training region of a case, mapped from its file; if there is no file, the region is cut and written first.

    Raises:
        DualTaskError: when the case cannot be read or has no label, or the cache cannot be written.
    """
    file = cache_folder() / "regions" / f"{_key(case, settings)}.safetensors"
    region = _map(file, case.id)
    if region is None:
        _write(file, training_region(case, settings))
        region = _map(file, case.id)
    assert region is not None  # it was just written
    return region


def _key(case: Case, settings: Settings) -> str:
    """Hash of everything that a region depends on."""
    code = [hashlib.sha256(Path(str(module.__file__)).read_bytes()).hexdigest() for module in _MODULES]
    stage, label_map = STAGES[settings.stage].model_dump(), sorted((case.label_map or {}).items())
    contents = [_content(image, case.affine) for image in (case.image, case.label)]
    return hashlib.sha256(json.dumps([contents, label_map, stage, settings.sample.spacing, code]).encode()).hexdigest()


def _content(image: Path | np.ndarray | None, affine: np.ndarray | None) -> str:
    """Hash of voxels and grid of an image; an unchanged file or folder is not read again."""
    if image is None:
        return ""
    if isinstance(image, np.ndarray):
        parts = (str((image.shape, image.dtype)).encode(), image.tobytes(), b"" if affine is None else affine.tobytes())
        return hashlib.sha256(b"".join(parts)).hexdigest()
    try:
        stamp = dicom.stamp(image) if image.is_dir() else (image.stat().st_mtime_ns, image.stat().st_size)
    except OSError as error:
        raise DualTaskError(f"{image}: cannot be read ({error})", "check the path") from error
    return file_digests(image, *stamp)[1]


def _write(file: Path, region: Region) -> None:
    assert region.mask is not None  # a training region has a label
    target = region.mask.flatten().nonzero()[:, 0].to(torch.int32)
    tensors = {"image": region.image, "mask": region.mask, "target": target}
    geometry = {"spacing": region.spacing, "start": region.box.start, "stop": region.box.stop}
    data = save({name: tensor.contiguous() for name, tensor in tensors.items()}, {"region": json.dumps(geometry)})
    with whole_file(file) as temporary:
        temporary.write_bytes(data)


def _map(file: Path, case_id: str) -> Region | None:
    """A region whose arrays stay on disk until they are used; ``None`` if the file is missing or damaged."""
    try:
        with safe_open(file, framework="pt") as opened:  # tensors are memory-mapped
            image, mask, target = (opened.get_tensor(name) for name in ("image", "mask", "target"))
            geometry: dict[str, Any] = json.loads(opened.metadata()["region"])
    except (FileNotFoundError, SafetensorError, OSError):
        return None
    spacing, start, stop = (tuple(geometry[name]) for name in ("spacing", "start", "stop"))
    return Region(case_id, image, mask, spacing, Box(start, stop), target)


def _check_host_memory(regions: Sequence[Region], count: int) -> None:
    """Check that the regions of all cases fit into memory, by the mean size of the regions read so far.

    Raises:
        DualTaskError: when they do not fit; it names the setting that keeps regions on disk.
    """
    size = sum(part.nbytes for region in regions for part in (region.image, region.mask) if part is not None)
    remaining, available = size / len(regions) * (count - len(regions)), host_memory()[1]
    if available is not None and remaining > available:
        raise DualTaskError(
            f"the regions of {count} cases take about {(size + remaining) / 1e9:.1f} GB of memory, "
            f"but only {(size + available) / 1e9:.1f} GB are available",
            "add --set machine.cache_regions=true, which keeps them on disk",
        )
