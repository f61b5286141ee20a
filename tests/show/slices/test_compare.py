from __future__ import annotations

import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from dualtask_lite.cases.case import Case, Scan
from dualtask_lite.errors import DualTaskError
from dualtask_lite.show import compare, slices
from dualtask_lite.show.picture import Picture

SHAPE = (40, 50, 20)


def make_scan(*, label: bool = True) -> Scan:
    volume = np.full(SHAPE, -1000, np.float32)
    volume[10:30, 10:40] = np.random.default_rng(0).uniform(-90, 230, (20, 30, 20))
    return Case("A_001", "A", volume, mask(15) if label else None, np.diag([2.0, 1.0, 4.0, 1.0])).load()


def mask(first: int) -> np.ndarray:
    label = np.zeros(SHAPE, np.uint8)
    label[first : first + 8, 15:30, 5:15] = 1
    label[first + 2 : first + 5, 20:25, 8:11] = 2
    return label


def test_panels_show_the_same_slices_in_the_same_crop():
    both = compare(make_scan(), {"one": mask(16), "two": mask(31)})
    one, two = both.panels.values()
    assert one.voxels == two.voxels
    assert [f.index for f in one.frames] == [f.index for f in two.frames]
    assert one.start == two.start
    assert one.frames[9].lines["prediction"] != two.frames[9].lines["prediction"]
    alone = slices(make_scan(), mask(16))
    assert one.voxels > alone.voxels, "the crop holds what the other one found"


def test_panels_without_truth_show_the_same_slices_of_a_thick_stack():
    volume = np.random.default_rng(0).uniform(-90, 230, (20, 20, 140)).astype(np.float32)
    masks = {name: np.zeros(volume.shape, np.uint8) for name in ("few", "many", "none")}
    masks["few"][8:10, 8:10, 35] = masks["many"][8:12, 8:12, 68] = 2
    page = compare(volume, masks, spacing=(1, 1, 3))
    assert {tuple(frame.index for frame in panel.frames) for panel in page.panels.values()} == {tuple(range(2, 140, 3))}
    assert [panel.frames[panel.start].index for panel in page.panels.values()] == [68, 68, 68]
    assert "Slice 69 of 140" in page.to_html()


def test_panels_share_one_slider_and_the_grey_values():
    page = compare(make_scan(), {"one": mask(16), "<two>": mask(17)}).to_html()
    assert page.count('type="range"') == 1
    assert page.count('<div class="stage"') == 2
    assert "<strong>&lt;two&gt;</strong>" in page
    frames = json.loads(re.search(r'<script type="application/json">(.*?)</script>', page)[1])
    assert [set(frame) for frame in frames] == [{"ct", "panels"}] * 20
    assert all(len(frame["panels"]) == 2 for frame in frames)


def test_single_prediction_is_shown_beside_the_truth():
    panels = compare(make_scan(), {"model": mask(16)}).panels
    assert list(panels) == ["truth", "model"]
    assert "prediction" not in panels["truth"].frames[0].lines


def test_picture_without_scripts_describes_all_panels():
    both = compare(make_scan(), {"one": mask(16), "two": mask(17)})
    assert Image.open(io.BytesIO(both.still.png)).width == 2 * both.panels["one"].size[0] + 8
    assert re.search(r"From left to right\. one: .*Dice.* two: .*Dice", both.still.alt)
    assert {"text/html", "image/png", "text/plain"} == set(both._repr_mimebundle_())
    assert isinstance(compare(make_scan(), {"one": mask(16)}, viewer="picture"), Picture)


def test_comparison_without_predictions_is_refused():
    with pytest.raises(DualTaskError, match="two predictions"):
        compare(make_scan(label=False), {"one": mask(16)})
    with pytest.raises(DualTaskError, match="two predictions"):
        compare(make_scan(), {})
    with pytest.raises(DualTaskError, match=r"prediction 'b' has shape"):
        compare(make_scan(), {"a": mask(16), "b": np.zeros((3, 3, 3))})
