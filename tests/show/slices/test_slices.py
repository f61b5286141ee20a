from __future__ import annotations

import base64
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from dualtask_lite.cases.case import Case, Scan
from dualtask_lite.errors import DualTaskError
from dualtask_lite.show import planes
from dualtask_lite.show.slices.browser import MOST_SLICES, SliceBrowser, slices
from dualtask_lite.show.slices.frames import MOST_PIXELS, Frame

SPACING = (2.0, 1.0, 4.0)  # mm
SHAPE = (40, 50, 20)


def make_scan(label: np.ndarray | None = None, volume: np.ndarray | None = None) -> Scan:
    if volume is None:
        volume = np.random.default_rng(0).uniform(-90, 230, SHAPE).astype(np.float32)
    affine = np.diag([*SPACING, 1.0])
    affine[:3, 3] = (-10, 5, 100)
    return Case("A_001", "A", volume, label, affine).load()


def labels(*, tumour: bool = True) -> np.ndarray:
    label = np.zeros(SHAPE, np.uint8)
    label[20:36, 10:30, 5:15] = 1
    if tumour:
        label[24:30, 14:24, 8:11] = 2
        label[24:26, 14:24, 11] = 2
    return label


def read(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGBA"))


def corners(path: str) -> np.ndarray:
    """Points of an SVG path as (x, y), in voxels of the picture."""
    return np.array(re.findall(r"[ML](-?\d+) (-?\d+)", path), int)


def frame_of(browser: SliceBrowser, index: int) -> Frame:
    return next(frame for frame in browser.frames if frame.index == index)


def test_outlines_follow_the_edges_of_the_voxels():
    lines = frame_of(slices(make_scan(labels()), prediction=labels()), 9).lines
    x, y = corners(lines["pancreas"]).T
    # x grows to the patient's right and y to the front; the picture shows right on its left and front on top.
    assert (x.min(), x.max()) == (40 - 36, 40 - 20)
    assert (y.min(), y.max()) == (50 - 30, 50 - 10)
    x, y = corners(lines["tumour"]).T
    assert (x.min(), x.max(), y.min(), y.max()) == (10, 16, 26, 36)
    assert lines["prediction"] == lines["pancreas"] + lines["tumour"]


def test_outline_is_closed_at_the_border_and_empty_without_voxels():
    label = np.zeros(SHAPE, np.uint8)
    label[:, :, 3] = 1
    browser = slices(make_scan(label))
    path = frame_of(browser, 3).lines["pancreas"]
    assert path.endswith("Z")
    assert corners(path).min(axis=0).tolist() == [0, 0]
    assert corners(path).max(axis=0).tolist() == [40, 50]
    assert frame_of(browser, 4).lines == {"pancreas": "", "tumour": ""}


def test_outline_has_a_path_for_each_part_and_hole():
    label = np.zeros(SHAPE, np.uint8)
    label[5:15, 5:15, 3] = label[20:30, 5:15, 3] = 1
    label[8:10, 8:10, 3] = 0
    assert frame_of(slices(make_scan(label)), 3).lines["pancreas"].count("Z") == 3


@pytest.mark.parametrize("plane", planes.PLANES)
def test_slices_have_the_radiological_orientation(plane):
    axis, letters = planes.PLANES[plane]
    ramps = np.meshgrid(*(np.linspace(-90, 230, n) for n in SHAPE), indexing="ij")
    sides = {"R": ramps[0], "L": -ramps[0], "A": ramps[1], "P": -ramps[1], "S": ramps[2], "I": -ramps[2]}
    for letter, edge in zip(letters, (np.s_[:, 0], np.s_[:, -1], np.s_[0], np.s_[-1]), strict=True):
        ramp = sides[letter].astype(np.float32)
        ramp += -90 - ramp.min()
        browser = slices(make_scan(volume=ramp), plane=plane)
        grey = read(browser.frames[0].ct)[..., 0]
        assert (grey[edge] == grey.max()).all()
        assert grey.shape == tuple(n for i, n in enumerate(SHAPE) if i != axis)[::-1]
        assert browser.letters == letters


@pytest.mark.parametrize("plane", planes.PLANES)
def test_slices_keep_their_proportions_in_mm(plane):
    browser = slices(make_scan(), plane=plane)
    across, down = (
        n * mm for i, (n, mm) in enumerate(zip(SHAPE, SPACING, strict=True)) if i != planes.PLANES[plane][0]
    )
    assert browser.size[0] / browser.size[1] == pytest.approx(across / down, rel=0.01)
    assert Image.open(io.BytesIO(browser.still.png)).size == browser.size


def test_grey_values_follow_the_ct_window():
    volume = np.full(SHAPE, 70, np.float32)
    volume[0], volume[1] = -1000, 1000
    grey = read(slices(make_scan(volume=volume)).frames[0].ct)[..., 0]
    assert grey[:, -1].max() == 0
    assert grey[:, -2].min() == 255
    assert abs(int(grey[0, 0]) - 127) <= 4


def test_first_slice_has_the_most_tumour_else_pancreas():
    label = labels()
    label[30:32, 14:24, 9] = 2
    assert slices(make_scan(label)).frames[slices(make_scan(label)).start].index == 9
    label = labels(tumour=False)
    label[10:20, 10:30, 13] = 1
    assert slices(make_scan(label)).start == 13
    assert slices(make_scan()).start == 10
    assert slices(make_scan(), prediction=label).start == 13


def test_first_slice_has_the_most_of_the_prediction_when_the_truth_is_empty():
    browser = slices(make_scan(np.zeros(SHAPE, np.uint8)), prediction=labels())
    assert browser.frames[browser.start].index == 8


def test_description_gives_position_areas_and_dice():
    prediction = labels()
    prediction[prediction == 2] = 1
    prediction[20:28, :, :] = 0
    browser = slices(make_scan(labels()), prediction=prediction)
    text = frame_of(browser, 9).text
    assert text.startswith("Slice 10 of 20, z = 136.0 mm. ")
    assert "Truth: pancreas with tumour 640 mm², tumour 120 mm²." in text
    assert "Prediction: pancreas 320 mm² (Dice 0.67), no tumour (Dice 0.00)." in text
    assert frame_of(browser, 0).text.endswith("Truth: no pancreas, no tumour. Prediction: no pancreas, no tumour.")
    assert frame_of(slices(make_scan()), 0).text.endswith("No label.")
    assert browser.frames[browser.start].text in browser.still.alt


def test_description_has_no_dice_without_truth():
    text = frame_of(slices(make_scan(), prediction=labels()), 9).text
    assert text.endswith("Prediction: pancreas with tumour 640 mm², tumour 120 mm².")


def test_distance_is_coloured_only_within_its_band():
    distance = np.full(SHAPE, 25.0, np.float32)
    distance[30:], distance[20:30], distance[10:20] = -15, 15, np.nan
    frame = slices(make_scan(), distance=distance).frames[0]
    inside, outside, nothing, far = (read(frame.images["distance"])[25, column] for column in (5, 15, 25, 35))
    assert inside[2] > inside[0]  # blue
    assert outside[0] > outside[2]  # red
    assert 0 < inside[3] == outside[3] < 255
    assert nothing[3] == far[3] == 0
    assert corners(frame.lines["distance"])[:, 0].max() == 10


def test_large_scan_is_cropped_and_slices_are_skipped(recwarn):
    volume = np.full((512, 512, 100), -1000, np.float32)
    volume[60:460, 101:401] = np.random.default_rng(0).normal(50, 20, (400, 300, 100))
    label = np.zeros(volume.shape, np.uint8)
    label[200:240, 200:240, 41] = 2
    scan = make_scan(label, volume)
    browser = slices(scan, prediction=label, distance=np.where(label > 0, -3.0, 12.5))
    assert browser.voxels == (306, 406)
    assert read(browser.frames[0].ct).shape == (153, 203, 4)
    assert browser.frames[browser.start].index == 41
    assert [f.index for f in browser.frames[:2]] == [1, 3]
    assert "(1 of every 2 shown)" in browser.frames[0].text
    assert "50 of 100 axial slices" in browser.title
    assert len(browser.frames) <= MOST_SLICES
    assert len(browser.to_html()) < 4e6
    assert re.search(r", \d\.\d MB\.", str(browser))
    assert max(read(browser.frames[0].ct).shape[:2]) <= MOST_PIXELS
    assert not recwarn.list


def test_page_is_self_contained_and_browser_ids_are_unique():
    browser = slices(make_scan(labels()), prediction=labels(), name='<b>"x"</script>')
    page = browser.to_html() + browser.to_html()
    assert len(set(re.findall(r'<figure [^>]*id="([^"]+)"', page))) == 2
    assert page.count("</script>") == 4
    assert not re.search(r"https?://|require\(", page)
    assert "&lt;b&gt;" in page
    frames = json.loads(re.search(r'<script type="application/json">(.*?)</script>', page)[1])
    assert len(frames) == 20
    assert base64.b64decode(frames[3]["ct"].split(",")[1]) == browser.frames[3].ct


def test_only_existing_layers_are_listed():
    assert 'type="checkbox"' not in slices(make_scan()).to_html()
    page = slices(make_scan(labels()), distance=np.zeros(SHAPE)).to_html()
    assert re.findall(r'checkbox" checked data-layer="(\w+)"', page) == ["pancreas", "tumour", "distance"]


def test_picture_with_alt_text_replaces_the_browser_without_scripts():
    bundle = slices(make_scan(labels()))._repr_mimebundle_()
    images = re.findall(r'<img class="still" alt="([^"]+)"', bundle["text/html"])
    assert len(images) == 1
    assert "tumour 120 mm²" in images[0] or "tumour 160 mm²" in images[0]
    assert bundle["text/plain"].startswith("A_001: 20 axial slices of 4 mm")


@pytest.mark.parametrize("what", ["prediction", "distance"])
def test_array_on_another_grid_is_refused(what):
    with pytest.raises(DualTaskError, match=rf"{what} has shape \(4, 5, 6\), the CT \(40, 50, 20\)"):
        slices(make_scan(), **{what: np.zeros((4, 5, 6))})


def test_unknown_plane_is_refused():
    with pytest.raises(DualTaskError, match="choose one of axial, coronal, sagittal"):
        slices(make_scan(), plane="oblique")


def test_inputs_keep_their_keys_in_jupyterlab():
    inputs = re.findall(r"<input [^>]*>", slices(make_scan(labels())).to_html())
    assert len(inputs) == 3
    assert all("data-lm-suppress-shortcuts" in element for element in inputs)
