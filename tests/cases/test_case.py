"""One case: what is refused and its message, and the way back to the file's own grid."""

import gzip
import itertools
import json
import shutil
import tracemalloc
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from dualtask_lite.cases import nifti
from dualtask_lite.cases.case import Case, check
from dualtask_lite.cases.findings import check_grid
from dualtask_lite.cases.phantom import make_case
from dualtask_lite.cli import app
from dualtask_lite.errors import DualTaskError

SHAPE = (12, 10, 8)
SPACING = (0.8, 0.9, 5.0)


def rotation(degrees):
    a, b = np.deg2rad(degrees)
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    return about_z @ about_x


def affine_of(axes=(0, 1, 2), signs=(1, 1, 1), degrees=(0, 0)):
    """Voxel -> mm of a grid whose axes are permuted, flipped and tilted."""
    turned = np.zeros((3, 3))
    for column, (axis, sign) in enumerate(zip(axes, signs, strict=True)):
        turned[axis, column] = sign * SPACING[column]
    affine = np.eye(4)
    affine[:3, :3] = rotation(degrees) @ turned
    affine[:3, 3] = (-31.5, 20.25, 7.0)
    return affine


def hu(shape=SHAPE, seed=0):
    volume = np.random.default_rng(seed).integers(-900, 300, shape)
    volume.flat[:2] = -1000, 500
    return volume.astype(np.int16)


def padded(volume):
    """The same with the value of padding at its sides, as outside the circle of a scanner."""
    volume[[0, -1]] = -2000
    return volume


def organ(shape=SHAPE):
    label = np.zeros(shape, np.uint8)
    label[3:9, 3:8, 2:6] = 1
    label[5:7, 4:6, 3:5] = 2
    return label


def write(path: Path, voxels, affine=None, header=None):
    nib.save(nib.Nifti1Image(voxels, np.diag([*SPACING, 1]) if affine is None else affine, header), path)
    return path


@pytest.fixture
def good(tmp_path):
    return Case("c", "A", write(tmp_path / "ct.nii.gz", hu()), write(tmp_path / "label.nii.gz", organ()))


def test_valid_case_has_no_findings_and_loads(good):
    assert check(good) == []
    scan = good.load()
    assert (scan.volume.dtype, scan.label.dtype) == (np.float32, np.uint8)
    assert np.array_equal(scan.volume, hu())
    assert np.array_equal(scan.label, organ())
    np.testing.assert_allclose(scan.spacing, SPACING, rtol=1e-6)
    assert scan.has_tumour


@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, -1, 1), (1, -1, -1), (-1, 1, -1)])
@pytest.mark.parametrize("degrees", [(0, 0), (12, -7)])
def test_any_orientation_comes_back_exactly(tmp_path, axes, signs, degrees):
    affine = affine_of(axes, signs, degrees)
    voxels = hu()
    file = write(tmp_path / "ct.nii.gz", voxels, affine)
    scan = Case("c", "A", file).load()
    assert nib.aff2axcodes(scan.affine) == ("R", "A", "S")
    canonical = nib.as_closest_canonical(nib.load(file))  # nibabel is the oracle of the way there
    assert np.array_equal(scan.volume, canonical.get_fdata())
    np.testing.assert_allclose(scan.affine, canonical.affine, atol=1e-12)
    before = nib.load(file)
    for name, dtype in (("seg", np.uint8), ("distance", np.float32)):
        saved = nib.load(scan.save(scan.volume.astype(dtype), tmp_path / "new" / f"{name}.nii.gz"))
        assert saved.shape == before.shape
        assert saved.get_data_dtype() == dtype
        assert np.array_equal(saved.affine, before.affine)
        for code in ("qform_code", "sform_code", "pixdim", "xyzt_units"):
            assert np.array_equal(saved.header[code], before.header[code]), code
        assert np.array_equal(np.asarray(saved.dataobj), voxels.astype(dtype))


def test_a_file_with_a_qform_alone_keeps_it(tmp_path):
    image = nib.Nifti1Image(hu(), None)
    image.set_qform(affine_of(signs=(-1, -1, 1), degrees=(10, 5)), code=1)
    image.set_sform(None, code=0)
    nib.save(image, tmp_path / "ct.nii")
    before = nib.load(tmp_path / "ct.nii")
    scan = Case("c", "A", tmp_path / "ct.nii").load()
    saved = nib.load(scan.save(np.zeros(scan.shape, np.uint8), tmp_path / "seg.nii"))
    assert (int(saved.header["qform_code"]), int(saved.header["sform_code"])) == (1, 0)
    assert np.array_equal(saved.affine, before.affine)


