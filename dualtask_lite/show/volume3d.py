"""A case in 3D in the browser: a widget in a live notebook, a page that opens anywhere, or a picture.

All draw with NiiVue (WebGL2), whose JavaScript comes with ipyniivue: nothing is loaded from the network. What
a browser gets is the part around the pancreas, on coarser voxels when it would be large.
"""

from __future__ import annotations

import base64
import gzip
import html
import json
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from string import Template
from typing import Any, Literal, cast

import nibabel as nib
import numpy as np
from matplotlib.colors import to_rgb
from numpy.typing import NDArray

from dualtask_lite.cases.case import CT_WINDOW, LABELS, Scan
from dualtask_lite.errors import DualTaskError
from dualtask_lite.files import whole_file
from dualtask_lite.show import palette, planes, plots
from dualtask_lite.show.block import Block, cut_block

Viewer = Literal["niivue", "page", "picture"]

HEIGHT = 620  # px of a viewer in a notebook
_COLOURS = {  # of pancreas and tumour
    "truth": (palette.PANCREAS, palette.TUMOUR),
    "prediction": ("#E8C3D7", palette.PREDICTION),  # 45 % of the same magenta on white
}
_STRUCTURES = ((2, LABELS[2]), (1, LABELS[1]))
_NIIVUE_CLASS = re.compile(r'"Creating new Niivue instance".{0,200}?=new ([\w$]+)\(')
_INSTALL = "run pip install 'dualtask-lite[viewers]', or ask for viewer='picture'"


@dataclass(frozen=True, eq=False)
class View:
    """A case to look at; a notebook shows the best that it can draw.

    Attributes:
        viewer: what draws it.
        text: what it shows, in words, and how much the browser gets.
        widget: the live ``ipyniivue.NiiVue``, to work on with its own calls; None without one.
    """

    viewer: Viewer
    text: str
    _bundle: Mapping[str, Any] = field(repr=False)
    widget: Any = field(default=None, repr=False)

    def __str__(self) -> str:
        return self.text

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        return {**self._bundle, "text/plain": self.text}


def volume3d(
    scan: Scan, *, prediction: NDArray[Any] | None = None, viewer: Literal["auto", "niivue", "page", "picture"] = "auto"
) -> View:
    """Show a case in 3D in a notebook.

    Args:
        scan: the CT, with its label when it has one.
        prediction: predicted labels, (X, Y, Z) of 0, 1, 2 on the scan's grid.
        viewer: ``niivue``, the widget of a live notebook; ``page``, the same in the output itself, which static
            pages keep; ``picture``, three planes; ``auto``, what ``DUALTASK_VIEWER`` names, else the widget in a
            kernel that has ipyniivue, else the picture.

    Raises:
        DualTaskError: when the viewer is unknown or not installed.
    """
    chosen = choose(viewer)
    picture = plots.orthogonal(scan, prediction=prediction)
    if chosen == "picture":
        return View(chosen, picture.alt, {"text/html": picture.to_html()})
    block = cut_block(scan, prediction)
    text = f"{_in_words(scan, prediction)} {_size_in_words(block)}"
    if chosen == "page":
        source = html.escape(_html(scan, prediction, block, ""))
        style = f"width: 100%; height: {HEIGHT}px; border: 0"
        frame = f'<iframe title="{html.escape(text)}" style="{style}" srcdoc="{source}"></iframe>'
        return View(chosen, text, {"text/html": frame})
    widget = _widget(block, _start(scan, prediction))
    # A front end without widgets takes the picture.
    bundle = _captioned(widget, text)._repr_mimebundle_() | {"text/html": picture.to_html()}
    return View(chosen, text, bundle, widget)


