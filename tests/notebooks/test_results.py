"""The results in the README and on the tables' pages, computed again from the rows without the kit's own statistics."""

from __future__ import annotations

import csv
import importlib
import json
import math
import re
import sys
from collections import Counter, defaultdict
from pathlib import Path
from statistics import fmean, stdev

import pytest
from PIL import Image

from dualtask_lite.engine.judging.statistics import compare, conclusion
from dualtask_lite.words import signed

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "notebooks"))  # where the scripts that write the pages lie
readme, results = importlib.import_module("readme"), importlib.import_module("results")

REFERENCE, EXAM = results.REFERENCE, results.EXAM
PAGE, LOG = REFERENCE / "README.md", REFERENCE / "LOG.md"
PAGES = [PAGE, EXAM / "README.md", results.SAMPLES / "README.md"]  # of the tables
LONGER = results.LONGER


def part_of(page, part="result"):
    first, last = readme.marks(part, results.MADE_BY)
    return page.read_text(encoding="utf-8").partition(first)[2].partition(last)[0].strip()


def words_of(page):
    return " ".join(page.read_text(encoding="utf-8").split())


def rows_of(name, folder=REFERENCE):
    with (folder / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def table_of(text):
    """Rows of the first table of a text, by the first cell."""
    lines = [line for line in text.partition("\n\n")[2].partition("\n\n")[0].splitlines() if line.startswith("|")]
    head, _, *body = ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines)
    return {cells[0]: dict(zip(head, cells, strict=True)) for cells in body}


def read_plan(folder):
    return json.loads((folder / "plan.json").read_text(encoding="utf-8"))


def values_of(folder, column="dice", target="tumour"):
    """Arm -> (hospital, seed) -> case -> value of a column, where it is defined."""
    found = defaultdict(lambda: defaultdict(dict))
    for row in rows_of("cases.csv", folder):
        value = {"True": "1", "False": "0"}.get(row[column], row[column])
        if row["target"] == target and value and not math.isnan(float(value)):
            found[row["arm"]][row["part"], row["seed"]][row["case"]] = float(value)
    return found


def difference(arm, baseline, trainings=None):
    """Mean over the cases of the mean over their training runs; of both arms' training runs, or of some."""
    by_case = defaultdict(list)
    for training in arm.keys() & baseline.keys() if trainings is None else trainings:
        for case in arm[training].keys() & baseline[training].keys():
            by_case[case].append(arm[training][case] - baseline[training][case])
    return fmean(map(fmean, by_case.values()))


@pytest.fixture(scope="module")
def tumours():
    return values_of(REFERENCE)


@pytest.fixture(scope="module")
def known(tumours):
    """The training runs that were finished when those of the exam began: by them the recipe was chosen."""
    began = min(cell["date"] for cell in rows_of("cells.csv", EXAM))
    cells = [(cell["arm"], (cell["part"], cell["seed"])) for cell in rows_of("cells.csv") if cell["date"] < began]
    return {arm: {training: tumours[arm][training] for name, training in cells if name == arm} for arm, _ in cells}


def test_results_are_written_from_the_current_rows():
    reference, exam = results.Results(REFERENCE), results.Results(EXAM)
    assert part_of(ROOT / "README.md") == results.exam_lines(exam, reference), "run make results"
    assert part_of(PAGE) == results.page_lines(reference), "run make results"
    assert part_of(LOG) == results.log_lines(reference), "run make results"
    assert part_of(EXAM / "README.md") == results.exam_page_lines(exam, reference), "run make results"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.parent.name)
