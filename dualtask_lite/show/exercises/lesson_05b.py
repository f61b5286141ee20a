"""Exercises and predictions of lesson 05b, what the terms buy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dualtask_lite.rows import Row, mean_of, number
from dualtask_lite.show.exercises.choices import result
from dualtask_lite.show.exercises.judge import exercise
from dualtask_lite.words import signed

_SAME = 0.05  # a smaller difference of a mean precision or recall counts as no change
_BEHIND = 0.05  # Dice
_ALIKE = 0.02  # Dice; differences that are no farther apart count as alike
_STEPS, _IMAGES = 2400, 4  # steps of each training run in the table, images in a step


def _detected(tumours: Sequence[Row], arm: str) -> set[tuple[str, ...]]:
    return {
        (row["part"], row["seed"], row["case"]) for row in tumours if row["arm"] == arm and row["detected"] == "True"
    }


def _lost_and_new(answer: int, tumours: Sequence[Row]) -> str:
    trainings = {(row["part"], row["seed"]) for row in tumours if row["arm"] == "full"}
    missed = {key for key in _detected(tumours, "segmentation") - _detected(tumours, "full") if key[:2] in trainings}
    return (
        f"{answer} are new, and {len(missed)} are lost. A model that marks more voxels can detect more by "
        "chance: check the precision, too."
    )


@exercise(
    "05b.1",
    hint="two sets of (part, seed, case), one an arm; a - b is what is in a and not in b.",
    solution='len(detected["full"] - detected["segmentation"]), each a set of the rows where detected is "True".',
    meaning=_lost_and_new,
    tolerance=0,
)
def newly_detected(tumours: Sequence[Row]) -> int:
    return len(_detected(tumours, "full") - _detected(tumours, "segmentation"))


def _parts_of_the_gap(answer: float, ends: Sequence[Row]) -> str:
    baseline = [row for row in ends if row["arm"] == "segmentation"]
    hospital = mean_of(row["validation_dice"] for row in baseline) - mean_of(row["unseen_dice"] for row in baseline)
    return (
        f"{answer:.2f}. Of it {answer - hospital:.2f} is lost with new patients of the training hospitals already, "
        f"{hospital:.2f} with the new hospital. A method that only makes the model "
        "independent of the hospital can recover the second part, one that generalises better to any patient both."
    )


@exercise(
    "05b.2",
    hint="ends holds the last row of each training run; take those of segmentation, and float() of the text.",
    solution='the mean of float(row["train_dice"]) - float(row["unseen_dice"]) over the rows of ends with this arm.',
    meaning=_parts_of_the_gap,
    rounding=0.005,
)
def gap(ends: Sequence[Row]) -> float:
    baseline = [row for row in ends if row["arm"] == "segmentation"]
    return mean_of(row["train_dice"] for row in baseline) - mean_of(row["unseen_dice"] for row in baseline)


@exercise(
    "05b.3",
    hint="an image is one view of a sample, so samples are images divided by the number of views.",
    solution='{arm: 2400 * 4 // ARMS[arm]["views.count"] for arm in ("segmentation", "full")}',
    meaning=lambda answer: f"{answer['segmentation']:.0f} and {answer['full']:.0f}: half as many for full, each twice.",
)
def samples_used(answer: Mapping[str, float], ARMS: Mapping[str, Any]) -> bool:
    return dict(answer) == {arm: _STEPS * _IMAGES / ARMS[arm]["views.count"] for arm in ("segmentation", "full")}


Compare = Callable[[Sequence[Row], str, str], Sequence[Mapping[str, Any]]]  # of the notebook, as show knows no engine


def _conversion(compare: Compare, tumours: Sequence[Row]) -> Mapping[str, Any]:
    """The comparison of the conversions with segmentation only."""
    return next(one for one in compare(tumours, "segmentation", "dice") if one["arm"] == "conversion")


def _by_training(tumours: Sequence[Row]) -> dict[tuple[str, ...], list[Row]]:
    """Rows of each training run: arm, held-out part and seed."""
    trainings: dict[tuple[str, ...], list[Row]] = {}
    for row in tumours:
        trainings.setdefault((row["arm"], row["part"], row["seed"]), []).append(row)
    return trainings


def _what_it_decides(answer: float, tumours: Sequence[Row], compare: Compare) -> str:
    whole = _conversion(compare, tumours)
    everything = f"{signed(whole['difference'])} over all {whole['trainings']} training runs"
    return f"{signed(answer)}, against {everything}: so much depends on one of them."


@exercise(
    "05b.4",
    hint="only the rows of this part with this seed go; other training runs that hold out the same hospital stay.",
    solution='compare the rows whose (part, seed) is not ("B", "0"); its mean is over cases, not over training runs.',
    meaning=_what_it_decides,
    tolerance=0,
    rounding=0.0005,
)
def without_it(tumours: Sequence[Row], compare: Compare) -> float:
    means = {key: mean_of(row["dice"] for row in rows) for key, rows in _by_training(tumours).items()}
    _, part, seed = min((key for key in means if key[0] == "segmentation"), key=lambda key: means[key])
    kept = [row for row in tumours if (row["part"], row["seed"]) != (part, seed)]
    return float(_conversion(compare, kept)["difference"])


@result("05b.A")
def arms_shown_better(conclusions: Mapping[str, str]) -> tuple[str, str]:
    better = [arm for arm, found in conclusions.items() if found == "better"]
    letter = "a" if not better else "c" if len(better) == len(conclusions) else "b"
    each = "; ".join(f"{arm} {found}" for arm, found in conclusions.items())
    return letter, f"{len(better)} of {len(conclusions)}: {each}."


@result("05b.B")
def behind_at_the_end(curves: Sequence[Row]) -> tuple[str, str]:
    ends = {(row["arm"], row["part"], row["seed"]): row for row in curves}
    trainings = {key[1:] for key in ends if key[0] == "full"}
    full, baseline = (
        [row for key, row in ends.items() if key[0] == arm and key[1:] in trainings] for arm in ("full", "segmentation")
    )
    values = {
        name: (mean_of(row[column] for row in full), mean_of(row[column] for row in baseline))
        for name, column in (("training cases", "train_dice"), ("unseen hospital", "unseen_dice"))
    }
    of_full, of_baseline = values["training cases"]
    letter = "c" if of_full >= of_baseline else "a" if of_baseline - of_full > _BEHIND else "b"
    return letter, "; ".join(f"{name} {mine:.2f} against {other:.2f}" for name, (mine, other) in values.items()) + "."


@result("05b.C")
def best_of_the_longer(by_length: Sequence[Row], LONGER: str) -> tuple[str, str]:
    arms = ("segmentation", "conversion", "full")
    longer = {arm: [row for row in by_length if row["arm"] == arm + LONGER] for arm in arms}
    shared = set.intersection(*({(row["part"], row["seed"]) for row in rows} for rows in longer.values()))
    dice = {
        arm: mean_of(row["dice"] for row in rows if (row["part"], row["seed"]) in shared)
        for arm, rows in longer.items()
    }
    each = ", ".join(f"{arm} {value:.3f}" for arm, value in dice.items())
    return (
        "abc"[arms.index(max(dice, key=lambda arm: dice[arm]))],
        f"{each}, from the whole volume, over the {len(shared)} training runs that all three arms share.",
    )


@result("05b.D")
def share_of_the_samples(halved: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    lost = {record["arm"]: record["difference"] for record in halved}
    share = lost["segmentation+optimiser.batch=2"] / lost["views"]
    letter = "a" if share < 0.1 else "b" if share <= 0.5 else "c"
    samples, views = (
        next(one["by_centre"] for one in halved if one["arm"] == arm)
        for arm in ("segmentation+optimiser.batch=2", "views")
    )
    each = ", ".join(f"{centre} {lost_there / views[centre]:.0%}" for centre, lost_there in samples.items())
    return (
        letter,
        f"{signed(lost['segmentation+optimiser.batch=2'])} of {signed(lost['views'])}, a share of {share:.0%} on "
        f"average; by hospital: {each}.",
    )


@result("05b.E")
def what_fell(tumours: Sequence[Row]) -> tuple[str, str]:
    trainings = _by_training([row for row in tumours if number(row["volume_ml_truth"]) > 0])
    others = {key: rows for key, rows in trainings.items() if key[0] != "segmentation"}
    worst = min(others, key=lambda key: mean_of(row["dice"] for row in others[key]))
    arm, part, seed = worst
    baseline = trainings["segmentation", part, seed]
    fell = {
        name: mean_of(row[name] for row in baseline) - mean_of(row[name] for row in others[worst])
        for name in ("precision", "recall")
    }
    apart = fell["precision"] - fell["recall"]
    letter = "d" if max(fell.values()) <= _SAME else "c" if abs(apart) <= _SAME else "a" if apart > 0 else "b"
    changes = " and ".join(f"{name} {-change:+.2f}" for name, change in fell.items())
    return letter, f"{arm}, hospital {part}, seed {seed}: {changes}."


@result("05b.F")
def chosen_in_the_exam(comparisons: Sequence[Mapping[str, Any]], on_d: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    before, after = (
        next(one["difference"] for one in records if one["arm"] == "conversion") for records in (comparisons, on_d)
    )
    letter = "b" if abs(after - before) <= _ALIKE else "a" if after > before else "c"
    return letter, f"{signed(after)} on D, {signed(before)} on A, B and C."
