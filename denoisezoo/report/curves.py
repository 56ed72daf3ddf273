"""Figures of training and of the sampler's way: loss curves, loss by noise level, MACs per call, training speed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from denoisezoo.report.axes import finite, linear_axis, log_axis, value_axis
from denoisezoo.report.columns import column, format_spread, format_value
from denoisezoo.report.figures import Figure, Trace, base_layout, plotly_text
from denoisezoo.report.summary import Entry
from denoisezoo.report.theme import Style, styles

POINTS = 50  # of a smoothed curve: few enough to average the noise of single batches away

Rows = list[tuple[float, float]]


def training_figures(entries: Sequence[Entry]) -> list[Figure]:
    """All figures of this module that the records have data for."""
    builders: tuple[Callable[[Sequence[Entry]], Figure | None], ...] = (
        loss_curves,
        loss_by_noise,
        pixel_loss_by_noise,
        trajectory_costs,
        training_speed,
    )
    return [figure for build in builders if (figure := build(entries)) is not None]


def smoothed(curve: Iterable[tuple[float, float]], first: float, last: float, bins: int = POINTS) -> Rows:
    """Mean step and mean finite loss of each of `bins` equal spans from `first` to `last`; empty spans are left out."""
    sums: dict[int, list[tuple[float, float]]] = {}
    width = (last - first) / bins or 1.0
    for step, loss in curve:
        if math.isfinite(step) and math.isfinite(loss):
            sums.setdefault(min(bins - 1, int((step - first) / width)), []).append((step, loss))
    return [
        (math.fsum(s for s, _ in rows) / len(rows), math.fsum(v for _, v in rows) / len(rows))
        for _, rows in sorted(sums.items())
    ]


def loss_curves(entries: Sequence[Entry]) -> Figure | None:
    """Training loss over steps: one bold line per denoiser, its seeds faint."""
    drawn = [entry for entry in entries if any(run.loss_curve for run in entry.runs)]
    if not drawn:
        return None
    looks = styles(entries)
    steps = finite(step for entry in drawn for run in entry.runs for step, _ in run.loss_curve)
    first, last = min(steps, default=0.0), max(steps, default=1.0)
    data: list[Trace] = []
    for entry in drawn:
        curves = [smoothed(run.loss_curve, first, last) for run in entry.runs if run.loss_curve]
        if len(curves) > 1:
            data += [_line(entry, looks[entry.name], curve, faint=True) for curve in curves]
        data.append(_line(entry, looks[entry.name], smoothed([row for c in curves for row in c], first, last)))
    losses = [y for trace in data for y in trace["y"]]
    axes = linear_axis("Training step", [first, last]), value_axis("Training loss (lower is better)", losses)
    caption = (
        f"Mean loss in spans of 1/{POINTS} of the run; bold: mean over seeds, faint: each seed. Losses compare only "
        "between denoisers of the same objective and process."
    )
    return Figure("loss", "Training loss", caption, data, _with_ends(data, *axes))


def loss_by_noise(entries: Sequence[Entry]) -> Figure | None:
    """Mean loss in each bin of log-SNR: at which noise levels a denoiser is good."""
    drawn = [entry for entry in entries if any(run.loss_by_noise for run in entry.runs)]
    if not drawn:
        return None
    looks = styles(entries)
    data = [
        _line(entry, looks[entry.name], _noise_bins(run.loss_by_noise for run in entry.runs), marked=True)
        for entry in drawn
    ]
    x, y = ([value for trace in data for value in trace[axis]] for axis in "xy")
    axes = linear_axis("← noise · log-SNR · image →", x, zero=False), value_axis("Mean loss (lower is better)", y)
    caption = (
        "Mean loss within each bin of log-SNR, drawn at the middle of the bin, mean over seeds. Left: almost pure "
        "noise. Right: almost the image. Losses compare only between denoisers of the same objective and process."
    )
    return Figure("noise", "Loss by noise level", caption, data, _with_ends(data, *axes))


def pixel_loss_by_noise(entries: Sequence[Entry]) -> Figure | None:
    """The same in pixels, where some denoise latents: those of pixels have one error for both."""
    if not any(run.pixel_loss_by_noise for entry in entries for run in entry.runs):
        return None
    looks = styles(entries)
    bins = {
        entry.name: _noise_bins(run.pixel_loss_by_noise or run.loss_by_noise for run in entry.runs) for entry in entries
    }
    data = [_line(entry, looks[entry.name], bins[entry.name], marked=True) for entry in entries if bins[entry.name]]
    x, y = ([value for trace in data for value in trace[axis]] for axis in "xy")
    axes = linear_axis("← noise · log-SNR · image →", x, zero=False), value_axis("Mean squared error in pixels", y)
    caption = (
        "What is predicted at each log-SNR, decoded and compared with the image in [-1, 1]: what a codec loses is part "
        "of it. The log-SNR is that of the latents, of which each denoiser has its own."
    )
    return Figure("noise_pixels", "Denoising error in pixels", caption, data, _with_ends(data, *axes))


def trajectory_costs(entries: Sequence[Entry]) -> Figure | None:
    """MACs of each call of the denoiser along the sampler's way from noise to image."""
    looks = styles(entries)
    data = [_calls(entry, looks[entry.name]) for entry in entries]
    data = [trace for trace in data if trace["x"]]
    if not data:
        return None
    x, y = ([value for trace in data for value in trace[axis]] for axis in "xy")
    x_axis = log_axis("← noise · σ of the call · image →", x)
    x_axis["range"] = x_axis["range"][::-1]
    known = column("macs_per_call")
    y_axis = value_axis(known.heading, y, known.kind)
    caption = (
        "One mark per call of the denoiser, of the first seed. σ is that of the denoiser's own process. The sum over "
        "a line is its MACs per image, without those of an encoder or decoder of latents."
    )
    return Figure(
        "trajectory", "MACs per call along the sampler's way", caption, data, _with_ends(data, x_axis, y_axis)
    )