def test_slope_and_intercept_are_applied_and_not_handed_on(tmp_path):
    image = nib.Nifti1Image(hu(), np.diag([*SPACING, 1]))
    image.header.set_slope_inter(0.5, -24)
    nib.save(image, tmp_path / "ct.nii.gz")
    scan = Case("c", "A", tmp_path / "ct.nii.gz").load()
    np.testing.assert_allclose(scan.volume, nib.load(tmp_path / "ct.nii.gz").get_fdata(), atol=1e-3)
    saved = nib.load(scan.save(organ(), tmp_path / "seg.nii.gz"))
    assert np.array_equal(np.asarray(saved.dataobj), organ())


@pytest.mark.parametrize("extra", [(1,), (1, 1)])
def test_singleton_axes_are_squeezed(tmp_path, extra):
    file = write(tmp_path / "ct.nii.gz", hu().reshape(*SHAPE, *extra))
    scan = Case("c", "A", file).load()
    assert scan.shape == SHAPE
    assert nib.load(scan.save(organ(), tmp_path / "seg.nii.gz")).shape == SHAPE


def test_a_single_slice_is_a_volume(tmp_path):
    assert Case("c", "A", write(tmp_path / "ct.nii.gz", hu((12, 10, 1)))).load().shape == (12, 10, 1)


