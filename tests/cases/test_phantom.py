"""The phantom: deterministic, anatomically plausible, and with the centre differences of its file."""

import dataclasses
import itertools

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from dualtask_lite.cases import sources
from dualtask_lite.cases.anatomy import Canvas, Tissue, Tumour, paint_patient
from dualtask_lite.cases.case import check
from dualtask_lite.cases.phantom import Tumours, centres, lesion, make_case, make_phantom
from dualtask_lite.cases.sources import find_cases
from dualtask_lite.errors import DualTaskError

SMALL = (48, 48, 25)


def tissues(seed=0, tumour=None, shape=(96, 96, 60), mm=(3.6, 3.6, 2.5)):
    axes = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, mm, strict=True)]
    canvas = Canvas(axes, np.random.default_rng(seed))
    paint_patient(canvas, tumour, np.random.default_rng(seed))
    return canvas.tissue, axes


def middle(tissue, kind, axes):
    points = np.argwhere(tissue == kind)
    return [axis[i] for axis, i in zip(axes, points.mean(0).round().astype(int), strict=True)]


def test_voxels_depend_only_on_the_seed():
    a, b = make_case("B", 5, seed=3, size=SMALL), make_case("B", 5, seed=3, size=SMALL)
    assert np.array_equal(a.image, b.image)
    assert np.array_equal(a.label, b.label)
    for other in (make_case("B", 5, seed=4, size=SMALL), make_case("B", 6, seed=3, size=SMALL)):
        assert not np.array_equal(a.image, other.image)


def test_default_cases_pass_the_check_and_have_their_organs():
    for centre, number in itertools.product("ABC", (0, 7, 12)):
        case = make_case(centre, number)
        assert check(case) == []
        scan = case.load()
        ml = (scan.label > 0).sum() * np.prod(scan.spacing) / 1000
        assert ml > 40  # a normal gland measures about 40 to 150 ml
        assert ml < 150 or scan.has_tumour
        assert 96 == scan.shape[0] == scan.shape[1]


def test_one_case_in_eight_has_no_tumour():
    for centre in "ABC":
        has = [make_case(centre, number, size=(64, 64, 30)).label.max() == 2 for number in range(16)]
        assert sum(has[:8]) == sum(has[8:]) == 7


@pytest.mark.parametrize("seed", range(4))
def test_organs_are_at_their_anatomical_positions(seed):
    tissue, axes = tissues(seed)
    liver, spleen = middle(tissue, Tissue.LIVER, axes), middle(tissue, Tissue.SPLEEN, axes)
    pancreas, aorta = middle(tissue, Tissue.PANCREAS, axes), middle(tissue, Tissue.AORTA, axes)
    marrow = middle(tissue, Tissue.MARROW, axes)
    assert liver[0] > 30 > 0 > -60 > spleen[0]  # patient's right is positive
    assert abs(marrow[0]) < 15
    assert marrow[1] < aorta[1] < pancreas[1]  # from back to front
    assert set(np.unique(tissue)) >= {kind.value for kind in Tissue} - {
        Tissue.TUMOUR,
        Tissue.RIM,
        Tissue.DUCT,
    }
    gas, fluid = middle(tissue, Tissue.GAS, axes), middle(tissue, Tissue.FLUID, axes)
    assert gas[1] > fluid[1]  # the patient lies on the back


@pytest.mark.parametrize("seed", range(4))
def test_pancreas_is_one_curved_tapering_organ(seed):
    tissue, axes = tissues(seed)
    organ = tissue == Tissue.PANCREAS
    labels, count = ndimage.label(organ, np.ones((3, 3, 3)))
    largest = np.bincount(labels.ravel())[1:].max()
    assert largest > 0.93 * organ.sum(), f"{count} pieces"
    x, y, z = (
        axis[i]
        for axis, i in zip(axes, np.nonzero(labels == 1 + np.bincount(labels.ravel())[1:].argmax()), strict=True)
    )
    assert x.max() > 40
    assert x.min() < -70
    head, body, tail = (y[(x > a) & (x < b)].mean() for a, b in ((30, 60), (-20, 10), (-90, -60)))
    assert body > head > tail  # it bends over the spine
    right, left = z[x > 20].mean(), z[x < -50].mean()
    assert left > right + 15  # and rises towards the spleen
    sections = [((x > a) & (x < a + 20)).sum() for a in (30, -90)]
    assert sections[0] > 1.5 * sections[1]  # head thicker than tail
    to_duodenum = ndimage.distance_transform_edt(tissue != Tissue.WALL, sampling=(3.6, 3.6, 2.5))
    assert to_duodenum[organ].min() < 10