def test_page_of_a_table_has_its_figure_drawn_from_the_current_rows(page):
    alt = results.picture(page.parent).alt
    assert part_of(page, "figure") == f"![{alt}]({results.FIGURE})", "run make results"
    with Image.open(page.parent / results.FIGURE) as image:
        assert image.text["Description"] == alt, "run make results"
        assert image.width > 1000


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.parent.name)
def test_page_of_a_table_can_be_read_in_two_minutes(page):
    """500 words, beside one table and one figure."""
    text = re.sub(r"<!--.*?-->", "", page.read_text(encoding="utf-8"), flags=re.S)
    figures = re.findall(r"!\[[^]]*]\([^)]*\)", text)
    tables = re.findall(r"^\| --- \|", text, flags=re.M)
    assert (len(figures), len(tables)) == (1, 1)
    prose = re.sub(r"!\[[^]]*]\([^)]*\)|^\|.*$|^    .*$|`[^`]*`", "", text, flags=re.M)
    assert len(prose.split()) <= 500


def test_page_shows_the_arms_that_have_a_verdict(tumours):
    runs = {results.ARMS[arm]: len(trainings) for arm, trainings in tumours.items()}
    assert set(table_of(part_of(PAGE))) == {name for name, number in runs.items() if number >= 5}


def test_table_holds_the_means_of_the_rows(tumours):
    curves = rows_of("curves.csv")
    table = table_of(part_of(LOG))
    assert list(table) == [results.ARMS[arm] for arm in results.ARMS if arm in tumours]
    assert table_of(part_of(PAGE)).items() <= table.items()
    for arm, name in results.ARMS.items():
        if arm not in tumours:
            continue
        assert table[name]["training runs"] == str(len(tumours[arm]))
        for centre in "ABC":
            of_centre = [dice for (part, _), cases in tumours[arm].items() if part == centre for dice in cases.values()]
            assert table[name][centre] == (f"{fmean(of_centre):.3f}" if of_centre else "")
        ends = {(row["part"], row["seed"]): float(row["train_dice"]) for row in curves if row["arm"] == arm}
        assert ends.keys() == tumours[arm].keys()
        assert table[name]["own hospitals"] == f"{fmean(ends.values()):.3f}"


def test_difference_pairs_cases_of_the_same_training_and_length(tumours):
    table = table_of(part_of(LOG))
    for arm in set(results.ARMS) & set(tumours) - {"segmentation"}:
        name, plus, changes = arm.partition("+")
        as_long = "segmentation" if name == "segmentation" else "segmentation" + plus + changes
        assert table[results.ARMS[arm]]["difference"] == f"{difference(tumours[arm], tumours[as_long]):+.3f}"


@pytest.mark.parametrize(
    ("column", "head", "digits"),
    [
        ("dice", "Dice", 3),
        ("nsd_2mm", "NSD at 2 mm (4 mm voxels)", 3),
        ("hd95_mm", "HD95 in mm", 1),
        ("detected", "detected", 2),
    ],
)
def test_exam_in_the_readme_holds_the_means_of_the_rows(column, head, digits):
    table = table_of(part_of(ROOT / "README.md"))
    values = values_of(EXAM, column)
    assert set(table) == {results.ARMS[arm] for arm in values}
    truths = {row["case"] for row in rows_of("cases.csv", EXAM) if row["target"] == "tumour" and row["dice"] != "nan"}
    for arm, trainings in values.items():
        assert {part for part, _ in trainings} == {"D"}
        of_tumours = [value for cases in trainings.values() for case, value in cases.items() if case in truths]
        assert table[results.ARMS[arm]][head] == f"{fmean(of_tumours):.{digits}f}"


def test_verdict_of_the_exam_follows_from_the_rows():
    dice, pancreas = values_of(EXAM), values_of(EXAM, target="pancreas")["segmentation"]
    changed = difference(dice[results.RECIPE], dice["segmentation"])
    words = " ".join(part_of(ROOT / "README.md").split())
    assert f"both conversions change the Dice by {changed:+.3f}" in words
    found = results.Results(EXAM).comparisons[results.RECIPE]
    reached = changed >= results.CLAIMED and found["hierarchical"][0] > 0 and found["trainings"] >= 5
    assert ("interval above zero: reached" in words) == reached
    assert ("interval above zero: missed" in words) == (not reached)
    mean = fmean(value for cases in pancreas.values() for value in cases.values())
    assert f"has a Dice of {mean:.3f} ({'above' if mean >= results.PANCREAS_AIM else 'below'} the aim" in words


