"""All figures of the package: each is read on white and on black paper, and its words come from its data."""

from __future__ import annotations

import inspect
import io
import re
from collections.abc import Callable
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text
from numpy.typing import NDArray
from PIL import Image

from dualtask_lite.cases.case import Case, Scan
from dualtask_lite.engine.judging.metrics import case_metrics
from dualtask_lite.method.network import DualTaskNet
from dualtask_lite.show import figures, palette
from dualtask_lite.show.controls import conversion_explorer, distance_explorer, metric_explorer
from dualtask_lite.show.figures import diagrams, results, swap, trust
from dualtask_lite.show.picture import Picture

PAPERS = {"white": ("default", 1.0), "black": ("dark_background", 0.0)}
READABLE = 4.5  # WCAG 2, AA: text against what lies behind it
SEEN = 3.0  # WCAG 2, AA: parts of a figure


def scan(size: int) -> Scan:
    label = np.zeros((40, 50, 20), np.uint8)
    label[10:26, 10:30, 5:15] = 1
    label[14 : 16 + size, 14:24, 7:12] = 2
    grey = np.where(label == 2, 60.0 + size, np.where(label == 1, 110.0, 20.0)).astype(np.float32)
    return Case("C_001", "C", grey, label, np.diag([2, 1, 4, 1])).load()


def away(size: int) -> NDArray[Any]:
    return np.where(scan(size).label == 2, -float(size), 9.0)


def rows(n: int) -> list[dict[str, Any]]:
    terms = {"seg": 1.0, "dist": 0.5, "grad_seg": 2.0, "grad_dist": 1.0}
    return [{"step": i, **{k: v * n / i for k, v in terms.items()}, "val_dice": 0.1 * n} for i in range(1, 6)]


def scores(n: int) -> list[dict[str, Any]]:
    return [{"case": str(i), "centre": c, "dice": 0.1 * n + 0.2 * i} for i, c in enumerate("ABC")]


def table(n: int) -> list[dict[str, Any]]:
    about = {"protocol": "leave-one-centre-out", "target": "tumour", "seed": 0}
    arms = {"segmentation": 0.3, "full": 0.3 + 0.1 * n, "full+objective.tau=6": 0.2}
    return [{**about, "arm": a, "case": c, "centre": c, "dice": d} for a, d in arms.items() for c in "AB"]


def learning(n: int) -> list[dict[str, Any]]:
    about = {"part": "C", "seed": 0, "train_dice": 0.5, "validation_dice": 0.4, "unseen_dice": 0.1 * n}
    return [{**about, "arm": arm, "step": step, "loss": n} for arm in ("segmentation", "full") for step in (100, 200)]


def comparison(n: int) -> dict[str, Any]:
    measured = {"interval": [0.0, 0.1], "hierarchical": [-0.1, 0.2], "difference": 0.01 * n, "p_holm": 0.03, "note": ""}
    measured |= {"by_seed": {"0": 0.01}, "cases": 42, "trainings": 3}
    about = {"protocol": "leave-one-centre-out", "target": "tumour", "metric": "dice"}
    return {**about, **measured, "arm": "full", "baseline": "segmentation"}


def cells(n: int) -> tuple[NDArray[Any], ...]:
    mask = np.zeros((32, 24, 16), bool)
    mask[8:16, 8:16, 8:16] = True
    core, shell = np.zeros((2, 4, 3, 2), bool)
    core[1, 1, 1] = shell[0, :n, 1] = True
    return np.zeros(mask.shape, np.float32), mask, core, shell


def doubtful(n: int) -> list[dict[str, Any]]:
    return [{"case": c, "centre": c, "risk": 0.1 * n, "heads_mm": float(n)} for c in "AB"]


def swapped(n: int) -> list[dict[str, Any]]:
    about = {"target": "tumour", "dice": 0.1 * n}
    return [{"patients": owner, "scanner": scanner, **about} for owner in "AC" for scanner in "AC"]


