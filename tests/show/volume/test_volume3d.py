from __future__ import annotations

import gzip
import html
import re
import subprocess
import sys
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest

from dualtask_lite.cases.case import Case, Scan
from dualtask_lite.cases.phantom import make_case
from dualtask_lite.errors import DualTaskError
from dualtask_lite.show import viewer
from dualtask_lite.show.picture import BOX
from dualtask_lite.show.viewer import choose
from dualtask_lite.show.volume import itk, niivue
from dualtask_lite.show.volume.block import LIMIT, MARGIN, cut_block
from dualtask_lite.show.volume.volume3d import page, volume3d

AFFINE = np.array([[0.8, 0.0, 0.0, -70.0], [0.0, 0.9, 0.0, -120.0], [0.0, 0.0, 2.5, 300.0], [0, 0, 0, 1.0]])
LOADS = re.compile(r"""(?:src|href|action|data)\s*=\s*["']?\s*(?:https?:)?//|@import|url\(\s*["']?https?:""", re.I)


@pytest.fixture(autouse=True)
def _no_choice_from_outside(monkeypatch):
    monkeypatch.delenv("DUALTASK_VIEWER", raising=False)


def make_scan(shape=(120, 100, 40), *, label: bool = True, affine=AFFINE) -> Scan:
    rng = np.random.default_rng(1)
    volume = rng.normal(40, 20, shape).astype(np.float32)
    volume[:10] = -1000  # air beside the body
    mask = np.zeros(shape, np.uint8)
    mask[60:80, 50:62, 18:28] = 1
    mask[70:77, 52:58, 20:25] = 2
    return Case("B_001", "B", volume, mask if label else None, affine).load()


def world_centre(label, affine):
    return nib.affines.apply_affine(affine, np.argwhere(label == 2).mean(axis=0))


def moved(scan: Scan, steps=(-25, 10, 4)):
    return np.roll(scan.label, steps, (0, 1, 2))


def both(scan: Scan) -> dict[str, np.ndarray]:
    return {"truth": scan.label, "prediction": moved(scan)}


def test_block_keeps_every_labelled_voxel():
    scan = make_scan()
    prediction = moved(scan)
    block = cut_block(scan, {"truth": scan.label, "prediction": prediction})
    assert block.spacing == pytest.approx(scan.spacing)
    for name, label in (("truth", scan.label), ("prediction", prediction)):
        np.testing.assert_array_equal(np.bincount(block.labels[name].ravel())[1:], np.bincount(label.ravel())[1:])


def test_block_keeps_positions_and_a_margin():
    scan = make_scan()
    block = cut_block(scan, {"truth": scan.label})
    np.testing.assert_allclose(world_centre(block.labels["truth"], block.affine), world_centre(scan.label, AFFINE))
    first = np.rint(nib.affines.apply_affine(np.linalg.inv(AFFINE), block.affine[:3, 3])).astype(int)
    inside = tuple(slice(a, a + n) for a, n in zip(first, block.ct.shape, strict=True))
    np.testing.assert_array_equal(block.ct, np.rint(scan.volume[inside]))
    kept = (60 - first[0]) * scan.spacing[0]
    assert MARGIN <= kept < MARGIN + scan.spacing[0]


@pytest.mark.parametrize("limit", [400_000, 100_000, 30_001])
def test_downsampled_block_keeps_limit_and_position(limit):
    scan = make_scan()
    block = cut_block(scan, both(scan), limit=limit)
    assert 0.7 * limit < block.nbytes <= limit
    apart = world_centre(block.labels["truth"], block.affine) - world_centre(scan.label, AFFINE)
    assert (np.abs(apart) < np.array(block.spacing) / 2).all()
    assert np.array(block.labels["truth"].shape) @ np.ones(3) < sum(scan.shape)
    corner, whole = (b.affine @ [-0.5, -0.5, -0.5, 1] for b in (block, cut_block(scan, both(scan))))
    np.testing.assert_allclose(corner, whole)


def test_thick_slices_are_downsampled_last():
    block = cut_block(make_scan(), {"truth": make_scan().label}, limit=200_000)
    assert block.spacing[2] == pytest.approx(2.5)
    assert 0.9 < block.spacing[0] < 2.5


def test_oblique_grid_keeps_its_position():
    turn = nib.affines.from_matvec(nib.eulerangles.euler2mat(0.3, 0.1, 0.2))
    scan = make_scan(affine=turn @ AFFINE)
    block = cut_block(scan, {"truth": scan.label}, limit=50_000)
    apart = world_centre(block.labels["truth"], block.affine) - world_centre(scan.label, scan.affine)
    assert np.linalg.norm(apart) < max(block.spacing)


def test_large_ct_stays_below_the_default_limit():
    volume = np.zeros((256, 256, 160), np.float32)
    volume[0, 0, 0] = -1000
    block = cut_block(Case("a", "A", volume, affine=np.eye(4)).load(), {})
    assert LIMIT / 2 < block.nbytes <= LIMIT


