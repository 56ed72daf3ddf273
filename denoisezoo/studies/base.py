"""What a study returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]


@dataclass(frozen=True)
class Plot:
    """How to draw the rows of a study: one line for each value of `line`.

    Attributes:
        title: What it shows.
        x: Key of the horizontal axis.
        y: Key of the vertical axis.
        line: Key whose values tell the lines apart.
        label: Key of the text beside a point, e.g. the number of steps; "" for none.
        log_x: Whether x has a logarithmic axis.
        log_y: Whether y has.
    """

    title: str
    x: str
    y: str
    line: str
    label: str = ""
    log_x: bool = False
    log_y: bool = False


@dataclass(frozen=True)
class Study:
    """Rows of a study, and its plots."""

    rows: Sequence[Row]
    plots: Sequence[Plot]
