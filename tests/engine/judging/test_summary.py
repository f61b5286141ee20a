"""The summary of a matrix is plain arithmetic."""

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from dualtask_lite.engine.judging.evaluation import plain
from dualtask_lite.engine.judging.statistics import compare
from dualtask_lite.engine.judging.summary import summarise_cells
from dualtask_lite.engine.run import read_rows


def rows(protocol, seed, *dice, arm="x", error=0.0):
    names = {"nsd_2mm": "0.5", "hd95_mm": "", "assd_mm": "", "detected": "True", "volume_error_ml": error}
    about = {"target": "tumour", "centre": "A", "arm": arm, "protocol": protocol, "seed": seed}
    return [{**about, "case": f"case {n}", "dice": d, **names} for n, d in enumerate(dice)]


def test_summary_averages_over_seeds_the_means_over_cases():
    table = rows("in-domain", 0, 0.8, 0.6, "nan") + rows("in-domain", 1, 0.9)
    table += rows("unseen", 0, 0.4, error=-3.0) + rows("unseen", 1, 0.6, error="5.0")
    found = summarise_cells(table, "tumour", "segmentation")["results"]["tumour"]["x"]
    assert found["dice"]["in-domain"] == {"mean": 0.8, "sd_over_seeds": 0.1414, "seeds": 2}
    assert found["dice"]["gap"]["mean"] == pytest.approx(0.3)
    assert found["dice"]["gap"]["sd_over_seeds"] == pytest.approx(0.0, abs=1e-9)
    assert found["volume_error_ml"]["unseen"]["mean"] == pytest.approx(4.0)  # -3 and 5 do not cancel
    assert found["hd95_mm"]["unseen"]["seeds"] == 0  # nothing was defined
    assert found["detected"]["unseen"]["mean"] == 1


def test_each_protocol_is_compared_separately_for_its_target():
    table = rows("unseen", 0, 0.4, 0.2, arm="segmentation") + rows("unseen", 0, 0.5, 0.4, arm="full")
    table += rows("in-domain", 0, 0.4, 0.2, arm="segmentation") + rows("in-domain", 0, 0.4, 0.2, arm="full")
    table += [{**row, "target": "pancreas"} for row in table]
    found = {(c["protocol"], c["metric"]): c for c in summarise_cells(table, "tumour", "segmentation")["comparisons"]}
    assert len(found) == 4
    assert {c["target"] for c in found.values()} == {"tumour"}
    assert found["unseen", "dice"]["difference"] == pytest.approx(0.15)
    assert found["in-domain", "dice"]["difference"] == 0
    assert all({"interval", "hierarchical", "conclusion"} <= record.keys() for record in found.values())


def in_words(one):
    """A difference as it is written; what may follow in the bracket is p."""
    low, high = one["interval"]
    return f"{one['difference']:+.3f} ({low:+.3f} to {high:+.3f}"


RESULTS = Path(__file__).resolve().parents[3] / "data" / "results"
README = RESULTS / "README.md"  # which gathers all tables
TABLES = {"ablation_laptop": "tumour", "ablation_tumour": "tumour", "ablation_pancreas": "pancreas"}  # in the README
LONGER, SAMPLES = "ablation_pancreas_800", "ablation_samples"
MORE = [(LONGER, "pancreas"), (SAMPLES, "pancreas")]  # quoted in the README in part


@pytest.mark.parametrize(("name", "target"), [*TABLES.items(), *MORE, ("domain_gap", "tumour")])
def test_committed_table_follows_from_its_rows(name, target):
    """Nothing in it was typed: the summary is computed again."""
    folder = RESULTS / name
    kept = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    again = plain(summarise_cells(read_rows(folder / "cases.csv"), target, "segmentation"))
    assert again["results"] == kept["results"]
    assert len(again["comparisons"]) == len(kept["comparisons"])
    assert bool(kept["comparisons"]) == (name != "domain_gap")  # which has one arm
    for ours, theirs in zip(again["comparisons"], kept["comparisons"], strict=True):
        assert ours.keys() == theirs.keys()
        for key, value in theirs.items():
            assert ours[key] == (value if isinstance(value, str) else pytest.approx(value, abs=1e-6))


@pytest.mark.parametrize(("name", "target"), [*TABLES.items(), *MORE])
def test_log_and_readme_of_a_table_quote_its_summary(name, target):
    folder = RESULTS / name
    kept = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    readme = README.read_text(encoding="utf-8")
    log = (folder / "README.md").read_text(encoding="utf-8")
    for arm, metrics in kept["results"][target].items():
        assert f"| {arm} | {metrics['dice']['leave-one-centre-out']['mean']:.3f}" in log
    for one in kept["comparisons"]:
        if one["metric"] == "dice":
            assert in_words(one) in log
            assert name not in TABLES or in_words(one) in readme
    assert kept["command"] in log


