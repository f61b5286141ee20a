"""The same patients under two scanners: four sets, paired by patient, none of them seen in training."""

from dualtask_lite.cases.phantom import make_case
from dualtask_lite.engine.judging import swap
from dualtask_lite.engine.judging.evaluation import Evaluation


def test_each_patient_is_scanned_by_both_hospitals(monkeypatch):
    asked = []

    def evaluate(models, cases, *, progress):
        asked.append(cases)
        rows = [{"case": case.id, "centre": case.centre, "target": "tumour", "dice": 0.5} for case in cases]
        return Evaluation(rows, {}, {})

    monkeypatch.setattr(swap, "evaluate", evaluate)
    rows = swap.evaluate_swapped([], ("A", "C"), patients=2, size=(24, 24, 12))
    cells = [(owner, scanner) for owner in "AC" for scanner in "AC"]
    assert [(row["patients"], row["scanner"]) for row in rows] == [cell for cell in cells for _ in range(2)]
    assert [row["patient"] for row in rows[:4]] == ["A_100", "A_101"] * 2
    assert len({row["case"] for row in rows}) == 8
    expected = make_case("C", 101, scanner="A", size=(24, 24, 12))
    assert asked[2][1].digest() == expected.digest()
