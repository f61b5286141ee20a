from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from dualtask_lite import show
from dualtask_lite.cases.case import Case
from dualtask_lite.errors import DualTaskError
from dualtask_lite.show.inputs import as_scan, distance_on, labels_on

SHAPE, SPACING = (20, 24, 10), (2.0, 1.0, 4.0)


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    volume = rng.uniform(-90, 230, SHAPE).astype(np.float32)
    label = np.zeros(SHAPE, np.uint8)
    label[5:15, 5:15, 3:7] = 1
    label[8:12, 8:12, 4:6] = 2
    return volume, label


@pytest.fixture
def files(arrays, tmp_path):
    """The same as files whose voxels run to the left and back, as many scanners write them."""
    affine = np.diag([-SPACING[0], -SPACING[1], SPACING[2], 1.0])
    affine[:3, 3] = (38.0, 23.0, 0.0)
    volume, label = arrays
    distance = np.where(label > 0, -5.0, 5.0).astype(np.float32)
    paths = {}
    for name, array in {"ct": volume, "label": label, "distance": distance}.items():
        paths[name] = tmp_path / f"{name}.nii.gz"
        nib.save(nib.Nifti1Image(array[::-1, ::-1], affine), paths[name])
    return paths


def test_all_kinds_of_input_give_the_same_scan(arrays, files):
    volume, label = arrays
    case = Case("ct", "unknown", volume, label, np.diag([*SPACING, 1.0]))
    scans = [
        as_scan(case),
        as_scan(case.load()),
        as_scan(volume, label, SPACING),
        as_scan(files["ct"], files["label"]),
        as_scan(str(files["ct"]), label),
    ]
    for scan in scans:
        assert scan.spacing == pytest.approx(SPACING)
        np.testing.assert_array_equal(scan.volume, volume)
        np.testing.assert_array_equal(scan.label, label)


def test_labels_and_distances_of_files_are_reoriented(arrays, files):
    scan = as_scan(files["ct"])
    np.testing.assert_array_equal(labels_on(scan, files["label"], "prediction"), arrays[1])
    np.testing.assert_array_equal(distance_on(scan, files["distance"]), np.where(arrays[1] > 0, -5.0, 5.0))


def test_mask_is_accepted_as_label(arrays):
    scan = as_scan(arrays[0], spacing=SPACING)
    assert labels_on(scan, arrays[1] > 0, "prediction").max() == 1


def test_invalid_inputs_are_refused(arrays, tmp_path):
    volume, label = arrays
    with pytest.raises(DualTaskError, match="give spacing"):
        as_scan(volume)
    scan = as_scan(volume, spacing=SPACING)
    with pytest.raises(DualTaskError, match=r"prediction has shape \(3, 3, 3\)"):
        labels_on(scan, np.zeros((3, 3, 3)), "prediction")
    with pytest.raises(DualTaskError, match="holds the value 7"):
        labels_on(scan, label * 7, "prediction")
    with pytest.raises(DualTaskError, match="distance has shape"):
        distance_on(scan, np.zeros((3, 3, 3)))
    elsewhere = tmp_path / "elsewhere.nii.gz"
    affine = np.diag([*SPACING, 1.0])
    affine[0, 3] = 50
    nib.save(nib.Nifti1Image(label, affine), elsewhere)
    with pytest.raises(DualTaskError, match="mm from its image"):
        labels_on(scan, elsewhere, "prediction")
    nib.save(nib.Nifti1Image(volume, affine), elsewhere)
    with pytest.raises(DualTaskError, match="has another position than the CT"):
        distance_on(scan, elsewhere)


@pytest.mark.parametrize("spacing", [3.0, (2, 1), (-2, -1, 4), (2, 0, 4), (2, float("nan"), 4)])
def test_spacing_must_be_three_positive_sides(arrays, spacing):
    with pytest.raises(DualTaskError, match=r"is no spacing; give spacing=\(x, y, z\)"):
        as_scan(arrays[0], spacing=spacing)


@pytest.mark.parametrize("case", [None, [1, 2]])
def test_other_objects_are_no_ct(case):
    with pytest.raises(DualTaskError, match="is no CT; give a case"):
        as_scan(case)


def test_file_keeps_its_whole_name(arrays, tmp_path):
    path = tmp_path / "1.2.840.nii.gz"
    nib.save(nib.Nifti1Image(arrays[0], np.diag([*SPACING, 1.0])), path)
    assert as_scan(path).id == "1.2.840"


@pytest.mark.parametrize("value", [20.0, np.nan])
def test_distance_of_a_file_is_not_checked_as_a_ct(arrays, tmp_path, value):
    path = tmp_path / "distance.nii.gz"
    nib.save(nib.Nifti1Image(np.full(SHAPE, value, np.float32), np.diag([*SPACING, 1.0])), path)
    distance = distance_on(as_scan(arrays[0], spacing=SPACING), path)
    np.testing.assert_array_equal(distance, np.full(SHAPE, value))


def test_distance_with_another_spacing_is_refused(arrays, tmp_path):
    path = tmp_path / "distance.nii.gz"
    nib.save(nib.Nifti1Image(arrays[0], np.diag([2.4, 1.4, 4.4, 1.0])), path)
    with pytest.raises(DualTaskError, match="has another position"):
        distance_on(as_scan(arrays[0], spacing=SPACING), path)


def test_every_view_accepts_files(files):
    label, distance = files["label"], files["distance"]
    assert "Prediction" in show.slices(files["ct"], label, distance, truth=label).frames[0].text
    assert "Prediction" in show.volume3d(files["ct"], label, distance, truth=label, viewer="picture").text
    assert show.compare(files["ct"], {"a": label, "b": label}).panels.keys() == {"a", "b"}
