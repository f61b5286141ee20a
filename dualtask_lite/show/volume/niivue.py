"""A 3D view by NiiVue (WebGL2): as a live widget, and as a self-contained page.

NiiVue's JavaScript comes with ipyniivue, so nothing is loaded from the network.
"""

from __future__ import annotations

import base64
import gzip
import html
import json
import re
import uuid
from collections.abc import Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from string import Template
from typing import Any

import nibabel as nib
import numpy as np
from matplotlib.colors import to_rgb

from dualtask_lite.cases.case import CT_WINDOW
from dualtask_lite.errors import DualTaskError
from dualtask_lite.show.overlays import Overlay
from dualtask_lite.show.picture import Picture
from dualtask_lite.show.volume.block import Block

HEIGHT = 620  # px of a page in a notebook
_WIDGET_HEIGHT = 500  # px; with its switches it fits on a projector
OPACITY = 0.6  # of the overlays
AZIMUTH, ELEVATION = 160.0, 15.0  # degrees: the patient from the front
_HERO = 0.42  # share of the width for the 3D view
# Homogeneous tissue becomes transparent, so that organs, bones and labels are visible from outside.
_SEE_THROUGH = "await nv.setVolumeRenderIllumination(0.3); await nv.setGradientOpacity(0.7);"
_INSTANCE = re.compile(r'"Creating new Niivue instance".{0,200}?([\w$]+)=new ([\w$]+)\(')
_DEFAULT = re.compile(r"export\s*\{\s*([\w$]+) as default\s*\};?\s*$")
_INSTALL = "run pip install 'dualtask-lite[viewers]', or ask for viewer='picture'"
_SWITCHES = """
export default {
  async render({ model, el }) {
    el.innerHTML = model.get("inside");
    // JupyterLab removes invisible cells from the page; when such a cell returns, NiiVue must redraw.
    // A ResizeObserver misses a change of theme within one frame, and a page needs some time to settle.
    const redraw = () => [0, 300, 2000].forEach(ms => setTimeout(() => window.dispatchEvent(new Event("resize")), ms));
    let away = false;
    const sizes = new ResizeObserver(() => {
      if (away && el.offsetWidth) redraw();
      away = !el.offsetWidth;
    });
    const themes = new MutationObserver(redraw);
    sizes.observe(el);
    themes.observe(document.body, { attributeFilter: ["data-jp-theme-name"] });
    for (const [name, id] of Object.entries(model.get("volumes"))) {
      const volume = await model.widget_manager.get_model(id);
      const box = el.querySelector(`input[name=${name}]`);
      box.checked = volume.get("opacity") > 0;
      box.addEventListener("change", () => {
        volume.set("opacity", box.checked ? model.get("opacity") : 0);
        volume.save_changes();
      });
    }
    return () => [sizes, themes].forEach(observer => observer.disconnect());
  },
};
"""
_FEW = 3  # up to this number of values a legend names each one


def make_widget(block: Block, layers: Sequence[Overlay], start: tuple[float, ...], text: str) -> tuple[Any, Any]:
    """Make the live widget; its voxels travel over the connection of the kernel.

    Args:
        block: the volumes to show.
        layers: the overlays of the block.
        start: first position of the crosshair, mm.
        text: the caption.

    Returns:
        The ``ipyniivue.NiiVue``, and the box to show: a switch for each layer, the viewer, the caption.

    Raises:
        DualTaskError: when ipyniivue is not installed.
    """
    module = _with_transparent_tissue()
    from ipyniivue import ColorMap, MultiplanarType, NiiVue, ShowRender, SliceType, Volume
    from ipyniivue.utils import make_label_lut
    from ipywidgets import HTML, VBox  # as anywidget, a dependency of ipyniivue

    class Complete(NiiVue):
        """Sends its volumes with its first message: later messages are lost when NiiVue needs over 2 s to load.

        anywidget gives up after that time, on a slow machine or while another viewer draws.
        """

        _esm = module

        def open(self) -> None:
            self._model_id: str = self._model_id or uuid.uuid4().hex  # needed before the first message
            if self.volumes:
                super().open()

    widget = Complete(
        height=_WIDGET_HEIGHT,
        is_radiological_convention=True,
        sagittal_nose_left=True,
        crosshair_color=(1.0, 1.0, 1.0, 0.5),
        crosshair_width=0.4,
        crosshair_width_unit="percent",
        slice_type=SliceType.MULTIPLANAR,
        multiplanar_show_render=ShowRender.ALWAYS,
        multiplanar_layout=MultiplanarType.GRID,
        hero_image_fraction=_HERO,
        show_3d_crosshair=False,
    )
    options = {"ct": {"colormap": "gray", "cal_min": CT_WINDOW[0], "cal_max": CT_WINDOW[1]}}
    for layer in layers:
        table = make_label_lut(ColorMap(**_colour_map(layer)))
        options[layer.name] = {"opacity": OPACITY if layer.shown else 0.0, "colormap_label": table}
    volumes = [
        Volume(data=data, name=f"{name}.nii.gz", id=f"{name}_py", **options[name])
        for name, data in block.niftis().items()
    ]
    widget.load_volumes(volumes)
    widget.scene.render_azimuth, widget.scene.render_elevation = AZIMUTH, ELEVATION
    voxel = nib.affines.apply_affine(np.linalg.inv(block.affine), start)
    widget.scene.crosshair_pos = [float(part) for part in (voxel + 0.5) / block.ct.shape]
    widget.open()
    return widget, VBox([_switches(volumes[1:], layers), widget, HTML(html.escape(text))])