def test_block_without_labels_keeps_the_body():
    block = cut_block(make_scan(label=False), {})
    assert block.ct.shape == (110, 100, 40)
    assert block.labels == {}


def test_block_with_empty_prediction_keeps_the_body():
    scan = make_scan(label=False)
    block = cut_block(scan, {"prediction": np.zeros(scan.shape, np.uint8)})
    assert block.ct.shape == (110, 100, 40)


def test_volume_of_air_is_kept_completely():
    volume = np.full((6, 7, 8), -1000, np.float32)
    volume[0, 0, 0] = -900
    assert cut_block(Case("a", "A", volume, affine=np.eye(4)).load(), {}).ct.shape == (6, 7, 8)


def test_extreme_values_are_clipped_without_overflow():
    scan = make_scan()
    scan.volume[65, 55, 22], scan.volume[66, 55, 22] = 1e6, -1e6
    assert (cut_block(scan, {}).ct.max(), cut_block(scan, {}).ct.min()) == (3071, -1024)


def test_prediction_on_another_grid_is_refused():
    with pytest.raises(ValueError, match="shape"):
        cut_block(make_scan(), {"prediction": np.zeros((3, 3, 3), np.uint8)})


def test_nifti_files_hold_the_volumes_of_the_block():
    block = cut_block(make_scan(), both(make_scan()))
    files = block.niftis()
    assert list(files) == ["ct", "truth", "prediction"]
    for name, data in files.items():
        image = nib.Nifti1Image.from_bytes(gzip.decompress(data))
        expected = block.ct if name == "ct" else block.labels[name]
        assert image.get_data_dtype() == expected.dtype
        np.testing.assert_array_equal(np.asarray(image.dataobj), expected)
        np.testing.assert_allclose(image.affine, block.affine, atol=1e-4)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    pytest.importorskip("ipyniivue", reason="the viewers extra is not installed")
    scan = make_case("B", 5).load()
    return page(scan, moved(scan, (3, 2, 1)), tmp_path_factory.mktemp("page") / "new" / "case.html")


def test_page_is_small_and_loads_nothing(written):
    source = written.read_text(encoding="utf-8")
    assert written.stat().st_size < 12e6
    assert not LOADS.search(source)


def test_page_states_licence_and_purpose(written):
    source = html.unescape(written.read_text(encoding="utf-8"))
    assert "BSD 2-Clause License" in source
    assert "THIS SOFTWARE IS PROVIDED BY THE COPYRIGHT HOLDERS" in source
    assert "For teaching and research, not for diagnosis." in source
    assert re.search(r"<canvas[^>]*aria-label=", source)
    assert re.search(r"True labels: pancreas \(blue\) [\d.]+ ml, tumour \(orange\) [\d.]+ ml", source)


def test_largest_page_stays_below_its_limit(tmp_path):
    """Noise is what compresses least."""
    pytest.importorskip("ipyniivue", reason="the viewers extra is not installed")
    rng = np.random.default_rng(0)
    volume = rng.uniform(-1024, 3071, (160, 160, 90)).astype(np.float32)
    label = rng.integers(0, 3, volume.shape).astype(np.uint8)
    file = page(Case("a", "A", volume, label, np.eye(4)), label, tmp_path / "a.html")
    assert file.stat().st_size < 12e6


def test_page_is_written_deterministically(tmp_path):
    pytest.importorskip("ipyniivue", reason="the viewers extra is not installed")
    first, second = (page(make_scan(), None, tmp_path / name) for name in ("1.html", "2.html"))
    assert first.read_bytes() == second.read_bytes()


def test_names_cannot_break_the_page(tmp_path):
    pytest.importorskip("ipyniivue", reason="the viewers extra is not installed")
    source = page(make_scan(), None, tmp_path / "a.html", title="</script><script>$x & 1").read_text(encoding="utf-8")
    assert "<h1>&lt;/script&gt;&lt;script&gt;$x &amp; 1</h1>" in source


def test_unwritable_page_is_reported(tmp_path):
    pytest.importorskip("ipyniivue", reason="the viewers extra is not installed")
    (tmp_path / "file").write_text("")
    with pytest.raises(DualTaskError, match="cannot be written"):
        page(make_scan(), None, tmp_path / "file" / "a.html")


def test_missing_ipyniivue_is_reported_with_a_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr(niivue, "find_spec", lambda name: None)
    with pytest.raises(DualTaskError, match=r"dualtask-lite\[viewers\]"):
        page(make_scan(), None, tmp_path / "a.html")
    with pytest.raises(DualTaskError, match=r"dualtask-lite\[viewers\]"):
        volume3d(make_scan(), viewer="niivue")


