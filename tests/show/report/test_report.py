"""The page of a run: complete, escaped, below its size limit, and explicit about missing parts."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from dualtask_lite.show.report import page as module
from dualtask_lite.show.report.contents import Report, Stage
from dualtask_lite.show.report.page import to_html


class Reader(HTMLParser):
    """Collects the tags and the text of a page."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def source(run_report):
    return to_html(run_report)


@pytest.fixture(scope="module")
def read(source):
    return Reader(source)


def test_page_loads_nothing_from_the_network(read):
    urls = [a[name] for _, a in read.tags for name in ("src", "href", "srcset", "action") if a.get(name)]
    assert all(url.startswith(("data:", "#")) for url in urls)
    policy = next(a["content"] for a in read.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")


def test_text_from_data_is_escaped(read, source):
    assert '<script>alert("x")' not in source
    assert "".join(read.words).count('<script>alert("x")</script>&') > 5


def test_every_picture_has_alt_text(read):
    pictures = read.all("img")
    assert len(pictures) == 2 * 3 + 1 + 2 + 1  # of each example two and a slice; scores; two on warnings; curves
    assert all(len(picture["alt"]) > 20 for picture in pictures)


def test_contents_link_to_every_section(read):
    links = [a["href"] for a in read.all("a")]
    assert links == [f"#{section['id']}" for section in read.all("section")]
    assert len({a["id"] for _, a in read.tags if "id" in a}) == len([a for _, a in read.tags if "id" in a])


@pytest.mark.parametrize(
    "text",
    [
        "Not for diagnosis",
        "Mean tumour Dice 0.75 over 3 cases.",
        "centre C was held out",
        "0.75 ± 0.10 (3)",
        "Best: case C_",
        "Worst: case C_",
        "optimiser.lr",
        "0.0001",
        "0123456789abcdef",
        "median over the cases: 0.31",
        "Made by a test.",
        "nothing of ",
    ],
)
def test_page_states(read, text):
    assert text in "".join(read.words)


def test_undefined_metric_is_a_dash(read):
    assert "HD95 (mm) -" in "".join(read.words)


def test_names_that_look_like_numbers_are_unchanged(run_report):
    rows = [{**row, "case": name, "centre": "07"} for row, name in zip(run_report.rows, ("001", "1_2"), strict=False)]
    page = to_html(replace(run_report, rows=rows, examples=(), doubts=None))
    table = page[page.index("Case by case") :]
    assert "<td>001</td><td>07</td><td>tumour</td><td>0.75</td>" in table
    assert "<td>1_2</td><td>07</td>" in table


def test_slice_browsers_are_left_out_of_a_large_page(run_report, source, monkeypatch):
    def browsers(page):
        return page.count('<figure class="dualtask-slices"')

    assert browsers(source) == 2
    monkeypatch.setattr(module, "LIMIT", len(source.encode()) - 1)
    one = to_html(run_report)
    assert browsers(one) == 1
    assert one.count("was left out") == 1
    monkeypatch.setattr(module, "LIMIT", 1)
    assert browsers(to_html(run_report)) == 0


def test_run_with_settings_only_gets_a_page(run_report):
    bare = Stage("tumour-coarse", run_report.stages[0].settings, (), {})
    page = to_html(Report("Run x", [bare], missing={"evaluation": "run dualtask evaluate x"}))
    words = "".join(Reader(page).words)
    assert "run dualtask evaluate x" in words
    assert "optimiser.lr" in words
    assert "<img" not in page


def test_cases_are_listed_when_all_of_them_failed(run_report):
    page = to_html(replace(run_report, rows=(), summary={}, examples=(), doubts=None))
    evaluation = page[page.index('<section id="evaluation"') : page.index('<section id="examples"')]
    words = "".join(Reader(evaluation).words)
    assert "C_9" in words
    assert "damaged" in words
    assert "Mean over the cases" not in words
    assert "<img" not in evaluation


def test_each_stage_has_a_column_of_settings(run_report):
    other = replace(run_report.stages[0], name="pancreas-coarse")
    page = to_html(replace(run_report, stages=[other, *run_report.stages], examples=(), doubts=None))
    heads = re.findall(r'<th scope="col">(.*?)</th>', page)
    assert heads.count("pancreas-coarse") == 2  # settings, manifest
    assert "pancreas-coarse, tumour-coarse" in page  # the stages that used a case
