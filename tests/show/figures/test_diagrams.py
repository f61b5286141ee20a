from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from dualtask_lite.show.figures.diagrams import lines, panels


def pixels(picture):
    return np.asarray(Image.open(io.BytesIO(picture.png)).convert("RGB")).astype(int)


def test_lines_describe_their_data():
    x = np.linspace(-2, 2, 5)
    picture = lines(x, {"square": x**2, "twice": 2 * x}, "Two lines.", across="x (mm)", up="y", marks={"middle": 0.0})
    assert picture.alt.startswith("Two lines. y over x (mm).")
    assert "square: 4 at -2, 4 at 2, between 0 and 4" in picture.alt
    assert "twice: -4 at -2, 4 at 2" in picture.alt
    drawn = {tuple(colour) for colour in pixels(picture).reshape(-1, 3)}
    assert {(0, 114, 178), (230, 159, 0)} <= drawn, "each line has its own colour"


@pytest.mark.parametrize("colours", ["grey", "signed", "amount"])
def test_panels_describe_their_data(colours):
    image = np.arange(-6.0, 6.0).reshape(3, 4)
    picture = panels({"one": image, "other": image / 2}, "Two.", colours=colours, outline=image > 0, unit="mm")
    assert picture.alt == "Two. one: from -6 to 5; other: from -3 to 2.5 mm."
    assert pixels(picture).std() > 10


def test_outline_of_a_panel_runs_along_the_edges_of_its_pixels(drawn):
    mask = np.zeros((5, 7), bool)
    mask[1:4, 2:6] = True
    panels({"x": mask}, "x", numbers=True, outline=mask)
    (path,) = drawn[0].axes[0].collections[0].get_paths()
    corners = np.array([(2, 1), (2, 4), (6, 1), (6, 4)])
    nearest = np.linalg.norm(path.vertices[:, None] - corners, axis=-1).min(axis=0)
    assert (nearest < 0.15).all()


def test_dashes_are_long_enough_to_be_seen_in_the_legend(drawn):
    lines(range(2), {str(n): [n, n] for n in range(6)}, "Six.", across="x", up="y")
    (axes,) = drawn[0].axes
    length = axes.get_legend().handlelength * 9  # points
    for line in axes.get_lines():
        dashes = line._dash_pattern[1]
        assert dashes is None or length > sum(dashes), "less than one period"


def test_signed_panel_is_white_at_zero():
    image = np.zeros((2, 2))
    image[0, 0] = 5
    assert (pixels(panels({"x": image}, "x", colours="signed"))[150:, :, :].reshape(-1, 3) > 240).all(
        axis=1
    ).mean() > 0.5


def test_a_mask_beside_signed_values_has_no_colour():
    mask = np.eye(4, dtype=np.uint8)
    coloured = {}
    for name, image in (("mask", mask), ("signed", mask.astype(int))):
        drawn = pixels(panels({"one": image, "other": mask - 0.5}, "x", colours="signed"))
        left = drawn[:, : drawn.shape[1] // 3].astype(int)
        coloured[name] = bool((left.max(2) - left.min(2) > 50).any())
    assert coloured == {"mask": False, "signed": True}


def test_integers_are_written_without_decimals():
    mask = np.array([[0, 1], [1, 0]])
    plain, written = (panels({"mask": mask}, "A mask.", numbers=numbers) for numbers in (False, True))
    assert plain.png != written.png
    assert written.png != panels({"mask": mask.astype(float)}, "A mask.", numbers=True).png


def test_panels_keep_their_proportions():
    flat = panels({"x": np.eye(4)}, "x", spacing=(5.0, 1.0))
    tall = panels({"x": np.eye(4)}, "x", spacing=(1.0, 5.0))
    assert pixels(flat).shape[0] < pixels(tall).shape[0]
