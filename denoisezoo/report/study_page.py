"""The page of a study: its plots, its rows as a table, and the command that made it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from denoisezoo.errors import UserError
from denoisezoo.files import write_text
from denoisezoo.report.markup import Html, join, tag
from denoisezoo.studies.study import Plot

HEAD = """<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><style>
body{font:15px sans-serif;max-width:1000px;margin:auto;padding:1em} td,th{padding:.2em .8em;text-align:right}
</style>"""
BUTTONS = {"displaylogo": False, "modeBarButtons": [["toImage", "resetScale2d"]]}
"""Of a plot: as those of reports."""


def graph_objects() -> Any:
    """plotly's figures.

    Raises:
        UserError: plotly is not installed.
    """
    try:
        import plotly.graph_objects
    except ImportError:
        raise UserError("plotly is not installed", "pip install plotly, or take the rows alone") from None
    return plotly.graph_objects


def write_study(
    path: str | os.PathLike[str],
    title: str,
    rows: Sequence[Mapping[str, Any]],
    plots: Sequence[Plot],
    columns: Sequence[str],
    command: str,
) -> None:
    """Write one self-contained page.

    Args:
        path: Where to write, atomically.
        title: Its heading.
        rows: The rows of the study.
        plots: How to draw them.
        columns: Keys to show in the table.
        command: What was typed.

    Raises:
        UserError: plotly is not installed, or the path cannot be written.
    """
    go = graph_objects()
    drawn = []
    for number, plot in enumerate(plots):
        figure = go.Figure(traces(rows, plot), layout=layout(plot))
        drawn.append(Html(figure.to_html(include_plotlyjs=number == 0, full_html=False, config=BUTTONS)))
    head = tag("tr", *(tag("th", key) for key in columns))
    body = [tag("tr", *(tag("td", _shown(row.get(key))) for key in columns)) for row in rows]
    page = join([tag("h1", title), *drawn, tag("table", head, *body), tag("p", tag("code", command))])
    write_text(path, f"<!DOCTYPE html><html lang='en'><head>{HEAD}</head><body>{page}</body></html>")


def traces(rows: Sequence[Mapping[str, Any]], plot: Plot) -> list[dict[str, Any]]:
    """One line for each value of `plot.line`, its points in order of x; rows without both values are left out."""
    known = [row for row in rows if row.get(plot.x) is not None and row.get(plot.y) is not None]
    found = []
    for name in dict.fromkeys(str(row[plot.line]) for row in known):
        points = sorted((row for row in known if str(row[plot.line]) == name), key=lambda row: row[plot.x])
        found.append(
            {
                "type": "scatter",
                "name": name,
                "x": [row[plot.x] for row in points],
                "y": [row[plot.y] for row in points],
                "mode": "lines+markers+text" if plot.label else "lines+markers",
                "text": [str(row.get(plot.label) or "") for row in points] if plot.label else None,
                "textposition": "top center",
            }
        )
    return found


def layout(plot: Plot) -> dict[str, Any]:
    """Titles and axes."""
    return {
        "title": plot.title,
        "xaxis": {"title": plot.x, "type": "log" if plot.log_x else "linear"},
        "yaxis": {"title": plot.y, "type": "log" if plot.log_y else "linear"},
        "template": "plotly_white",
        "showlegend": True,
    }


def _shown(value: Any) -> str:
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
