"""Numbers in sentences and tables."""

from __future__ import annotations

import math

import pytest

from dualtask_lite.words import counted, interval_in_words, signed


@pytest.mark.parametrize(("number", "words"), [(0, "0 cases"), (1, "1 case"), (2, "2 cases")])
def test_a_noun_has_the_number_of_its_count(number, words):
    assert counted(number, "case") == words


@pytest.mark.parametrize(
    ("difference", "text"),
    [
        (0.0386, "+0.039"),
        (-0.0326, "-0.033"),
        (-0.0004, "0.000"),
        (0.0004, "0.000"),
        (0.0, "0.000"),
        (-0.0006, "-0.001"),
    ],
)
def test_a_difference_that_rounds_to_zero_has_no_sign(difference, text):
    assert signed(difference) == text


def test_an_interval_names_both_ends_or_what_is_missing():
    assert interval_in_words((-0.0386, 0.0004)) == "-0.039 to 0.000"
    assert interval_in_words((math.nan, math.nan), "too few training runs") == "too few training runs"
