"""The summary of a matrix is plain arithmetic."""

import json
import re
from pathlib import Path

import pytest

from dualtask_lite.engine.judging.statistics import compare
from dualtask_lite.engine.judging.summary import summarise_cells
from dualtask_lite.engine.records import plain, read_rows


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


def test_seeds_that_tested_different_hospitals_have_no_common_spread():
    away = [{**row, "centre": "B"} for row in rows("unseen", 1, 0.9)]
    found = summarise_cells(rows("unseen", 0, 0.5) + away, "tumour", "segmentation")["results"]["tumour"]["x"]
    assert found["dice"]["unseen"] == {"mean": 0.7, "sd_over_seeds": None, "seeds": 2}


def test_gap_of_an_unfinished_ablation_is_that_of_the_seeds_in_both_protocols():
    table = rows("in-domain", 0, 0.8) + rows("in-domain", 1, 0.1) + rows("unseen", 0, 0.4)
    gap = summarise_cells(table, "tumour", "segmentation")["results"]["tumour"]["x"]["dice"]["gap"]
    assert (gap["mean"], gap["seeds"]) == (0.4, 1)


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
TABLES = {"exam": "tumour", "reference": "tumour", "ablation_samples": "pancreas"}


@pytest.mark.parametrize(("name", "target"), TABLES.items())
def test_committed_table_follows_from_its_rows(name, target):
    """Nothing in it was typed: the summary is computed again."""
    folder = RESULTS / name
    kept = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    again = plain(summarise_cells(read_rows(folder / "cases.csv"), target, "segmentation"))
    assert again["results"] == kept["results"]
    assert len(again["comparisons"]) == len(kept["comparisons"]) > 0
    for ours, theirs in zip(again["comparisons"], kept["comparisons"], strict=True):
        assert ours.keys() == theirs.keys()
        for key, value in theirs.items():
            assert ours[key] == (value if isinstance(value, str) else pytest.approx(value, abs=1e-6))


def test_page_of_all_tables_names_each_table():
    readme = (RESULTS / "README.md").read_text(encoding="utf-8")
    folders = {path.name for path in RESULTS.iterdir() if path.is_dir()}
    assert set(re.findall(r"^\| \[(\w+)\]", readme, re.M)) == folders == TABLES.keys() | {"bench"}


def test_sentence_on_half_the_samples_follows_from_rows():
    folder, half = RESULTS / "ablation_samples", "segmentation+optimiser.batch=2"
    rows, kept = read_rows(folder / "cases.csv"), json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    against = {one["arm"]: one for one in compare(rows, "segmentation", "dice")}
    log, readme = ((place / "README.md").read_text(encoding="utf-8") for place in (folder, RESULTS))
    assert kept["command"] in log
    for arm, metrics in kept["results"]["pancreas"].items():
        assert f"| {arm} | {metrics['dice']['leave-one-centre-out']['mean']:.3f}" in log
    for arm in (half, "views"):
        assert in_words(against[arm]) in log
        assert in_words(against[arm]) in readme
    part = {c: lost / against["views"]["by_centre"][c] for c, lost in against[half]["by_centre"].items()}
    assert max(part["A"], part["C"]) < 0.5
    assert part["B"] > 1
    assert max(*against[half]["by_centre"].values(), *against[half]["by_seed"].values()) < 0
    views = next(one for one in compare(rows, half, "dice") if one["arm"] == "views")
    low, high = views["hierarchical"]
    assert views["conclusion"] == "worse"
    assert f"{views['difference']:+.3f} over 9 training runs\n   ({low:+.3f} to {high:+.3f})" in log
