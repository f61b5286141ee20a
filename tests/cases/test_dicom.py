"""A DICOM series: geometry as in NIfTI, HU, and a clear word where slices do not make one volume."""

import gzip
import json
import re

import nibabel as nib
import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.uid import (
    EnhancedSRStorage,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    MediaStorageDirectoryStorage,
    RawDataStorage,
    RLELossless,
)
from typer.testing import CliRunner

from dualtask_lite.cases.case import Case, check
from dualtask_lite.cases.sources import find_cases, find_inputs
from dualtask_lite.cli import app
from dualtask_lite.errors import DualTaskError

SHAPE = (14, 11, 6)
SPACING = (0.7, 0.9, 2.5)


def turned(degrees=(0, 0, 0), signs=(-1, -1, 1)):
    """RAS+ affine of a grid tilted about each axis; by default as scanners store: to the left, to the back, up."""
    a, b, c = np.deg2rad(degrees)
    x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = z @ y @ x @ np.diag(np.multiply(SPACING, signs))
    affine[:3, 3] = (101.5, 92.25, -40)
    return affine


def hu(seed=0, shape=SHAPE):
    volume = np.random.default_rng(seed).integers(-1000, 500, shape).astype(np.float32)
    volume.flat[:2] = -1024, 700
    return volume


ORDERS = {"ascending": range(6), "reversed": range(5, -1, -1), "shuffled": [3, 0, 5, 1, 4, 2]}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("degrees", [(0, 0, 0), (0, 0, 9), (17, -8, 5)])
@pytest.mark.parametrize("signs", [(-1, -1, 1), (-1, 1, 1), (1, -1, 1)])
def test_dicom_series_has_the_affine_of_the_same_nifti(tmp_path, write_series, order, degrees, signs):
    affine, volume = turned(degrees, signs), hu()
    write_series(tmp_path / "series", volume, affine, order=ORDERS[order])
    nib.save(nib.Nifti1Image(volume, affine), tmp_path / "same.nii.gz")
    series, same = Case("s", "A", tmp_path / "series"), Case("n", "A", tmp_path / "same.nii.gz")
    scan, expected = series.load(), same.load()
    assert np.array_equal(scan.volume, expected.volume)
    np.testing.assert_allclose(scan.affine, expected.affine, atol=1e-4)
    assert [finding.level for finding in check(series)] == ["warning"]  # it has no label
    assert series.digest() == same.digest()
    saved = nib.load(scan.save((scan.volume > 0).astype(np.uint8), tmp_path / "seg.nii.gz"))
    np.testing.assert_allclose(  # by position, whatever the order of voxels: what is bright is where it was
        nib.as_closest_canonical(saved).affine, nib.as_closest_canonical(nib.load(same.image)).affine, atol=1e-4
    )
    assert np.array_equal(nib.as_closest_canonical(saved).get_fdata() > 0, expected.volume > 0)


@settings(max_examples=25, deadline=None)
@given(
    degrees=st.tuples(*[st.floats(-20, 20)] * 3),
    signs=st.tuples(*[st.sampled_from([-1, 1])] * 3),
    slope=st.sampled_from([1.0, 2.0, 0.5]),
    intercept=st.sampled_from([-1024.0, -8192.0, 0.0]),
    seed=st.integers(0, 99),
)
def test_any_direction_slope_and_intercept(tmp_path_factory, write_series, degrees, signs, slope, intercept, seed):
    folder, affine = tmp_path_factory.mktemp("series"), turned(degrees, signs)
    volume = 2 * np.rint(hu(seed) / 2)
    write_series(folder, volume, affine, slope=slope, intercept=intercept)
    scan = Case("s", "A", folder).load()
    canonical = nib.as_closest_canonical(nib.Nifti1Image(volume, affine))
    assert np.array_equal(scan.volume, canonical.get_fdata())
    np.testing.assert_allclose(scan.affine, canonical.affine, atol=1e-4)


