"""``dualtask viewers``: make itkwidgets draw without a network."""

from __future__ import annotations

from dataclasses import asdict

import typer

from dualtask_lite.cli.shared import AsJson, app, out, print_json
from dualtask_lite.viewers.extension import Status

viewers = typer.Typer(help="Make itkwidgets draw without a network (NiiVue and the pages always do).")
app.add_typer(viewers, name="viewers")


@viewers.command()
def install(as_json: AsJson = False) -> None:
    """Fetch the JavaScript of itkwidgets with npm, verify it, and serve it from JupyterLab itself.

    Beside the JupyterLab extension imjoy-jupyterlab-extension; of its own files only package.json is changed.
    Repeat it after that extension was installed again. Open pages of JupyterLab must be reloaded.
    """
    from dualtask_lite.viewers import extension

    _say(extension.install(), as_json)


@viewers.command()
def status(as_json: AsJson = False) -> None:
    """Say from where itkwidgets gets its JavaScript."""
    from dualtask_lite.viewers import extension

    _say(extension.status(), as_json)


@viewers.command()
def remove(as_json: AsJson = False) -> None:
    """Take back what install did: itkwidgets then needs the network again."""
    from dualtask_lite.viewers import extension

    _say(extension.remove(), as_json)


def _say(found: Status, as_json: bool) -> None:
    if as_json:
        print_json(asdict(found))
        return
    where = f"; {found.megabytes:.0f} MB in {found.folder}" if found.megabytes else ""
    out.print(f"{found}{where}", markup=False, highlight=False)
