"""Axes of the figures: range and ticks are set here, so that they read well on a log scale of half a decade too."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from denoisezoo.report.columns import Kind, format_value
from denoisezoo.report.theme import GRID, MUTED

WIDE = 8.0  # values that span more than this ratio are drawn on a log scale


def finite(values: Iterable[Any], positive: bool = False) -> list[float]:
    """The finite numbers among `values`, or the finite and positive ones."""
    numbers = [v for v in values if isinstance(v, int | float) and math.isfinite(v)]
    return [v for v in numbers if v > 0 or not positive]


def prefers_log(values: Iterable[float | None]) -> bool:
    """Whether values are all positive and span so much that small ones would be lost on a linear scale."""
    known = finite(values)
    return bool(known) and min(known) > 0 and max(known) / min(known) > WIDE


def log_axis(title: str, values: Iterable[float | None], kind: Kind = "plain", pad: float = 0.12) -> dict[str, Any]:
    """A log axis over the positive values, its ticks at 1, 2, 5 (or 1 only, over many decades)."""
    known = finite(values, positive=True) or [1.0]
    low, high = math.log10(min(known)), math.log10(max(known))
    pad = max(pad * (high - low), 0.06)
    span = (low - pad, high + pad)
    ticks = _log_ticks(*span)
    texts = [_tick(tick, kind) for tick in ticks]
    return _axis(title) | {"type": "log", "range": list(span), "tickvals": ticks, "ticktext": texts}


def linear_axis(title: str, values: Iterable[float | None], zero: bool = True) -> dict[str, Any]:
    """A linear axis over the values, from zero unless a value is negative or `zero` is False."""
    known = finite(values) or [0.0, 1.0]
    low, high = min(known), max(known)
    pad = 0.08 * ((high - low) or abs(high) or 1.0)
    bottom = 0.0 if zero and low >= 0 else low - pad
    return _axis(title) | {"type": "linear", "range": [bottom, high + pad], "nticks": 6}


def value_axis(title: str, values: Iterable[float | None], kind: Kind = "plain", zero: bool = True) -> dict[str, Any]:
    """A log axis where the values span a lot, else a linear one, from zero if asked."""
    values = list(values)
    return log_axis(title, values, kind) if prefers_log(values) else linear_axis(title, values, zero)


def _axis(title: str) -> dict[str, Any]:
    return {
        "title": {"text": title, "standoff": 10},
        "gridcolor": GRID,
        "linecolor": MUTED,
        "tickcolor": MUTED,
        "ticks": "outside",
        "ticklen": 4,
        "showline": True,
        "zeroline": False,
        "automargin": True,
        "exponentformat": "SI",
    }


def _log_ticks(low: float, high: float) -> list[float]:
    """1-2-5 ticks while they are few, then decades, then every few decades; even steps over a narrow span."""
    decades = range(math.floor(low), math.ceil(high) + 1)
    stride = max(1, round((high - low) / 7))
    fine: Sequence[float] = [m * 10.0**d for d in decades for m in (1, 2, 5)]
    coarse = [10.0**d for d in decades if d % stride == 0]
    ticks = [tick for tick in (fine if high - low < 2.4 else coarse) if low <= math.log10(tick) <= high]
    return ticks if len(ticks) > 2 else _even_ticks(10.0**low, 10.0**high)


def _even_ticks(low: float, high: float) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten, at least three of them."""
    unit = 10.0 ** math.floor(math.log10((high - low) / 3))
    step = next(m * unit for m in (5, 2, 1) if m * unit <= (high - low) / 3)
    return [i * step for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _tick(value: float, kind: Kind) -> str:
    """A tick's short text: 200 M, 0.05, 1."""
    number, _, suffix = format_value(value, kind).partition(" ")
    number = number.rstrip("0").rstrip(".") if "." in number else number
    return f"{number} {suffix}".rstrip()
