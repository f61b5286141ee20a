from __future__ import annotations

import base64
import html
import io
import json
import math
import os
import re
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from IPython.core.events import EventManager
from ipywidgets.widgets import widget as widget_module
from PIL import Image
from scipy import ndimage

from dualtask_lite.engine.config import Settings
from dualtask_lite.engine.inference import predict_region
from dualtask_lite.engine.judging.metrics import case_metrics
from dualtask_lite.engine.training.train import train
from dualtask_lite.method.convert import distance_to_probability, gradient_alive
from dualtask_lite.method.distance import published_distance, signed_distance
from dualtask_lite.method.views import MOST_SATURATED, apply_view, draw_view, saturation
from dualtask_lite.show.controls import (
    conversion_explorer,
    distance_explorer,
    explorer,
    metric_explorer,
    training,
    training_monitor,
    view_explorer,
)
from dualtask_lite.show.controls.explorer import Explorer, Frame, Knob, Panel, colours_of, levels_of
from dualtask_lite.show.controls.lesion import lesion
from dualtask_lite.show.controls.metrics import deform

WIDGET = "application/vnd.jupyter.widget-view+json"
AHEAD = {"distance": distance_explorer, "conversion": conversion_explorer}
ASKING = {
    "view": lambda: view_explorer(torch.rand(1, 24, 20, 8, generator=torch.Generator().manual_seed(0))),
    "metric": lambda: metric_explorer(case_metrics),
}


@pytest.fixture
def kernel(monkeypatch):
    """As in a running kernel."""
    monkeypatch.setattr(explorer, "in_kernel", lambda: True)
    monkeypatch.delenv("DUALTASK_VIEWER", raising=False)


def setup_of(page: str) -> dict:
    return json.loads(re.search(r'mount\(document.getElementById\("[^"]+"\), (.*)\);', page)[1])