@pytest.mark.parametrize(("kind", "place"), [("solid", 0.15), ("iso", 0.5), ("cystic", 0.85)])
def test_tumour_is_at_the_pancreas_with_about_its_diameter(kind, place):
    for seed in range(5):
        tissue, _ = tissues(seed, Tumour(kind, 30, place))
        tumour = np.isin(tissue, (Tissue.TUMOUR, Tissue.RIM))
        volume = tumour.sum() * 3.6 * 3.6 * 2.5
        assert 14 < (6 * volume / np.pi) ** (1 / 3) < 40
        near = ndimage.distance_transform_edt(
            ~np.isin(tissue, (Tissue.PANCREAS, Tissue.DUCT)), sampling=(3.6, 3.6, 2.5)
        )
        assert near[tumour].min() < 5
        assert ((tissue == Tissue.RIM).sum() > 20) == (kind == "cystic")


def test_duct_is_visible_only_upstream_of_an_obstructing_tumour():
    tissue, axes = tissues(1, Tumour("solid", 25, 0.2))
    duct, tumour = middle(tissue, Tissue.DUCT, axes), middle(tissue, Tissue.TUMOUR, axes)
    assert duct[0] < tumour[0] - 20
    for other in (None, Tumour("cystic", 25, 0.2)):
        assert not (tissues(1, other)[0] == Tissue.DUCT).any()


def test_tiny_tumour_has_at_least_one_voxel():
    for seed in range(12):
        tissue, _ = tissues(seed, Tumour("iso", 8, 0.5), shape=(48, 48, 20), mm=(8.0, 8.0, 7.5))
        assert np.isin(tissue, (Tissue.TUMOUR, Tissue.RIM)).any()


def hu_of(case, value):
    return case.image[case.label == value]


def test_each_centre_difference_can_be_set_alone():
    plain = centres()["A"]
    size = (64, 64, 40)

    def liver_noise(case):  # in a block inside the liver
        block = case.image[44:50, 30:36, 26:30].astype(float)
        return block.std()

    base = make_case(plain, 1, size=size)
    noisy = make_case(dataclasses.replace(plain, noise_hu=40), 1, size=size)
    assert liver_noise(noisy) == pytest.approx(40, rel=0.35)
    assert liver_noise(base) == pytest.approx(plain.noise_hu, rel=0.35)
    bright = make_case(dataclasses.replace(plain, hu={**plain.hu, "pancreas": 200}), 1, size=size)
    assert np.median(hu_of(bright, 1)) > np.median(hu_of(base, 1)) + 60
    assert np.array_equal(bright.label, base.label)
    smooth = make_case(dataclasses.replace(plain, kernel_voxels=1.5), 1, size=size)
    edges = [np.abs(np.diff(case.image.astype(float), axis=0)).mean() for case in (base, smooth)]
    assert edges[1] < 0.7 * edges[0]
    assert make_case(dataclasses.replace(plain, slice_mm=5), 1).image.shape[2] == 30
    wide = make_case(dataclasses.replace(plain, field_of_view_mm=480), 1)
    assert wide.affine[0, 0] == pytest.approx(5)


@pytest.mark.parametrize(("patients", "scanner"), [("A", "C"), ("C", "A")])
def test_another_scanner_changes_the_picture_and_not_the_patient(patients, scanner):
    other = centres()[scanner]
    lesions = [number for number in range(8) if lesion(patients, number)]
    for number in lesions[:3]:
        own, swapped = make_case(patients, number), make_case(patients, number, scanner=scanner)
        assert np.diag(swapped.affine)[:3] == pytest.approx(np.diag(make_case(scanner, 0).affine)[:3])
        for value in (1, 2):
            ml = [(case.label == value).sum() * np.prod(np.diag(case.affine)[:3]) / 1000 for case in (own, swapped)]
            surface_voxels = ndimage.binary_dilation(swapped.label == value) & (swapped.label != value)
            rounding = surface_voxels.sum() * np.prod(np.diag(swapped.affine)[:3]) / 1000
            assert ml[1] == pytest.approx(ml[0], abs=0.1 * rounding)
            middles = [
                nib.affines.apply_affine(case.affine, np.argwhere(case.label == value).mean(0))
                for case in (own, swapped)
            ]
            assert np.linalg.norm(middles[0] - middles[1]) < 2  # mm
        noise = [
            make_case(patients, number, scanner=dataclasses.replace(other, noise_hu=hu)) for hu in (0, other.noise_hu)
        ]
        assert np.array_equal(noise[1].image, swapped.image)
        body = noise[0].image > -150
        measured = (noise[1].image.astype(float) - noise[0].image)[body].std()
        assert measured == pytest.approx(other.noise_hu, rel=0.05)
    assert swapped.centre == patients
    assert swapped.id == f"{patients}_{lesions[2]:03d}_by_{scanner}"


