"""The moving pictures of the README: drawn by the kit, small, and committed as they are drawn now."""

import csv
import json
import statistics
from pathlib import Path

import animations
import numpy as np
import pytest
from PIL import Image

from dualtask_lite.resources import CASCADES, data_file

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def pixels(image):
    return np.asarray(image.convert("RGB")).astype(int)


@pytest.fixture(scope="module", params=["prediction", "explorer"])
def drawn(request):
    """An animation, the turning one in two views only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(animations, "VIEWS", 2)
        return getattr(animations, request.param)()


def test_committed_animation_moves_and_is_small(drawn):
    file = ROOT / "data" / "results" / f"{drawn.name}.webp"
    with Image.open(file) as image:
        assert image.n_frames > 10
        first = pixels(image)
        image.seek(image.n_frames // 2)
        assert np.abs(pixels(image) - first).max() > 100
        assert image.info["loop"] == 0  # without end
    assert file.stat().st_size < 400_000


def test_committed_animation_is_the_one_that_is_drawn_now(drawn):
    assert drawn.markdown() in README
    with Image.open(ROOT / "data" / "results" / f"{drawn.name}.webp") as image:
        assert np.abs(pixels(image) - pixels(drawn.frames[0])).mean() < 2  # of 255; the compression loses details


def test_saved_animation_keeps_frames_and_time(tmp_path):
    frames = [Image.new("RGB", (8, 6), (shade, 0, 0)) for shade in (0, 120, 240)]
    path = animations.Animation("three", frames, 0.25, "words", "caption").save(tmp_path)
    with Image.open(path) as image:
        assert (image.n_frames, image.size) == (3, (8, 6))
        image.load()
        assert image.info["duration"] == 250


def test_explorer_goes_from_soft_to_hard_and_back():
    frames = animations.explorer().frames
    masks = [pixels(frame) for frame in frames]
    assert np.array_equal(masks[1], masks[-1])
    assert not np.array_equal(masks[0], masks[len(masks) // 2])


def test_median_case_is_that_of_the_model_on_the_held_out_hospital():
    folder = data_file(f"models/{CASCADES[animations.MODEL][-1]}")
    arm = json.loads((folder / "manifest.json").read_text())["arm"]
    with (data_file("results/reference") / "cases.csv").open(newline="") as file:
        wanted = {"arm": arm, "part": "C", "seed": "0", "target": "tumour"}
        rows = [row for row in csv.DictReader(file) if wanted.items() <= row.items()]
    dice = {row["case"]: float(row["dice"]) for row in rows if row["dice"] != "nan"}
    scan = animations.median_case()
    assert scan.centre == "C"
    assert dice[scan.id] == statistics.median_high(dice.values())