@pytest.mark.parametrize("name", TABLES)
def test_sentence_on_all_terms_and_views_follows_from_rows(name):
    """The fair baseline of an arm that has the views; the summary compares with segmentation only."""
    rows = [row for row in read_rows(RESULTS / name / "cases.csv") if row["target"] == TABLES[name]]
    (full,) = (one for one in compare(rows, "views", "dice") if one["arm"] == "full")
    words = " ".join((RESULTS / name / "README.md").read_text(encoding="utf-8").split())
    assert in_words(full) in words
    readme = " ".join(README.read_text(encoding="utf-8").split())
    low, high = full["interval"]
    assert f"{low:+.3f} to {high:+.3f}" in readme


def test_sentence_on_longer_training_follows_from_rows():
    """The fair baseline of its arms with views is segmentation only with the same share of patches on the target."""
    rows = read_rows(RESULTS / LONGER / "cases.csv")
    log = (RESULTS / LONGER / "README.md").read_text(encoding="utf-8")
    readme = README.read_text(encoding="utf-8")
    half, gentle = "+sample.foreground=0.5", "+views.keep_first=true+views.max_blend=0.5"
    against = {one["arm"]: one for one in compare(rows, f"segmentation{half}", "dice")}
    for name in (f"{arm}{half}{kind}" for arm in ("views", "full") for kind in ("", gentle)):
        assert in_words(against[name]) in log
    for arm in ("views", "full"):
        assert in_words(against[f"{arm}{half}"]) in readme
    for kind in ("", gentle):
        (full,) = (one for one in compare(rows, f"views{half}{kind}", "dice") if one["arm"] == f"full{half}{kind}")
        assert in_words(full) in log
    kept = json.loads((RESULTS / LONGER / "summary.json").read_text(encoding="utf-8"))
    for arm in ("segmentation", f"segmentation{half}"):
        dice = kept["results"]["pancreas"][arm]["dice"]["leave-one-centre-out"]
        assert f"{dice['mean']:.3f} ± {dice['sd_over_seeds']:.3f}" in readme
    for centre, seed in product("ABC", "012"):
        output = []
        for arm in ("segmentation", f"segmentation{half}"):
            mine = [row for row in rows if (row["arm"], row["centre"], row["seed"]) == (arm, centre, seed)]
            output += [f"{np.mean([float(row[metric]) for row in mine]):.2f}" for metric in ("precision", "dice")]
        assert f"| {centre}, {seed} | {' | '.join(output)} |" in log


def test_sentence_on_half_the_samples_follows_from_rows():
    rows, half = read_rows(RESULTS / SAMPLES / "cases.csv"), "segmentation+optimiser.batch=2"
    against = {one["arm"]: one for one in compare(rows, "segmentation", "dice")}
    readme = README.read_text(encoding="utf-8")
    assert in_words(against[half]) in readme
    assert in_words(against["views"]) in readme
    assert against[half]["difference"] / against["views"]["difference"] == pytest.approx(2 / 3, abs=0.05)
    log = (RESULTS / SAMPLES / "README.md").read_text(encoding="utf-8")
    assert in_words(next(one for one in compare(rows, half, "dice") if one["arm"] == "views")) in log


def test_sentence_on_settings_follows_from_rows():
    folder = RESULTS / "sensitivity"
    rows = read_rows(folder / "cases.csv")
    kept = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    assert plain(summarise_cells(rows, "pancreas", "segmentation")["results"]) == kept["results"]
    log = (folder / "README.md").read_text(encoding="utf-8")
    assert kept["command"] in log
    moved = {one["arm"]: one for one in compare(rows, "full", "dice")}
    assert len(moved) == 8
    for arm in kept["results"]["pancreas"]:
        ours = [row for row in rows if row["arm"] == arm]
        parts = [ours, *([row for row in ours if row["centre"] == centre] for centre in "ABC")]
        dice, *by_centre = (f"{np.mean([float(row['dice']) for row in part]):.3f}" for part in parts)
        nsd = f"{np.mean([float(row['nsd_2mm']) for row in ours]):.3f}"
        output = f"| {' | '.join([dice, nsd, *by_centre])} |"
        assert (output if arm == "full" else f"{output} {in_words(moved[arm])})") in log


def test_arms_whose_seeds_disagree_are_not_shown():
    """Lesson 05 says so of this table, and that the interval over cases would have called them worse."""
    kept = json.loads((RESULTS / "ablation_pancreas" / "summary.json").read_text(encoding="utf-8"))
    of_dice = [one for one in kept["comparisons"] if one["metric"] == "dice"]
    disagree = [one for one in of_dice if len({mean > 0 for mean in one["by_seed"].values()}) == 2]
    assert [one["arm"] for one in disagree] == ["distance", "to-mask", "conversion"]
    assert all(one["interval"][1] < 0 and one["p_holm"] < 0.05 for one in disagree)
    assert all(one["hierarchical"][0] < 0 < one["hierarchical"][1] for one in disagree)
    assert {one["conclusion"] for one in disagree} == {"not shown"}
    assert {one["conclusion"] for one in of_dice if one not in disagree} == {"worse"}