def test_exam_tests_every_patient_of_d_and_no_other():
    cases, labels = (read_plan(EXAM)[name] for name in ("cases", "labels"))
    assert labels.keys() == cases.keys()
    tested = {row["case"] for row in rows_of("cases.csv", EXAM)}
    assert tested == {case for case in cases if case.startswith("D_")}
    assert {case: cases[case] for case in cases.keys() - tested} == read_plan(REFERENCE)["cases"]


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
        "They change it by +0.300 in one training run, which is no verdict."
    )


def test_cells_of_the_exam_come_from_one_processor():
    assert len({row["device"] for row in rows_of("cells.csv", EXAM)}) == 1
    assert results.Results(EXAM).summary["mixed"] == []


def test_log_counts_the_cells_of_each_processor():
    for device, cells in Counter(row["device"] for row in rows_of("cells.csv")).items():
        assert f"{device}: {cells} cells" in part_of(LOG)


def test_page_says_what_is_left_without_the_training_that_differs_most(tumours):
    baseline, arm = tumours["segmentation"], tumours["conversion"]
    means = {key: difference(arm, baseline, [key]) for key in arm}
    part, seed = most = max(means, key=lambda key: abs(means[key]))
    left = difference(arm, baseline, means.keys() - {most})
    words = " ".join(part_of(PAGE).split())
    assert f"most (hospital {part}, seed {seed}) it would be {signed(left)}." in words


NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


@pytest.fixture(scope="module")
def longer(tumours):
    """Arm -> (hospital, seed) -> case -> Dice, of the training runs of four times as many steps."""
    return {arm: tumours[arm + LONGER] for arm in ("segmentation", "conversion", "full")}


def test_table_of_longer_runs_holds_the_means_of_the_rows(tumours, longer):
    words = " ".join(part_of(LOG).split())
    gains = {arm: [difference(longer[arm], tumours[arm], [run]) for run in longer[arm]] for arm in longer}
    for part, seed in longer["segmentation"]:
        cells = []
        for arm, runs in longer.items():
            lengths = (tumours[arm], runs, tumours.get(arm + results.LONGEST, {}))
            means = [
                f"{fmean(found[part, seed].values()):.3f}" if (part, seed) in found else "..." for found in lengths
            ]
            cells.append(re.sub(r"(^| to )[.]{3}(?! to \d)", "", " to ".join(means)))
        assert " ".join(f"| {part}, {seed} | {' | '.join(cells)} |".split()) in words
    gained = "; ".join(f"{arm} {min(of_arm):+.3f} to {max(of_arm):+.3f}" for arm, of_arm in gains.items())
    assert f"What a run gained from more steps: {gained}." in words
    runs = sorted(longer["segmentation"])
    assert runs == sorted(longer["conversion"])
    both = [("changed the Dice by", tumours, " in one run, standard deviation"), ("and by", longer, ",")]
    for before, dice, between in both:
        changes = [difference(dice["conversion"], dice["segmentation"], [run]) for run in runs]
        mean = difference(dice["conversion"], dice["segmentation"], runs)
        spread = f"({min(changes):+.3f} to {max(changes):+.3f}{between} {stdev(changes):.3f})"
        assert f"{before} {mean:+.3f} after" in words
        assert spread in words