def page(scan: Scan, file: str | Path, *, prediction: NDArray[Any] | None = None, title: str = "") -> Path:
    """Write one HTML file that shows a case in three planes and in 3D, from any disk and without any network.

    Args:
        scan: the CT, with its label when it has one.
        file: where to; missing folders are made.
        prediction: predicted labels, (X, Y, Z) of 0, 1, 2 on the scan's grid.
        title: of the page; centre and case when left out.

    Returns:
        The file's path.

    Raises:
        DualTaskError: when ipyniivue, which holds the viewer, is not installed, or the file cannot be written.
    """
    path = Path(file)
    source = _html(scan, prediction, cut_block(scan, prediction), title)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as temporary:
            temporary.write_text(source, encoding="utf-8")
    except OSError as error:
        raise DualTaskError(
            f"{path}: cannot be written ({error})", "choose another folder, or free some space"
        ) from error
    return path


def choose(viewer: str = "auto") -> Viewer:
    """Decide what draws; see ``volume3d``.

    papermill and nbconvert run a kernel as a learner does and cannot be told from one: who builds static pages
    sets ``DUALTASK_VIEWER``.
    """
    wanted = os.environ.get("DUALTASK_VIEWER", "auto") if viewer == "auto" else viewer
    if wanted not in ("auto", "niivue", "page", "picture"):
        raise DualTaskError(f"the 3D viewer {wanted!r} is unknown", "choose auto, niivue, page or picture")
    if wanted != "auto":
        return cast(Viewer, wanted)
    return "niivue" if _in_kernel() and find_spec("ipyniivue") else "picture"


def _widget(block: Block, start: tuple[float, ...]) -> Any:
    """Make the live widget; its voxels travel over the kernel's own connection."""
    if not find_spec("ipyniivue"):
        raise DualTaskError("the 3D widget needs ipyniivue, which is not installed", _INSTALL)
    from ipyniivue import NiiVue, ShowRender, SliceType, Volume

    widget = NiiVue(
        height=HEIGHT,
        is_radiological_convention=True,
        sagittal_nose_left=True,
        crosshair_color=(1.0, 1.0, 1.0, 0.5),
        crosshair_width=0.4,
        crosshair_width_unit="percent",
        slice_type=SliceType.MULTIPLANAR,
        multiplanar_show_render=ShowRender.ALWAYS,
    )
    low, high = CT_WINDOW
    looks = {"ct": {"colormap": "gray", "cal_min": low, "cal_max": high}}
    volumes = {
        name: Volume(data=data, name=f"{name}.nii.gz", **looks.get(name, {"opacity": 0.6}))
        for name, data in block.niftis().items()
    }
    widget.load_volumes(list(volumes.values()))
    for name in block.labels:
        volumes[name].set_colormap_label(_colours(name))
    widget.scene.render_azimuth, widget.scene.render_elevation = 160.0, 15.0  # from the patient's front
    voxel = nib.affines.apply_affine(np.linalg.inv(block.affine), start)
    widget.scene.crosshair_pos = [float(part) for part in (voxel + 0.5) / block.ct.shape]
    return widget


def _captioned(widget: Any, text: str) -> Any:
    from ipywidgets import HTML, VBox  # a dependency of ipyniivue

    return VBox([widget, HTML(html.escape(text))])


def _colours(name: str) -> dict[str, Any]:
    """Write NiiVue's colour map of the labels under ``name``."""
    channels = np.rint(255 * np.array([(0.0, 0.0, 0.0), *map(to_rgb, _COLOURS[name])])).astype(int).T.tolist()
    labels = ["", *(f"{name}: {LABELS[value]}" for value in (1, 2))]
    return {**dict(zip("RGB", channels, strict=True)), "A": [0, 255, 255], "labels": labels}


