"""Splits: nobody is on both sides, and the same seed draws the same cases whatever their order."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dualtask_lite.cases.case import Case
from dualtask_lite.cases.splits import Split, cross_validation, leave_one_centre_out, train_validation, within_centre
from dualtask_lite.errors import DualTaskError


def a_case(name, centre, content=None):
    """A tiny CT; its content follows from its id unless another's is given."""
    key = list(f"{centre}/{name}".encode() if content is None else content.encode())
    voxels = np.random.default_rng(key).integers(-1000, 1000, (3, 3, 3)).astype(np.float32)
    return Case(name, centre, voxels, affine=np.eye(4))


def a_cohort(**sizes):
    return [a_case(f"{centre}_{i:02d}", centre) for centre, size in sizes.items() for i in range(size)]


def ids(cases):
    return [case.id for case in cases]


def parts(split):
    return ids(split.train), ids(split.validation), ids(split.test)


sizes = st.dictionaries(st.sampled_from("ABCD"), st.integers(1, 6), min_size=2)
shares = st.sampled_from([0.0, 0.1, 0.2, 0.5, 0.9])
seeds = st.integers(0, 2**31 - 1)


@given(sizes, shares, seeds, st.randoms(use_true_random=False))
def test_leave_one_centre_out_is_a_partition_that_ignores_order(sizes, share, seed, random):
    cases = a_cohort(**sizes)
    held_out = random.choice(sorted(sizes))
    split = leave_one_centre_out(cases, held_out, validation=share, seed=seed)
    train, validation, test = parts(split)
    assert sorted(train + validation + test) == sorted(ids(cases))
    assert {case.centre for case in split.test} == {held_out}
    assert len(test) == sizes[held_out]
    assert held_out not in {case.centre for case in split.train + split.validation}
    shuffled = random.sample(cases, len(cases))
    assert parts(leave_one_centre_out(shuffled, held_out, validation=share, seed=seed)) == (
        train,
        validation,
        test,
    )


@given(sizes, shares, seeds)
def test_every_centre_gives_its_share_and_keeps_a_training_case(sizes, share, seed):
    split = train_validation(a_cohort(**sizes), validation=share, seed=seed)
    learnt, kept = (Counter(case.centre for case in part) for part in (split.train, split.validation))
    assert not split.test
    for centre, size in sizes.items():
        assert learnt[centre] + kept[centre] == size
        assert learnt[centre] >= 1
        assert bool(kept[centre]) == (share > 0 and size >= 2)
        assert abs(kept[centre] - share * size) <= 1


@given(st.integers(2, 12), shares.filter(bool), shares, seeds, st.randoms(use_true_random=False))
def test_within_centre_uses_that_centre_only(size, test_share, share, seed, random):
    cases = a_cohort(A=size, B=3)
    split = within_centre(cases, "A", test=test_share, validation=share, seed=seed)
    train, validation, test = parts(split)
    assert train
    assert test
    assert sorted(train + validation + test) == [f"A_{i:02d}" for i in range(size)]
    shuffled = random.sample(cases, len(cases))
    again = within_centre(shuffled, "A", test=test_share, validation=share, seed=seed)
    assert parts(again) == (train, validation, test)


def test_draws_of_one_centre_are_independent_of_other_centres():
    cases = a_cohort(A=8, B=8, C=8)
    without_b = leave_one_centre_out(cases, "B", validation=0.25, seed=3)
    without_c = leave_one_centre_out(cases, "C", validation=0.25, seed=3)
    of_a = [[case.id for case in split.validation if case.centre == "A"] for split in (without_b, without_c)]
    assert of_a[0] == of_a[1]
    assert len(of_a[0]) == 2


def test_seeds_draw_different_cases():
    cases = a_cohort(A=10, B=10)
    drawn = {tuple(ids(train_validation(cases, validation=0.3, seed=seed).validation)) for seed in range(10)}
    assert len(drawn) > 5


def test_half_of_a_centre_is_half():
    split = within_centre(a_cohort(A=16), "A", test=0.5, validation=0.0, seed=0)
    assert [len(part) for part in parts(split)] == [8, 0, 8]


def test_a_lone_case_is_for_training():
    split = train_validation(a_cohort(A=1), validation=0.5, seed=0)
    assert parts(split) == (["A_00"], [], [])
    assert parts(train_validation([], validation=0.5, seed=0)) == ([], [], [])


