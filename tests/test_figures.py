"""Pictures and tables of the documentation are those that follow from the library and from `results/`."""

import html
import importlib
import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
SHOWN = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", "\n".join(page.read_text() for page in PAGES))
NAMES = sorted({Path(target).stem for target in SHOWN if target.endswith(".svg")})
"""Of the pictures that pages show."""


@pytest.fixture(scope="module")
def drawing():
    """What draws pictures and makes tables."""
    sys.path.insert(0, str(DOCS))
    yield importlib.import_module("drawing")
    sys.path.remove(str(DOCS))


@pytest.fixture(scope="module")
def pictures(drawing):
    """What draws each picture."""
    for name in ("concepts", "jumps", "latents", "results"):
        importlib.import_module(f"drawing.{name}")
    return drawing.PICTURES


@pytest.fixture(scope="module")
def tables(drawing):
    """What makes the tables."""
    importlib.import_module("drawing.latents")
    return importlib.import_module("drawing.tables")


def kept(name):
    """What the picture in the tree says that it shows."""
    (text,) = re.findall(r"<dc:description>(.*?)</dc:description>", (DOCS / "images" / f"{name}.svg").read_text(), re.S)
    return json.loads(html.unescape(text))


def flat(shown):
    """Words and numbers of what is shown, in order."""
    if isinstance(shown, dict):
        shown = [part for key in sorted(shown) for part in (key, shown[key])]
    return [value for part in shown for value in flat(part)] if isinstance(shown, list) else [shown]


@pytest.mark.parametrize("name", NAMES)
def test_a_picture_is_true(name, drawing, pictures):
    figure = drawing.draw(name)
    found, expected = flat(drawing.shown(figure)), flat(kept(name))
    drawing.plt.close(figure)
    assert [value for value in found if isinstance(value, str)] == [v for v in expected if isinstance(v, str)]
    assert len(found) == len(expected)
    numbers = [(a, b) for a, b in zip(found, expected, strict=True) if not isinstance(a, str)]
    assert len(numbers) > 1
    # Training and exact denoisers differ in the last digits between machines, figures from results do not.
    assert [a for a, _ in numbers] == pytest.approx([b for _, b in numbers], rel=2e-2, abs=2e-3, nan_ok=True)


def test_what_a_picture_keeps_is_what_it_shows(drawing):
    figure, (left, right) = drawing.plt.subplots(1, 2)
    left.plot([1, 2], [3.00001, float("nan")])
    left.set(title="A < B", xlabel="t")
    right.bar([0], [2.5], width=1)
    right.imshow([[0.0, 1.0]])
    found = drawing.shown(figure)
    drawing.plt.close(figure)
    assert found[0]["words"] == ["A < B", "t", ""]
    assert str(found[0]["lines"]) == "[[[1.0, 2.0], [3.0, nan]]]"
    assert found[1]["bars"] == [[-0.5, 0.0, 1.0, 2.5]]
    assert found[1]["images"] == [[0.5, 0.5]]


def test_every_picture_is_shown_and_drawn(pictures):
    assert NAMES == sorted(pictures) == sorted(path.stem for path in (DOCS / "images").glob("*.svg"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_tables_follow_from_the_results(page, tables):
    text = page.read_text(encoding="utf-8")
    assert tables.filled(text) == text, "run make figures"
    assert text.count("<!-- table:") == len(tables.BLOCK.findall(text))


def test_every_table_is_on_a_page(tables):
    names = {name for page in PAGES for name in tables.BLOCK.findall(page.read_text())}
    assert names == set(tables.TABLES)


def test_a_table_that_is_wrong_is_put_right(tables):
    text = (DOCS / "results" / "digits.md").read_text()
    wrong = text.replace("1.21 ± 0.04", "0.21 ± 0.04")
    assert wrong != text == tables.filled(wrong)


@pytest.mark.parametrize("page", sorted((DOCS / "results").glob("*.md")), ids=lambda page: page.stem)
def test_pages_of_results_have_a_plot_beside_the_numbers(page):
    text = page.read_text()
    assert page.stem == "index" or ("<!-- table:" in text and ".svg)" in text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_ends_with_where_to_go_next(page):
    text = page.read_text().rstrip()
    end = text.rpartition("\n\n")[2]
    assert end.startswith("Next: ") or "\n## Where to go next\n" in text
    assert "](" in end