def test_words_on_more_steps_hold_for_the_rows(tumours, longer):
    """Those of the README, of the table's page, of its log and of lesson 05b."""
    runs, of_all_arms = (sorted(longer[arm]) for arm in ("segmentation", "full"))
    assert of_all_arms == [("A", "1"), ("B", "2"), ("C", "0")]
    assert set(of_all_arms) < set(runs)
    assert min(difference(longer[arm], tumours[arm], [run]) for arm in longer for run in longer[arm]) > 0
    conversions = difference(longer["conversion"], longer["segmentation"])
    readme, page, log = map(words_of, (ROOT / "README.md", PAGE, LOG))
    assert f"After four times as many steps it was {conversions:+.3f} over {len(runs)} training runs" in readme
    assert f"{NUMBERS[len(runs)].title()} training runs of segmentation only and the conversions were repeated" in log
    needed = [results.Results().comparisons[arm]["trainings_needed"] for arm in ("conversion", "conversion" + LONGER)]
    assert f"it takes {needed[0]} pairs to show a difference of 0.05, or {needed[1]} of four times" in page
    assert needed[1] < needed[0] / 2
    assert needed[1] <= len(runs), "as many as a difference of 0.05 needs"
    found = results.Results().comparisons
    late, steps = found["conversion" + LONGER], found["segmentation" + LONGER]
    by_centre = late["by_centre"]
    assert max(by_centre["A"], by_centre["B"]) < -0.02, "behind on A and B"
    on_a, on_b, on_c = (
        [difference(longer["conversion"], longer["segmentation"], [run]) for run in runs if run[0] == part]
        for part in "ABC"
    )
    for changes in (on_a, on_b):
        assert [abs(change) < 0.01 for change in changes].count(True) == 1, "level in one run of A and of B"
    assert sorted(change > 0.02 for change in on_c) == [False, True, True], "ahead in two of three runs on C"
    assert -0.05 < late["difference"] < 0, "on average a little behind"
    low, high = late["hierarchical"]
    assert low < 0 < high < results.CLAIMED, "the interval excludes the claim"
    assert late["trainings"] >= 5
    assert steps["conclusion"] == "better"
    assert steps["difference"] > max(0, late["difference"]), "worth less than more steps alone"
    assert f"The {NUMBERS[len(runs)]} pairs of 9,600 steps, four with A held out" in page
    assert Counter(part for part, _ in runs) == {"A": 4, "B": 3, "C": 3}
    on_a, on_b, on_c = (f"{difference(longer['full'], longer['segmentation'], [run]):+.3f}" for run in of_all_arms)
    assert max(float(on_a), float(on_b)) < 0 < float(on_c)
    assert f"hospital that was held out, too, on A ({on_a}) and on B ({on_b})" in log
    assert f"all terms are first ({on_c})" in log
    at_home = {(row["arm"], row["part"], row["seed"]): float(row["train_dice"]) for row in rows_of("curves.csv")}
    for run in of_all_arms:
        assert min(longer, key=lambda arm: at_home[(arm + LONGER, *run)]) == "full"


def test_words_on_the_longest_runs_hold_for_the_rows(tumours):
    """Those of the table's page, of its log and of lesson 05b: one pair, on C with seed 1."""
    run = ("C", "1")
    pair = {arm: tumours[arm + results.LONGEST] for arm in ("segmentation", "conversion")}
    assert all(list(runs) == [run] for runs in pair.values()), "one pair"
    before, after = (
        {arm: f"{fmean(tumours[arm + length][run].values()):.3f}" for arm in pair}
        for length in (LONGER, results.LONGEST)
    )
    source = (ROOT / "notebooks" / "source" / "05b_what_the_terms_buy.py").read_text(encoding="utf-8")
    alone, both = (f"({before[arm]} to {after[arm]})" for arm in pair)
    log, page = words_of(LOG), words_of(PAGE)
    words = "`segmentation` stays about where it was on the unseen hospital"
    assert f"{words} {alone}, `conversion` gains {both}, and they end level" in " ".join(source.split("\n# "))
    assert "segmentation only stays about where it was; the conversions and all terms end level" in page
    late = difference(pair["conversion"], pair["segmentation"])
    last = {row["arm"]: row for row in rows_of("curves.csv") if (row["part"], row["seed"]) == run}

    def in_the_curve(arm, column):
        return " to ".join(f"{float(last[arm + length][column]):.3f}" for length in (LONGER, results.LONGEST))

    alone, both = (f"{found[:-1]}; in the learning curve " for found in (alone, both))
    alone += in_the_curve("segmentation", "unseen_dice")
    both += in_the_curve("conversion", "unseen_dice")
    assert f"segmentation only stays about where it was {alone})" in log
    assert f"The conversions gain {both}) and end level with it ({late:+.3f})" in log
    assert abs(late) < 0.01
    assert f"it still gains on its own training cases ({in_the_curve('segmentation', 'train_dice')})" in log


