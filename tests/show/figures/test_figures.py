from __future__ import annotations

import io
import itertools
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from dualtask_lite.cases.case import Case, Scan
from dualtask_lite.method.losses import TERMS
from dualtask_lite.method.network import DualTaskNet
from dualtask_lite.show import figures, palette, planes
from dualtask_lite.show.figures import cases, parts, trust
from dualtask_lite.show.figures.network import stage_shapes
from dualtask_lite.show.figures.training import gradient_shares
from dualtask_lite.show.picture import WIDTH, Picture, new_figure

SPACING = (2.0, 1.0, 4.0)  # mm


def make_scan(centre: str = "A", *, tumour: bool = True, level: float = 100.0) -> Scan:
    """A box of pancreas with a box of tumour in it, far from the middle of the volume."""
    volume = np.full((40, 50, 20), 30.0, np.float32)
    label = np.zeros(volume.shape, np.uint8)
    label[20:36, 10:30, 5:15] = 1
    if tumour:
        label[24:30, 14:24, 8:11] = 2
    volume[label == 1], volume[label == 2] = level, level - 60
    case = Case(f"{centre}_001", centre, volume, label, np.diag([*SPACING, 1.0]))
    return case.load()


def read(picture: Picture) -> Image.Image:
    return Image.open(io.BytesIO(picture.png))


def test_every_term_has_colour_and_line_style():
    assert set(palette.TERMS) == set(TERMS)


def test_colour_of_a_centre_is_independent_of_the_order():
    assert palette.centre_colours(["C", "A", "B", "A"]) == palette.centre_colours("ABC")
    assert len(set(palette.centre_colours("ABC").values())) == 3


def test_picture_has_notebook_width_and_alt_text(tmp_path):
    figure = new_figure(height=100)
    figure.subplots().plot([0, 1])
    picture = Picture.of(figure, 'less < "more" & mm')
    assert read(picture).width >= WIDTH
    assert picture._repr_mimebundle_()["text/plain"] == picture.alt
    assert 'alt="less &lt; &quot;more&quot; &amp; mm"' in picture.to_html()
    saved = picture.save(tmp_path / "new" / "figure.png")
    assert Image.open(saved).info["Description"] == picture.alt


def test_figures_leave_no_global_state():
    import matplotlib._pylab_helpers as windows

    figures.preview(make_scan(), np.zeros((40, 50, 20), np.uint8), None)
    assert not windows.Gcf.figs


@pytest.mark.parametrize("plane", planes.PLANES)
def test_planes_have_the_radiological_orientation(plane):
    ramps = np.meshgrid(*(np.arange(n) for n in (6, 7, 8)), indexing="ij")  # grow to the right, front, head
    sides = {"R": ramps[0], "L": -ramps[0], "A": ramps[1], "P": -ramps[1], "S": ramps[2], "I": -ramps[2]}
    left, right, top, bottom = planes.PLANES[plane][1]
    for letter, edge in ((left, np.s_[:, 0]), (right, np.s_[:, -1]), (top, np.s_[0]), (bottom, np.s_[-1])):
        image, _ = planes.cut(sides[letter], (1, 1, 1), plane, (2, 3, 4))
        assert (image[edge] == image.max()).all()


def test_extents_are_in_mm_around_the_voxel_that_is_cut():
    volume = np.zeros((40, 50, 20))
    volume[30, 10, 5] = 1
    for plane in planes.PLANES:
        image, (left, right, bottom, top) = planes.cut(volume, SPACING, plane, (30, 10, 5))
        row, column = np.argwhere(image == 1)[0]
        wide, high = (right - left) / image.shape[1], (top - bottom) / image.shape[0]
        assert left + (column + 0.5) * wide == pytest.approx(0)
        assert top - (row + 0.5) * high == pytest.approx(0)
        assert sorted({wide, high}) == sorted(s for i, s in enumerate(SPACING) if i != planes.PLANES[plane][0])


def test_outline_follows_the_edges_of_the_voxels():
    mask = np.zeros((10, 10, 10), bool)
    mask[3:7, 2:5, 4:6] = True
    axes = Figure().subplots()
    axes.set(xlim=(-5, 5), ylim=(-5, 5))
    planes.outline(axes, mask, (1, 1, 1), "axial", (5, 5, 5), "red")
    path = np.concatenate([path.vertices for path in axes.collections[0].get_paths()])
    # Patient's left (small x) is on the right of the image: x from 3 to 7 becomes -1.5 to 2.5 around voxel 5.
    np.testing.assert_allclose([path[:, 0].min(), path[:, 0].max()], [-1.5, 2.5])
    np.testing.assert_allclose([path[:, 1].min(), path[:, 1].max()], [-3.5, -0.5])
    assert axes.get_xlim() == (-5, 5)


