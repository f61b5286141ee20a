"""Figures of cases: planes with truth and prediction, and histograms of the attenuation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from dualtask_lite.cases.case import CT_WINDOW, Scan
from dualtask_lite.cases.findings import LABELS
from dualtask_lite.cases.masks import dice
from dualtask_lite.show import palette, planes
from dualtask_lite.show.figures.parts import join_sides, shorten, tidy
from dualtask_lite.show.picture import WIDTH, Picture, new_figure

FIELD = 160.0  # mm shown around a lesion
_STRUCTURES = ((2, LABELS[2]), (1, LABELS[1]))
_TISSUES = {  # label: name, colour, line
    2: (LABELS[2], palette.TUMOUR, "-"),
    1: (LABELS[1], palette.PANCREAS, "--"),
    0: ("rest of the body", palette.GREY, "-."),
}


def centres_side_by_side(scans: Sequence[Scan]) -> Picture:
    """Show one CT of each centre, axial and coronal through its lesion, all at the same scale in mm.

    Args:
        scans: labelled scans, one of each centre.
    """
    wide, deep, high = (max(n * mm for n, mm in sizes) for sizes in zip(*map(_sides, scans), strict=True))
    high = max(high, deep / 4)  # a few thick slices still get a readable panel
    scale = 0.93 * WIDTH / len(scans) / wide  # px a mm
    figure = new_figure(height=scale * (deep + high) + 130)
    layout = {"height_ratios": (deep, high)}
    panels = figure.subplots(2, len(scans), squeeze=False, sharex=True, sharey="row", gridspec_kw=layout)
    notes = []
    for column, scan in enumerate(scans):
        at, where = planes.middle(scan.label, scan.shape, _STRUCTURES)
        for axes, plane in zip(panels[:, column], ("axial", "coronal"), strict=True):
            planes.draw_ct(axes, scan, plane, at)
            planes.outline_truth(axes, scan.label, scan.spacing, plane, at)
        words = f"centre {shorten(scan.centre)}\ncase {shorten(scan.id)}\n{join_sides(scan.spacing)} mm"
        panels[0, column].set_title(words, fontsize=9)
        panels[1, column].set_xlabel(f"mm from the middle of the {where}", fontsize=9)
        notes.append(f"Centre {scan.centre}, {_size(scan)}: {_contents(scan)}; cut through the {where}.")
    for row, plane, least in zip(panels, ("axial", "coronal"), (deep, high), strict=True):
        _show_all(row, least)
        row[0].set_ylabel(f"{plane} (mm)", fontsize=9)
    figure.suptitle("pancreas outlined in blue, tumour in orange", fontsize=10)
    summary = "Axial and coronal CT planes, window {:g} to {:g} HU. ".format(*CT_WINDOW)
    return Picture.of(figure, summary + " ".join(notes))


def _show_all(row: Sequence[Axes], least: float) -> None:
    """Set the limits of panels with shared axes to show all images, and at least ``least`` mm from top to bottom."""
    extents = np.array([axes.images[0].get_extent() for axes in row])
    bottom, top = extents[:, 2].min(), extents[:, 3].max()
    spare = max(0.0, least - (top - bottom)) / 2
    row[0].set(xlim=(extents[:, 0].min(), extents[:, 1].max()), ylim=(bottom - spare, top + spare))


def orthogonal(
    scan: Scan,
    label: NDArray[Any] | None = None,
    prediction: NDArray[Any] | None = None,
    distance: NDArray[Any] | None = None,
) -> Picture:
    """Show three planes through the lesion (or the organ) with the outlines of truth and prediction.

    Args:
        scan: the CT, (X, Y, Z) in RAS+ order.
        label: the truth, (X, Y, Z) of 0, 1, 2; by default the label of the scan.
        prediction: predicted labels, (X, Y, Z) of 0, 1, 2.
        distance: signed distance, (X, Y, Z) in mm, negative inside; adds a second row.
    """
    return _three_planes(scan, scan.label if label is None else label, prediction, distance)


def preview(scan: Scan, mask: NDArray[Any], distance: NDArray[Any] | None) -> Picture:
    """Show a prediction without any truth: the picture that ``dualtask predict`` writes.

    Args:
        scan: the CT, (X, Y, Z).
        mask: predicted labels, (X, Y, Z) of 0, 1, 2.
        distance: predicted signed distance, (X, Y, Z) in mm, or None.
    """
    return _three_planes(scan, None, mask, distance)


def histogram(scans: Sequence[Scan]) -> Picture:
    """Show the attenuation (HU) of tumour, pancreas and the rest of the body, a row for each centre.

    Args:
        scans: labelled scans of one or more centres.
    """
    centres = list(dict.fromkeys(scan.centre for scan in scans))
    figure = new_figure(height=60 + 150 * len(centres))
    bins = np.arange(-150, 301, 5)
    notes = []
    rows = figure.subplots(len(centres), 1, squeeze=False, sharex=True, sharey=True)[:, 0]
    for axes, centre in zip(rows, centres, strict=True):
        for value, (tissue, colour, style) in _TISSUES.items():
            hu = _attenuation([scan for scan in scans if scan.centre == centre], value)
            if hu.size:
                share = np.histogram(hu, bins)[0] / hu.size * 100
                axes.plot(bins[:-1] + 2.5, share, color=colour, ls=style, label=tissue)
                low, median, high = np.percentile(hu, (25, 50, 75))
                notes.append(f"{tissue}, centre {centre}: median {median:.0f} (middle half {low:.0f} to {high:.0f})")
        axes.set(title=f"centre {centre}", xlim=(bins[0], bins[-1]), ylim=(0, None))
        tidy(axes)
    figure.supylabel("share of voxels (% per 5 HU)", fontsize=9)
    rows[-1].set_xlabel("attenuation (HU)")
    rows[0].legend(frameon=False, fontsize=9)
    return Picture.of(figure, f"Histograms of {len(scans)} cases in HU. " + "; ".join(notes) + ".")


def _three_planes(
    scan: Scan, truth: NDArray[Any] | None, prediction: NDArray[Any] | None, distance: NDArray[Any] | None
) -> Picture:
    shown = truth if truth is not None and np.any(truth) else prediction
    at, where = planes.middle(shown, scan.shape, _STRUCTURES)
    rows = 1 if distance is None else 2
    figure = new_figure(height=390 if distance is None else 600)
    panels = figure.subplots(rows, 3, squeeze=False, sharex=True, sharey=True)
    for column, plane in enumerate(planes.PLANES):
        for axes in panels[:, column]:
            planes.draw_ct(axes, scan, plane, at, FIELD)
        if distance is not None:
            drawn = planes.draw_distance(panels[1, column], distance, scan.spacing, plane, at)
        for axes in panels[:, column]:
            planes.outline_truth(axes, truth, scan.spacing, plane, at)
            planes.outline_prediction(axes, prediction, scan.spacing, plane, at)
        if distance is not None:  # last: it may lie on the others, whose gaps would not show it
            planes.outline(panels[1, column], distance < 0, scan.spacing, plane, at, palette.BLACK, ":")
        panels[0, column].set_title(plane, fontsize=10)
        panels[-1, column].set_xlabel(f"mm from the middle of the {where}", fontsize=9)
    if distance is not None:
        figure.colorbar(drawn, ax=panels[1], label="signed distance (mm), negative inside", extend="both")
    outlines = ["truth: pancreas blue, tumour orange"] if truth is not None else []
    outlines += ["prediction: magenta, dashed"] if prediction is not None else []
    outlines += ["distance 0: black, dotted"] if distance is not None else []
    name = f"centre {shorten(scan.centre)}, case {shorten(scan.id)}"
    figure.suptitle(f"{name}\n{'; '.join(outlines)}", fontsize=10)
    return Picture.of(figure, " ".join(_describe_planes(scan, where, truth, prediction, distance)))


def _describe_planes(
    scan: Scan,
    where: str,
    truth: NDArray[Any] | None,
    prediction: NDArray[Any] | None,
    distance: NDArray[Any] | None,
) -> Iterator[str]:
    yield f"Case {scan.id}, centre {scan.centre}, {_size(scan)}."
    yield f"Three CT planes through the middle of the {where}."
    if truth is not None:
        yield f"Truth: {_volumes(truth, scan.spacing)}."
    if prediction is not None:
        present = [(value, name) for value, name in _STRUCTURES if (prediction == value).any()]
        parts = [
            f"{name}{' with tumour' if (prediction > v).any() else ''} {_ml(prediction >= v, scan.spacing):.1f} ml"
            f"{_agreement(prediction, truth, v)}"
            for v, name in present
        ]
        yield f"Prediction: {', '.join(parts) or 'nothing found'}."
    if distance is not None:
        known = distance[np.isfinite(distance)]
        ends = f"from {known.min():.1f} to {known.max():.1f} mm, negative inside" if known.size else "not defined"
        yield f"Signed distance {ends}."


def _agreement(prediction: NDArray[Any], truth: NDArray[Any] | None, value: int) -> str:
    """Describe the agreement as Dice; for the pancreas a tumour voxel counts as pancreas."""
    if truth is None:
        return ""
    return f" (Dice {dice(prediction >= value, truth >= value):.2f})"


def _attenuation(scans: Sequence[Scan], value: int) -> NDArray[np.float32]:
    """Collect the HU of all voxels of one label; of the background only the body, without air and lung."""
    hu = np.concatenate([scan.volume[scan.label == value] for scan in scans if scan.label is not None])
    return hu[hu > -150] if value == 0 else hu


def _ml(mask: NDArray[Any], spacing: Sequence[float]) -> float:
    return float(mask.sum() * np.prod(spacing) / 1000)


def _volumes(label: NDArray[Any], spacing: Sequence[float]) -> str:
    volumes = {v: _ml(label == v, spacing) for v in (1, 2)}
    return ", ".join(f"{LABELS[v]} {ml:.1f} ml" if ml else f"no {LABELS[v]}" for v, ml in volumes.items())


def _contents(scan: Scan) -> str:
    if scan.label is None:
        return "no label"
    means = [f"{LABELS[v]} {scan.volume[scan.label == v].mean():.0f} HU" for v in (1, 2) if (scan.label == v).any()]
    return ", ".join([_volumes(scan.label, scan.spacing), *means])


def _size(scan: Scan) -> str:
    return f"{join_sides(scan.shape)} voxels of {join_sides(scan.spacing)} mm"


def _sides(scan: Scan) -> list[tuple[int, float]]:
    return list(zip(scan.shape, scan.spacing, strict=True))
