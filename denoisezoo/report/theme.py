"""Colour and marker shape of each family: a colour-blind-safe palette, and a shape for those who see no colour.

Colours are names of CSS variables, so that one page serves light, dark and print; `script.js` puts in their values.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from denoisezoo.report.summary import Entry

INK, MUTED, GRID, SURFACE = "var(--ink)", "var(--muted)", "var(--grid)", "var(--surface)"
COLOURS = 7  # --f0 ... --f6 of style.css, after Okabe and Ito without its yellow, which is too pale for a white page
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")

# Plotly's name of a shape, and the same shape as an SVG path in a box of 12 x 12. As 8 shapes and 7 colours have no
# common divisor, the first 56 families differ in the pair.
SHAPES = (
    ("circle", "M11 6A5 5 0 1 1 1 6A5 5 0 1 1 11 6Z"),
    ("diamond", "M6 0L12 6L6 12L0 6Z"),
    ("square", "M1.5 1.5H10.5V10.5H1.5Z"),
    ("triangle-up", "M6 .5L12 11H0Z"),
    ("cross", "M4 0H8V4H12V8H8V12H4V8H0V4H4Z"),
    ("triangle-down", "M0 1H12L6 11.5Z"),
    ("hexagon", "M6 0L11.2 3V9L6 12L.8 9V3Z"),
    ("star", "M6 0L7.6 4.2L12 4.5L8.6 7.2L9.7 11.5L6 9.1L2.3 11.5L3.4 7.2L0 4.5L4.4 4.2Z"),
)


@dataclass(frozen=True)
class Style:
    """How one denoiser is drawn: colour and shape are its family's, the dash is its own within the family."""

    colour: str
    shape: str
    path: str
    dash: str = DASHES[0]


def styles(entries: Iterable[Entry]) -> dict[str, Style]:
    """The style of each denoiser by name. Families take colours by name, so that ranks do not change them."""
    entries = list(entries)
    result = {}
    for index, family in enumerate(sorted({entry.family for entry in entries})):
        (shape, path), colour = SHAPES[index % len(SHAPES)], f"var(--f{index % COLOURS})"
        members = sorted(entry.name for entry in entries if entry.family == family)
        for place, name in enumerate(members):
            result[name] = Style(colour, shape, path, DASHES[place % len(DASHES)])
    return result