def _html(scan: Scan, prediction: NDArray[Any] | None, block: Block, title: str) -> str:
    """Write the page; what the reader gave is escaped, and data cannot end its ``script`` element."""
    volumes = [
        {"name": name, "data": _base64(data), "colours": _colours(name) if name != "ct" else None}
        for name, data in block.niftis().items()
    ]
    setup = {"volumes": volumes, "window": CT_WINDOW, "start": _start(scan, prediction)}
    template = Template(Path(__file__).with_suffix(".html").read_text(encoding="utf-8"))
    viewer, licence = _niivue()
    return template.substitute(
        title=html.escape(title or f"Centre {scan.centre}, case {scan.id} in 3D"),
        summary=html.escape(_in_words(scan, prediction)),
        size=html.escape(_size_in_words(block)),
        switches="\n".join(_switch(name) for name in block.labels),
        picture=plots.orthogonal(scan, prediction=prediction).to_html(),
        licence=html.escape(licence),
        setup=json.dumps(setup).replace("<", "\\u003c"),
        viewer=_base64(gzip.compress(viewer.encode(), mtime=0)),
    )


def _switch(name: str) -> str:
    """Write the check box of a label, which is the legend of its colours too."""
    swatches = " ".join(
        f'<span class="swatch" style="background: {colour}"></span> {LABELS[value]}'
        for value, colour in enumerate(_COLOURS[name], start=1)
    )
    words = {"truth": "true labels", "prediction": "prediction"}[name]
    return f'<label><input type="checkbox" id="{name}" checked> {words}: {swatches}</label>'


def _niivue() -> tuple[str, str]:
    """Take NiiVue out of the installed ipyniivue: a module that exports ``Niivue``, and its licence.

    ipyniivue keeps the class to itself, under a name that its bundler chose, so it is exported by one more line.
    """
    spec = find_spec("ipyniivue")
    if spec is None or spec.origin is None:
        raise DualTaskError("the 3D page needs ipyniivue, which is not installed", _INSTALL)
    source = (Path(spec.origin).parent / "static" / "widget.js").read_text(encoding="utf-8")
    found = _NIIVUE_CLASS.search(source)
    package = metadata.distribution("ipyniivue")
    licence = next((file for file in package.files or () if file.name == "LICENSE"), None)
    if found is None or licence is None:
        raise DualTaskError(
            f"ipyniivue {package.version} does not hold NiiVue as 2.4.4 does", "run pip install ipyniivue==2.4.4"
        )
    return f"{source}\nexport {{ {found[1]} as Niivue }};\n", licence.read_text(encoding="utf-8")


def _start(scan: Scan, prediction: NDArray[Any] | None) -> tuple[float, ...]:
    """Find where to look first, mm: the lesion, else the organ, else the middle."""
    shown = scan.label if scan.label is not None and scan.label.any() else prediction
    at, _ = planes.middle(shown, scan.shape, _STRUCTURES)
    return tuple(float(mm) for mm in nib.affines.apply_affine(scan.affine, at))


def _in_words(scan: Scan, prediction: NDArray[Any] | None) -> str:
    """Say what is shown, with the volumes that the scan's own voxels give."""
    words = [f"CT of centre {scan.centre}, case {scan.id}, shown from {CT_WINDOW[0]:g} to {CT_WINDOW[1]:g} HU."]
    if scan.label is not None:
        pancreas, tumour = _ml(scan, scan.label)
        words.append(f"True labels: pancreas (blue) {pancreas}, tumour (orange) {tumour}.")
    if prediction is not None:
        pancreas, tumour = _ml(scan, prediction)
        words.append(f"Prediction (magenta): pancreas (pale) {pancreas}, tumour (full) {tumour}.")
    return " ".join(words)


def _ml(scan: Scan, label: NDArray[Any]) -> list[str]:
    voxel = float(np.prod(scan.spacing)) / 1000
    return [f"{np.count_nonzero(label == value) * voxel:.1f} ml" for value in (1, 2)]


def _size_in_words(block: Block) -> str:
    sides, spacing = " × ".join(map(str, block.ct.shape)), " × ".join(f"{mm:.2g}" for mm in block.spacing)
    return f"The browser gets {block.nbytes / 1e6:.1f} MB of voxels: {sides} of {spacing} mm."


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _in_kernel() -> bool:
    """Whether this is a Jupyter kernel, without importing IPython where nobody did."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return getattr(shell, "kernel", None) is not None
