"""The figure of the method can be read on a phone, and shows what the method computes."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from dualtask_lite.cases.phantom import make_case
from dualtask_lite.show.figures import framework
from dualtask_lite.show.picture import WIDTH, Picture

PHONE = 390  # px


@pytest.fixture(scope="module")
def figure():
    drawn = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Picture, "of", lambda figure, alt: drawn.append(figure) or Picture(b"", alt))
        framework(make_case("B", 5).load())
    FigureCanvasAgg(drawn[0]).draw()
    return drawn[0]


def words(figure):
    return [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]


def test_text_is_at_least_ten_pixels_high_on_a_phone(figure):
    points_to_px = figure.dpi / 72 * PHONE / (figure.get_figwidth() * figure.dpi)
    assert min(text.get_fontsize() * points_to_px for text in words(figure)) >= 10


def test_no_text_overlaps_another_or_leaves_the_page(figure):
    boxes = [text.get_window_extent() for text in words(figure)]
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
    width, height = figure.canvas.get_width_height()
    assert all(box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height for box in boxes)
    assert width == pytest.approx(WIDTH * figure.dpi / 100)


def test_figure_names_every_part_of_the_method(figure):
    named = " ".join(text.get_text() for text in words(figure))
    for part in ("CT", "view 1", "view 2", "encoder", "bottleneck", "two heads", "segmentation", "distance (mm)"):
        assert part in named
    assert all(part in named for part in ("convert", "both ways", "consistency", "core", "shell"))


def test_core_and_shell_markers_differ_in_shape_and_colour(figure):
    markers = [line.get_marker() for axes in figure.axes for line in axes.lines]
    assert sorted(markers) == ["o", "x"]


def test_segmentation_and_distance_share_their_surface(figure):
    images = {axes.get_title(): np.asarray(axes.images[0].get_array()) for axes in figure.axes if axes.images}
    assert np.array_equal(images["segmentation"] > 0.5, images["distance (mm)"] < 0)
    assert images["CT patch"].shape == images["view 1"].shape
    assert not np.allclose(images["view 1"], images["view 2"])


def test_a_case_without_a_tumour_is_refused():
    with pytest.raises(ValueError, match="B_003: has no tumour"):
        framework(make_case("B", 3).load())