def test_words_on_the_longest_runs_of_all_terms_hold_for_the_rows(tumours):
    """Those of the table's page, of its log and of lesson 05b: on C with seeds 0 and 1."""
    first, second = ("C", "0"), ("C", "1")
    longest = {arm: tumours[arm + results.LONGEST] for arm in ("segmentation", "full")}
    assert sorted(longest["full"]) == [first, second]
    log, page = words_of(LOG), words_of(PAGE)
    last = {(row["arm"], row["part"], row["seed"]): row for row in rows_of("curves.csv")}

    def from_longer(column):
        return " to ".join(f"{float(last[('full' + n, *first)][column]):.3f}" for n in (LONGER, results.LONGEST))

    volume = " to ".join(f"{fmean(tumours['full' + n][first].values()):.3f}" for n in (LONGER, results.LONGEST))
    home = f"{from_longer('train_dice')} on their own training cases, {from_longer('validation_dice')} on validation"
    assert f"they still gain: {volume} from the whole volume, {home} cases" in log
    early = difference(tumours["full"], tumours["segmentation"], [second])
    late = difference(longest["full"], longest["segmentation"], [second])
    assert f"they are at {early:+.3f} after 2,400 steps and at {late:+.3f} after 19,200" in log
    boxes = values_of(REFERENCE, "dice_own_box")
    in_the_box = difference(*(boxes[arm + results.LONGEST] for arm in ("full", "segmentation")), [second])
    assert f"the true pancreas says the same ({in_the_box:+.3f})" in log
    full, alone = (last[(arm + results.LONGEST, *second)] for arm in ("full", "segmentation"))
    unseen, validation = (
        [float(row[column]) for row in (full, alone)] for column in ("unseen_dice", "validation_dice")
    )
    assert f"they stay behind ({unseen[0]:.3f}, segmentation only {unseen[1]:.3f})" in log
    assert f"on validation cases more so ({validation[0]:.3f} and {validation[1]:.3f})" in log
    assert validation[0] - unseen[0] < validation[1] - unseen[1], "they lose less in the new hospital"
    assert max(late, in_the_box) <= 0, "nowhere ahead of it"
    assert float(full["train_dice"]) < float(alone["train_dice"]), "still behind on its own training cases"
    assert "With 19,200 steps (C, seed 1) segmentation only stays about where it was; the conversions and all" in page
    source = (ROOT / "notebooks" / "source" / "05b_what_the_terms_buy.py").read_text(encoding="utf-8")
    gain = [fmean(runs[second].values()) for runs in (tumours["full"], longest["full"])]
    assert f"far behind after 2,400 steps ({gain[0]:.3f} to {gain[1]:.3f})" in " ".join(source.split("\n# "))
    pancreas = values_of(REFERENCE, target="pancreas")
    here, there = (pancreas[arm + results.LONGEST][second] for arm in ("full", "segmentation"))
    apart = [here[case] - there[case] for case in here]
    most = max(map(abs, apart))
    assert f"better by {fmean(apart):.3f} in the mean with seed 1, and by up to {most:.2f} in a single case" in log