def broken_images():
    """Name -> what writes it to a folder, and the message."""
    odd = hu().astype(np.float32)
    odd[3, 3, 3] = np.nan

    def cut_off(folder):
        whole = write(folder / "whole.nii.gz", hu()).read_bytes()
        (folder / "ct.nii.gz").write_bytes(whole[: len(whole) // 2])

    def cut_off_plain(folder):
        whole = write(folder / "whole.nii", hu()).read_bytes()
        (folder / "ct.nii").write_bytes(whole[: len(whole) // 2])

    def in_metres(folder):
        header = nib.Nifti1Header()
        header.set_xyzt_units("meter")
        write(folder / "ct.nii.gz", hu(), np.diag([0.0008, 0.0008, 0.005, 1]), header)

    def in_no_unit(folder):
        raw = bytearray(nib.Nifti1Image(hu(), np.diag([50, 50, 50, 1])).to_bytes())
        raw[123] = 5  # xyzt_units; NIfTI defines no unit of length above 3
        (folder / "ct.nii").write_bytes(raw)

    def without_checksum(folder):  # every voxel is there
        whole = write(folder / "whole.nii.gz", hu()).read_bytes()
        (folder / "ct.nii.gz").write_bytes(whole[:-8])

    def wrong_voxel(folder):  # it can be unpacked: only the checksum tells
        raw = bytearray(nib.Nifti1Image(hu(), np.eye(4)).to_bytes())
        checksum_and_length = gzip.compress(bytes(raw))[-8:]
        raw[-1] ^= 1
        (folder / "ct.nii.gz").write_bytes(gzip.compress(bytes(raw))[:-8] + checksum_and_length)

    def singular(folder):
        image = nib.Nifti1Image(hu(), np.eye(4))
        image.header["srow_x"] = image.header["srow_y"]
        image.set_qform(np.eye(4), 0)
        raw = bytearray(image.to_bytes())
        raw[280:296] = raw[296:312]  # srow_x becomes srow_y
        (folder / "ct.nii").write_bytes(raw)

    def nearly_singular(folder):  # found by the fuzz: it has a determinant, but one axis is lost beside another
        affine = np.diag([1.0, 1.0, 2.5, 1.0])
        affine[0, 1] = 1e20
        image = nib.Nifti1Image(hu(), np.eye(4))
        image.set_sform(affine, 1)
        (folder / "ct.nii").write_bytes(image.to_bytes())

    return {
        "text": (lambda f: (f / "ct.nii.gz").write_text("<html>not found</html>"), "not a readable NIfTI"),
        "empty": (lambda f: (f / "ct.nii").write_bytes(b""), "not a readable NIfTI"),
        "gzipped text": (
            lambda f: (f / "ct.nii.gz").write_bytes(gzip.compress(b"hello")),
            "not a readable NIfTI",
        ),
        "missing": (lambda f: None, "not a readable NIfTI"),
        "folder": (lambda f: (f / "ct").mkdir(), "holds no DICOM image"),
        "cut off": (cut_off, "damaged or cut off"),
        "without its checksum": (without_checksum, "damaged or cut off"),
        "one voxel is wrong": (wrong_voxel, "damaged or cut off"),
        "cut off, plain": (cut_off_plain, "damaged or cut off"),
        "two axes": (lambda f: write(f / "ct.nii.gz", hu()[:, :, 0]), "dimensions"),
        "time series": (lambda f: write(f / "ct.nii.gz", np.stack([hu(), hu()], -1)), "dimensions"),
        "not finite": (lambda f: write(f / "ct.nii.gz", odd), "not finite"),
        "constant": (lambda f: write(f / "ct.nii.gz", np.full(SHAPE, 7, np.int16)), "every voxel is 7"),
        "no unit": (in_no_unit, "voxels of 50 x 50 x 50 mm are not plausible for a CT"),
        "metres": (in_metres, "its header gives them in meters"),
        "huge voxels": (lambda f: write(f / "ct.nii.gz", hu(), np.diag([50, 50, 50, 1])), "are not plausible for a CT"),
        "singular": (singular, "singular"),
        "nearly singular": (nearly_singular, "singular"),
        "colours": (
            lambda f: write(f / "ct.nii.gz", np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")])),
            "colours",
        ),
    }


def test_what_follows_a_whole_gzip_file_is_ignored(tmp_path):
    file = write(tmp_path / "ct.nii.gz", hu())
    before = Case("c", "A", file).load().volume
    file.write_bytes(file.read_bytes() + b"\0garbage")
    np.testing.assert_array_equal(Case("c", "A", file).load().volume, before)


def in_members(file, sizes):
    """Pack the bytes of a CT again, as one gzip member of each size and one of the rest; returns the members."""
    raw, members = nib.Nifti1Image(hu(), np.diag([*SPACING, 1])).to_bytes(), []
    for size in (*sizes, len(raw)):
        members.append(gzip.compress(raw[:size], mtime=0))
        raw = raw[size:]
    file.write_bytes(b"".join(members))
    return members


@pytest.mark.parametrize("sizes", [[600], [352, 500], [3] * 200, [1999, 0]])
@pytest.mark.parametrize("behind", [b"", b"\x1f", b"\0garbage"])
@pytest.mark.parametrize("block", [2, 7, 2**16])
def test_each_member_of_a_gzip_file_is_checked(tmp_path, monkeypatch, sizes, behind, block):
    monkeypatch.setattr(nifti, "_BLOCK", block)
    file = tmp_path / "ct.nii.gz"
    members = in_members(file, sizes)
    whole = file.read_bytes()
    file.write_bytes(whole + behind)
    assert np.array_equal(Case("c", "A", file).load().volume, hu())
    wrong = bytearray(whole)
    wrong[-8] ^= 1  # the checksum of the last member; every voxel is there
    for damaged in (bytes(wrong), whole[:-1], whole[: -len(members[-1]) + 5]):
        file.write_bytes(damaged)
        with pytest.raises(DualTaskError, match=r"damaged or cut off|not a readable NIfTI"):
            Case("c", "A", file).load()


@pytest.mark.parametrize("name", ["text", "empty", "gzipped text"])
def test_a_file_that_only_has_the_name_of_nifti_is_to_be_fetched_again(tmp_path, name):
    broken_images()[name][0](tmp_path)
    with pytest.raises(DualTaskError, match="copy or fetch it again"):
        Case("c", "A", next(tmp_path.iterdir())).load()


@pytest.mark.parametrize("name", broken_images())
def test_a_broken_image_is_refused_with_file_finding_and_remedy(tmp_path, name):
    make, message = broken_images()[name]
    make(tmp_path)
    file = next((f for f in tmp_path.iterdir() if f.name.startswith("ct")), tmp_path / "ct.nii.gz")
    case = Case("c", "A", file)
    with pytest.raises(DualTaskError, match=message) as caught:
        case.load()
    assert str(file) in caught.value.what
    assert caught.value.remedy
    assert [f.what for f in check(case) if f.level == "error"] == [caught.value.what]


def test_check_lists_each_broken_image_and_continues(tmp_path):
    """The same findings as in Python, each in its own line; one good CT is between them."""
    finding_of = {}
    for number, (name, (make, finding)) in enumerate(broken_images().items()):
        place = tmp_path / name
        place.mkdir()
        make(place)
        if found := [path for path in place.iterdir() if path.is_file() and path.name.startswith("ct")]:
            found[0].rename(tmp_path / f"{number}{''.join(found[0].suffixes)}")
            finding_of[str(number)] = finding
        shutil.rmtree(place)
    write(tmp_path / "good.nii.gz", hu())
    assert len(finding_of) == len(broken_images()) - 2  # without the missing file and the empty folder
    done = CliRunner().invoke(app, ["data", "check", str(tmp_path), "--json"])
    assert isinstance(done.exception, DualTaskError)
    assert done.exception.what == f"found errors in {len(finding_of)} of {len(finding_of) + 1} cases"
    findings = json.loads(done.stdout)["findings"]
    errors = {one["case"]: one for one in findings if one["level"] == "error"}
    assert errors.keys() == finding_of.keys()
    assert all(finding_of[name] in one["finding"] and one["remedy"] for name, one in errors.items())


def broken_labels():
    shifted = np.diag([*SPACING, 1.0])
    shifted[0, 3] = 3
    strange, half = organ(), organ().astype(np.float32)
    strange[0, 0, 0] = 7
    half[0, 0, 0] = 0.5
    near = half + 0
    near[0, 0, 0] = 1.0015

    def aside(mm):
        affine = np.diag([*SPACING, 1.0])
        affine[2, 3] = mm
        return affine

    return {
        "another shape": (organ((12, 10, 9)), None, "error", "has the shape (12, 10, 9)"),
        "another place": (organ(), shifted, "error", "lies 3 mm from its image"),
        "unknown value": (strange, None, "error", "unknown label 7"),
        "fraction": (half, None, "error", "not whole numbers: 0.5"),
        "nearly whole": (near, None, "error", "not whole numbers: 1.0015"),
        "half a slice": (organ(), aside(2.4), "warning", "lies 2.4 mm from its image, less than half a voxel"),
        "more than half a slice": (organ(), aside(2.6), "error", "lies 2.6 mm from its image"),
        "empty": (np.zeros(SHAPE, np.uint8), None, "warning", "is empty"),
    }


@pytest.mark.parametrize("name", broken_labels())
def test_broken_label_is_reported(tmp_path, name):
    voxels, affine, level, message = broken_labels()[name]
    label = write(tmp_path / "label.nii.gz", voxels, affine)
    case = Case("c", "A", write(tmp_path / "ct.nii.gz", hu()), label)
    (finding,) = check(case)
    assert finding.level == level
    assert message in finding.what
    assert str(label) in finding.what
    if level == "error":
        with pytest.raises(DualTaskError):
            case.load()
    else:
        assert np.array_equal(case.load().label, voxels)


@pytest.mark.parametrize("noise", [1e-7, -1e-7, 9e-4, -9e-4])
@pytest.mark.parametrize("label_map", [None, {1: 2, 2: 1}])
def test_a_label_a_little_off_whole_numbers_is_rounded(tmp_path, noise, label_map):
    """A cast alone would make 0 of 0.9999999, and a map would not find it."""
    label = write(tmp_path / "label.nii.gz", (organ() + noise).astype(np.float32))
    case = Case("c", "A", write(tmp_path / "ct.nii.gz", hu()), label, label_map=label_map)
    assert check(case) == []
    assert np.array_equal(case.load().label, organ() if label_map is None else np.uint8([0, 2, 1])[organ()])


@pytest.mark.parametrize("kind", ["identity", "identity of ITK", "no codes", "identity, four axes"])
@pytest.mark.parametrize("turned", [False, True])
def test_a_label_without_an_affine_is_not_to_be_resampled(tmp_path, kind, turned):
    """Also where its axes run another way, so that not even the shapes agree."""
    voxels = organ().transpose(2, 0, 1) if turned else organ()
    affine = np.diag([-1, -1, 1, 1]) if kind == "identity of ITK" else np.eye(4)
    image = nib.Nifti1Image(voxels[..., None] if "four" in kind else voxels, affine)
    if kind == "no codes":
        image.set_sform(None, 0)
        image.set_qform(None, 0)
    nib.save(image, tmp_path / "label.nii.gz")
    case = Case("c", "A", write(tmp_path / "ct.nii.gz", hu(), affine_of()), tmp_path / "label.nii.gz")
    (finding,) = [finding for finding in check(case) if "label.nii.gz" in finding.what]
    assert finding.level == "error"
    assert "its affine is missing or the identity" in finding.what
    assert "do not resample" in finding.remedy


def test_a_label_that_is_stored_in_another_voxel_order_fits(tmp_path):
    flipped = np.diag([-SPACING[0], SPACING[1], SPACING[2], 1.0])
    flipped[0, 3] = (SHAPE[0] - 1) * SPACING[0]
    label = write(tmp_path / "label.nii.gz", organ()[::-1], flipped)
    scan = Case("c", "A", write(tmp_path / "ct.nii.gz", hu()), label).load()
    assert np.array_equal(scan.label, organ())


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (Case("c", "A", hu(), None, affine_of()), "has no label"),
        (Case("c", "A", hu() // 8 + 130, organ(), affine_of()), "do not look like HU"),
        (
            Case("c", "A", padded(hu() + 1024), organ(), affine_of()),
            "do not look like HU",
        ),  # stored values, and a scanner's circle
        (
            Case("c", "A", padded(np.full_like(hu(), 40)), organ(), affine_of()),
            "values from 40 to 40 do not look like HU",
        ),
        (
            Case(
                "c",
                "A",
                hu(),
                organ(),
                np.array([[1, 0, 0, 0], [0, 1, 0.2, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]),
            ),
            "right angles",
        ),
    ],
)
def test_usable_defect_is_a_warning(case, message):
    (finding,) = check(case)
    assert finding.level == "warning"
    assert message in finding.what
    case.load()


@pytest.mark.parametrize("frame", [-1024, -1000, -1100, -2000, -3024])
@pytest.mark.parametrize("sides", [1, 3])
def test_stored_values_in_a_frame_of_any_value_are_a_warning(frame, sides):
    volume = np.random.default_rng(0).normal(40, 60, (24, 24, 8)).astype(np.float32).clip(-900)
    volume[8:16, :8] = -1000  # air
    for values, warned in ((volume + 1024, True), (volume, False)):
        values[:sides] = values[-sides:] = frame
        found = [one.what for one in check(Case("c", "A", values, affine=affine_of())) if "like HU" in one.what]
        assert len(found) == warned


def test_a_body_without_its_air_is_no_warning():
    """A mask of the body may have set what is around to -1000, so that no value lies between air and fat."""
    volume = np.random.default_rng(0).normal(40, 60, (24, 24, 8)).clip(-150).astype(np.float32)
    volume[:, :8] = -1000
    assert [one.what for one in check(Case("c", "A", volume, affine=affine_of()))] == ["c: has no label"]


SIZES = {  # voxels and spacing in mm of whole CTs, slabs and crops
    "abdomen": ((512, 512, 200), (0.7, 0.7, 2.5)),
    "abdomen, fine": ((512, 512, 400), (0.5, 0.5, 0.625)),
    "slab": ((512, 512, 6), (0.98, 0.98, 2.5)),
    "whole body": ((512, 512, 700), (0.98, 0.98, 2.5)),
    "whole trunk at 1.5 mm": ((270, 220, 260), (1.5, 1.5, 1.5)),
    "phantom": ((96, 96, 30), (4.0, 4.0, 5.0)),
    "sagittal": ((300, 512, 512), (2.5, 0.8, 0.8)),
}
RIGHT = {
    **SIZES,
    "one slice": ((512, 512, 1), (0.7, 0.7, 5.0)),
    "crop": ((64, 64, 40), (0.6, 0.6, 0.4)),
    "small crop": ((12, 10, 8), (0.8, 0.9, 5.0)),
    "one coronal plane of a whole body": ((512, 1, 2000), (0.98, 0.98, 1.0)),
}


def sized(size, factor=1.0):
    """The findings for an array of this size whose spacing is wrong by a factor."""
    shape, spacing = size
    image = nib.Nifti1Image(np.broadcast_to(np.int16(0), shape), np.diag([*np.multiply(spacing, factor), 1]))
    return list(check_grid(image, "c"))


@pytest.mark.parametrize("name", RIGHT)
def test_a_ct_its_slab_and_its_crop_are_of_a_plausible_size(name):
    assert sized(RIGHT[name]) == []


@pytest.mark.parametrize("name", SIZES)
def test_a_spacing_in_cm_is_a_warning(name):
    (finding,) = sized(SIZES[name], 0.1)
    assert finding.level == "warning"
    assert "measures only" in finding.what
    assert "are its units cm?" in finding.what


@pytest.mark.parametrize("name", SIZES)
def test_a_spacing_that_is_ten_times_too_large_is_an_error(name):
    (finding,) = sized(SIZES[name], 10)
    assert finding.level == "error"
    assert "wider than any CT scanner" in finding.what or "not plausible for a CT" in finding.what


def test_a_suspicious_size_is_shown():
    (finding,) = sized(((512, 512, 200), (0.07, 0.07, 0.25)))
    assert finding.what == "c: measures only 36 x 36 x 50 mm; are its units cm?"


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image, nib.Nifti1Pair, nib.Nifti2Pair])
def test_every_kind_of_nifti_is_read_and_saved(tmp_path, kind):
    name = "ct.img" if "Pair" in kind.__name__ else "ct.nii.gz"
    nib.save(kind(hu(), affine_of(signs=(-1, -1, 1))), tmp_path / name)
    scan = Case("c", "A", tmp_path / name).load()
    saved = nib.load(scan.save(scan.volume, tmp_path / "seg.nii.gz"))
    assert np.array_equal(saved.get_fdata(), hu())
    assert np.array_equal(saved.affine, nib.load(tmp_path / name).affine)
    assert isinstance(saved, nib.Nifti2Image) == ("2" in kind.__name__)


def test_an_analyze_pair_is_refused_by_name_with_a_command(tmp_path):
    nib.save(nib.AnalyzeImage(hu(), np.diag([*SPACING, 1])), tmp_path / "ct.img")
    with pytest.raises(DualTaskError, match=r"ct\.img: is .*AnalyzeImage, not NIfTI; .*nib-convert"):
        Case("c", "A", tmp_path / "ct.img").load()


def test_a_path_may_be_a_string(good):
    case = Case("c", "A", str(good.image), str(good.label))
    assert (case.image, case.label) == (good.image, good.label)
    assert case.digest() == good.digest()


@pytest.mark.parametrize(
    ("image", "label"), [(None, None), ([[1]], None), (hu(), 3), (nib.Nifti1Image(hu(), None), None)]
)
def test_input_without_path_and_array_is_refused_immediately(image, label):
    with pytest.raises(TypeError, match=r"case c: its (image|label) is .*, not a path or a numpy array"):
        Case("c", "A", image, label)


@pytest.mark.parametrize(("name", "centre"), [(3, "A"), (None, "A"), (Path("c"), "A"), ("c", 3), ("c", None)])
def test_a_name_that_is_no_text_is_refused_immediately(name, centre):
    with pytest.raises(
        TypeError, match=r"case .*: its (id|centre) is (int|NoneType|PosixPath|WindowsPath), not a text"
    ):
        Case(name, centre, hu(), affine=affine_of())


@pytest.mark.parametrize("extra", [(1,), (1, 1)])
def test_singleton_axes_of_arrays_are_squeezed(extra):
    case = Case("c", "A", hu().reshape(*SHAPE, *extra), organ().reshape(*SHAPE, *extra), affine_of())
    assert check(case) == []
    scan = case.load()
    assert np.array_equal(scan.volume, hu())
    assert np.array_equal(scan.label, organ())
    assert case.digest() == Case("c", "A", hu(), affine=affine_of()).digest()


@pytest.mark.parametrize("dtype", [complex, np.complex64, str, bytes, object, "M8[s]", [("R", "u1")]])
def test_an_array_without_real_numbers_is_refused(dtype):
    """Cast silently, a complex one would lose its half, and text of digits would become HU."""
    wrong = np.ones(SHAPE, "i8").astype(dtype)
    for image, label in ((wrong, organ()), (hu(), wrong)):
        with pytest.raises(DualTaskError, match="c: is an array of "):
            Case("c", "A", image, label, affine_of()).load()
    with pytest.raises(DualTaskError, match="c: is an array of "):
        Case("c", "A", wrong, affine=affine_of()).digest()


def test_an_array_without_affine_is_refused_immediately():
    """With voxels of 1 mm by default, every distance and volume would be wrong without a word."""
    with pytest.raises(TypeError, match="case c: its image is an array; give its affine"):
        Case("c", "A", hu(), organ())


@pytest.mark.parametrize(
    ("affine", "message"),
    [
        (np.zeros((4, 4)), "is singular"),
        (np.diag([1.0, 1, 0, 1]), "is singular"),
        (np.diag([1.0, np.nan, 1, 1]), "is singular"),
        (np.diag([1.0, np.inf, 1, 1]), "is singular"),
        (np.eye(3), "is not a matrix of 4 x 4 numbers"),
        (np.ones(4), "is not a matrix of 4 x 4 numbers"),
        (np.array(1.0), "is not a matrix of 4 x 4 numbers"),
        (np.full((4, 4), "a"), "is not a matrix of 4 x 4 numbers"),
        (SPACING, "is not a matrix of 4 x 4 numbers"),
    ],
)
def test_an_array_with_a_wrong_affine_is_refused(affine, message):
    case = Case("c", "A", hu(), organ(), affine)
    for read in (case.load, case.digest):
        with pytest.raises(DualTaskError, match=f"c: its affine {message}"):
            read()
    assert [finding.level for finding in check(case)] == ["error"]


def test_a_label_in_memory_lies_on_the_grid_of_its_file(tmp_path):
    file = write(tmp_path / "ct.nii.gz", hu(), affine_of(signs=(-1, 1, 1)))
    scan = Case("c", "A", file, organ()).load()
    np.testing.assert_array_equal(scan.label, organ()[::-1])


def test_names_that_cannot_be_printed_are_escaped():
    case = Case("ct\udcff\n\x1b[2J", "Übersicht 胰", hu(), affine=affine_of())
    assert (case.id, case.centre) == ("ct%FF%0A%1B[2J", "Übersicht 胰")


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float32, np.float64])
def test_any_number_type_is_saved_and_read_again(good, tmp_path, dtype):
    array = organ().astype(dtype)
    saved = nib.load(good.load().save(array, tmp_path / "mask.nii.gz"))
    assert np.array_equal(np.asarray(saved.dataobj), array)


@pytest.mark.parametrize(
    ("array", "name", "message"),
    [
        (organ().astype(np.float16), "mask.nii", "cannot store the data type float16"),
        (organ().astype(object), "mask.nii", "cannot store the data type object"),
        (organ(), "mask.mha", r"mask\.mha: is not the name of a NIfTI file"),
        (organ(), "mask", "is not the name of a NIfTI file"),
    ],
)
def test_invalid_array_is_refused_before_a_file_is_written(good, tmp_path, array, name, message):
    with pytest.raises(ValueError, match=message):
        good.load().save(array, tmp_path / name)
    assert not (tmp_path / name).exists()


def geometry(path, sform=None, qform=None):
    image = nib.Nifti1Image(hu(), None)
    image.header.set_zooms(SPACING)
    image.set_sform(sform, code=int(sform is not None))
    image.set_qform(qform, code=int(qform is not None))
    nib.save(image, path)
    return path


def moved_by(mm):
    affine = affine_of()
    affine[2, 3] += mm
    return affine


@pytest.mark.parametrize(
    ("sform", "qform", "message"),
    [
        (None, None, "its affine is missing"),
        (np.eye(4), None, "its affine is the identity"),
        (np.diag([-1, -1, 1, 1]), None, "its affine is the identity"),  # of ITK
        (affine_of(), moved_by(7), "by sform and qform are 7 mm apart"),
        (affine_of(), affine_of(degrees=(5, 0)), "by sform and qform are"),
        (affine_of(), affine_of(), None),
        (affine_of(), moved_by(0.01), None),
        (None, affine_of(), None),
        (affine_of(), None, None),
    ],
)
def test_a_geometry_that_cannot_be_trusted_is_a_warning(tmp_path, sform, qform, message):
    case = Case("c", "A", geometry(tmp_path / "ct.nii", sform, qform), organ(), affine_of())
    warnings = [finding.what for finding in check(case) if "label" not in finding.what]
    assert len(warnings) == (message is not None)
    assert all(message in what for what in warnings)


def test_a_damaged_qform_alone_is_named(tmp_path):
    raw = bytearray(geometry(tmp_path / "ct.nii", None, affine_of()).read_bytes())
    raw[256:268] = np.array([3, 3, 3], "<f4").tobytes()  # quatern_b, c, d
    (tmp_path / "ct.nii").write_bytes(raw)
    with pytest.raises(DualTaskError, match=r"ct\.nii: its qform is damaged"):
        Case("c", "A", tmp_path / "ct.nii").load()


def test_a_damaged_qform_beside_a_good_sform_is_a_warning(tmp_path):
    raw = bytearray(geometry(tmp_path / "ct.nii", affine_of(), affine_of()).read_bytes())
    raw[256:268] = np.array([3, 3, 3], "<f4").tobytes()  # quatern_b, c, d
    (tmp_path / "ct.nii").write_bytes(raw)
    assert any("its qform is damaged" in finding.what for finding in check(Case("c", "A", tmp_path / "ct.nii")))


def test_values_above_the_range_of_ct_are_a_warning():
    volume = hu().astype(np.float32)
    volume[0, 0, 0] = 62_512
    (finding,) = check(Case("c", "A", volume, organ(), affine_of()))
    assert finding.what == "c: values up to 62512 are above the range of CT"


def test_saving_wrong_shape_or_invalid_path_fails_clearly(good, tmp_path):
    scan = good.load()
    with pytest.raises(ValueError, match="shape"):
        scan.save(np.zeros((1, 2, 3), np.uint8), tmp_path / "x.nii.gz")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DualTaskError, match="cannot be written"):
        scan.save(organ(), tmp_path / "file" / "x.nii.gz")


def test_the_digest_is_of_the_voxels_not_of_the_file(tmp_path, good):
    lps = np.diag([-SPACING[0], -SPACING[1], SPACING[2], 1.0])
    copies = [
        write(tmp_path / "other_name.nii", hu()),
        write(tmp_path / "as_float.nii.gz", hu().astype(np.float32)),
        write(tmp_path / "turned.nii.gz", hu()[::-1, ::-1], lps),
    ]
    assert {Case("x", "B", copy).digest() for copy in copies} == {good.digest()}
    assert Case("x", "B", hu(), affine=affine_of()).digest() == good.digest()
    assert Case("x", "B", hu(seed=1), affine=affine_of()).digest() != good.digest()


def test_the_digest_follows_a_file_that_changes(good):
    before = good.digest()
    write(good.image, hu(seed=1))
    assert good.digest() != before


@given(st.binary(max_size=600))
@settings(max_examples=60, deadline=None)
def test_no_bytes_end_in_another_exception(tmp_path_factory, content):
    file = tmp_path_factory.mktemp("bytes") / "ct.nii"
    file.write_bytes(content)
    assert any(finding.level == "error" for finding in check(Case("c", "A", file)))


@pytest.mark.parametrize("name", ["ct.nii", "ct.nii.gz"])
@pytest.mark.parametrize("side", [30_000, -20])
def test_header_larger_than_its_file_is_refused_before_allocation(tmp_path, name, side):
    image = nib.Nifti1Image(np.zeros((8, 8, 8), np.int16), np.eye(4))
    header = bytearray(image.to_bytes())
    header[42:48] = np.array([abs(side), abs(side), side], "<i2").tobytes()  # dim[1:4]
    data = gzip.compress(bytes(header)) if name.endswith(".gz") else bytes(header)
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DualTaskError, match="more than the file can hold"):
        Case("a", "A", tmp_path / name).load()


