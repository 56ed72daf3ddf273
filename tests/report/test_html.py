"""The page: well-formed, self-contained, safe against hostile names, and right when data are missing."""

from __future__ import annotations

import json
import math
import os
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from denoisezoo.errors import UserError
from denoisezoo.report import Comparison, RunRecord, load_comparison
from denoisezoo.report import html as html_module
from denoisezoo.report.html import render, write_report
from denoisezoo.report.markup import said, tag
from denoisezoo.report.sections import all_sections
from tests.report.fixtures import comparison, png
from tests.report.test_summary import run

VOID = {"meta", "img", "br", "link", "input", "hr"}
HOSTILE = "</script><script>alert(1)</script>\"'><img src=x onerror=alert(2)>&amp;$title"


class Page(HTMLParser):
    """Tags, attributes and text of a page; complains of a tag that does not close."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.text, self.scripts, self.wrong = [], [], [], [], []
        self.feed(text)
        self.close()
        self.wrong += self.open

    def handle_starttag(self, name, attributes):
        self.tags.append((name, dict(attributes)))
        if name not in VOID:
            self.open.append(name)

    def handle_endtag(self, name):
        if not self.open or self.open.pop() != name:
            self.wrong.append(f"/{name}")

    def handle_data(self, data):
        inside = self.open[-1] if self.open else ""
        (self.scripts if inside == "script" else self.text).append(data)

    @property
    def words(self):
        return " ".join(" ".join(self.text).split())

    def every(self, name):
        return [attributes for found, attributes in self.tags if found == name]


@pytest.fixture(autouse=True)
def small_library(request, monkeypatch):
    """Most tests need no 5 MB of plotly.js; those that do ask for `real_plotly`."""
    if "real_plotly" not in request.fixturenames:
        monkeypatch.setattr(html_module, "plotly_js", lambda: "window.Plotly = {};")


@pytest.fixture
def real_plotly():
    pytest.importorskip("plotly")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("report")


@pytest.fixture(scope="module")
def whole(folder):
    return comparison(folder)


def test_page_is_well_formed_and_has_every_section(whole, folder):
    page = Page(render(whole, folder))
    assert page.wrong == []
    assert [section["id"] for section in page.every("section")] == [anchor for anchor, _, _ in all_sections()]
    links = [a["href"] for a in page.every("a")]
    assert {f"#{anchor}" for anchor, _, _ in all_sections()} <= set(links)
    assert {"results.csv", "results.jsonl", "comparison.json"} <= set(links)
    identifiers = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))


def test_page_needs_nothing_else(whole, folder, real_plotly):
    text = render(whole, folder)
    page = Page(text)
    for name, attributes in page.tags:
        source = attributes.get("src")
        assert source is None or source.startswith("data:image/png;base64,"), (name, source)
        assert not attributes.get("href", "").startswith(("http", "//", "file"))
        assert name not in {"link", "iframe", "object", "base"}
    assert "url(" not in text[: text.index("</style>")]
    assert "default-src 'none'" in page.every("meta")[3]["content"]
    assert "plotly.js" in text
    assert len(text.encode()) < 7e6


def test_every_figure_has_its_place_and_its_data(whole, folder):
    page = Page(render(whole, folder))
    figures = json.loads(page.scripts[0])
    places = [attributes["id"] for attributes in page.every("div") if attributes.get("class") == "plot"]
    assert sorted(places) == sorted(figures)
    assert len(places) == 7


def test_words_state_units_command_and_meaning(whole, folder):
    words = Page(render(whole, folder)).words
    for expected in (
        "1 MAC = 1 multiply-add, and FLOPs = 2 × MACs",
        "This is not FID",
        "lower is better",
        whole.command,
        whole.runs[0].command,
        "Latency per image (ms)",
        "images_generated".replace("_", "."),
        "64,000",
        "Memorised share is the share of samples",
    ):
        assert expected in words


def test_table_marks_the_best_and_is_sortable(whole, folder):
    text = render(whole, folder)
    heads = [head for head in Page(text).every("th") if "aria-sort" in head]
    assert len(heads) > 10
    table = re.search(r'<table class="sortable">.*?</table>', text, re.S).group()
    rows = re.findall(r"<tr>.*?</tr>", table, re.S)
    assert len(rows) == 1 + 5
    fd = [re.findall(r"<td class=\"(number[^\"]*)\" data-v=\"([^\"]*)\"", row)[0] for row in rows[1:]]
    values = [float(value) for _, value in fd]
    assert values == sorted(values)
    assert [kind for kind, _ in fd] == ["number best"] + ["number"] * 4


def test_hostile_names_stay_text(whole, folder):
    runs = [
        replace(
            r, name=f"{HOSTILE}{r.name}", denoiser=HOSTILE, family=HOSTILE, command=HOSTILE, card={HOSTILE: HOSTILE}
        )
        for r in whole.runs
    ]
    runs.append(RunRecord(HOSTILE, HOSTILE, HOSTILE, HOSTILE, 9, error=HOSTILE))
    hostile = replace(whole, title=HOSTILE, command=HOSTILE, runs=runs, notes=[HOSTILE], data={HOSTILE: HOSTILE})
    page = Page(render(hostile, folder))
    assert page.wrong == []
    assert len(page.every("script")) == 3
    assert not any(key.startswith("on") for _, attributes in page.tags for key in attributes)
    assert {image["src"][:5] for image in page.every("img")} == {"data:"}
    assert HOSTILE in page.words
    json.loads(page.scripts[0])


def test_write_report_writes_all_files_and_can_be_rebuilt(whole, folder, tmp_path):
    path = write_report(whole, tmp_path)
    assert path == tmp_path / "report.html"
    names = ["comparison.json", "report.html", "results.csv", "results.jsonl"]
    assert sorted(p.name for p in tmp_path.iterdir()) == names
    first = path.read_text(encoding="utf-8")
    write_report(load_comparison(tmp_path), tmp_path)
    assert path.read_text(encoding="utf-8") == first
    assert len((tmp_path / "results.csv").read_text().splitlines()) == 1 + 15


def test_report_moves_with_its_folder(tmp_path):
    found = comparison(tmp_path / ".", seeds=(0,), models=1)
    path = write_report(found, tmp_path)
    before = path.read_text(encoding="utf-8")
    moved = tmp_path.with_name(f"{tmp_path.name}-moved")
    tmp_path.rename(moved)
    assert render(load_comparison(moved), moved) == before
    assert before.count("data:image/png;base64,") == 3


@pytest.mark.parametrize(
    "runs",
    [
        [],
        [run("a")],
        [run("a", error="boom")],
        [run("a", fd_pixels=math.nan), run("b", fd_pixels=math.inf, macs_per_image=3)],
        [run("a", fd_pixels=1.0, macs_per_image=3), run("b", error="boom")],
        [run("a", fd_pixels=1.0, latency_ms_per_image=3.0), run("a", 1, fd_pixels=0.0, latency_ms_per_image=2.0)],
        [replace(run("a", fd_pixels=1.0), samples="nowhere.png", trajectory=[{}], loss_curve=[(0, math.nan)])],
        [replace(run("a", fd_pixels=1.0), loss_curve=[(3, 0.5)], loss_by_noise=[(0, 1, 0.0, 1)])],
    ],
    ids=["none", "bare", "failed", "nothing finite", "one failed", "zero", "no pictures", "one point"],
)
def test_partial_comparisons_give_a_whole_page(runs, tmp_path):
    text = write_report(Comparison("title", "command", runs), tmp_path).read_text(encoding="utf-8")
    page = Page(text)
    assert page.wrong == []
    assert len(page.every("section")) == len(all_sections())
    assert not re.search(r"\b(nan|inf|None)\b", page.words)
    json.loads(page.scripts[0])


def test_failed_run_is_told_with_its_reason(whole, folder):
    failed = replace(whole.runs[0], error="the loss is NaN at step 120")
    words = Page(render(replace(whole, runs=[failed, *whole.runs[1:]]), folder)).words
    assert f"{failed.name}, seed 0, failed: the loss is NaN at step 120" in words


def test_without_plotly_only_the_figures_are_missing(whole, folder, monkeypatch, real_plotly):
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    page = Page(render(whole, folder))
    assert "The interactive figures are missing because plotly is not installed" in page.words
    assert json.loads(page.scripts[0]) == {}
    assert len(page.every("img")) == 11
    assert len(page.every("details")) == 5
    assert "Which one for your budget?" in page.words


def test_grids_of_other_sizes_are_noted(whole, folder):
    png(folder / "large.png", 1, size=256)
    odd = replace(whole, real=str(folder / "large.png"))
    assert "The grids differ in size" in Page(render(odd, folder)).words
    assert "The grids differ in size" not in Page(render(whole, folder)).words


def test_a_picture_that_is_not_a_png_is_left_out(whole, folder):
    (folder / "fake.png").write_bytes(b"<svg onload=alert(1)>" * 9)
    page = Page(render(replace(whole, real="fake.png"), folder))
    assert "The grid of real images is missing." in page.words


def test_metric_that_is_not_a_frechet_distance_is_not_explained_as_one(folder):
    words = Page(render(Comparison("t", "c", [run("a", precision=0.5)], quality="precision"), folder)).words
    assert "FID" not in words


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_write_permission_is_the_users_error(whole, tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="cannot write"):
        write_report(whole, tmp_path / "report")


def test_a_file_in_place_of_the_folder_is_the_users_error(whole, tmp_path):
    (tmp_path / "report").write_text("here already")
    with pytest.raises(UserError, match="cannot write"):
        write_report(whole, tmp_path / "report")
    assert (tmp_path / "report").read_text() == "here already"


def test_tag_escapes_text_and_attributes():
    assert (
        tag("b", "<i>", tag("i", "&"), title='"x"', lang=None) == '<b title="&quot;x&quot;">&lt;i&gt;<i>&amp;</i></b>'
    )


@pytest.mark.parametrize(
    ("value", "words"), [(True, "yes"), (None, "–"), (1234567, "1,234,567"), (0.25, "0.25"), ("x", "x"), (2024, "2024")]
)
def test_values_are_said_as_words(value, words):
    assert said(value) == words