def test_words_on_the_run_that_failed_hold_for_the_rows(tumours, longer):
    """Those of the table's page, of its log and of lesson 05b."""
    failed = ("B", "0")
    alone, repeated = tumours["segmentation"], longer["segmentation"]
    before, after = (fmean(dice[failed].values()) for dice in (alone, repeated))
    assert before == min(fmean(cases.values()) for runs in tumours.values() for cases in runs.values())
    assert after == max(
        fmean(cases.values()) for runs in longer.values() for run, cases in runs.items() if run[0] == "B"
    )
    ahead, behind = (difference(dice["conversion"], dice["segmentation"], [failed]) for dice in (tumours, longer))
    assert behind < 0, "segmentation only is ahead in the longer run"
    source = (ROOT / "notebooks" / "source" / "05b_what_the_terms_buy.py").read_text(encoding="utf-8")
    assert "with 9,600 steps it does not, and is ahead" in words_of(PAGE)
    assert "There `segmentation` does not fail, and\n# ends ahead of `conversion`" in source
    home = {
        row["arm"]: float(row["train_dice"]) for row in rows_of("curves.csv") if (row["part"], row["seed"]) == failed
    }
    little, enough = home["segmentation"], home["segmentation" + LONGER]
    assert f"{little:.2f} on its own training cases after 2,400 steps, and {enough:.2f} after 9,600" in source
    log = words_of(LOG)
    assert f"({', seed '.join(failed)}: {before:.3f}), so the conversions were {ahead:+.3f} ahead" in log
    assert f"it reaches {after:.3f}, the highest Dice of any run on B, and the conversions are at {behind:+.3f}" in log
    others = [difference(tumours["conversion"], alone, [run]) for run in alone if run != failed]
    assert max(others) < 0.06 < ahead, "the one large gain"


def test_words_on_the_moving_average_hold_for_the_rows(tumours):
    """It is one of the runs beside it: the losses are the same. And it raises none of them."""
    name = "segmentation" + results.AVERAGED
    averaged, alone = tumours[name], tumours["segmentation"]
    losses = defaultdict(list)
    for row in rows_of("curves.csv"):
        losses[row["arm"], (row["part"], row["seed"])].append((row["step"], row["loss"]))
    assert len(averaged) >= 3
    for run in averaged:
        assert losses[name, run] == losses["segmentation", run]
        assert -0.03 < difference(averaged, alone, [run]) < 0.01
    means = defaultdict(list)
    for (part, _), dice in alone.items():
        means[part].append(fmean(dice.values()))
    apart = {part: f"{max(dice) - min(dice):.2f}" for part, dice in means.items()}
    words = words_of(LOG)
    assert f"lie {apart['C']} (C) to {apart['B']} (B) apart" in words
    assert apart["C"] < apart["A"] < apart["B"]


def test_words_on_the_longer_runs_on_c_hold_for_the_rows():
    """The log and lesson 05b: the place of all terms depends on the measurement, that of the conversions does not."""
    arms, on_c = ("segmentation", "conversion", "full"), ("C", "0")
    whole, box = (
        {arm: fmean(values_of(REFERENCE, column)[arm + LONGER][on_c].values()) for arm in arms}
        for column in ("dice", "dice_own_box")
    )
    rows = [row for row in rows_of("curves.csv") if (row["part"], row["seed"]) == on_c]
    ends = {row["arm"]: float(row["unseen_dice"]) for row in rows}
    curve = {arm: ends[arm + LONGER] for arm in arms}
    assert [max(found, key=found.get) for found in (whole, box)] == ["full", "conversion"]
    ends = {(row["arm"], row["seed"]): float(row["unseen_dice"]) for row in rows_of("curves.csv") if row["part"] == "C"}
    alone, conversions = ([ends[arm + LONGER, seed] for seed in "012"] for arm in ("segmentation", "conversion"))
    assert ends["full" + LONGER, "0"] < min(fmean(alone), fmean(conversions), curve["segmentation"])
    for column in ("dice", "dice_own_box"):
        found = values_of(REFERENCE, column)
        gains = [difference(found["conversion" + LONGER], found["segmentation" + LONGER], [("C", s)]) for s in "012"]
        assert [gain > 0 for gain in gains] == [True, False, True], "ahead with seeds 0 and 2, behind with seed 1"
    assert [with_them > without for without, with_them in zip(alone, conversions, strict=True)] == [True, False, True]