def training_speed(entries: Sequence[Entry]) -> Figure | None:
    """Bars of training images per second."""
    known = column("images_per_s_training")
    drawn = [entry for entry in reversed(entries) if entry.mean(known.key) is not None]
    if not drawn:
        return None
    looks, stats = styles(entries), [entry.stat(known.key) for entry in drawn]
    bars: Trace = {
        "type": "bar",
        "orientation": "h",
        "y": [plotly_text(entry.name) for entry in drawn],
        "x": [stat.mean for stat in stats if stat],
        "text": [format_spread(stat.mean, stat.std, known.kind) for stat in stats if stat],
        "textposition": "outside",
        "cliponaxis": False,
        "marker": {"color": [looks[entry.name].colour for entry in drawn]},
        "hoverinfo": "y+text",
        "showlegend": False,
    }
    axis = linear_axis(known.heading, bars["x"])
    axis["range"][1] *= 1.25  # room for the numbers at the ends
    names = {"type": "category", "automargin": True, "ticks": "", "fixedrange": True}
    layout = base_layout(axis, names) | {"bargap": 0.35, "showlegend": False, "meta": {"bars": len(drawn)}}
    return Figure(
        "speed",
        "Training speed",
        f"Images per second during training, mean over seeds; {known.direction}.",
        [bars],
        layout,
    )


def _with_ends(data: Iterable[Trace], x_axis: dict[str, Any], y_axis: dict[str, Any]) -> dict[str, Any]:
    """A layout whose lines are labelled at their ends."""
    named = [trace for trace in data if trace["showlegend"]]
    ends = [
        {"x": trace["x"][-1], "y": trace["y"][-1], "text": trace["name"], "colour": trace["line"]["color"]}
        for trace in named
        if trace["y"]
    ]
    return base_layout(x_axis, y_axis) | {"meta": {"ends": ends}}


def _line(entry: Entry, style: Style, rows: Rows, faint: bool = False, marked: bool = False) -> Trace:
    return {
        "type": "scatter",
        "name": plotly_text(entry.name),
        "legendgroup": plotly_text(entry.name),
        "x": [x for x, _ in rows],
        "y": [y for _, y in rows],
        "mode": "lines+markers" if marked else "lines",
        "line": {"color": style.colour, "dash": style.dash, "width": 1 if faint else 2.2},
        "marker": {"symbol": style.shape, "size": 8, "color": style.colour},
        "opacity": 0.3 if faint else 1,
        "showlegend": not faint,
        **({"hoverinfo": "skip"} if faint else {}),
    }


def _noise_bins(curves: Iterable[list[tuple[float, float, float, float]]]) -> Rows:
    """Middle of each bin and its loss, the mean over all runs' samples; bins without a sample are left out."""
    bins: dict[tuple[float, float], list[tuple[float, float]]] = {}
    for curve in curves:
        for low, high, loss, count in curve:
            if math.isfinite(loss) and count > 0 and math.isfinite(low + high):
                bins.setdefault((round(low, 6), round(high, 6)), []).append((loss, count))
    return [
        ((low + high) / 2, sum(loss * count for loss, count in rows) / sum(count for _, count in rows))
        for (low, high), rows in sorted(bins.items())
    ]


def _calls(entry: Entry, style: Style) -> Trace:
    """One mark per call that has MACs and a positive sigma."""
    calls = next((run.trajectory for run in entry.runs if run.trajectory), [])
    calls = [call for call in calls if finite([call.get("sigma")], positive=True) and finite([call.get("macs")])]
    trace = _line(entry, style, [(call["sigma"], call["macs"]) for call in calls], marked=True)
    trace["marker"]["size"] = 5
    return trace | {"hoverinfo": "text", "hovertext": [_call_text(entry.name, call) for call in calls]}


def _call_text(name: str, call: dict[str, Any]) -> str:
    lines = [f"<b>{plotly_text(name)}</b>"]
    for key, value in call.items():
        known = isinstance(value, int | float)
        text = format_value(value, "count" if key == "macs" else "plain") if known else str(value)
        lines.append(plotly_text(f"{key.replace('_', ' ')}: {text}"))
    return "<br>".join(lines)
