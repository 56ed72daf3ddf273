"""How the pictures of the documentation look, and what each keeps of what it shows."""

from __future__ import annotations

import csv
import json
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("svg")
import matplotlib.pyplot as plt  # after the backend is chosen
from matplotlib.figure import Figure

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "docs" / "images"
COLOURS = ("#0072b2", "#d55e00", "#00876a", "#b5569a", "#a87400", "#3e97d1")  # after Okabe and Ito
MARKERS = "oDs^vPX"
WIDTH = 6.0
"""Inches, of text of 12 points: on a phone a picture shrinks to about 60 %, and can still be read."""
STYLE = {
    "svg.hashsalt": "denoisezoo",  # the same bytes each time
    "svg.fonttype": "none",
    "font.size": 12,
    "axes.titlesize": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": plt.cycler(color=COLOURS),
    "figure.constrained_layout.use": True,
    "image.cmap": "gray",
    "image.interpolation": "none",
}
DIGITS = 4
"""Significant digits of what a picture keeps; more differ between machines."""

PICTURES: dict[str, Callable[[], Figure]] = {}


def picture(draw: Callable[[], Figure]) -> Callable[[], Figure]:
    """Register what draws `docs/images/NAME.svg`."""
    PICTURES[draw.__name__] = draw
    return draw


def draw(name: str) -> Figure:
    """One picture in the common style."""
    with plt.rc_context(STYLE):
        return PICTURES[name]()


def save(name: str) -> None:
    """Write a picture on white, which dark pages show as a card; its description is `shown`."""
    figure = draw(name)
    IMAGES.mkdir(exist_ok=True)
    description = json.dumps(shown(figure), separators=(",", ":"))
    with plt.rc_context(STYLE):
        figure.savefig(IMAGES / f"{name}.svg", facecolor="white", metadata={"Date": None, "Description": description})
    plt.close(figure)


def shown(figure: Figure) -> list[dict[str, Any]]:
    """What each axis shows: its words, its lines and bars as numbers, and the mean and spread of its images.

    It does not depend on how matplotlib lays out, so that any version of it can tell whether a picture is true.
    """
    return [
        {
            "words": [axis.get_title(), axis.get_xlabel(), axis.get_ylabel()],
            "lines": [[_rounded(line.get_xdata()), _rounded(line.get_ydata())] for line in axis.lines],
            "bars": [_rounded([bar.get_x(), bar.get_y(), bar.get_width(), bar.get_height()]) for bar in axis.patches],
            "images": [_rounded([image.get_array().mean(), image.get_array().std()]) for image in axis.images],
        }
        for axis in figure.axes
    ]


def _rounded(values: Iterable[Any]) -> list[float]:
    return [float(f"{value:.{DIGITS}g}") for value in np.asarray(values, dtype=float).ravel()]


def rows_of(name: str) -> list[dict[str, str]]:
    """Rows of `results/NAME.csv`."""
    with (ROOT / "results" / f"{name}.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def grouped(rows: Iterable[dict[str, str]], *keys: str) -> dict[Any, list[dict[str, str]]]:
    """Rows by the value of a column, or by those of several."""
    found = defaultdict(list)
    for row in rows:
        found[row[keys[0]] if len(keys) == 1 else tuple(row[key] for key in keys)].append(row)
    return dict(found)


def mean_std(rows: Sequence[dict[str, str]], key: str) -> tuple[float, float]:
    """Mean and standard deviation of a column; of one row the deviation is 0."""
    values = [float(row[key]) for row in rows]
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0