def test_saved_file_has_no_patient_data_from_the_header(tmp_path):
    image = nib.Nifti1Image(np.random.default_rng(0).normal(0, 300, (9, 8, 7)).astype(np.int16), np.eye(4))
    for field in ("descrip", "aux_file", "db_name", "intent_name"):
        image.header[field] = b"DOE^JANE"
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"DOE^JANE 1950-01-01"))
    nib.save(image, tmp_path / "ct.nii")
    scan = Case("a", "A", tmp_path / "ct.nii").load()
    scan.save(np.zeros(scan.shape, np.uint8), tmp_path / "seg.nii")
    assert b"JANE" in (tmp_path / "ct.nii").read_bytes()
    assert b"JANE" not in (tmp_path / "seg.nii").read_bytes()


def test_same_volume_gives_the_same_bytes(tmp_path, monkeypatch):
    scan = make_case("A", 0, size=(24, 24, 12)).load()
    first = scan.save(scan.label, tmp_path / "a.nii.gz").read_bytes()
    monkeypatch.setattr("time.time", lambda: 0.0)
    assert scan.save(scan.label, tmp_path / "b.nii.gz").read_bytes() == first
    assert (np.asarray(nib.load(tmp_path / "b.nii.gz").dataobj) == nib.load(tmp_path / "a.nii.gz").get_fdata()).all()


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_saving_takes_no_second_copy_in_memory(tmp_path, name):
    volume = np.random.default_rng(0).normal(0, 300, (96, 96, 64)).astype(np.float32)
    nib.save(nib.Nifti1Image(volume, np.eye(4)), tmp_path / "ct.nii")
    scan = Case("a", "A", tmp_path / "ct.nii").load()
    tracemalloc.start()
    scan.save(volume, tmp_path / name)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < volume.nbytes / 2
