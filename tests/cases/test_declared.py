"""What dataset.json declares of labels and images is heeded: by name, or refused with both lists."""

import json
import logging

import nibabel as nib
import numpy as np
import pytest

from dualtask_lite.cases.sources import find_cases
from dualtask_lite.errors import DualTaskError

FILES = np.uint8([0, 1, 2, 3])  # what the label file of the case holds


def labels_of(folder, described, values=FILES):
    """The values that each value of the label file is read as; the folder is in Task07 layout."""
    for part, voxels in (("imagesTr", np.int16([-1000, 0, 200, 500])), ("labelsTr", np.uint8(values))):
        (folder / part).mkdir(parents=True)
        voxels = np.tile(np.resize(voxels, 4), (4, 4, 1)).repeat(2, 2)
        nib.save(nib.Nifti1Image(voxels, np.diag([2.0, 2, 2, 1])), folder / part / "a.nii.gz")
    (folder / "dataset.json").write_text(json.dumps(described), encoding="utf-8")
    (case,) = find_cases(folder)
    return case.load().label[0, 0, ::2].tolist()


@pytest.mark.parametrize("name", ["pancreas and tumor", "pancreas + tumour", "Pancreas/lesion", "tumour, pancreas"])
def test_a_value_for_organ_and_lesion_together_is_refused(tmp_path, name):
    """Neither pancreas nor tumour alone: as a tumour, the whole gland would be one."""
    with pytest.raises(DualTaskError, match="known are 0 background, 1 pancreas, 2 tumour"):
        labels_of(tmp_path / "X", {"labels": {"0": "background", "1": name}}, [0, 1, 1, 0])


@pytest.mark.parametrize("form", ["Decathlon", "nnU-Net"])
@pytest.mark.parametrize(
    ("names", "meanings"),
    [
        (["background", "tumour", "pancreas", "Lesion"], [0, 2, 1, 2]),
        (["background", "Pancreatic_Cancer", "healthy pancreas parenchyma", "PDAC"], [0, 2, 1, 2]),
        (["pancreas", "background", "pancreas tumor", "background"], [1, 0, 2, 0]),
        (["background", "normal and healthy pancreas", "tumour of the pancreas", "cancer / mass"], [0, 1, 2, 2]),
    ],
)
def test_labels_are_read_by_their_declared_names(tmp_path, caplog, form, names, meanings):
    pairs = dict(enumerate(names)) if form == "Decathlon" else None
    if pairs is None:
        names = [f"{name} {'of the' if i == 3 else ''}".strip() for i, name in enumerate(names)]  # each name once
        pairs = {name: value for value, name in enumerate(names)}
    with caplog.at_level(logging.WARNING):
        assert labels_of(tmp_path / "X", {"labels": pairs}) == meanings
    assert "labels are mapped by their names" in caplog.text


def test_labels_declared_as_ours_change_nothing(tmp_path, phantom_folder):
    """Also for digests and the cache, which contain the map."""
    assert all(case.label_map is None for case in find_cases(phantom_folder))
    assert labels_of(tmp_path / "X", {"labels": {"1": "pancreas", "2": "cancer"}}, [0, 1, 2]) == [0, 1, 2, 0]
    (case,) = find_cases(tmp_path / "X")
    assert case.label_map is None


@pytest.mark.parametrize(
    ("labels", "values", "known"),
    [
        ({"0": "background", "1": "pancreas", "3": "tumour"}, [0, 1, 3, 0], "0 background, 1 pancreas, 3 tumour"),
        ({"0": "background", "1": "pancreas"}, [0, 1, 1, 0], "0 background, 1 pancreas"),
        ({"background": 0, "tumour": 1}, [0, 1, 0, 1], "0 background, 1 tumour"),
    ],
)
def test_a_value_that_is_not_declared_is_unknown(tmp_path, labels, values, known):
    """It would be taken for ours of the same number: a duct for a tumour."""
    labels_of(tmp_path / "declared", {"labels": labels}, values)
    with pytest.raises(DualTaskError, match=f"holds the unknown label 2.*map the labels to {known};"):
        labels_of(tmp_path / "X", {"labels": labels}, [*values[:3], 2])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            {"0": "background", "1": "spleen", "2": "kidney"},
            "0 background, 1 spleen, 2 kidney; known are 0 background, ",
        ),
        ({"background": 0, "liver tumour": 1}, "0 background, 1 liver tumour; known are"),
        ({"background": 0, "pancreas": 1, "duct": 5}, "5 duct; known are"),
        ({"0": "background", "1": ""}, "known are"),
        ({"background": 0, "whole": [1, 2]}, "not pairs of a value and a name"),
        (["background", "pancreas"], "not pairs of a value and a name"),
    ],
)
def test_labels_of_unknown_names_are_refused_with_both_lists(tmp_path, labels, message):
    with pytest.raises(DualTaskError, match=message) as error:
        labels_of(tmp_path / "X", {"labels": labels})
    assert "dataset.json" in error.value.what


@pytest.mark.parametrize("key", ["modality", "channel_names"])
@pytest.mark.parametrize("name", ["MRI", "PET", "T1", "ultrasound", "fractal"])
def test_another_modality_is_refused(tmp_path, key, name):
    with pytest.raises(DualTaskError, match=f"declares images of {name}, not of CT"):
        labels_of(tmp_path / "X", {key: {"0": name}})


@pytest.mark.parametrize("name", ["CT", "ct", "CT scan", "CTA", "PET/CT", "CECT", "computed tomography", "noNorm", ""])
def test_ct_is_ct_by_any_name(tmp_path, name):
    described = {"modality": {"0": name}, "labels": {"0": "background", "1": "pancreas", "2": "tumour", "3": "cancer"}}
    assert labels_of(tmp_path / "X", described) == [0, 1, 2, 2]
