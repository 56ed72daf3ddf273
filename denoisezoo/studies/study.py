"""What a study returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def titles_of(folders: Sequence[Path]) -> list[str]:
    """What tells folders apart: as few of their last parts as it takes, the same number for all."""
    most = max((len(folder.parts) for folder in folders), default=0)
    different, titles = len(set(folders)), [str(folder) for folder in folders]
    for n in range(1, most):
        short = ["/".join(folder.parts[-n:]) for folder in folders]
        if len(set(short)) == different:
            return short
    return titles


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