#: Each figure, of one of two sets of data.
FIGURES: dict[str, Callable[[int], Picture]] = {
    "figures.centres_side_by_side": lambda n: figures.centres_side_by_side([scan(n), scan(n + 1)]),
    "figures.core_and_shell": lambda n: figures.core_and_shell(*cells(n), (2.0, 1.0, 3.0)),
    "figures.curves": lambda n: figures.curves(
        rows(n), figures.Example(*(part[..., 8] for part in cells(n)[:2]), cells(n)[1][..., 9], (2.0, 1.0), "case A_1")
    ),
    "figures.dice_by_volume": lambda n: figures.dice_by_volume(
        [{"kind": kind, "volume_ml_truth": 10.0 * n, "dice": 0.1 * n} for kind in ("cystic", "solid")]
    ),
    "figures.embeddings": lambda n: figures.embeddings(torch.eye(3) + n, -n * torch.eye(3)),
    "figures.framework": lambda n: figures.framework(scan(n)),
    "figures.gradients": lambda n: figures.gradients([row | {"grad_seg": float(n)} for row in rows(1)]),
    "figures.histogram": lambda n: figures.histogram([scan(n)]),
    "figures.learning_curves": lambda n: figures.learning_curves(learning(n)),
    "figures.network_diagram": lambda n: figures.network_diagram(DualTaskNet(width=8 * n), (16, 16, 16)),
    "figures.orthogonal": lambda n: figures.orthogonal(scan(n), prediction=scan(n).label, distance=away(n)),
    "figures.preview": lambda n: figures.preview(scan(n), scan(n).label, away(n)),
    "figures.scores": lambda n: figures.scores(scores(n)),
    "diagrams.lines": lambda n: diagrams.lines(
        range(3), {"a": np.arange(3) * n}, "Lines.", across="x (mm)", up="y", marks={"here": 1.0}
    ),
    "diagrams.panels": lambda n: diagrams.panels(
        {"one": np.linspace(-n, n, 24).reshape(4, 6)}, "Numbers.", colours="signed", numbers=True
    ),
    "results.arms": lambda n: results.arms([comparison(n)], claimed=0.095),
    "results.paired": lambda n: results.paired(table(n), "full"),
    "figures.patients_by_scanner": lambda n: swap.patients_by_scanner(swapped(n)),
    "trust.leaks": lambda n: trust.leaks([{"leak": "by slice", "reported Dice": 0.1 * n, "honest Dice": 0.5}]),
    "trust.risk_coverage": lambda n: trust.risk_coverage({"heads": [0.1 * n, 0.4]}, [0.1, 0.4]),
    "trust.thresholds": lambda n: trust.thresholds([0.3, 0.7], [0.1 * n, 0.4], [0.2, 0.3], 0.5),
    "trust.warning_against_error": lambda n: trust.warning_against_error(doubtful(n), "heads_mm", "apart (mm)", 0.5),
    "trust.where_wrong": lambda n: trust.where_wrong(
        scan(n), scan(n).label, 2, error=np.where(scan(n).label == 2, float(n), np.nan), doubt=np.abs(away(n))
    ),
    "controls.distance": lambda n: distance_explorer(spacing=(0.8, 0.8, 5.0 * n)).picture,
    "controls.conversion": lambda n: conversion_explorer(spacing=(0.8, 0.8, 2.0 * n)).picture,
    "controls.metrics": lambda n: metric_explorer(case_metrics, spacing=(2.0, 2.0, 2.0 * n)).picture,
}


def test_every_figure_is_tested():
    drawing = {
        f"{module.__name__.rpartition('.')[2]}.{name}"
        for module in (figures, diagrams, results, trust)
        for name, function in vars(module).items()
        if inspect.isfunction(function) and function.__annotations__.get("return") == "Picture" and name[0] != "_"
    }
    assert drawing == {name for name in FIGURES if not name.startswith("controls.")}


@pytest.mark.parametrize("paper", PAPERS)
@pytest.mark.parametrize("name", FIGURES)
def test_text_is_readable_on_white_and_black(name, paper, drawn):
    style, lightness = PAPERS[paper]
    with matplotlib.style.context(style):
        FIGURES[name](2)
        (figure,) = drawn
        faint = {text: round(contrast, 1) for text, contrast in contrasts(figure) if contrast < READABLE}
        edge = pixels(figure)[:3]
    assert not faint
    assert np.median(edge) == lightness


@pytest.mark.parametrize("name", FIGURES)
def test_alt_text_follows_the_data(name, monkeypatch):
    monkeypatch.setattr(Picture, "of", lambda figure, alt: Picture(b"", alt))
    one, other = (FIGURES[name](n).alt for n in (1, 2))
    assert one != other
    assert all(len(re.findall(r"\d", alt)) > 1 and len(alt) > 20 for alt in (one, other))


def test_picture_keeps_its_background():
    for style, lightness in PAPERS.values():
        with matplotlib.style.context(style):
            picture = figures.scores(scores(1))
        assert np.asarray(Image.open(io.BytesIO(picture.png)).convert("L"))[0, 0] == 255 * lightness


@pytest.mark.parametrize("colour", [palette.GREY, *palette.CENTRES])
def test_lines_are_visible_on_black(colour):
    assert contrast(luminance(to_rgb(colour)), 0.0) >= SEEN


def luminance(rgb: Any) -> Any:
    """Relative luminance, as WCAG 2 defines it."""
    rgb = np.asarray(rgb, float)
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


def contrast(one: float, other: float) -> float:
    return (max(one, other) + 0.05) / (min(one, other) + 0.05)


def pixels(figure: Figure) -> NDArray[Any]:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3] / 255


def contrasts(figure: Figure) -> list[tuple[str, float]]:
    """How each text stands out from what lies behind it, once the text is taken away; or from its own rim."""
    figure.set_dpi(60)
    height = pixels(figure).shape[0]
    figure.set_layout_engine("none")
    texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    places = [text.get_window_extent() for text in texts]
    for text in texts:
        text.set_visible(False)
    behind = pixels(figure)
    found = []
    for text, place in zip(texts, places, strict=True):
        rows = slice(max(0, int(height - place.y1)), max(0, int(height - place.y0)))
        box = behind[rows, max(0, int(place.x0)) : max(0, int(place.x1))]
        if effects := text.get_path_effects():
            other = luminance(to_rgb(effects[0]._gc["foreground"]))
        elif box.size:
            other = float(np.median(luminance(box)))
        else:
            continue  # outside: a tick that is not drawn
        found.append((text.get_text(), contrast(float(luminance(to_rgb(text.get_color()))), other)))
    return found
