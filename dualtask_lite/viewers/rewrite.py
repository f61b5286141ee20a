"""Replace network addresses in JavaScript and HTML by addresses below the JupyterLab extension.

A script finds its own address when it is loaded, so the rewritten code works under every base URL of Jupyter.
"""

from __future__ import annotations

import re

from dualtask_lite.errors import DualTaskError

CDN = "https://cdn.jsdelivr.net/npm/"
VUE_WINDOW = "@oeway/vue-window@2.4.1-a"
VIEWER = "itk-vtk-viewer@14.51.0/dist/index.html"
_CORE, _RPC, _UI = "imjoy-core@0.14.5", "imjoy-rpc@0.5.9", "itk-viewer-bootstrap-ui@0.30.0"
_BASE = "dualtaskNpm"  # a global of the page: the folder of the packages
_LOGO = "data:image/svg+xml,%3Csvg xmlns=%27http://www.w3.org/2000/svg%27 viewBox=%270 0 16 16%27%3E"
_LOGO += "%3Cpath d=%27M4 2l9 6-9 6z%27/%3E%3C/svg%3E"  # in place of a picture on a button
_SAME = (  # pattern of an address -> the same on the CDN, with exact versions instead of tags
    (r"https://imjoy-team\.github\.io/vue-js-modal/", f"{CDN}vue-js-modal@2.0.1/dist/"),
    (r"https://lib\.imjoy\.io/", f"{CDN}{_CORE}/dist/"),
    (r"imjoy-core@\$\{\w+\}", _CORE),
    (r"imjoy-rpc@latest", _RPC),
    (r"itk-viewer-bootstrap-ui@0/", f"{_UI}/"),
    (r'(?<="startup":)true', "false"),  # plug-ins for other languages, which it would load at the start
    (r"https://imjoy\.io/static/img/[\w-]+\.svg", _LOGO),
)
_WINDOW = "async createWindow(_plugin, w, extra_config) {"
_IMPORT = "import(E.href)"


def script(text: str, packages: str) -> str:
    """Rewrite a script; ``packages`` leads from it to the folder of all packages, as ``../../``."""
    for pattern, address in _SAME:
        text = re.sub(pattern, address, text)
    text = re.sub(rf'(\\?"){re.escape(CDN)}', rf"{_BASE}+\1", text)  # \" where the code is a string to evaluate
    text = text.replace(f"`{CDN}", f"`${{{_BASE}}}")
    return f'globalThis.{_BASE} = new URL("{packages}", document.currentScript.src).href;\n{text}'


def viewer_script(text: str) -> str:
    """Rewrite the viewer, which gets the address of its buttons on the CDN from the kernel."""
    return once(script(text, "../../"), _IMPORT, f'import(E.href.replace("{CDN}", {_BASE}))')


def viewer_page(text: str) -> str:
    """Rewrite the page in which the viewer runs."""
    return once(text, "https://lib.imjoy.io/imjoy-loader.js", f"../../{_CORE}/dist/imjoy-loader.js")


def window_maker(text: str) -> str:
    """Rewrite the part of the extension that opens the viewer's page."""
    text = re.sub(*_SAME[-1], text)
    return once(text, _WINDOW, f'{_WINDOW} if (w.type === "itk-vtk-viewer") w.src = {_BASE} + "{VIEWER}";')


def once(text: str, old: str, new: str) -> str:
    """Replace the only occurrence of a text.

    Raises:
        DualTaskError: when there is none or more than one, as in another version of the file.
    """
    if text.count(old) != 1:
        raise DualTaskError(
            f"a file of the viewer contains {old[:40]!r} {text.count(old)} times instead of once",
            "install the pinned version: pip install imjoy-jupyterlab-extension==0.2.6",
        )
    return text.replace(old, new)