def _switches(volumes: Sequence[Any], layers: Sequence[Overlay]) -> Any:
    """Make the check boxes for a notebook; the browser connects them with the volumes, without the kernel.

    Messages of the kernel would not reach a viewer that needed over 2 s to load.
    """
    import anywidget
    import traitlets

    class Switches(anywidget.AnyWidget):
        _esm = _SWITCHES
        inside = traitlets.Unicode().tag(sync=True)
        volumes = traitlets.Dict().tag(sync=True)
        opacity = traitlets.Float().tag(sync=True)

    ids = {layer.name: volume.model_id for volume, layer in zip(volumes, layers, strict=True)}
    style = "display: flex; flex-wrap: wrap; gap: 2px 24px; font: 14px system-ui, sans-serif; color: "
    inside = f'<div style="{style}var(--jp-content-font-color1)">{"".join(map(_switch, layers))}</div>'
    return Switches(inside=inside, volumes=ids, opacity=OPACITY)


def make_page(
    block: Block, layers: Sequence[Overlay], start: tuple[float, ...], picture: Picture, title: str, text: str
) -> str:
    """Write the page; text is escaped, and data cannot end its ``script`` element.

    Args:
        block: the volumes to show.
        layers: the overlays of the block.
        start: first position of the crosshair, mm.
        picture: replaces the view without WebGL2 or JavaScript.
        title: of the page.
        text: description of the view.

    Raises:
        DualTaskError: when ipyniivue, which contains NiiVue, is not installed or of an unknown version.
    """
    options = {layer.name: {"colours": _colour_map(layer), "shown": layer.shown} for layer in layers}
    volumes = [{"name": name, "data": _base64(data), **options.get(name, {})} for name, data in block.niftis().items()]
    view = {"azimuth": AZIMUTH, "elevation": ELEVATION, "zoom": 1}
    setup = {"volumes": volumes, "window": CT_WINDOW, "start": start, "view": view, "opacity": OPACITY, "hero": _HERO}
    template = Template(Path(__file__).with_suffix(".html").read_text(encoding="utf-8"))
    viewer, licence = _niivue()
    return template.substitute(
        title=html.escape(title),
        summary=html.escape(text),
        switches="\n".join(map(_switch, layers)),
        picture=picture.to_html(),
        licence=html.escape(licence),
        glass=_SEE_THROUGH,
        setup=json.dumps(setup).replace("<", "\\u003c"),
        viewer=_base64(gzip.compress(viewer.encode(), mtime=0)),
    )


def _switch(layer: Overlay) -> str:
    """Write the check box of a layer, with the legend of its colours."""
    checked = " checked" if layer.shown else ""
    return f'<label><input type="checkbox" name="{layer.name}"{checked}> {layer.title}: {_legend(layer)}</label>'


def _legend(layer: Overlay) -> str:
    """Write a swatch for each value, or a colour scale for many values."""
    if len(layer.colours) <= _FEW:
        swatch = "display: inline-block; width: 0.85em; height: 0.85em; border: 1px solid #555; vertical-align: -0.1em"
        named = zip(layer.colours, layer.meanings, strict=True)
        return " ".join(f'<span style="{swatch}; background: {colour}"></span> {meaning}' for colour, meaning in named)
    scale = "display: inline-block; width: 6em; height: 0.7em; border: 1px solid #555; background: linear-gradient"
    colours = ", ".join(layer.colours)
    return f'{layer.meanings[0]} <span style="{scale}(to right, {colours})"></span> {layer.meanings[-1]}'


def _colour_map(layer: Overlay) -> dict[str, Any]:
    """Make the colour map of a layer for NiiVue."""
    channels = np.rint(255 * np.array([(0.0, 0.0, 0.0), *map(to_rgb, layer.colours)])).astype(int).T.tolist()
    labels = ["", *(f"{layer.name}: {meaning}" for meaning in layer.meanings)]
    return {**dict(zip("RGB", channels, strict=True)), "A": [0] + [255] * len(layer.colours), "labels": labels}


def _niivue() -> tuple[str, str]:
    """Extract NiiVue from the installed ipyniivue: a module that exports ``Niivue``, and its licence.

    ipyniivue does not export the class, whose name its bundler chose; one added line exports it.
    """
    source, instance, _ = _bundle()
    package = metadata.distribution("ipyniivue")
    licence = next((file for file in package.files or () if file.name == "LICENSE"), None)
    if instance is None or licence is None:
        raise DualTaskError(f"NiiVue was not found in ipyniivue {package.version}", "run pip install ipyniivue==2.4.4")
    return f"{source}\nexport {{ {instance[2]} as Niivue }};\n", licence.read_text(encoding="utf-8")


def _with_transparent_tissue() -> str:
    """Extend ipyniivue's module: once its volumes are drawn, homogeneous tissue becomes transparent.

    NiiVue ignores these two settings as options, and a message of the kernel may arrive before the volumes. With
    another version of ipyniivue, in which the class is not found, tissue stays opaque.
    """
    source, instance, default = _bundle()
    if instance is None or default is None:
        return source
    widget, nv = default[1], instance[1]
    render = (
        f"async render(given) {{ const end = await {widget}.render(given), nv = {nv}; {_SEE_THROUGH} return end; }}"
    )
    return f"{source[: default.start()]}export default {{ ...{widget}, {render} }};\n"


def _bundle() -> tuple[str, re.Match[str] | None, re.Match[str] | None]:
    """Read ipyniivue's JavaScript, and find where it creates NiiVue and where it exports its widget."""
    spec = find_spec("ipyniivue")
    if spec is None or spec.origin is None:
        raise DualTaskError("the 3D viewer needs ipyniivue, which is not installed", _INSTALL)
    source = (Path(spec.origin).parent / "static" / "widget.js").read_text(encoding="utf-8")
    return source, _INSTANCE.search(source), _DEFAULT.search(source)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
