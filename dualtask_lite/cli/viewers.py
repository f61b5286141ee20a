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
    """Download the JavaScript of itkwidgets with npm, verify it, and serve it from JupyterLab itself.

    The files go beside the JupyterLab extension imjoy-jupyterlab-extension, of which only package.json is changed.
    Repeat the command after reinstalling that extension, and reload open pages of JupyterLab.
    """
    from dualtask_lite.viewers import extension

    _print_status(extension.install(), as_json)


@viewers.command()
def status(as_json: AsJson = False) -> None:
    """Show where itkwidgets loads its JavaScript from."""
    from dualtask_lite.viewers import extension

    _print_status(extension.status(), as_json)


@viewers.command()
def remove(as_json: AsJson = False) -> None:
    """Undo the installation: itkwidgets then needs the network again."""
    from dualtask_lite.viewers import extension

    _print_status(extension.remove(), as_json)


def _print_status(status: Status, as_json: bool) -> None:
    if as_json:
        print_json(asdict(status))
        return
    size = f"; {status.megabytes:.0f} MB in {status.folder}" if status.megabytes else ""
    out.print(f"{status}{size}", markup=False, highlight=False)