def test_outline_of_a_whole_plane_or_nothing_draws_without_warning(recwarn):
    axes = Figure().subplots()
    planes.outline(axes, np.ones((5, 5, 5), bool), SPACING, "axial", (2, 2, 2), "red")
    planes.outline(axes, np.zeros((5, 5, 5), bool), SPACING, "axial", (2, 2, 2), "red")
    assert len(axes.collections) == 1
    assert not recwarn.list


def test_planes_cut_the_tumour_else_pancreas_else_volume():
    names = [(2, "tumour"), (1, "pancreas")]
    label = make_scan().label
    (x, y, z), name = planes.middle(label, label.shape, names)
    assert name == "tumour"
    assert label[x, y, z] == 2
    assert planes.middle(make_scan(tumour=False).label, label.shape, names)[1] == "pancreas"
    assert planes.middle(None, (4, 6, 8), names) == ((2, 3, 4), "volume")


def test_middle_of_a_curved_structure_is_inside_it():
    bent = np.zeros((20, 20, 3), np.uint8)
    bent[2:18, 2, 1] = bent[2, 2:18, 1] = 1
    at, _ = planes.middle(bent, bent.shape, [(1, "arch")])
    assert bent[at] == 1


def test_orthogonal_states_volumes_and_dice():
    scan = make_scan()
    prediction = np.where(scan.label == 2, 2, 0)
    distance = np.where(scan.label == 2, -3.0, 12.5)
    alt = figures.orthogonal(scan, prediction=prediction, distance=distance).alt
    assert f"pancreas {(scan.label == 1).sum() * 8 / 1000:.1f} ml, tumour {180 * 8 / 1000:.1f} ml" in alt
    assert "Prediction: tumour 1.4 ml (Dice 1.00)." in alt
    assert "Signed distance from -3.0 to 12.5 mm, negative inside." in alt
    assert "40 × 50 × 20 voxels of 2 × 1 × 4 mm" in alt


@pytest.mark.parametrize(
    ("values", "words"),
    [((-3.0, math.nan), "from -3.0 to -3.0 mm, negative inside"), ((math.nan, math.inf), "not defined")],
)
def test_alt_text_gives_the_ends_of_the_finite_distances(values, words):
    scan = make_scan()
    assert f"Signed distance {words}." in figures.orthogonal(scan, distance=np.where(scan.label == 2, *values)).alt


@pytest.mark.parametrize(
    "draw", [lambda scan: figures.orthogonal(scan), lambda scan: figures.centres_side_by_side([scan] * 3)]
)
def test_titles_with_long_names_stay_apart_and_within_the_figure(monkeypatch, draw):
    drawn = []
    monkeypatch.setattr(cases, "new_figure", lambda height: drawn.append(new_figure(height)) or drawn[-1])
    uid = "1.2.840.113619." + 49 * "9"  # as long as DICOM allows
    assert uid in draw(replace(make_scan(), id=uid, centre="hospital-" + uid)).alt
    (figure,) = drawn
    titles = [axes.title for axes in figure.axes if "case" in axes.title.get_text()] or [figure._suptitle]
    boxes = [title.get_window_extent() for title in titles]
    assert all(0 <= box.x0 < box.x1 <= figure.bbox.x1 for box in boxes)
    assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))


def test_tumour_counts_as_pancreas_in_the_alt_text():
    scan = make_scan()
    alt = figures.orthogonal(scan, prediction=np.where(scan.label > 0, 1, 0)).alt
    assert re.search(r"pancreas 25\.6 ml \(Dice 1\.00\)", alt)


def test_orthogonal_describes_empty_prediction_and_healthy_case():
    scan = make_scan(tumour=False)
    alt = figures.orthogonal(scan, prediction=np.zeros(scan.shape, np.uint8)).alt
    assert "no tumour" in alt
    assert "nothing found" in alt


def test_preview_does_not_show_the_truth():
    scan = make_scan()
    alt = figures.preview(scan, np.where(scan.label == 2, 2, 0).astype(np.uint8), None).alt
    assert "Prediction: tumour 1.4 ml." in alt
    assert "Truth" not in alt
    assert "Dice" not in alt


