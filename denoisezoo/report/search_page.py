"""The page of a search: effort against noise level, and quality against cost beside the efforts used uniformly."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from denoisezoo.files import write_text
from denoisezoo.plans import Plan
from denoisezoo.report.markup import Html, join, tag
from denoisezoo.report.study_page import BUTTONS, HEAD, graph_objects
from denoisezoo.search.loss_table import LossTable

COLUMNS = ("plan", "cost_share", "macs_per_image", "excess", "quality", "sampler", "segments")
EXCESS = "excess error of the final image"


def write_search(
    path: str | os.PathLike[str],
    table: LossTable,
    front: Sequence[Mapping[str, Any]],
    rows: Sequence[Mapping[str, Any]],
    *,
    quality: str | None,
    command: str,
    cost: str,
) -> None:
    """Write one self-contained page.

    Args:
        path: Where to write, atomically.
        table: The loss table.
        front: Rows of the exact front.
        rows: Rows of the plans chosen, of each effort by itself, and of what evolution found.
        quality: Name of the measured quality; None if nothing was sampled.
        command: What was typed.
        cost: What the budget limits.

    Raises:
        UserError: plotly is not installed, or the path cannot be written.
    """
    figures = [
        Figure(plan_traces(table, rows), "Effort by noise level", "sigma, noise relative to the image", "effort", True),
        Figure(loss_traces(table), "Loss of each effort above the full network's", "sigma", EXCESS, True),
        Figure(front_traces(front, rows), f"Predicted: {EXCESS}", f"share of full {cost}", "excess"),
    ]
    if quality:
        title = f"Measured: {quality} of samples"
        figures.append(Figure(quality_traces(rows), title, f"share of full {cost}", quality))
    drawn = [figure.draw(number == 0) for number, figure in enumerate(figures)]
    told = [tag("p", sentence) for sentence in sentences(rows, quality, cost)]
    page = join([tag("h1", "Plans"), *told, *drawn, plan_table(rows), tag("p", tag("code", command))])
    write_text(path, f"<!DOCTYPE html><html lang='en'><head>{HEAD}</head><body>{page}</body></html>")


@dataclass(frozen=True)
class Figure:
    """One plot.

    Attributes:
        traces: What is drawn, as plotly takes it.
        title: Heading.
        x: What the horizontal axis shows.
        y: What the vertical axis shows.
        by_noise: Whether the horizontal axis is a noise level: logarithmic, the noisiest at the left, as sampling goes.
    """

    traces: list[dict[str, Any]]
    title: str
    x: str
    y: str
    by_noise: bool = False

    def draw(self, first: bool) -> Html:
        """Markup of the plot; the first of a page brings the library along.

        Raises:
            UserError: plotly is not installed.
        """
        horizontal = {"type": "log", "autorange": "reversed"} if self.by_noise else {"rangemode": "tozero"}
        layout = {
            "title": self.title,
            "xaxis": {"title": self.x, **horizontal},
            "yaxis": {"title": self.y, "rangemode": "tozero"},
            "template": "plotly_white",
            "showlegend": True,
        }
        figure = graph_objects().Figure(self.traces, layout=layout)
        return Html(figure.to_html(include_plotlyjs=first, full_html=False, config=BUTTONS))


def sentences(rows: Sequence[Mapping[str, Any]], quality: str | None, cost: str) -> list[str]:
    """What was found at each budget, in words, beside the network used whole."""
    full = next((row for row in reversed(rows) if row["plan"].startswith("effort")), None)
    told, of = [], {"macs": "multiply-adds"}.get(cost, cost)
    for row in rows:
        if row.get("budget") is not None:
            text = f"Within {row['budget']:g} of the full network's {of}, {row['plan']} takes {row['cost_share']:.3f}"
            if quality and row.get("quality") is not None and full is not None and full.get("quality") is not None:
                text += f", and {quality} is {row['quality']:.3g}; the full network's is {full['quality']:.3g}"
            told.append(text + ".")
    return told


def plan_table(rows: Sequence[Mapping[str, Any]]) -> Html:
    """A row for each plan; a column that none of them has is left out."""
    columns = [key for key in COLUMNS if any(row.get(key) is not None for row in rows)]
    head = tag("tr", *(tag("th", key) for key in columns))
    return tag("table", head, *(tag("tr", *(tag("td", shown(row.get(key))) for key in columns)) for row in rows))


def sigma_of(log_snr: float) -> float | None:
    """Noise relative to the image; None where there is no signal, which has no place on the axis."""
    return math.exp(-log_snr / 2) if log_snr > -60 else None


def plan_traces(table: LossTable, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A line for each chosen plan."""
    traces = []
    for row in rows:
        if "budget" in row:
            plan = Plan.from_json(row["json"])
            effort = [plan.effort(level.log_snr) for level in table.levels]
            traces.append(line(f"{row['plan']} ({row['cost_share']:.2f} of the cost)", table, effort, "hvh"))
    return traces


def loss_traces(table: LossTable) -> list[dict[str, Any]]:
    """A line for each effort but the full one."""
    columns = enumerate(table.efforts[:-1])
    return [
        line(f"effort {effort:g}", table, [float(x) for x in table.excess[:, e]], "linear") for e, effort in columns
    ]


def line(name: str, table: LossTable, y: list[float], shape: str) -> dict[str, Any]:
    """Values at the levels of a table."""
    x = [sigma_of(level.log_snr) for level in table.levels]
    return {"type": "scatter", "mode": "lines+markers", "name": name, "x": x, "y": y, "line": {"shape": shape}}


def front_traces(front: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The exact front, and the efforts by themselves."""
    uniform = [row for row in rows if row["plan"].startswith("effort")]
    return [
        points("exact front", front, "excess", "lines"),
        points("one effort throughout", uniform, "excess", "lines+markers"),
    ]


def quality_traces(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What was measured, a line for each kind of plan."""
    known = [row for row in rows if row.get("quality") is not None]
    kinds = {
        "one effort throughout": [row for row in known if row["plan"].startswith("effort")],
        "exact": [row for row in known if row["plan"].startswith("exact")],
        "nsga2": [row for row in known if row["plan"] == "nsga2"],
    }
    return [points(name, found, "quality", "lines+markers") for name, found in kinds.items() if found]


def points(name: str, rows: Sequence[Mapping[str, Any]], y: str, mode: str) -> dict[str, Any]:
    """Rows in the order of their cost."""
    ordered = sorted(rows, key=lambda row: row["cost_share"])
    return {
        "type": "scatter",
        "mode": mode,
        "name": name,
        "x": [row["cost_share"] for row in ordered],
        "y": [row[y] for row in ordered],
        "text": [row["segments"] for row in ordered],
    }


def shown(value: Any) -> str:
    """A cell of the table."""
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