def test_unknown_niivue_is_reported_with_a_remedy(tmp_path, monkeypatch):
    pytest.importorskip("ipyniivue", reason="the viewers extra is not installed")
    monkeypatch.setattr(niivue, "_INSTANCE", re.compile("never there"))
    with pytest.raises(DualTaskError, match=r"ipyniivue==2\.4\.4"):
        page(make_scan(), None, tmp_path / "a.html")
    assert volume3d(make_scan(), viewer="niivue").widget is not None  # it draws, without glass


@pytest.mark.parametrize(
    ("kernel", "installed", "environment", "asked", "expected"),
    [
        (True, True, None, "auto", "niivue"),
        (True, False, None, "auto", "picture"),
        (False, True, None, "auto", "picture"),
        (True, True, "picture", "auto", "picture"),
        (True, True, "html", "auto", "html"),
        (False, True, "niivue", "auto", "niivue"),
        (True, True, "auto", "auto", "niivue"),
        (True, True, "picture", "html", "html"),
    ],
)
def test_viewer_is_chosen_by_kernel_packages_and_environment(
    monkeypatch, kernel, installed, environment, asked, expected
):
    shell = SimpleNamespace(kernel=object()) if kernel else None
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setattr(viewer, "find_spec", lambda name: object() if installed else None)
    if environment:
        monkeypatch.setenv("DUALTASK_VIEWER", environment)
    assert choose(asked) == expected


def test_unknown_viewer_is_refused(monkeypatch):
    monkeypatch.setenv("DUALTASK_VIEWER", "vtk")
    with pytest.raises(DualTaskError, match="vtk"):
        choose()


def test_picture_has_alt_text():
    view = volume3d(make_scan(), viewer="picture")
    bundle = view._repr_mimebundle_()
    assert set(bundle) == {"text/html", "text/plain", "image/png"}
    assert bundle["text/html"].startswith(BOX)
    assert bundle["text/plain"] == str(view) == view.text


def test_html_view_is_one_frame_with_a_title():
    pytest.importorskip("ipyniivue", reason="the viewers extra is not installed")
    view = volume3d(make_scan(), viewer="html")
    source = view._repr_mimebundle_()["text/html"]
    assert source.startswith("<iframe title=")
    assert source.count("<iframe") == 1
    assert source.count("<") == 2  # all of the page is escaped
    assert "MB of voxels" in view.text


def test_widget_gets_the_block_and_a_fallback_picture():
    pytest.importorskip("ipyniivue", reason="the viewers extra is not installed")
    scan = make_scan()
    view = volume3d(scan, prediction=moved(scan), viewer="niivue")
    assert [volume.name for volume in view.widget.volumes] == [
        f"{name}.nii.gz" for name in ("ct", "truth", "prediction", "difference", "surface")
    ]
    assert [volume.opacity > 0 for volume in view.widget.volumes] == [True, True, True, False, False]
    ct = view.widget.volumes[0]
    assert (ct.cal_min, ct.cal_max, ct.colormap) == (-100, 240, "gray")
    block = cut_block(scan, both(scan))  # all layers together stay below the limit
    place = np.array(view.widget.scene.crosshair_pos) * block.ct.shape - 0.5
    assert block.labels["truth"][tuple(np.rint(place).astype(int))] == 2
    bundle = view._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert bundle["text/html"].startswith(BOX)
    assert re.search(r"The browser gets [\d.]+ MB of voxels", view.text)


def test_itkwidgets_starts_on_the_slice_of_the_lesion_of_an_oblique_scan(monkeypatch):
    given = {}
    widget = SimpleNamespace(set_label_image_blend=lambda share: None)
    monkeypatch.setitem(sys.modules, "itkwidgets", SimpleNamespace(view=lambda **said: given.update(said) or widget))
    monkeypatch.setitem(sys.modules, "ngff_zarr", SimpleNamespace(to_ngff_image=lambda voxels, **said: said))
    monkeypatch.setattr(itk, "_check_javascript", lambda: None)
    turned = nib.affines.from_matvec(nib.eulerangles.euler2mat(x=0.3))
    scan = make_scan(affine=turned @ AFFINE)
    block = cut_block(scan, {"truth": scan.label})
    itk.draw(block, world_centre(scan.label, scan.affine))
    index = (given["z_slice"] - given["image"]["translation"]["z"]) / given["image"]["scale"]["z"]
    assert index == pytest.approx(np.argwhere(block.labels["truth"] == 2)[:, 2].mean())


def test_itkwidgets_is_imported_only_on_request():
    code = (
        "import sys, numpy\nfrom dualtask_lite import show\n"
        "volume = numpy.random.default_rng(0).normal(0, 300, (24, 24, 12))\n"
        "print(show.volume3d(volume, spacing=(1, 1, 1)), show.slices(volume, spacing=(1, 1, 1)))\n"
        "assert 'itkwidgets' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