def test_work_of_a_step_is_what_the_names_of_the_arms_say():
    work = {row["arm"]: (row["samples_a_step"], row["images_a_step"]) for row in rows_of("cells.csv")}
    alone, both = ("segmentation", "distance", "conversion"), ("views", "consistency", "contrast", "full")
    assert {work[arm] for arm in alone} == {("4", "4")}
    assert {work[arm] for arm in both} == {("2", "4")}
    assert work["full-samples"] == ("4", "8")


def test_words_on_single_terms_hold_for_the_rows(tumours):
    """The log and lesson 05b: too few training runs for a verdict."""
    assert all(3 <= len(tumours[arm]) < 5 for arm in ("views", "consistency", "contrast"))
    terms = ("segmentation", "distance", "conversion", "views", "consistency", "contrast", "full")
    shared = sorted(set.intersection(*(set(tumours[arm]) for arm in terms)))
    assert shared == [("A", "2"), ("B", "2"), ("C", "1")]
    words = words_of(LOG)
    at_home = {(row["arm"], row["part"], row["seed"]): float(row["train_dice"]) for row in rows_of("curves.csv")}
    one_view, two_views = (
        [fmean(at_home[(arm, *run)] for run in shared) for arm in arms]
        for arms in (("segmentation", "distance", "conversion"), ("views", "consistency", "contrast", "full"))
    )
    (low, high), (lowest, highest) = ((min(dice), max(dice)) for dice in (two_views, one_view))
    with_one = f"the arms with one view have {lowest:.2f} to {highest:.2f}"
    assert f"(means of the three runs: {low:.2f} to {high:.2f}, where {with_one})" in words


def test_words_on_the_distance_alone_hold_for_the_rows(tumours):
    gains = {run: difference(tumours["distance"], tumours["segmentation"], [run]) for run in tumours["distance"]}
    failed = gains.pop(("B", "0"))
    words = words_of(LOG)
    assert f"the distance alone is {failed:+.3f} ahead" in words
    assert f"In its {NUMBERS[len(gains)]} other runs it lies between {min(gains.values()):+.3f} and" in words
    assert f"and {max(gains.values()):+.3f}. So its mean" in words
    assert sorted(run for run, gain in gains.items() if gain < -0.05) == [("A", "1"), ("A", "2")]


def test_words_on_as_many_samples_hold_for_the_rows(tumours):
    more, words = tumours["full-samples"], words_of(LOG)
    assert sorted(more) == [("A", "2"), ("B", "2"), ("C", "2")]
    on_a, on_b, on_c = (difference(more, tumours["segmentation"], [training]) for training in sorted(more))
    assert f"behind on A ({on_a:+.3f}) and level on B ({on_b:+.3f}) and C ({on_c:+.3f})" in words
    assert all(difference(more, tumours["full"], [training]) > 0 for training in more)


def test_all_terms_are_behind_in_most_trainings(tumours):
    full, baseline = tumours["full"], tumours["segmentation"]
    behind = [training for training in full if difference(full, baseline, [training]) < 0]
    assert len(behind) > len(full) / 2
    at_home = {(row["arm"], row["part"], row["seed"]): float(row["train_dice"]) for row in rows_of("curves.csv")}
    assert all(at_home[("full", *training)] < at_home[("segmentation", *training)] for training in full)
    assert all(at_home[("views", *training)] < at_home[("segmentation", *training)] for training in tumours["views"])


