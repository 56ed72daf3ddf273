"""Figures as plain Plotly specifications (data and layout): built without Plotly, drawn by plotly.js in the page.

A label beside a point is placed by `script.js`, which knows how wide the page is: `layout.meta.labels` lists labels of
points, `layout.meta.ends` those of lines.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from denoisezoo.compare.records import Comparison
from denoisezoo.report.axes import finite, log_axis, value_axis
from denoisezoo.report.columns import column, format_spread, format_value
from denoisezoo.report.summary import Entry, floor_of, front_of, shown_keys, value_of
from denoisezoo.report.theme import INK, MUTED, SURFACE, Style, styles

Trace = dict[str, Any]
COSTS = {"macs_per_image": "MACs per image", "latency_ms_per_image": "latency per image", "params": "parameters"}


@dataclass(frozen=True)
class Figure:
    """One figure: where it stands in the page, its heading, a caption, and what plotly.js draws."""

    key: str
    title: str
    caption: str
    data: list[Trace]
    layout: dict[str, Any] = field(default_factory=dict)


def pareto_figures(comparison: Comparison, entries: Sequence[Entry]) -> list[Figure]:
    """Quality against MACs per image, latency per image and parameters, each where it was measured."""
    figures = (pareto(comparison, entries, cost) for cost in COSTS)
    return [figure for figure in figures if figure is not None]


def pareto(comparison: Comparison, entries: Sequence[Entry], cost: str) -> Figure | None:
    """Quality against one cost: means with error bars, seeds as faint dots, the front as steps, the floor dashed."""
    quality, looks = comparison.quality, styles(entries)
    drawn = [e for e in entries if e.mean(quality) is not None and (e.mean(cost) or 0.0) > 0]
    if not drawn:
        return None
    priced, judged = column(cost), column(quality)
    x_axis = log_axis(priced.heading, _reach(drawn, cost), priced.kind)
    y_axis = value_axis(
        f"{judged.label} ({judged.direction or 'no direction'})", _heights(drawn, comparison), zero=False
    )
    families = sorted({entry.family for entry in drawn})
    groups = [[entry for entry in drawn if entry.family == family] for family in families]
    front = front_of(drawn, cost, quality)
    data = [
        *_floor(floor_of(comparison), x_axis),
        _front(front, cost, quality, x_axis, y_axis),
        *(_seed_dots(group, cost, quality, looks[group[0].name]) for group in groups),
        *(_means(group, cost, comparison, looks[group[0].name]) for group in groups),
    ]
    labels = [_label(entry, cost, quality, looks[entry.name]) for entry in sorted(drawn, key=lambda e: e not in front)]
    layout = base_layout(x_axis, y_axis) | {"meta": {"labels": labels}}
    return Figure(
        f"pareto-{cost}",
        f"Quality against {COSTS[cost]}",
        "",
        data,
        layout,
    )


def base_layout(x_axis: dict[str, Any], y_axis: dict[str, Any]) -> dict[str, Any]:
    """The layout that all figures share."""
    return {
        "xaxis": x_axis,
        "yaxis": y_axis,
        "autosize": True,
        "margin": {"l": 12, "r": 14, "t": 34, "b": 12},
        "font": {"color": INK, "size": 13},
        "paper_bgcolor": SURFACE,
        "plot_bgcolor": SURFACE,
        "hovermode": "closest",
        "hoverlabel": {"align": "left", "bgcolor": SURFACE, "bordercolor": MUTED, "font": {"color": INK}},
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "font": {"size": 12}},
        "showlegend": True,
    }


def plotly_text(text: object) -> str:
    """Text for a figure: plotly.js reads a few HTML tags, so those of a name must not count."""
    return escape(str(text), quote=False)


def hover(entry: Entry, keys: Sequence[str]) -> str:
    """All that is known of a denoiser, a line each; then the first of `keys` for each seed."""
    lines = [f"<b>{plotly_text(entry.name)}</b>", plotly_text(f"{entry.first.denoiser} · family {entry.family}")]
    for key in keys:
        stat, known = entry.stat(key), column(key)
        if stat is not None:
            unit = f" {known.unit}" if known.unit and known.unit not in known.label else ""
            lines.append(plotly_text(f"{known.label}: {format_spread(stat.mean, stat.std, known.kind)}{unit}"))
    return "<br>".join([*lines, *_seed_lines(entry, keys[0] if keys else "")])


def _seed_lines(entry: Entry, key: str) -> list[str]:
    """The value of each seed, where there are several."""
    stat = entry.stat(key)
    if stat is None or len(stat.values) == 1:
        return [f"seed {seed}" for seed in entry.seeds[:1]]
    return [f"seed {seed}: {format_value(value)}" for seed, value in zip(stat.seeds, stat.values, strict=True)]


def _reach(drawn: Iterable[Entry], key: str) -> list[float]:
    """The values of all seeds: what an axis must span."""
    return [value for entry in drawn if (stat := entry.stat(key)) for value in stat.values]


def _heights(drawn: Sequence[Entry], comparison: Comparison) -> list[float]:
    """What the quality axis must span: seeds, error bars, and the floor."""
    stats = [stat for entry in drawn if (stat := entry.stat(comparison.quality))]
    bars = [stat.mean + sign * (stat.std or 0.0) for stat in stats for sign in (-1, 1)]
    seeds = _reach(drawn, comparison.quality)
    positive = min(seeds) > 0  # an error bar below zero must not turn a log axis into a linear one
    return seeds + [bar for bar in bars if bar > 0 or not positive] + finite([floor_of(comparison)], positive)


def _front(front: Sequence[Entry], cost: str, quality: str, x_axis: dict[str, Any], y_axis: dict[str, Any]) -> Trace:
    """Steps through the front, drawn on to the edges: left of it nothing was found, right of it nothing better."""
    edge = 10.0 ** x_axis["range"][1]
    worst = 0 if column(quality).better == "high" else 1
    top = 10.0 ** y_axis["range"][worst] if y_axis["type"] == "log" else y_axis["range"][worst]
    x = [entry.mean(cost) for entry in front]
    y = [entry.mean(quality) for entry in front]
    line = {"color": MUTED, "width": 1.5, "shape": "hv"}
    return _trace("Pareto front", [x[0], *x, edge], [top, *y, y[-1]], mode="lines", line=line, hoverinfo="skip")


def _seed_dots(group: Sequence[Entry], cost: str, quality: str, style: Style) -> Trace:
    runs = [run for entry in group if len(entry.runs) > 1 for run in entry.runs]
    points = [(x, y) for run in runs if (x := value_of(run, cost)) and (y := value_of(run, quality)) is not None]
    return _trace(
        "single seeds",
        [x for x, _ in points],
        [y for _, y in points],
        mode="markers",
        marker={"symbol": style.shape, "color": style.colour, "size": 6},
        opacity=0.4,
        showlegend=False,
        hoverinfo="skip",  # seeds lie under their mean, whose text tells of each
    )


def _means(group: Sequence[Entry], cost: str, comparison: Comparison, style: Style) -> Trace:
    keys = shown_keys(comparison)
    outline = {"color": SURFACE, "width": 1.5}
    return _trace(
        plotly_text(group[0].family),
        [entry.mean(cost) for entry in group],
        [entry.mean(comparison.quality) for entry in group],
        mode="markers",
        marker={"symbol": style.shape, "color": style.colour, "size": 12, "opacity": 1, "line": outline},
        error_x=_error_bar(group, cost, style),
        error_y=_error_bar(group, comparison.quality, style),
        hoverinfo="text",
        hovertext=[hover(entry, keys) for entry in group],
    )


def _error_bar(group: Sequence[Entry], key: str, style: Style) -> dict[str, Any]:
    spread = [(stat.std or 0.0) if (stat := entry.stat(key)) else 0.0 for entry in group]
    return {
        "type": "data",
        "array": spread,
        "visible": any(spread),
        "color": style.colour,
        "thickness": 1.5,
        "width": 4,
    }


def _floor(floor: float | None, x_axis: dict[str, Any]) -> list[Trace]:
    """The dashed line of what two halves of the real images score."""
    if floor is None:
        return []
    edges = [10.0**edge for edge in x_axis["range"]]
    line = {"color": INK, "width": 1.2, "dash": "dash"}
    name = f"floor {format_value(floor)}"
    return [_trace(name, edges, [floor, floor], mode="lines", line=line, hoverinfo="name")]


def _label(entry: Entry, cost: str, quality: str, style: Style) -> dict[str, Any]:
    return {
        "x": entry.mean(cost),
        "y": entry.mean(quality),
        "text": plotly_text(entry.name),
        "colour": style.colour,
    }


def _trace(name: str, x: Sequence[Any], y: Sequence[Any], **more: Any) -> Trace:
    return {"type": "scatter", "name": name, "x": list(x), "y": list(y), **more}