def test_lesion_contrast_follows_from_the_phase_of_the_scanner():
    def darker(scanner):
        steep = dataclasses.replace(centres()[scanner], noise_hu=0)
        cases = [make_case("A", n, scanner=steep, size=(96, 96, 60)) for n in range(24) if is_solid(n)]
        return np.mean([np.median(hu_of(case, 1)) - np.median(hu_of(case, 2)) for case in cases])

    def is_solid(number):
        tumour = lesion("A", number)
        return tumour is not None and tumour.kind == "solid"

    assert darker("B") > darker("A") > darker("C")


def test_lesion_description_matches_the_label():
    for number in range(8):
        tumour, case = lesion("C", number), make_case("C", number)
        ml = (case.label == 2).sum() * np.prod(np.diag(case.affine)[:3]) / 1000
        assert (tumour is None) == (ml == 0)
        if tumour:
            assert 0.3 < ml / (np.pi / 6 * (tumour.diameter_mm / 10) ** 3) < 1.6


@pytest.mark.parametrize("kind", ["solid", "iso", "cystic"])
def test_each_kind_of_tumour_has_its_contrast(kind):
    shares = {name: float(name == kind) for name in ("solid", "iso", "cystic")}
    centre = centres()["B"]
    tumours = Tumours(**{**dataclasses.asdict(centre.tumours), **shares, "iso_diameter_mm": (30, 1)})
    darker = []
    for number in range(1, 9):
        case = make_case(dataclasses.replace(centre, tumours=tumours, noise_hu=1), number)
        if case.label.max() == 2:
            inner = ndimage.binary_erosion(case.label == 2)
            darker.append(np.median(hu_of(case, 1)) - np.median(case.image[inner]))
    mean = np.mean(darker)
    assert {"solid": 35 < mean < 85, "iso": 0 < mean < 22, "cystic": mean > 55}[kind]


def test_size_and_spacing_can_be_chosen():
    case = make_case("C", 1, size=(40, 50, 20))
    assert case.image.shape == (40, 50, 20)
    assert case.affine[0, 0] == pytest.approx(430 / 40)
    case = make_case("C", 1, spacing=(5, 6, 7.5))
    assert case.image.shape == (86, 72, 20)
    case = make_case("C", 1, size=(16, 16, 16), spacing=(4, 4, 4))
    assert case.image.shape == (16, 16, 16)
    assert np.allclose(np.diag(case.affine)[:3], 4)


def test_written_folder_is_found_and_read_back_unchanged(tmp_path):
    calls = []
    folder = make_phantom(tmp_path / "p", cases=2, seed=1, size=SMALL, progress=lambda *step: calls.append(step))
    assert calls == [(n, 6) for n in range(1, 7)]
    cases = find_cases(folder)
    assert [(case.id, case.centre) for case in cases] == [(f"{c}_00{n}", c) for c in "ABC" for n in (0, 1)]
    for case in cases:
        made = make_case(case.centre, int(case.id[-1]), seed=1, size=SMALL)
        assert np.array_equal(np.asarray(nib.load(case.image).dataobj), made.image)
        assert np.array_equal(case.load().label, made.label)
        assert case.digest() == made.digest()


def test_an_unknown_centre_is_an_error():
    for words in ({"centre": "E"}, {"centre": "A", "scanner": "E"}):
        with pytest.raises(DualTaskError, match="no centre 'E'; choose one of: A, B, C, D"):
            make_case(number=0, **words)


def test_the_exam_s_hospital_is_read_only_by_name(tmp_path, monkeypatch):
    assert list(centres()) == ["A", "B", "C"]
    assert list(centres(exam=True)) == ["D"]
    monkeypatch.setenv("DUALTASK_DATA", str(tmp_path))
    monkeypatch.setattr(sources, "PHANTOM_CASES", {"phantom": 1, "exam": 2})
    assert {case.centre for case in sources.find_cases("phantom")} == {"A", "B", "C"}
    assert [case.id for case in sources.find_cases("exam")] == ["D_000", "D_001"]
    assert make_case("D", 0).centre == "D"


def test_a_larger_set_begins_with_the_same_cases(tmp_path, monkeypatch):
    monkeypatch.setenv("DUALTASK_DATA", str(tmp_path))
    monkeypatch.setattr(sources, "PHANTOM_CASES", {"phantom": 1, "phantom-48": 2})
    small, large = (sources.find_cases(name) for name in sources.PHANTOM_CASES)
    assert {case.digest() for case in small} < {case.digest() for case in large}
