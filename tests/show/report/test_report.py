"""The page of a run: whole, escaped, small enough, and honest about what is not there."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from dualtask_lite.show.report import page as module
from dualtask_lite.show.report.page import Report, Stage


class Reader(HTMLParser):
    """Collects what a page is made of."""

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
    return run_report.to_html()


@pytest.fixture(scope="module")
def read(source):
    return Reader(source)


def test_it_asks_for_nothing_from_anywhere(read):
    urls = [a[name] for _, a in read.tags for name in ("src", "href", "srcset", "action") if a.get(name)]
    assert all(url.startswith(("data:", "#")) for url in urls)
    policy = next(a["content"] for a in read.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")


def test_what_comes_from_data_is_text(read, source):
    assert '<script>alert("x")' not in source
    assert "".join(read.words).count('<script>alert("x")</script>&') > 5


def test_every_picture_has_words(read):
    pictures = read.all("img")
    assert len(pictures) == 2 * 3 + 1 + 2 + 1  # of each example two and a slice; scores; two on warnings; curves
    assert all(len(picture["alt"]) > 20 for picture in pictures)


def test_its_contents_lead_to_its_sections(read):
    links = [a["href"] for a in read.all("a")]
    assert links == [f"#{section['id']}" for section in read.all("section")]
    assert len({a["id"] for _, a in read.tags if "id" in a}) == len([a for _, a in read.tags if "id" in a])


@pytest.mark.parametrize(
    "told",
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
def test_it_tells(read, told):
    assert told in "".join(read.words)


def test_an_undefined_metric_is_a_dash_and_no_zero(read):
    assert "HD95 (mm) -" in "".join(read.words)


def test_slice_browsers_are_left_out_until_it_is_small_enough(run_report, source, monkeypatch):
    def browsers(page):
        return page.count('<figure class="dualtask-slices"')

    assert browsers(source) == 2
    monkeypatch.setattr(module, "LIMIT", len(source.encode()) - 1)
    one = run_report.to_html()
    assert browsers(one) == 1
    assert one.count("was left out") == 1
    monkeypatch.setattr(module, "LIMIT", 1)
    assert browsers(run_report.to_html()) == 0


def test_a_run_of_which_only_settings_are_known_still_gets_a_page(run_report):
    bare = Stage("tumour-coarse", run_report.stages[0].settings, (), {})
    page = Report("Run x", [bare], missing={"evaluation": "run dualtask evaluate x"}).to_html()
    words = "".join(Reader(page).words)
    assert "run dualtask evaluate x" in words
    assert "optimiser.lr" in words
    assert "<img" not in page


def test_a_cascade_has_a_column_of_settings_for_each_stage(run_report):
    other = replace(run_report.stages[0], name="pancreas-coarse")
    page = replace(run_report, stages=[other, *run_report.stages], examples=(), doubts=None).to_html()
    heads = re.findall(r'<th scope="col">(.*?)</th>', page)
    assert heads.count("pancreas-coarse") == 2  # settings, manifest
    assert "pancreas-coarse, tumour-coarse" in page  # who saw a case