def test_slope_and_intercept_may_change_from_slice_to_slice(tmp_path, write_series):
    def change(data, index):
        if index == 3:
            data.PixelData = (np.frombuffer(data.PixelData, "<i2") // 2).astype("<i2").tobytes()
            data.RescaleSlope = 2

    volume = 2 * np.rint(hu() / 2)
    write_series(tmp_path / "s", volume, turned(), change=change)
    assert np.array_equal(Case("s", "A", tmp_path / "s").load().volume, volume[::-1, ::-1])


def test_tilted_gantry_is_kept_and_reported(tmp_path, write_series):
    affine = turned()
    affine[1, 2] = 0.6  # slices step to the front as they rise
    write_series(tmp_path / "s", hu(), affine)
    case = Case("s", "A", tmp_path / "s")
    np.testing.assert_allclose(case.load().affine[:3, 2], affine[:3, 2], atol=1e-4)
    assert any("right angles" in finding.what for finding in check(case))


def test_a_single_slice_takes_its_thickness(tmp_path, write_series):
    write_series(tmp_path / "s", hu(shape=(14, 11, 1)), turned())
    np.testing.assert_allclose(Case("s", "A", tmp_path / "s").load().spacing, SPACING, atol=1e-4)


@pytest.mark.parametrize(("thickness", "warned"), [(1, True), (1.6, True), (1.7, False), (2.5, False), (5, False)])
def test_slices_with_tissue_between_them_are_a_warning(tmp_path, write_series, thickness, warned):
    case = Case("s", "A", write_series(tmp_path / "s", hu(), turned((17, -8, 5)), SliceThickness=thickness))
    gaps = [finding.what for finding in check(case) if "apart" in finding.what]
    assert gaps == [f"{case.image}: its slices are 2.5 mm apart, but {thickness} mm thick"] * warned
    case.load()


@pytest.mark.parametrize("thickness", [None, 0, -1])
def test_slices_of_unknown_thickness_are_no_warning(tmp_path, write_series, thickness):
    case = Case("s", "A", write_series(tmp_path / "s", hu(), turned(), SliceThickness=thickness))
    assert [finding.what for finding in check(case)] == [f"{case.image}: has no label"]


def test_a_series_that_was_thinned_evenly_is_a_warning(tmp_path, write_series):
    case = Case("s", "A", write_series(tmp_path / "s", hu(), turned(), leave_out=[1, 3, 5]))
    assert any("its slices are 5 mm apart, but 2.5 mm thick" in finding.what for finding in check(case))


@pytest.mark.parametrize("thickness", [0, -2.5, None])
def test_a_single_slice_without_a_thickness_is_not_mirrored(tmp_path, write_series, thickness):
    write_series(tmp_path / "s", hu(shape=(14, 11, 1)), turned(), SliceThickness=thickness)
    image = Case("s", "A", tmp_path / "s").load().source
    assert image.affine[2, 2] == pytest.approx(1)


def test_run_length_encoding_is_read(tmp_path, write_series):
    write_series(tmp_path / "s", hu(), turned())
    for file in (tmp_path / "s").iterdir():
        data = pydicom.dcmread(file)
        data.compress(RLELossless)
        data.save_as(file)
    assert np.array_equal(Case("s", "A", tmp_path / "s").load().volume, hu()[::-1, ::-1])


def moved(index, by, axis=2):
    def change(data, here):
        if here == index:
            data.ImagePositionPatient[axis] += by

    return change


def a_tag(index=2, **tags):
    def change(data, here):
        if here == index:
            for name, value in tags.items():
                if value is None:
                    delattr(data, name)
                else:
                    setattr(data, name, value)

    return change


def compressed(data, _):
    data.file_meta.TransferSyntaxUID = JPEG2000Lossless
    data.PixelData = pydicom.encaps.encapsulate([b"\xff\x4f not a picture"])


def coloured(data, _):
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PlanarConfiguration = 3, "RGB", 0
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 8, 8, 7, 0
    data.PixelData = bytes(3 * data.Rows * data.Columns)


BROKEN = {
    "a missing slice": ({"leave_out": [3]}, "2.5 mm apart, but 5 mm between 000002.dcm and 000004.dcm"),
    "a slice twice": ({"order": [0, 1, 2, 2, 3, 4, 5]}, "000002.dcm and 000003.dcm show the same position"),
    "a slice out of line": ({"change": moved(4, 0.9)}, "but 3.4 mm between 000003.dcm and 000004.dcm"),
    "a last gap that is a fifth larger": ({"change": moved(5, 0.5)}, "but 3 mm between 000004.dcm and 000005.dcm"),
    "a slice moved sideways": ({"change": moved(3, 8, axis=0)}, "000003.dcm is moved by 8 mm within its plane"),
    "a slice of another size": ({"change": a_tag(Rows=7)}, "differs in size"),
    "a slice of another spacing": ({"change": a_tag(PixelSpacing=[1, 1])}, "differs in size"),
    "a localiser": ({"change": a_tag(ImageOrientationPatient=[1, 0, 0, 0, 0, -1])}, "direction"),
    "no position": ({"change": a_tag(ImagePositionPatient=None)}, "has no ImagePositionPatient"),
    "directions of no length": (
        {"change": a_tag(ImageOrientationPatient=[0] * 6)},
        "ImageOrientationPatient is damaged",
    ),
    "pixels of no size": ({"PixelSpacing": [0, 0]}, "PixelSpacing is damaged"),
    "pixels of no height": ({"change": a_tag(PixelSpacing=[0, 0.7])}, "PixelSpacing is damaged"),
    "pixels of a negative size": ({"PixelSpacing": [0.9, -0.7]}, "PixelSpacing is damaged"),
    "no columns": ({"change": a_tag(Columns=None)}, "is a DICOM file that was cut off"),
    "another modality": ({"Modality": "MR"}, "is MR, not CT"),
    "many frames": ({"change": a_tag(NumberOfFrames=3)}, "many slices in one file"),
    "colours": ({"change": coloured}, "holds colours, not HU"),
    "cannot be decoded": ({"change": compressed}, "cannot be decoded (JPEG 2000"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_non_volume_is_refused_with_file_and_reason(tmp_path, write_series, name):
    how, message = BROKEN[name]
    folder = write_series(tmp_path / "series", hu(), turned(), **how)
    with pytest.raises(DualTaskError, match=re.escape(message)) as caught:
        Case("s", "A", folder).load()
    assert str(folder) in caught.value.what
    assert caught.value.remedy
    assert [f.what for f in check(Case("s", "A", folder)) if f.level == "error"] == [caught.value.what]


def test_two_series_in_a_folder_are_named(tmp_path, write_series):
    write_series(tmp_path / "s", hu(), turned(), number=3, names="a{}.dcm")
    write_series(tmp_path / "s", hu(), turned(), number=7, names="b{}.dcm", leave_out=[0])
    with pytest.raises(DualTaskError) as caught:
        Case("s", "A", tmp_path / "s").load()
    assert "2 series: CT number 3 (6 images, say a0.dcm), CT number 7 (5 images, say b1.dcm)" in caught.value.what


def test_of_many_series_three_are_named(tmp_path, write_series):
    for number in range(5):
        write_series(tmp_path / "s", hu(), turned(), number=number, names=f"{number}{{}}.dcm")
    with pytest.raises(DualTaskError, match=r"5 series: CT number 0 .*CT number 2 \(6 images, say 20.dcm\), 2 more"):
        Case("s", "A", tmp_path / "s").load()


def test_a_series_number_for_each_slice_is_named(tmp_path, write_series):
    folder = write_series(tmp_path / "s", hu(), turned())
    for path in folder.iterdir():
        data = pydicom.dcmread(path)
        data.SeriesInstanceUID = pydicom.uid.generate_uid()
        data.save_as(path)
    with pytest.raises(DualTaskError, match="each of its 6 images has a SeriesInstanceUID of its own"):
        Case("s", "A", folder).load()


@pytest.mark.parametrize("tag", ["RescaleSlope", "RescaleIntercept"])
@pytest.mark.parametrize("how", ["left away", "empty"])
@pytest.mark.parametrize(("without", "odd"), [([2], 2), ([0], 0), ([0, 1, 3, 4, 5], 2), ([1, 4], 1)])
def test_a_slice_that_alone_lacks_its_rescaling_is_named(tmp_path, write_series, tag, how, without, odd):
    """Read with 0 or 1 instead, it would be a slice of other HU than its neighbours."""

    def change(data, index):
        if index in without and how == "empty":
            setattr(data, tag, None)
        elif index in without:
            delattr(data, tag)

    folder = write_series(tmp_path / "s", hu(), turned(), change=change)
    has = "has no" if odd in without else "has a"
    with pytest.raises(DualTaskError, match=rf"00000{odd}\.dcm: {has} {tag}, unlike 00000\d\.dcm"):
        Case("s", "A", folder).load()


def test_a_series_without_any_rescaling_is_read_as_hu(tmp_path, write_series):
    def change(data, _):
        del data.RescaleSlope, data.RescaleIntercept

    write_series(tmp_path / "s", hu(), turned(), intercept=0, change=change)
    assert np.array_equal(Case("s", "A", tmp_path / "s").load().volume, hu()[::-1, ::-1])


def valued(tag, values):
    """Give each slice its value of a tag; None leaves the tag away."""

    def change(data, index):
        if values[index] is not None:
            setattr(data, tag, values[index])

    return change


@pytest.mark.parametrize(
    ("tag", "one", "other"),
    [
        ("AcquisitionNumber", 1, 2),
        ("AcquisitionNumber", 0, None),
        ("ConvolutionKernel", "B30f", "B60f"),
        ("ConvolutionKernel", ["Br40", "3"], ["Br60", "3"]),
    ],
)
@pytest.mark.parametrize("pattern", [[0, 1, 0, 1, 0, 1], [0, 0, 1, 0, 1, 1], [0, 1, 1, 1, 1, 0]])
def test_two_volumes_in_one_stack_are_refused(tmp_path, write_series, tag, one, other, pattern):
    """Their slices are even: two phases of 5 mm make one volume of 2.5 mm."""
    values = [(one, other)[number] for number in pattern]
    folder = write_series(tmp_path / "s", hu(), turned(), change=valued(tag, values))
    with pytest.raises(DualTaskError, match=rf"slices of {tag} .*\(00000\d\.dcm\) lie between each other") as caught:
        Case("s", "A", folder).load()
    assert str(folder) in caught.value.what
    assert "a folder of its own" in caught.value.remedy


@pytest.mark.parametrize("tag", ["AcquisitionNumber", "ConvolutionKernel"])
@pytest.mark.parametrize(
    "values", ["111111", "123456", "654321", "112233", "332211", "111112", "121111", [None] * 6, [None, *"11111"]]
)
def test_acquisitions_one_after_the_other_are_one_volume(tmp_path, write_series, tag, values):
    write_series(tmp_path / "s", hu(), turned(), change=valued(tag, list(values)))
    assert Case("s", "A", tmp_path / "s").load().shape == SHAPE


@pytest.mark.parametrize("modality", ["SEG", "RTDOSE"])
def test_an_image_of_another_modality_beside_the_slices_is_ignored(tmp_path, write_series, modality):
    folder = write_series(tmp_path / "s", hu(), turned())
    write_series(folder, hu(shape=(14, 11, 1)), turned(), Modality=modality, names="a{}.dcm")
    assert Case("s", "A", folder).load().shape == SHAPE
    for path in folder.glob("0*.dcm"):
        path.unlink()
    write_series(folder, hu(), turned(), Modality="PT", names="b{}.dcm")
    with pytest.raises(DualTaskError, match=rf"2 series: {modality} number 1 \(1 images, say a0.dcm\), PT number 1"):
        Case("s", "A", folder).load()


@pytest.mark.parametrize(
    ("modality", "kind"),
    [("SR", EnhancedSRStorage), ("CT", RawDataStorage), ("CT", "1.3.12.2.1107.5.9.1")],  # the last: CSA of Siemens
)
def test_other_objects_beside_the_slices_are_ignored_and_rubbish_is_named(tmp_path, write_series, modality, kind):
    folder = write_series(tmp_path / "s", hu(), turned())
    report = pydicom.dcmread(folder / "000000.dcm")
    for tag in ("PixelData", "Rows", "Columns"):
        delattr(report, tag)
    report.Modality, report.SOPClassUID, report.SeriesInstanceUID = modality, kind, "1.2.3"
    report.save_as(folder / "report.dcm")
    (folder / "LICENSE").write_text("free")
    assert Case("s", "A", folder).load().shape == SHAPE
    (folder / "page.dcm").write_text("<html>not found</html>" * 20)
    with pytest.raises(DualTaskError, match=r"page\.dcm: is not a readable DICOM file"):
        Case("s", "A", folder).load()


@pytest.mark.parametrize("kept", [200, 400, *range(476, 520, 4), 700, -20])
def test_a_file_that_was_cut_off_is_named(tmp_path, write_series, kept):
    folder = write_series(tmp_path / "s", hu(), turned())
    last = folder / "000005.dcm"  # the volume would be whole without it, only shorter
    last.write_bytes(last.read_bytes()[:kept])
    with pytest.raises(DualTaskError, match=r"000005\.dcm: "):
        Case("s", "A", folder).load()


@pytest.mark.parametrize("names", ["{:06}.dcm", "IM{:04}", "1.2.840.{}"])
@pytest.mark.parametrize("lost", ["a broken link", "an empty file", "a preamble that was cut off"])
def test_a_series_that_lost_its_last_slice_is_refused(tmp_path, write_series, names, lost):
    """The volume would be whole without it, only shorter."""
    folder = write_series(tmp_path / "s", hu(), turned(), names=names)
    last = folder / names.format(5)
    content = {"an empty file": b"", "a preamble that was cut off": last.read_bytes()[:100]}.get(lost)
    last.unlink()
    (folder / "LICENSE").write_text("free")
    (folder / "notes.txt").touch()
    (case,) = find_cases(folder)
    assert case.load().shape == (*SHAPE[:2], 5)
    if content is None:
        last.symlink_to(tmp_path / "annex" / "object")
    else:
        last.write_bytes(content)
    what = "is a broken link" if content is None else "is (empty or was cut off|not a readable DICOM file)"
    with pytest.raises(DualTaskError, match=rf"{re.escape(last.name)}: {what}"):
        case.load()
    assert not [one for one in find_inputs([folder]).skipped if one.path == last], "named once"


# DICOM as it is found on discs


def bare(folder):
    """Take the preamble and the file meta from each file, and the ending from its name, as old scanners wrote."""
    for path in sorted(folder.iterdir()):
        data = pydicom.dcmread(path)
        data.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
        with path.with_suffix("").open("wb") as file:
            pydicom.filewriter.write_dataset(encoded(file), data)
        path.unlink()
    return folder


def encoded(file):
    out = pydicom.filebase.DicomFileLike(file)
    out.is_implicit_VR, out.is_little_endian = True, True
    return out


def test_files_without_preamble_and_ending_are_read(tmp_path, write_series):
    folder = bare(write_series(tmp_path / "s", hu(), turned()))
    (folder / "noise").write_bytes(b"\x08\x00" + bytes(range(256)) * 9)
    assert (folder / "000000").read_bytes()[:2] == b"\x08\x00"
    (case,) = find_cases(folder)
    assert np.array_equal(case.load().volume, hu()[::-1, ::-1])


@pytest.mark.parametrize("name", ["DICOMDIR", "dicomdir", "Dicomdir", "index.dcm"])
def test_the_index_of_a_disc_is_no_slice(tmp_path, write_series, name):
    folder = write_series(tmp_path / "s", hu(), turned())
    index = pydicom.dcmread(folder / "000000.dcm", specific_tags=["SOPClassUID"])
    index.file_meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
    pydicom.dcmwrite(folder / name, index)
    (case,) = find_cases(folder)
    assert case.load().shape == SHAPE


@pytest.mark.parametrize("value", [63536, -2000])
@pytest.mark.parametrize("representation", [0, 1])
def test_padding_is_air_whatever_sign_its_tag_has(tmp_path, write_series, value, representation):
    def pad(data, _):
        stored = np.frombuffer(data.PixelData, "<i2").copy()
        stored[:20] = -2000
        data.PixelData, data.PixelRepresentation = stored.tobytes(), representation
        data.add_new("PixelPaddingValue", "SS" if value < 0 else "US", value)

    write_series(tmp_path / "s", np.clip(hu(), -1000, 500), turned(), change=pad, intercept=-1024)
    volume = Case("s", "A", tmp_path / "s").load().volume
    assert volume.max() <= 500
    assert (volume <= -1000).sum() >= 20 * SHAPE[2]


def localiser(data, index, *, declared):
    if index == 0:
        data.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]
        data.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER" if declared else "AXIAL"]


def test_a_declared_localiser_is_left_out(tmp_path, write_series):
    write_series(tmp_path / "s", hu(), turned(), change=lambda *what: localiser(*what, declared=True))
    assert Case("s", "A", tmp_path / "s").load().shape == (*SHAPE[:2], SHAPE[2] - 1)


def test_of_slices_that_differ_the_odd_one_is_named(tmp_path, write_series):
    """Also when it is the first."""
    write_series(tmp_path / "s", hu(), turned(), change=lambda *what: localiser(*what, declared=False))
    with pytest.raises(DualTaskError, match=r"000000\.dcm: differs in size or direction .*remove this file"):
        Case("s", "A", tmp_path / "s").load()


@pytest.mark.parametrize("at", [2, 3])
def test_changing_slice_spacing_is_refused_with_position_and_remedy(tmp_path, write_series, at):
    def change(data, index):
        data.ImagePositionPatient[2] += 2.5 * max(0, at - index) * -1  # 5 mm below, 2.5 mm above

    write_series(tmp_path / "s", hu(), turned(), change=change)
    with pytest.raises(DualTaskError) as caught:
        Case("s", "A", tmp_path / "s").load()
    assert f"slices are 5 mm apart up to {at:06d}.dcm, then 2.5 mm" in caught.value.what
    assert "dcm2niix" in caught.value.remedy


def test_positions_that_are_rounded_make_an_even_stack(tmp_path, write_series):
    """Slices 0.625 mm apart, with positions to a tenth of a millimetre: 0.6 and 0.7 mm."""

    def change(data, index):
        height = 0.625 * index
        data.ImagePositionPatient[2] += round(height, 1) - 2.5 * index

    affine = np.diag([*SPACING[:2], 2.5, 1])
    write_series(tmp_path / "s", hu(shape=(14, 11, 9)), affine, change=change)
    assert Case("s", "A", tmp_path / "s").load().spacing[2] == pytest.approx(0.625, abs=0.1 / 8)
    (tmp_path / "s" / "000004.dcm").unlink()  # a missing slice is found in such a stack, too
    with pytest.raises(DualTaskError, match=r"between 000003\.dcm and 000005\.dcm"):
        Case("s", "A", tmp_path / "s").load()


@pytest.mark.parametrize("name", BROKEN)
def test_no_remedy_asks_for_another_export(tmp_path, write_series, name):
    folder = write_series(tmp_path / "series", hu(), turned(), **BROKEN[name][0])
    with pytest.raises(DualTaskError) as caught:
        Case("s", "A", folder).load()
    assert "export" not in caught.value.remedy


def test_nothing_about_the_patient_leaves_the_reader(tmp_path, write_series, capfd):
    folder = write_series(tmp_path / "in" / "series", hu(), turned())
    (case,) = find_cases(folder)
    scan = case.load()
    saved = scan.save(scan.volume.astype(np.float32), tmp_path / "ct.nii")
    secrets = [str(value) for value in write_series.patient.values() if len(str(value)) > 1] + ["Jane"]
    content = saved.read_bytes().decode("latin-1")
    shown = "".join(capfd.readouterr()) + repr(case) + json.dumps([vars(finding) for finding in check(case)])
    for index in range(3):  # and no error quotes it either
        broken = write_series(tmp_path / str(index), hu(), turned(), **[how for how, _ in BROKEN.values()][index])
        shown += str([vars(finding) for finding in check(Case("s", "A", broken))])
    for secret in secrets:
        assert secret not in content
        assert secret not in shown


def test_output_of_predict_has_no_patient_data(tmp_path, write_series, cascade):
    def spoil(data, index):
        data.BitsAllocated = 7

    for name, how in {"whole": {}, "broken": {"change": spoil}}.items():
        write_series(tmp_path / "in" / name, hu(), turned(), **how)
    done = CliRunner().invoke(app, ["predict", str(cascade), str(tmp_path / "in"), "-o", str(tmp_path / "out")])
    assert done.exception.what == "1 of 2 inputs could not be predicted"
    shown = done.output + str(done.exception)
    assert "broken" in shown
    files = sorted((tmp_path / "out").iterdir())
    assert [file.name for file in files] == [
        f"whole{end}" for end in (".json", ".png", "_distance.nii.gz", "_seg.nii.gz")
    ]
    for file in files:
        content = file.read_bytes()
        shown += (gzip.decompress(content) if file.suffix == ".gz" else content).decode("latin-1")
    secrets = [str(value) for value in write_series.patient.values() if len(str(value)) > 4]
    assert len(secrets) == 5
    assert not [secret for secret in secrets if secret in shown]


def test_the_digest_follows_a_slice_that_changes(tmp_path, write_series):
    case = Case("s", "A", write_series(tmp_path / "s", hu(), turned()))
    before = case.digest()
    write_series(tmp_path / "s", hu(seed=1), turned())
    assert case.digest() != before