def test_centres_and_histogram_describe_their_data():
    scans = [make_scan("A"), make_scan("B", level=140), make_scan("C", tumour=False)]
    alt = figures.centres_side_by_side(scans).alt
    assert all(f"Centre {name}" in alt for name in "ABC")
    assert "pancreas 140 HU, tumour 80 HU" in alt
    assert "cut through the pancreas" in alt
    alt = figures.histogram(scans).alt
    assert "tumour, centre B: median 80" in alt
    assert "tumour, centre C" not in alt
    assert "rest of the body, centre A: median 30" in alt


def test_curves_accept_text_and_empty_fields():
    rows = [
        {"step": str(i), "seg": str(2.0 / i), "dist": 0.5, "total": "3", "val_dice": "0.4" if i == 5 else ""}
        for i in range(1, 11)
    ]
    alt = figures.curves(rows).alt
    assert "seg from 2 to 0.2" in alt
    assert "best 0.40, last 0.40" in alt
    assert "conv_mask" not in alt
    assert "not measured" in figures.curves([{"step": 1, "seg": 1.0}]).alt


def test_running_mean_equals_numpy():
    values = np.random.default_rng(0).normal(size=30)
    expected = [values[max(0, i - 3) : i + 1].mean() for i in range(30)]
    np.testing.assert_allclose(parts.running_mean(values, 4), expected)


def test_distance_zero_is_drawn_over_the_truth_that_it_equals(drawn):
    scan = make_scan()
    figures.orthogonal(scan, distance=np.where(scan.label == 2, -1.0, 1.0))
    top = max(drawn[0].axes[3].collections, key=lambda lines: lines.zorder)
    last = [lines for lines in drawn[0].axes[3].collections if lines.zorder == top.zorder][-1]
    assert to_rgb(last.get_edgecolor()[0][:3]) == (0, 0, 0)


LEGENDS = {
    "embeddings": lambda: figures.embeddings(torch.eye(3), -torch.eye(3)),
    "dice_by_volume": lambda: figures.dice_by_volume([{"kind": "solid", "volume_ml_truth": 9.0, "dice": 0.5}]),
    "leaks": lambda: trust.leaks([{"leak": "by slice", "reported Dice": 0.3, "honest Dice": 0.0}]),
}


@pytest.mark.parametrize("name", LEGENDS)
def test_legend_of_markers_is_outside_the_axes(name, drawn):
    LEGENDS[name]()
    FigureCanvasAgg(drawn[0]).draw()
    (axes,) = drawn[0].axes
    legend = axes.get_legend().get_window_extent()
    assert not legend.overlaps(axes.bbox.shrunk(0.99, 0.99)), "its markers look like data"
    assert legend.x1 <= drawn[0].bbox.width


def test_scores_count_undefined_values():
    rows = [
        {"case": "1", "centre": "B", "dice": 0.5},
        {"case": "2", "centre": "B", "dice": 0.7},
        {"case": "3", "centre": "A", "dice": math.nan},
        {"case": "4", "centre": "A", "dice": ""},
    ]
    alt = figures.scores(rows).alt
    assert "centre B: 2 cases, mean 0.60, from 0.50 to 0.70" in alt
    assert "centre A: no value, 2 without a value" in alt


@pytest.mark.parametrize("many", [2, 12, 20])
def test_names_and_means_of_many_centres_stay_apart(many, drawn):
    names = [f"{n} University Hospital of a City, {'department ' * (n % 4)}" for n in range(many)]
    figures.scores([{"case": "1", "centre": name, "dice": 0.7} for name in names])
    FigureCanvasAgg(drawn[0]).draw()
    (axes,) = drawn[0].axes
    boxes = [text.get_window_extent() for text in [*axes.get_yticklabels(), *axes.texts]]
    assert len(boxes) == 2 * many
    assert not [pair for pair in itertools.combinations(boxes, 2) if pair[0].overlaps(pair[1])]
    assert all(box.x0 >= 0 and box.x1 <= drawn[0].bbox.width for box in boxes)


def test_scores_group_another_metric_by_protocol():
    rows = [{"case": "1", "protocol": name, "hd95_mm": value} for name, value in (("within", 3.0), ("across", 9.0))]
    alt = figures.scores(rows, metric="hd95_mm", by="protocol").alt
    assert alt.startswith("95th percentile of the surface distance (mm)")
    assert alt.index("within") < alt.index("across")


GRADIENTS = [{"step": i, "seg": 1.0, "dist": 1.0, "grad_seg": 3.0, "grad_dist": i} for i in range(1, 4)]


