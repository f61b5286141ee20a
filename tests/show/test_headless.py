"""A notebook that nobody looks at while it runs: papermill's."""

from __future__ import annotations

import nbformat
import pytest

from dualtask_lite.show.picture import BOX

papermill = pytest.importorskip("papermill", reason="the notebooks extra is not installed")

CELLS = [
    "import numpy as np; from dualtask_lite import show; from dualtask_lite.cases.phantom import make_case\n"
    "scan = make_case('B', 5, size=(40, 40, 20)).load()",
    "show.volume3d(scan, scan.label, viewer='itk')",
    "show.volume3d(scan)",
    "show.slices(scan, scan.label)",
    "show.compare(scan, {'a': scan.label})",
    "import sys; assert 'itkwidgets' not in sys.modules; print('end')",
]


@pytest.mark.parametrize(
    ("kept", "widgets", "html"),
    [(None, 2, [BOX, BOX, "<figure", "<figure"]), ("html", 0, ["<iframe", "<iframe", "<figure", "<figure"])],
)
def test_papermill_run_never_hangs_or_loses_output(tmp_path, monkeypatch, kept, widgets, html):
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    monkeypatch.delenv("DUALTASK_VIEWER", raising=False)
    if kept:
        monkeypatch.setenv("DUALTASK_VIEWER", kept)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, tmp_path / "in.ipynb")
    done = papermill.execute_notebook(tmp_path / "in.ipynb", tmp_path / "out.ipynb", progress_bar=False)
    outputs = [[o for o in cell.outputs if o.output_type != "stream"] for cell in done.cells]
    bundles = [shown[-1].data for shown in outputs[1:5]]
    assert [bundle["text/html"].startswith(start) for bundle, start in zip(bundles, html, strict=True)] == [True] * 4
    assert sum("application/vnd.jupyter.widget-view+json" in bundle for bundle in bundles) == widgets
    assert done.cells[-1].outputs[0].text == "end\n"
