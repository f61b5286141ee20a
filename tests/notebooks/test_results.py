"""The result in the README: its numbers are computed again here, from the rows, without the kit's own statistics."""

from __future__ import annotations

import csv
import importlib
import math
import sys
from collections import defaultdict
from pathlib import Path
from statistics import fmean

import pytest

from dualtask_lite.engine.judging.statistics import conclusion

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "notebooks"))  # where the scripts that write the pages lie
readme, results = importlib.import_module("readme"), importlib.import_module("results")

FOLDER = ROOT / "data" / "results" / "reference"


def part_of(page):
    first, last = readme.marks("result", results.MADE_BY)
    return page.read_text(encoding="utf-8").partition(first)[2].partition(last)[0].strip()


def rows_of(name):
    with (FOLDER / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def table_of(text):
    """Rows of the first table of a text, by the first cell."""
    lines = [line for line in text.partition("\n\n")[2].partition("\n\n")[0].splitlines() if line.startswith("|")]
    head, _, *body = ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines)
    return {cells[0]: dict(zip(head, cells, strict=True)) for cells in body}


@pytest.fixture(scope="module")
def tumours():
    """Arm -> (hospital, seed) -> case -> Dice."""
    found = defaultdict(lambda: defaultdict(dict))
    for row in rows_of("cases.csv"):
        if row["target"] == "tumour" and row["dice"] and not math.isnan(float(row["dice"])):
            found[row["arm"]][row["part"], row["seed"]][row["case"]] = float(row["dice"])
    return found


@pytest.mark.parametrize(
    ("page", "lines"),
    [(ROOT / "README.md", results.readme_lines), (FOLDER / "README.md", results.page_lines)],
    ids=["readme", "page"],
)
def test_result_is_written_from_the_current_rows(page, lines):
    assert part_of(page) == lines(results.Results()), "run make results"


def test_table_holds_the_means_of_the_rows(tumours):
    curves = rows_of("curves.csv")
    table = table_of(part_of(ROOT / "README.md"))
    assert list(table) == [results.ARMS[arm] for arm in results.ARMS if arm in tumours]
    for arm, name in results.ARMS.items():
        if arm not in tumours:
            continue
        assert table[name]["trainings"] == str(len(tumours[arm]))
        for centre in "ABC":
            of_centre = [dice for (part, _), cases in tumours[arm].items() if part == centre for dice in cases.values()]
            assert table[name][centre] == (f"{fmean(of_centre):.3f}" if of_centre else "")
        ends = {(row["part"], row["seed"]): float(row["train_dice"]) for row in curves if row["arm"] == arm}
        assert ends.keys() == tumours[arm].keys()
        assert table[name]["own hospitals"] == f"{fmean(ends.values()):.3f}"


def difference(arm, baseline, trainings=None):
    """Mean over the cases of the mean over the trainings that both arms have, or over some of these."""
    by_case = defaultdict(list)
    for training in arm.keys() & baseline.keys() if trainings is None else trainings:
        for case, dice in arm[training].items():
            by_case[case].append(dice - baseline[training][case])
    return fmean(map(fmean, by_case.values()))


def test_difference_pairs_cases_of_the_same_training_and_length(tumours):
    table = table_of(part_of(ROOT / "README.md"))
    for arm in set(results.ARMS) & set(tumours) - {"segmentation"}:
        name, plus, changes = arm.partition("+")
        as_long = "segmentation" if name == "segmentation" else "segmentation" + plus + changes
        assert table[results.ARMS[arm]]["difference"] == f"{difference(tumours[arm], tumours[as_long]):+.3f}"


@pytest.mark.parametrize(
    ("low", "p", "words"),
    [(0.01, 0.01, "better than"), (-0.2, 0.01, "not shown"), (0.01, 0.2, "not shown"), (-0.5, 0.01, "worse than")],
)
def test_sentence_says_no_more_than_the_interval_shows(low, p, words):
    found = results.Results()
    record = {"difference": low + 0.1, "trainings": 9, "hierarchical": (low, low + 0.3), "p_holm": p}
    found.comparisons = {"conversion": {**record, "conclusion": conclusion(record)}}
    assert words in results.sentence(found, "conversion", "They change the Dice by")


def test_one_training_is_no_verdict():
    found = results.Results()
    found.comparisons = {"full": {"difference": 0.3, "trainings": 1, "conclusion": "better"}}
    assert results.sentence(found, "full", "They change it by") == (
        "They change it by +0.300 in one training, which is no verdict."
    )


def test_cells_of_the_table_come_from_one_machine():
    assert results.Results().summary["mixed"] == []


def test_readme_says_what_is_left_without_the_training_that_differs_most(tumours):
    baseline, conversion = tumours["segmentation"], tumours["conversion"]
    means = {key: fmean(conversion[key][case] - dice for case, dice in baseline[key].items()) for key in conversion}
    part, seed = most = max(means, key=lambda key: abs(means[key]))
    left = difference(conversion, baseline, means.keys() - {most})
    words = " ".join(results.readme_lines(results.Results()).split())
    assert f"most (hospital {part}, seed {seed}) it would be {left:+.3f}." in words


def test_words_on_more_steps_hold_for_the_rows(tumours):
    """Those of the README, of the table's page and of lesson 05b, on the trainings that were repeated."""
    longer = {arm: tumours[arm + results.LONGER] for arm in results.NAMES}
    gains = {arm: difference(trainings, tumours[arm]) for arm, trainings in longer.items()}
    assert min(gains.values()) > 0
    by_terms = [difference(tumours[arm], tumours["segmentation"]) for arm in ("conversion", "full")]
    assert gains["segmentation"] > max(results.CLAIMED, *by_terms)
    words = " ".join(part_of(ROOT / "README.md").split())
    assert f"steps alone change segmentation only by {gains['segmentation']:+.3f} in one training" in words
    found, best_first = results.Results(), [arm + results.LONGER for arm in ("segmentation", "conversion", "full")]
    for reached in (list(map(found.mean, best_first)), list(map(found.training_dice, best_first))):
        assert reached == sorted(reached, reverse=True)


def test_verdict_of_lesson_05b_holds_for_the_rows():
    found = results.Results()
    assert all(record["conclusion"] == "not shown" for record in found.comparisons.values())
    low, high = found.comparisons["conversion"]["hierarchical"]
    assert low < results.CLAIMED < high
    assert found.training_dice("full") < found.training_dice(results.BASELINE)
    source = (ROOT / "notebooks" / "source" / "05b_what_the_terms_buy.py").read_text(encoding="utf-8")
    assert "neither shown nor refuted" in source, "the rows changed: write the verdict anew"
