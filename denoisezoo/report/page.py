"""What the sections of the page draw from: the comparison, its folder, its figures and its pictures."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from denoisezoo.compare.records import Comparison, RunRecord, locate
from denoisezoo.report.columns import column, format_value
from denoisezoo.report.curves import training_figures
from denoisezoo.report.figures import Figure, pareto_figures
from denoisezoo.report.markup import Html, Png, join, named, read_png, tag
from denoisezoo.report.summary import Entry, entries, value_of
from denoisezoo.report.theme import Style, styles

CROWD = 6  # with more denoisers than this, a figure takes the whole width


@dataclass(frozen=True)
class Page:
    """A comparison, the folder of its files, and whether figures can be drawn."""

    comparison: Comparison
    folder: Path
    drawable: bool = True

    @cached_property
    def entries(self) -> list[Entry]:
        """The denoisers, best first."""
        return entries(self.comparison)

    @cached_property
    def styles(self) -> dict[str, Style]:
        """Colour and shape of each denoiser."""
        return styles(self.entries)

    @cached_property
    def figures(self) -> dict[str, Figure]:
        """All figures that the records have data for; none when they cannot be drawn."""
        if not self.drawable:
            return {}
        drawn = [*pareto_figures(self.comparison, self.entries), *training_figures(self.entries)]
        return {figure.key: figure for figure in drawn}

    def plot(self, key: str, size: str = "") -> Html:
        """A figure's place in the page; empty when there is nothing to draw."""
        figure = self.figures.get(key)
        if figure is None:
            return Html("")
        place = tag("div", class_="plot", id=f"plot-{key}", role="img", aria_label=figure.title)
        caption = tag("figcaption", figure.caption) if figure.caption else ""
        return tag("figure", tag("h3", figure.title), place, caption, class_=f"card {size}".strip())

    def plots(self, *keys: str) -> Html:
        """Several figures beside each other, below each other where many denoisers need room; empty without any."""
        drawn = [plot for key in keys if (plot := self.plot(key))]
        if len(self.entries) > CROWD:
            return join(drawn)
        return tag("div", *drawn, class_="columns") if drawn else Html("")

    def image(self, path: str | Path | None) -> Png | None:
        """The PNG of a record, if there is one that can be read."""
        return read_png(locate(path, self.folder)) if path else None

    def gallery(self, what: str) -> tuple[list[Html], list[Png]]:
        """A card per denoiser with the picture `what` ("samples") of its first seed that has one, and the pictures."""
        cards, shown = [], []
        for entry in self.entries:
            pictures = ((run, self.image(getattr(run, what))) for run in entry.runs)
            run, png = next(((run, png) for run, png in pictures if png), (entry.first, None))
            head = named(self.styles[entry.name], entry.name)
            if png is None:
                cards.append(tag("figure", tag("figcaption", head, tag("span", "none stored")), class_="card"))
                continue
            shown.append(png)
            caption = tag("figcaption", head, tag("span", self._said_of(run)))
            cards.append(tag("figure", png.image(f"{what} of {entry.name}"), caption, class_="card"))
        return cards, shown

    def _said_of(self, run: RunRecord) -> str:
        value = value_of(run, self.comparison.quality)
        return f"seed {run.seed}, {column(self.comparison.quality).label} {format_value(value)}"


def bullets(items: Iterable[object]) -> Html:
    """A list of sentences."""
    return tag("ul", *(tag("li", item) for item in items))


def note(*sentences: object) -> Html:
    """A paragraph in small print; empty without text."""
    shown = [sentence for sentence in sentences if sentence]
    spaced = [part for sentence in shown for part in (" ", sentence)][1:]
    return tag("p", join(spaced), class_="note") if shown else Html("")