def pixels(url: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB"))


@pytest.mark.parametrize("make", [*AHEAD.values(), *ASKING.values()], ids=[*AHEAD, *ASKING])
def test_first_setting_is_a_described_picture_without_a_kernel(make):
    control = make()
    bundle = control._repr_mimebundle_()
    assert WIDGET not in bundle
    alt = html.unescape(re.search('<img alt="([^"]+)"', bundle["text/html"])[1])
    assert alt == bundle["text/plain"] == control.picture.alt
    for knob in control.knobs:
        assert f"{knob.label}: {knob.start}" in alt
    for name, value in control.frame().numbers.items():
        assert f"{name}: {value}" in alt
    assert Image.open(io.BytesIO(control.picture.png)).width >= 900


@pytest.mark.parametrize("make", [*AHEAD.values(), *ASKING.values()], ids=[*AHEAD, *ASKING])
def test_every_input_has_a_label_and_keeps_its_keys(make):
    inside = make()._inside("")
    labels = re.findall(r"<label>.*?</label>", inside)
    assert len(labels) == len(make().knobs)
    for label in labels:
        assert re.search(r"<span>\w[^<]*</span> <(input|select)", label)
        assert "data-lm-suppress-shortcuts" in label


@pytest.mark.parametrize("make", AHEAD.values(), ids=AHEAD)
def test_page_holds_all_frames_in_the_order_of_the_knobs(make):
    control = make()
    page = control.to_html()
    frames, images = (setup_of(page)[name] for name in ("frames", "images"))
    assert len(frames) == np.prod([len(knob.options) for knob in control.knobs])
    last = {knob.name: list(knob.options.values())[-1] for knob in control.knobs}
    for frame, values in (
        (frames[0], {k.name: next(iter(k.options.values())) for k in control.knobs}),
        (frames[-1], last),
    ):
        expected = control.frame(**values)
        assert frame["numbers"] == [list(pair) for pair in expected.numbers.items()]
        for packed, panel in zip(frame["panels"], expected.panels, strict=True):
            np.testing.assert_array_equal(pixels(images[packed["image"]]), panel.colours[panel.levels])
    assert len(page) < 2_000_000
    assert control.to_html() != page  # shown twice, it must not have the same id


def test_data_cannot_end_the_script_element():
    panel = Panel("</script><b>", np.zeros((2, 2), np.uint8), colours_of("gray"))
    control = Explorer(
        "<i>", (Knob("a", "<u>", {"<s>": 1}, "<s>"),), lambda a: Frame((panel,), {}, "</script>"), ahead=True
    )
    page = control.to_html()
    assert page.count("</script>") == 1
    assert "<i>" not in page
    assert "<s>" not in page.partition("<script>")[0]


def test_live_explorer_answers_requests_of_the_browser(kernel):
    control = metric_explorer(case_metrics)
    bundle = control._repr_mimebundle_()
    assert bundle[WIDGET]["model_id"] == control.widget.model_id
    assert "<img" in bundle["text/html"]
    at = [3, 10, 0, 0]
    control.widget._handle_custom_msg({"at": at, "asked": [0.5, 7]}, [])
    answer = json.loads(widget_module._instances[control.widget.setup["answers"]].value)
    values = [list(knob.options.values())[i] for knob, i in zip(control.knobs, at, strict=True)]
    expected = control.frame(**dict(zip(("move", "grow", "hole", "split"), values, strict=True)))
    assert answer["asked"] == [0.5, 7]
    assert not set(answer["images"]) & set(control.widget.setup["images"])  # the browser has those
    assert answer["frames"][0]["numbers"] == [list(pair) for pair in expected.numbers.items()]
    assert control.widget.setup["frames"][0]["words"] == control.frame().words


@pytest.mark.parametrize("viewer", ["html", "picture"])
def test_static_viewer_gives_pictures(kernel, monkeypatch, viewer):
    monkeypatch.setenv("DUALTASK_VIEWER", viewer)
    assert WIDGET not in ASKING["metric"]()._repr_mimebundle_()


def test_kernel_without_anywidget_gets_the_picture(kernel, monkeypatch):
    monkeypatch.setattr(explorer, "find_spec", lambda name: None)
    assert WIDGET not in ASKING["metric"]()._repr_mimebundle_()


def test_levels_are_clipped_at_the_ends_of_the_scale():
    assert levels_of(np.array([-9.0, -1.0, 0.0, 1.0, 9.0]), -1, 1).tolist() == [0, 0, 128, 255, 255]


def numbers(frame: Frame) -> dict[str, float]:
    return {name: float(re.match(r"[-\d.e]+", value)[0]) for name, value in frame.numbers.items()}


def test_only_the_target_in_mm_has_no_error():
    spacing = (0.8, 0.8, 4.0)
    mask = lesion(spacing)
    control = distance_explorer(spacing=spacing)
    assert numbers(control.frame(definition="mm"))["largest error"] == 0
    at = int(mask.sum(axis=(0, 2)).argmax())
    true = np.clip(signed_distance(mask, spacing)[:, at], -20, 20)
    voxels = np.clip(0.8 * signed_distance(mask, (1, 1, 1))[:, at], -20, 20)
    assert numbers(control.frame(definition="voxels"))["mean error"] == pytest.approx(
        np.abs(voxels - true).mean(), abs=0.051
    )
    published = 20 * published_distance(mask)[:, at]
    assert numbers(control.frame(definition="published"))["largest error"] == pytest.approx(
        np.abs(published - true).max(), abs=0.051
    )


@pytest.mark.parametrize(("slices", "choices"), [(1, ["4 mm", "8 mm"]), (2, ["4 mm", "8 mm", "12 mm"])])
def test_distance_explorer_offers_the_thicknesses_that_hold_the_lesion(slices, choices):
    control = distance_explorer(np.ones((6, 6, slices), bool), spacing=(1.0, 1.0, 4.0))
    assert list(control.knobs[0].options) == choices


def test_voxel_target_is_exact_for_isotropic_voxels():
    thin = np.zeros((20, 20, 20), bool)
    thin[5:15, 5:15, 9:11] = True
    control = distance_explorer(thin, spacing=(1.0, 1.0, 1.0))
    assert control.knobs[0].options == {"1 mm": 1.0, "2 mm": 2.0, "3 mm": 3.0}
    assert numbers(control.frame(definition="voxels"))["largest error"] == 0
    assert control.frame(definition="published").numbers["inside without a target"] == "100%"
    assert control.frame(definition="mm").numbers["inside without a target"] == "0%"


def test_tenth_of_the_target_is_given_in_mm():
    control = distance_explorer(spacing=(0.8, 0.8, 4.0))
    assert control.frame(definition="mm", band=40.0).numbers["0.1 inside"] == "4 mm"
    assert control.frame(definition="voxels").numbers["0.1 across slices"] == "10 mm"


def test_share_without_gradient_matches_the_package():
    spacing = (0.8, 0.8, 0.8)
    mask = lesion(spacing)
    at = int(mask.sum(axis=(0, 2)).argmax())
    truth = torch.from_numpy(signed_distance(mask, spacing)[:, at]).double()
    control = conversion_explorer(spacing=spacing)
    for tau in (0.05, 1.0, 8.0):
        dead = 1 - gradient_alive(lambda d, tau=tau: distance_to_probability(d, tau), truth)
        frame = control.frame(direction="mask", tau=tau)
        assert frame.numbers["voxels without a gradient"] == f"{dead:.1%}"
        black = (frame.panels[-1].levels == 0).mean()
        assert black == pytest.approx(dead, abs=1e-9)
    assert control.frame(direction="mask", tau=0.0).numbers["voxels without a gradient"] == "100.0%"


def test_temperature_of_the_logits_restores_the_distance():
    control = conversion_explorer()
    assert numbers(control.frame(direction="distance", tau=2.0))["mean error of the distance"] == 0
    assert numbers(control.frame(direction="distance", tau=8.0))["mean error of the distance"] > 5


def test_explorer_shows_the_views_of_the_package():
    image = torch.rand(1, 30, 24, 7, generator=torch.Generator().manual_seed(1))
    frame = view_explorer(image).frame(kernel=5, blend=0.7, seed=3)
    generator = torch.Generator().manual_seed(3)
    views = [draw_view(generator, kernel_sizes=(5,))._replace(blend=0.7) for _ in range(2)]
    for panel, view in zip(frame.panels[1:3], views, strict=True):
        shown = apply_view(image, view)[0, :, :, 3].numpy().T[::-1, ::-1]
        np.testing.assert_array_equal(panel.levels, levels_of(shown, 0, 1))
    lost = [saturation(image, view) for view in views]
    assert frame.numbers["view 1: saturated"] == f"{lost[0]:.0%}"
    assert ("view 1" in frame.words) == (lost[0] > MOST_SATURATED)


def test_explorer_shows_and_outlines_the_plane_with_most_of_the_tumour(drawn):
    image = torch.rand(1, 30, 24, 20, generator=torch.Generator().manual_seed(1))
    tumour = torch.zeros(image.shape, dtype=torch.bool)
    tumour[0, 4:9, 5:12, 17] = tumour[0, 4, 5, 10] = True  # 17: too near to the end for a crop around it
    control = view_explorer(image, tumour)
    frame = control.frame(kernel=5, blend=0.7, seed=3)
    view = draw_view(torch.Generator().manual_seed(3), kernel_sizes=(5,))._replace(blend=0.7)
    for panel, volume in zip(frame.panels, (image, apply_view(image, view)), strict=False):
        np.testing.assert_array_equal(panel.levels, levels_of(volume[0, :, :, 17].numpy().T[::-1, ::-1], 0, 1))
        np.testing.assert_array_equal(panel.lines["tumour"][0], tumour[0, :, :, 17].numpy().T[::-1, ::-1])
    control.picture_at()
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == ["tumour"]


def test_zero_blend_shows_the_image_and_large_images_are_cropped():
    frame = view_explorer(np.random.default_rng(0).uniform(size=(200, 40, 30))).frame(blend=0.0)
    assert frame.numbers["mean difference"] == "0.00"
    assert frame.panels[0].levels.shape == (40, 128)
    np.testing.assert_array_equal(frame.panels[0].levels, frame.panels[1].levels)


def test_explorer_shows_the_given_metrics():
    spacing = (1.0, 1.0, 2.0)
    truth = lesion(spacing)
    control = metric_explorer(case_metrics, spacing=spacing)
    right = control.frame(grow=0.0)
    assert right.numbers["Dice"] == "1.00"
    assert right.numbers["HD95"] == "0.00 mm"
    wrong = deform(signed_distance(truth, spacing), spacing, move=4, grow=2.0, hole=5.0, split=3.0)
    expected = case_metrics(wrong, truth, spacing)
    found = control.frame(move=4, grow=2.0, hole=5.0, split=3.0).numbers
    assert found["Dice"] == f"{expected['dice']:.2f}"
    assert found["ASSD"] == f"{expected['assd_mm']:.2f} mm"
    nothing = control.frame(grow=-6.0, hole=12.0, split=12.0)
    assert "Of the truth" in nothing.words


def test_each_deformation_changes_the_mask_as_described():
    spacing = (1.0, 1.0, 2.0)
    truth = lesion(spacing)
    distance = signed_distance(truth, spacing)
    np.testing.assert_array_equal(deform(distance, spacing), truth)
    for move in (-5, 5):
        np.testing.assert_array_equal(deform(distance, spacing, move=move), np.roll(truth, move, axis=0))
    assert not deform(distance, spacing, move=60).any()
    hole = truth & ~deform(distance, spacing, hole=4.0)
    assert hole.sum() * 2 == pytest.approx(4 / 3 * np.pi * 4**3, rel=0.15)
    assert ndimage.label(deform(distance, spacing, split=3.0))[1] == ndimage.label(truth)[1] + 1


@pytest.mark.parametrize("grow", [-3.0, -1.0, 1.0, 2.0, 6.0])
def test_a_ball_grows_by_the_mm_of_the_control(grow):
    radius = 16
    from_middle = np.linalg.norm(np.moveaxis(np.indices((48, 48, 48)), 0, -1) - 24, axis=-1)
    grown = deform(signed_distance(from_middle < radius, (1.0, 1.0, 1.0)), (1.0, 1.0, 1.0), grow=grow)
    assert case_metrics(grown, from_middle < radius + grow, (1.0, 1.0, 1.0))["dice"] > 0.97


def test_each_step_of_the_control_changes_the_mask():
    control = metric_explorer(case_metrics)
    (grow,) = (knob for knob in control.knobs if knob.name == "grow")
    found = [control.frame(grow=mm).numbers["volume error"] for mm in grow.options.values()]
    assert len(set(found)) == len(found)


def test_undefined_metric_is_shown_as_not_defined():
    frame = metric_explorer(lambda *_: {"dice": 0.0, "hd95_mm": float("nan")}).frame()
    assert frame.numbers == {"Dice": "0.00", "HD95": "not defined"}


def row(step: int) -> dict:
    return {"step": step, "seg": 1 / step, "total": 1.0, "val_dice": 0.5 if step == 2 else ""}


def test_monitor_keeps_rows_and_stops_on_request():
    monitor = training_monitor()
    assert monitor.callback(row(1)) is False
    monitor.stop()
    assert monitor.callback(row(2)) is True
    assert monitor.stopped
    assert "seg from 1 to" in str(monitor)
    assert "<img" in monitor._repr_mimebundle_()["text/html"]
    assert WIDGET not in monitor._repr_mimebundle_()


def test_monitor_shows_the_current_prediction():
    mask = torch.zeros(1, 10, 10, 6, dtype=torch.uint8)
    mask[0, 2:6, 2:6, 3] = 1
    region = SimpleNamespace(case_id="B_002", image=torch.rand(1, 10, 10, 6), mask=mask, spacing=(2.0, 2.0, 4.0))
    empty = SimpleNamespace(case_id="B_001", image=region.image, mask=torch.zeros_like(mask), spacing=region.spacing)
    settings = SimpleNamespace(prediction=SimpleNamespace(threshold=0.5))
    monitor = training_monitor(lambda net, image, settings: torch.stack([mask[0].float(), mask[0].float()]))
    monitor.callback(row(1))
    monitor.on_validation(None, [empty, region], settings)
    assert "case B_002: truth 64 mm², prediction 64 mm², Dice 1.00" in str(monitor)
    monitor.callback(row(2))
    assert "B_002" in str(monitor)
    monitor.callback({"step": 1, "seg": 1.0})  # of another training
    assert "B_002" not in str(monitor)
    quiet = training_monitor()
    quiet.callback(row(1))
    quiet.on_validation(None, [region], settings)
    assert "B_002" not in str(quiet)


def test_second_training_replaces_the_first_in_the_monitor():
    monitor = training_monitor()
    for step, seg in ((1, 50), (2, 40), (3, 30), (1, 20), (2, 10)):
        monitor.callback({"step": step, "seg": seg})
    assert [shown["step"] for shown in monitor.rows] == [1, 2]
    assert "seg from 20 to 10" in str(monitor)


def test_a_stop_ends_one_training_and_is_never_lost():
    monitor = training_monitor()
    monitor.callback(row(1))
    monitor.stop()
    assert monitor.callback(row(2)) is True
    assert monitor.stopped
    assert monitor.callback(row(3)) is False, "resumed"
    assert [shown["step"] for shown in monitor.rows] == [1, 2, 3]
    monitor.stop()  # while the next training reads its cases
    assert monitor.callback(row(1)) is True
    assert [shown["step"] for shown in monitor.rows] == [1]


def test_training_that_goes_on_after_an_earlier_step_replaces_the_steps_behind_it():
    monitor = training_monitor()
    for step in (1, 2, 3, 4, 3):  # killed in step 5, resumed after step 2
        monitor.callback(row(step))
    assert [shown["step"] for shown in monitor.rows] == [1, 2, 3]


def test_monitor_stops_a_real_training(phantom_folder, tiny_run, tmp_path):
    monitor = training_monitor(predict_region)
    chosen = {"data.source": str(phantom_folder), "machine.gradients_every": 1, "machine.validate_every": 1}

    def stop_at_2(row):
        if row["step"] == 2:
            monitor.stop()
        return monitor.callback(row)

    settings = Settings.of("laptop", {**tiny_run, **chosen})
    train(settings, tmp_path / "run", progress=False, callback=stop_at_2, on_validation=monitor.on_validation)
    assert [row["step"] for row in monitor.rows] == [1, 2]
    assert "Share of the gradient: seg from" in str(monitor)
    assert re.search(r"A slice of case \w+: truth \d+ mm², prediction", str(monitor))


@pytest.fixture
def notebook(monkeypatch):
    """What a monitor displays in a kernel, as (kind, object)."""
    shown = []

    class Handle:
        def update(self, what):
            shown.append(("update", what))

    def display(what, display_id=None):
        shown.append(("display", what))
        return Handle() if display_id else None

    monkeypatch.setattr(training, "in_kernel", lambda: True)
    monkeypatch.setattr(training, "is_live", lambda library: True)
    monkeypatch.setattr("ipykernel.__version__", "7.0.0")
    monkeypatch.setattr("IPython.display.display", display)
    shell = SimpleNamespace()
    shell.events = EventManager(shell, {"post_run_cell": lambda result: None})
    monkeypatch.setattr("IPython.get_ipython", lambda: shell)
    before = signal.getsignal(signal.SIGINT)
    yield shown
    signal.signal(signal.SIGINT, before)


def test_notebook_updates_the_picture_and_the_button_stops(notebook):
    monitor = training_monitor()
    monitor.callback(row(1))
    (_, box), (_, picture) = notebook
    assert "Training curves" in picture.alt
    button = box.children[0]
    button.click()
    assert button.disabled
    assert monitor.callback(row(2)) is True
    assert notebook[-1][0] == "update"
    assert "best 0.50" in notebook[-1][1].alt


def test_an_older_kernel_shows_no_button(notebook, monkeypatch):
    monkeypatch.setattr("ipykernel.__version__", "6.29.0")
    training_monitor().callback(row(1))
    assert "interrupt the kernel" in notebook[0][1].value


def test_last_steps_are_drawn_when_the_cell_ends(notebook):
    import IPython

    monitor = training_monitor()
    for step in (1, 2):
        monitor.callback(row(step))
        monitor._next = math.inf  # it has no time to draw
    assert notebook[-1][0] == "display"
    for _ in range(2):  # only the cell that trained
        IPython.get_ipython().events.trigger("post_run_cell", None)
    assert [kind for kind, _ in notebook] == ["display", "display", "update"]
    assert "best 0.50" in notebook[-1][1].alt


def test_each_training_of_a_cell_has_a_picture_and_a_button(notebook):
    monitor = training_monitor()
    monitor.callback(row(1))
    notebook[0][1].children[0].click()
    assert monitor.callback(row(2)) is True
    assert monitor.callback({"step": 1, "seg": 1.0}) is False
    assert [kind for kind, _ in notebook] == ["display", "display", "update", "update", "display", "display"]
    assert "best 0.50" in notebook[3][1].alt  # all of the first
    assert "not measured" in notebook[5][1].alt
    assert not notebook[4][1].children[0].disabled


def test_first_interrupt_stops_and_second_aborts(notebook):
    monitor = training_monitor()
    monitor.callback(row(1))
    os.kill(os.getpid(), signal.SIGINT)
    assert monitor.callback(row(2)) is True
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)


def test_monitor_ignores_interrupts_outside_a_notebook():
    before = signal.getsignal(signal.SIGINT)
    training_monitor().callback(row(1))
    assert signal.getsignal(signal.SIGINT) is before
