"""Write the report of a comparison: one HTML page that needs nothing else, and its numbers as CSV and JSON lines."""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path
from string import Template

from denoisezoo.compare.records import Comparison, save_comparison
from denoisezoo.files import write_text
from denoisezoo.report.markup import Html, join, tag, text
from denoisezoo.report.page import Page
from denoisezoo.report.rows import result_rows, write_csv, write_jsonl
from denoisezoo.report.sections import CSV_NAME, JSONL_NAME, all_sections, figure_data

REPORT_NAME = "report.html"


def write_report(comparison: Comparison, folder: str | os.PathLike[str]) -> Path:
    """Write `comparison.json`, `results.csv`, `results.jsonl` and `report.html` into `folder`, each atomically.

    Args:
        comparison: What was found; runs that failed and values that are missing or not finite are reported as such.
        folder: Where to write; relative paths of pictures are relative to it.

    Returns:
        The path of `report.html`.

    Raises:
        UserError: The folder cannot be written to.
    """
    folder = Path(folder)
    rows = result_rows(comparison)
    save_comparison(comparison, folder)
    write_csv(folder / CSV_NAME, rows)
    write_jsonl(folder / JSONL_NAME, rows)
    write_text(folder / REPORT_NAME, render(comparison, folder))
    return folder / REPORT_NAME


def render(comparison: Comparison, folder: str | os.PathLike[str] = ".") -> str:
    """The whole page as text."""
    library = plotly_js()
    page = Page(comparison, Path(folder), drawable=library is not None)
    sections = all_sections()
    body = (tag("section", tag("h2", heading), build(page), id=anchor) for anchor, heading, build in sections)
    figures = figure_data(page)
    return Template(resource("template.html")).substitute(
        title=text(comparison.title),
        facts=text(_summary_line(page)),
        navigation=join(tag("a", anchor.capitalize(), href=f"#{anchor}") for anchor, _, _ in sections),
        body=join(body),
        style=resource("style.css"),
        script=resource("script.js"),
        figures=figures,
        plotly=Html(library or "") if page.figures else "",
    )


def plotly_js() -> str | None:
    """The plotly.js library that plotly ships; None when plotly is not installed."""
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        return None
    return str(get_plotlyjs())


def _summary_line(page: Page) -> str:
    runs = page.comparison.runs
    families = len({run.family for run in runs})
    seeds = len({run.seed for run in runs})
    counts = ((len(page.entries), "denoiser"), (families, "family"), (seeds, "training seed"), (len(runs), "run"))
    parts = [f"{n} {word if n == 1 else word.replace('family', 'familie') + 's'}" for n, word in counts]
    return " · ".join([*parts, page.comparison.created]).rstrip(" ·")


def resource(name: str) -> str:
    """The text of a file that lies beside this one, such as the style of all pages."""
    return resources.files("denoisezoo.report").joinpath(name).read_text(encoding="utf-8")
