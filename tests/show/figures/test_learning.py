"""Learning curves draw the mean over seeds, and say what they draw."""

import matplotlib.axes
import numpy as np
import pytest

from dualtask_lite.show import palette
from dualtask_lite.show.figures import learning_curves


def row(arm="segmentation", part="A", seed=0, step=100, loss=1.0, train=0.5, validation=0.4, unseen=0.3):
    dice = {"train_dice": train, "validation_dice": validation, "unseen_dice": unseen}
    return {"arm": arm, "part": part, "seed": seed, "step": step, "loss": loss, **dice}


def test_learning_curves_are_means_over_seeds_at_each_step():
    rows = [
        *(row(step=200, unseen="0.6", loss=2.0), row(step=200, seed=1, unseen="0.4", loss=1.0)),
        *(row(unseen=0.2, loss=3.0), row(seed=1, unseen=0.1, loss=3.0, train="")),
        row(part="B", step=200, unseen=0.9),
    ]
    alt = learning_curves(rows).alt
    assert (
        "Hospital A held out: segmentation training cases 0.50 to 0.50, validation cases 0.40 to 0.40, "
        "the hospital held out 0.15 to 0.50."
    ) in alt
    assert "Hospital B held out: segmentation training cases 0.50 to 0.50" in alt
    assert "the hospital held out 0.90 to 0.90" in alt
    assert "Training loss: segmentation 3 to 1.33." in alt


def test_an_arm_without_values_is_named():
    rows = [row(), row("full", train="", validation="", unseen="", loss="")]
    assert "; full not measured." in learning_curves(rows).alt


def test_each_kind_of_cases_has_a_panel_and_each_arm_a_colour(monkeypatch):
    drawn = []
    plot = matplotlib.axes.Axes.plot
    monkeypatch.setattr(
        matplotlib.axes.Axes, "plot", lambda axes, *a, **k: drawn.append((axes, a, k)) or plot(axes, *a, **k)
    )
    learning_curves([row(arm, step=step) for arm in ("segmentation", "full") for step in (100, 200)])
    dice = [(axes, values[1][0], look) for axes, values, look in drawn if axes.get_ylim()[1] < 1]
    assert [value for _, value, _ in dice] == [0.5, 0.5, 0.4, 0.4, 0.3, 0.3]
    assert len({axes for axes, *_ in dice}) == 3
    assert len({look["color"] for *_, look in dice}) == len({look["marker"] for *_, look in dice}) == 2


@pytest.mark.parametrize("parts", ["A", "ABC", "ABCDEF"])
def test_the_band_goes_from_the_lowest_to_the_highest_seed(parts, monkeypatch):
    bands = []
    monkeypatch.setattr(matplotlib.axes.Axes, "fill_between", lambda _, *ends, **__: bands.append(ends))
    learning_curves([row(part=part, seed=seed, unseen=0.2 + 0.1 * seed) for part in parts for seed in range(3)])
    expected = [(0.5, 0.5), (0.4, 0.4), (0.2, 0.4)] * len(parts)
    np.testing.assert_allclose([(low[0], high[0]) for _, low, high in bands], expected)


def test_arms_differ_without_colour():
    styles = palette.arm_styles(["segmentation", "full", "segmentation", "views"])
    assert list(styles) == ["segmentation", "full", "views"]
    assert len({marker for _, marker in styles.values()}) == 3
