"""The figure of patients and scanners says what the rows say."""

from dualtask_lite.show.figures.swap import patients_by_scanner


def test_alt_text_has_four_means_and_both_shifts():
    dice = {("A", "A"): (0.7, 0.5), ("A", "C"): (0.5, 0.3), ("C", "A"): (0.4, 0.2), ("C", "C"): (0.3, "nan")}
    rows = [
        {"patients": owner, "scanner": scanner, "target": target, "dice": value}
        for (owner, scanner), values in dice.items()
        for value in values
        for target in ("tumour", "pancreas")
        if target == "tumour" or value != 0.7
    ]
    alt = patients_by_scanner(rows).alt
    assert "patients of A with the scanner of A 0.60 (2 patients)" in alt
    assert "patients of C with the scanner of C 0.30 (1 patients)" in alt
    assert "From the scanner of A to that of C: -0.20 for patients of A, +0.00 for patients of C." in alt
    assert "From patients of A to those of C: -0.30 with the scanner of A, -0.10 with the scanner of C." in alt
    assert "patients of A with the scanner of A 0.50 (1 patients)" in patients_by_scanner(rows, target="pancreas").alt
