from __future__ import annotations

import html
import inspect
import json
import math
import re

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
    assert bundle["text/plain"] == f"{shown.where}\n{shown.code}"


class Documented:
    """Of a class."""

    def method(self):
        """Of a method,

        in two paragraphs.
        """
        return "kept"


@pytest.mark.parametrize("thing", [new_folder, run_manifest, Documented, Documented.method])
def test_the_docstring_of_a_source_folds_and_nothing_is_lost(thing):
    page = show_source(thing).to_html()
    open_part, _, folded = page.partition("<details>")
    text = [
        html.unescape(re.sub("<style>.*</style>|<code>.*</code>|<summary>.*</summary>|<[^>]+>", "", part))
        for part in (open_part, folded)
    ]
    first = inspect.getdoc(thing).splitlines()[0]
    assert first in text[1]
    assert first not in text[0]
    words = [word for line in "\n".join(text).splitlines() for word in line.split()]
    assert sorted(words) == sorted(show_source(thing).code.split())


def test_a_source_without_docstring_folds_nothing():
    assert "<details>" not in show_source(test_a_source_is_shown_as_its_file_holds_it).to_html()


def test_two_unwritable_folders_are_reported(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").write_text("a file")
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path / "runs"))
    with pytest.raises(DualTaskError, match="can be written; free"):
        new_folder("04")