def test_shares_of_the_gradient_add_up():
    shares = gradient_shares(GRADIENTS)
    np.testing.assert_allclose(shares["seg"][1], [3 / 4, 3 / 5, 3 / 6])
    np.testing.assert_allclose(sum(values for _, values in shares.values()), 1)
    assert "seg from 75% to 50%; dist from 25% to 50%" in figures.gradients(GRADIENTS).alt
    assert "Share of the gradient: seg from 75%" in figures.curves(GRADIENTS).alt
    assert "gradient" not in figures.curves([{"step": 1, "seg": 1.0}]).alt
    assert "not measured" in figures.gradients([]).alt


def test_each_head_has_its_own_shares_of_the_gradient():
    heads = {"grad_seg_seg_head": 2.0, "grad_dist_seg_head": 0.0}
    heads |= {"grad_seg_distance_head": 1.0, "grad_dist_distance_head": 3.0}
    alt = figures.gradients([row | heads for row in GRADIENTS]).alt
    shared, segmentation, distance = alt.split("In the ")[1:]
    assert shared.startswith("shared weights: Share of the gradient: seg from 75% to 50%")
    assert "seg from 100% to 100%; dist from 0% to 0%" in segmentation
    assert "seg from 25% to 25%; dist from 75% to 75%" in distance


def test_term_without_gradient_has_a_share_of_zero():
    shares = gradient_shares([{"step": 1, "grad_seg": 0.0, "grad_dist": "0"}])
    assert [values.tolist() for _, values in shares.values()] == [[0.0], [0.0]]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_first_steps_are_drawn_without_warning(recwarn, count):
    figures.curves(GRADIENTS[:count])
    assert not recwarn.list


def test_example_states_its_dice():
    truth = np.zeros((20, 16), bool)
    truth[4:8, 4:8] = True
    example = figures.Example(
        np.zeros((20, 16), np.float32), truth, np.roll(truth, 2, axis=0), (2.0, 1.0), "case B_001"
    )
    alt = figures.curves(GRADIENTS, example).alt
    assert "A slice of case B_001: truth 32 mm², prediction 32 mm², Dice 0.50 in it." in alt
    nothing = example._replace(truth=np.zeros_like(truth), prediction=np.zeros_like(truth))
    assert "nothing in it" in figures.curves(GRADIENTS, nothing).alt


def test_diagram_shows_the_output_shapes_of_the_network():
    net = DualTaskNet(width=8, slice_head=False)
    net.train()
    shapes = stage_shapes(net, (32, 16, 16))
    outputs = net(torch.zeros(1, 1, 32, 16, 16))
    assert shapes["seg_head"] == tuple(outputs.seg.shape[1:])
    assert shapes["projector"] == tuple(outputs.embedding.shape[1:])
    assert "slice_head" not in shapes
    assert net.training
    assert not any(module._forward_hooks for module in net.modules())
    alt = figures.network_diagram(net, (32, 16, 16)).alt
    assert f"{sum(p.numel() for p in net.parameters()):,} weights" in alt
    assert "encoder4 64 @ 4 × 2 × 2" in alt


def test_core_and_shell_are_drawn_at_their_positions(drawn):
    mask = np.zeros((32, 24, 16), bool)
    mask[8:16, 8:16, 8:16] = True
    core = np.zeros((4, 3, 2), bool)
    core[1, 1, 1] = True
    shell = np.zeros_like(core)
    shell[0, :, 1] = shell[0, 0, 0] = True
    alt = figures.core_and_shell(np.zeros(mask.shape, np.float32), mask, core, shell, (2.0, 1.0, 3.0)).alt
    assert "1 of the core, 3 of the shell; in the whole volume 1 and 4." in alt
    axes = drawn[0].axes[0]
    np.testing.assert_allclose(axes.lines[0].get_xydata(), [[12 * 2, 12]])
    outline = np.concatenate([path.vertices for path in axes.collections[0].get_paths()])
    np.testing.assert_allclose([outline.min(axis=0), outline.max(axis=0)], [[8 * 2, 8], [16 * 2, 16]])
    assert axes.get_xlim() == (64, 0)


def test_embeddings_state_their_similarities():
    core = torch.tensor([[1.0, 0.0, 0.0], [2.0, 0.0, 0.0]])
    shell = torch.tensor([[0.0, 3.0, 0.0], [0.0, 0.0, 1.0]])
    alt = figures.embeddings(core, shell).alt
    assert "2 core and 2 shell embeddings" in alt
    assert "hold 100% of the variance" in alt
    assert "within the core 1.00, within the shell 0.00, between them 0.00" in alt
