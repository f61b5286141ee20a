from __future__ import annotations

import html
import inspect
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest

from dualtask_lite.errors import DualTaskError
from dualtask_lite.show.lesson import MANIFEST_TYPE, check_answer, new_folder, run_manifest, show_source
from dualtask_lite.show.table import Table


@pytest.mark.parametrize(
    ("answer", "right", "state"),
    [
        (..., 3, "not attempted"),
        (None, 3, "not attempted"),
        (3, 3, "right"),
        (3.01, 3, "right"),
        (3.1, 3, "wrong"),
        ("3", 3, "wrong"),
        (math.nan, 3, "wrong"),
        (np.float32(3), 3, "right"),
        ([1, 2], [1.0, 2.0], "right"),
        ([1, 2, 3], [1.0, 2.0], "wrong"),
        ("B", "B", "right"),
        ("b", "B", "wrong"),
        (object(), lambda answer: answer > 3, "wrong"),
        (4, lambda answer: answer > 3, "right"),
        (0, 0, "right"),
    ],
)
def test_check_answer(answer, right, state):
    verdict = check_answer(answer, right, hint="think")
    assert verdict.state == state
    assert ("think" in verdict.message) == (state == "wrong")


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
    shown = show_source(check_answer)
    assert shown.code == inspect.getsource(check_answer)
    assert shown.where.startswith("dualtask_lite.show.lesson, line ")
    bundle = shown._repr_mimebundle_()
    assert html.unescape(re.sub("<style>.*</style>|<[^>]+>", "", bundle["text/html"])) == shown.where + shown.code
    assert "def check_answer(" in bundle["text/plain"]


def test_a_folder_that_cannot_be_made_anywhere_is_said(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").write_text("a file")
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "runs")
    with pytest.raises(DualTaskError, match="can be written; free"):
        new_folder("04")