def with_a_twin(cases, original, centre):
    """The cases and one more that holds the image of another under a new name."""
    return [*cases, Case("twin", centre, original.image, affine=np.eye(4))]


@given(sizes, shares, seeds, st.data())
def test_the_same_image_in_two_hospitals_cannot_be_held_out(sizes, share, seed, data):
    original = data.draw(st.sampled_from(a_cohort(**sizes)))
    elsewhere = data.draw(st.sampled_from([centre for centre in "ABCDE" if centre != original.centre]))
    cases = with_a_twin(a_cohort(**sizes), original, elsewhere)
    with pytest.raises(DualTaskError, match=r"the same image; .*data\.cases") as error:
        leave_one_centre_out(cases, original.centre, validation=share, seed=seed)
    assert original.id in error.value.what
    assert "twin" in error.value.what


@given(st.integers(3, 6), st.sampled_from([0.1, 0.5, 0.9]), seeds, st.data())
def test_copies_of_an_image_are_in_the_same_part(size, share, seed, data):
    """Also when each of them is of a patient with other CTs: then all of these are of one patient."""
    cases = [replace(case, patient=data.draw(st.sampled_from([None, "p", "q"]))) for case in a_cohort(A=size, B=size)]
    original = data.draw(st.sampled_from([case for case in cases if case.centre == "A"]))
    cases = with_a_twin(cases, original, data.draw(st.sampled_from("AB")))
    cases[-1] = replace(cases[-1], patient=data.draw(st.sampled_from([None, "p", "q", "r"])))
    fold = data.draw(st.integers(0, 1))
    elsewhere = [replace(case, id=f"C{case.id}") for case in a_cohort(C=3)]
    for split in (
        train_validation(cases, validation=share, seed=seed),
        leave_one_centre_out([*cases, *elsewhere], "C", validation=share, seed=seed),
        cross_validation([*cases, *elsewhere], fold, folds=2, seed=seed),
    ):
        sides = [part for part in parts(split) if {original.id, "twin"} & set(part)]
        assert [{original.id, "twin"} <= set(part) for part in sides] == [True]


def test_cases_of_the_same_image_are_warned_of(caplog):
    cases = a_cohort(A=3)
    train_validation(with_a_twin(cases, cases[1], "A"), validation=0.3, seed=0)
    assert "cases A_01 and twin hold the same image and count as one patient" in caplog.text
    assert "data.cases" in caplog.text


def test_the_same_id_on_both_sides_is_refused():
    with pytest.raises(DualTaskError, match=r"one \(A, train\) and one \(B, test\) have the same id"):
        Split(train=(a_case("one", "A"),), validation=(), test=(a_case("one", "B"),))


#: For each patient the centre of each of their CTs.
patients = st.lists(st.lists(st.sampled_from("AB"), min_size=1, max_size=3), min_size=2, max_size=5)


def of_patients(patients):
    """A cohort in which a patient has several CTs, perhaps of two centres."""
    return [
        replace(a_case(f"{patient}_{ct}", centre), patient=f"p{patient}")
        for patient, centres in enumerate(patients)
        for ct, centre in enumerate(centres)
    ]


def every_split(cases, share, seed):
    """All splits of this module that such a cohort allows."""
    yield train_validation(cases, validation=share, seed=seed)
    yield cross_validation(cases, seed % 2, folds=2, seed=seed)
    centres = {centre: {case.patient for case in cases if case.centre == centre} for centre in "AB"}
    for centre, there in centres.items():
        if len(there) >= 2:
            yield within_centre(cases, centre, test=0.5, validation=share, seed=seed)
    if all(centres.values()) and not centres["A"] & centres["B"]:
        yield leave_one_centre_out(cases, "A", validation=share, seed=seed)


@settings(max_examples=30)
@given(patients, shares, seeds)
def test_all_cts_of_a_patient_are_in_the_same_part(patients, share, seed):
    for split in every_split(of_patients(patients), share, seed):
        sides = [{case.patient for case in part} for part in (split.train, split.validation, split.test)]
        assert len(set().union(*sides)) == sum(map(len, sides))
        assert sides[0]


