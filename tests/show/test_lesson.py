from __future__ import annotations

import html
import inspect
import json
import math
import re
from pathlib import Path

import pytest

from dualtask_lite.errors import DualTaskError
from dualtask_lite.show.lesson import MANIFEST_TYPE, new_folder, run_manifest, show_source
from dualtask_lite.show.table import Table


def test_manifest_can_be_read_by_machines_and_people():
    bundle = run_manifest({"seed": 0}, dice=0.5)._repr_mimebundle_()
    record = json.loads(json.dumps(bundle[MANIFEST_TYPE]))
    assert record["results"] == {"dice": 0.5}
    assert record["seconds"] >= 0
    assert record["peak_memory_mb"] > 10
    assert "torch" in bundle["text/plain"]


def test_table_shows_rows_with_different_columns_and_escapes():
    table = Table([{"a": 1, "b": 0.123}, {"a": "<x>", "c": math.nan}, {"b": [1, 0.5], "c": {"x": 2}}], "caption")
    assert "<td>1, 0.50</td><td>x: 2</td>" in table.to_html()
    assert str(table).splitlines()[1].split() == ["a", "b", "c"]
    assert "<td>0.12</td>" in table.to_html()
    assert "&lt;x&gt;" in table.to_html()
    assert "<td>-</td>" in table.to_html()


def test_a_source_is_shown_as_its_file_holds_it():
    shown = show_source(new_folder)
    assert shown.code == inspect.getsource(new_folder)
    assert shown.where.startswith("dualtask_lite.show.lesson, line ")
    bundle = shown._repr_mimebundle_()
    assert html.unescape(re.sub("<style>.*</style>|<[^>]+>", "", bundle["text/html"])) == shown.where + shown.code
    assert "def new_folder(" in bundle["text/plain"]


def test_two_unwritable_folders_are_reported(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").write_text("a file")
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "runs")
    with pytest.raises(DualTaskError, match="can be written; free"):
        new_folder("04")