def test_words_on_two_trainings_of_the_pancreas_stage_hold_for_the_rows():
    dice = values_of(REFERENCE, target="pancreas")
    apart = {
        training: [cases[case] - dice["segmentation"][training][case] for case in cases]
        for training, cases in dice["full"].items()
        if cases != dice["segmentation"][training]
    }
    assert sorted(apart) == [("A", "0"), ("B", "0"), ("B", "1"), ("C", "1")]
    longer, alone = dice["segmentation" + LONGER], dice["segmentation"]
    assert [run for run in longer if longer[run] != alone[run]] == [("B", "0"), ("C", "0")]
    again = dice["full"]["C", "1"]
    assert all(dice[arm]["C", "1"] == again for arm in ("segmentation" + results.LONGEST, "contrast"))
    assert longer["B", "0"] == dice["distance"]["B", "0"], "the same stage, trained on a processor without AVX512"
    for run in (("A", "0"), ("B", "1"), ("C", "1")):
        assert longer[run] == alone[run], "trained again, on a processor without AVX512"
    assert all(dice["distance"][run] == alone[run] for run in (("A", "0"), ("C", "0"), ("C", "1")))
    on_b = [(dice["distance"]["B", seed], alone["B", seed]) for seed in "01"]
    apart_on_b = [max(abs(again[case] - first[case]) for case in first) for again, first in on_b]
    assert [f"{most:.4f}" for most in apart_on_b] == ["0.0003", "0.0000"]
    assert f"{max(abs(one) for differences in apart.values() for one in differences):.2f}" == "0.22"
    assert max(abs(fmean(differences)) for differences in apart.values()) < 0.01


def test_verdict_of_lesson_05b_holds_for_the_rows():
    found = results.Results()
    of_terms = [record for arm, record in found.comparisons.items() if not arm.startswith(results.BASELINE)]
    assert all(record["conclusion"] == "not shown" for record in of_terms)
    low, high = found.comparisons["conversion"]["hierarchical"]
    assert low < results.CLAIMED < high
    assert found.training_dice("full") < found.training_dice(results.BASELINE)
    exam = results.Results(EXAM).comparisons
    low, high = exam["conversion"]["hierarchical"]
    assert (exam["conversion"]["conclusion"], exam["full"]["conclusion"]) == ("not shown", "worse")
    assert low < results.CLAIMED < high
    source = (ROOT / "notebooks" / "source" / "05b_what_the_terms_buy.py").read_text(encoding="utf-8")
    assert "neither shown nor refuted" in source, "the rows changed: write the verdict anew"


def test_reasons_for_the_recipe_hold_for_the_rows_that_were_known(known):
    """Those in the log of the reference table."""
    baseline = known["segmentation"]
    assert [len(known[arm]) for arm in ("segmentation", "conversion", "full")] == [7, 7, 3]
    several = [arm for arm in known if arm != "segmentation" and len(known[arm]) >= 3]
    ahead = [arm for arm in several if difference(known[arm], baseline) > 0]
    assert ahead == [results.RECIPE]
    for rate in ("0.001", "0.012"):
        assert difference(known[f"segmentation+optimiser.lr={rate}"], baseline) < 0
    for arm in ("segmentation", "conversion"):
        assert abs(difference(known[f"{arm}+network.width=16"], baseline)) < 0.02
    assert difference(known["conversion+optimiser.steps=9600"], known["segmentation+optimiser.steps=9600"]) < 0


def test_words_on_the_exam_hold_for_the_rows():
    """Those of its page: in how many training runs each arm gains."""
    dice = values_of(EXAM)
    gains = {
        arm: sorted(difference(dice[arm], dice["segmentation"], [training]) for training in dice["segmentation"])
        for arm in ("conversion", "full")
    }
    assert [round(gain, 3) for gain in gains["conversion"] if gain < 0] == [-0.013, -0.013]
    assert len(gains["conversion"]) == 5
    assert max(gains["full"]) < 0
    exam = results.Results(EXAM)
    assert exam.training_dice("full") < exam.training_dice("segmentation")
    words = words_of(EXAM / "README.md")
    gained = f"{difference(dice['conversion'], dice['segmentation']):+.3f} of {results.CLAIMED:+.3f}"
    assert f"the conversions gain {gained}, in three of five training runs" in words
    assert "they lose 0.013 each" in words
    boxes = compare([row for row in exam.tumours if row["arm"] != "full"], "segmentation", "dice_own_box")
    low, high = boxes[0]["hierarchical"]
    in_the_box = f"gain {boxes[0]['difference']:+.3f} ({low:+.3f} to {high:+.3f}), in all five training runs"
    assert in_the_box in words
    assert min(boxes[0]["by_seed"].values()) > 0