@settings(max_examples=30)
@given(patients, shares, seeds, st.randoms(use_true_random=False))
def test_splits_of_patients_ignore_the_order_of_cases(patients, share, seed, random):
    cases = of_patients(patients)
    shuffled = random.sample(cases, len(cases))
    splits = zip(every_split(cases, share, seed), every_split(shuffled, share, seed), strict=True)
    assert all(parts(one) == parts(other) for one, other in splits)


@settings(max_examples=30)
@given(patients, seeds, st.data())
def test_over_all_folds_each_patient_tests_once_with_all_cts(patients, seed, data):
    cases = of_patients(patients)
    folds = data.draw(st.integers(2, len(patients)))
    splits = [cross_validation(cases, fold, folds=folds, seed=seed) for fold in range(folds)]
    assert sorted(case.id for split in splits for case in split.test) == sorted(ids(cases))
    tested = [len({case.patient for case in split.test}) for split in splits]
    assert max(tested) - min(tested) <= 1


def test_folds_need_as_many_patients():
    cases = [replace(case, patient=case.id[:3]) for case in a_cohort(A=4)]  # all of one patient
    with pytest.raises(DualTaskError, match="1 patients cannot be split into 2 folds"):
        cross_validation(cases, 0, folds=2, seed=0)


def test_a_patient_on_two_sides_is_refused():
    one, two = (replace(a_case(name, centre), patient="p") for name, centre in (("one", "A"), ("two", "B")))
    with pytest.raises(DualTaskError, match=r"one \(A, train\) and two \(B, test\) are of one patient"):
        Split(train=(one,), validation=(), test=(two,))
    with pytest.raises(DualTaskError, match="A: 1 patients"):
        within_centre([replace(one, centre="A"), replace(two, centre="A")], "A", test=0.5, validation=0, seed=0)


@pytest.mark.parametrize("held_out", ["", "D", "a"])
def test_an_unknown_centre_names_the_known_ones(held_out):
    with pytest.raises(DualTaskError, match="choose from: A, B"):
        leave_one_centre_out(a_cohort(A=2, B=2), held_out, validation=0.2, seed=0)
    with pytest.raises(DualTaskError, match="choose from: A, B"):
        within_centre(a_cohort(A=2, B=2), held_out, test=0.5, validation=0.0, seed=0)


def test_the_only_centre_cannot_be_held_out():
    with pytest.raises(DualTaskError, match="A is the only centre"):
        leave_one_centre_out(a_cohort(A=4), "A", validation=0.2, seed=0)


@pytest.mark.parametrize(("size", "test"), [(1, 0.5), (4, 0.0), (4, 1.0), (4, -0.5)])
def test_within_centre_refuses_an_empty_part(size, test):
    with pytest.raises(DualTaskError, match="share"):
        within_centre(a_cohort(A=size), "A", test=test, validation=0.0, seed=0)


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_a_share_outside_its_range_is_refused(share):
    with pytest.raises(DualTaskError, match="less than 1"):
        train_validation(a_cohort(A=4), validation=share, seed=0)


@given(sizes, st.integers(2, 5), seeds, st.randoms(use_true_random=False))
def test_folds_test_each_case_once_and_are_balanced(sizes, folds, seed, random):
    cases = a_cohort(**sizes)
    folds = min(folds, len(cases))
    splits = [cross_validation(cases, fold, folds=folds, seed=seed) for fold in range(folds)]
    assert sorted(case.id for split in splits for case in split.test) == sorted(ids(cases))
    for split in splits:
        assert sorted(ids(split.train + split.test)) == sorted(ids(cases))
        assert len(cases) // folds <= len(split.test) <= -(-len(cases) // folds)
        for centre, size in sizes.items():
            assert size // folds <= sum(case.centre == centre for case in split.test) <= -(-size // folds)
    shuffled = random.sample(cases, len(cases))
    again = [cross_validation(shuffled, fold, folds=folds, seed=seed) for fold in range(folds)]
    assert list(map(parts, again)) == list(map(parts, splits))


@pytest.mark.parametrize("folds", [1, 5])
def test_folds_need_as_many_cases(folds):
    with pytest.raises(DualTaskError, match="cannot be split"):
        cross_validation(a_cohort(A=4), 0, folds=folds, seed=0)
