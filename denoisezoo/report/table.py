"""The tables: every denoiser with all its numbers, and which one to take for a budget."""

from __future__ import annotations

from collections.abc import Sequence

from denoisezoo.compare.records import Comparison
from denoisezoo.report.columns import Column, column, format_spread, format_value
from denoisezoo.report.markup import Html, named, table_box, tag
from denoisezoo.report.summary import Entry, badness, floor_of, front_of, other_distances, shown_keys, within_spread
from denoisezoo.report.theme import Style, styles

BUDGETS = {
    "macs_per_image": "MACs per image",
    "latency_ms_per_image": "Time per image",
    "params": "Parameters",
}


def results_table(comparison: Comparison, entries: Sequence[Entry]) -> Html:
    """One row per denoiser, best first; a click on a heading sorts, and the best value of each column is marked."""
    columns, looks = [column(key) for key in shown_keys(comparison)], styles(entries)
    heads = [_head("Denoiser"), *(_head(c.heading, number=True, direction=c.direction) for c in columns)]
    heads += [_head("Family"), _head("Process"), _head("Seeds", number=True)]
    best = {known.key: _best(known, entries) for known in columns}
    rows = [_row(entry, looks[entry.name], columns, best) for entry in entries]
    table = tag("table", tag("thead", tag("tr", *heads)), tag("tbody", *rows), class_="sortable")
    return table_box(table, "All results")


def choice_tables(comparison: Comparison, entries: Sequence[Entry]) -> Html:
    """For each cost: from which budget on which denoiser gives the best images."""
    tables = [_choices(comparison, entries, cost, heading) for cost, heading in BUDGETS.items()]
    return tag("div", *(table for table in tables if table), class_="columns")


def _choices(comparison: Comparison, entries: Sequence[Entry], cost: str, heading: str) -> Html:
    quality, known, looks = column(comparison.quality), column(cost), styles(entries)
    front = front_of(entries, cost, comparison.quality)
    if not front:
        return Html("")
    rows = []
    for entry in front:
        price = f"≥ {format_value(entry.mean(cost), known.kind)}{_unit(known)}"
        name = tag("th", named(looks[entry.name], entry.name), scope="row")
        rows.append(
            tag("tr", tag("td", price, class_="price"), name, tag("td", _cell_text(entry, quality), class_="number"))
        )
    heads = [tag("th", text_, scope="col") for text_ in (heading, "Best images")]
    heads.append(tag("th", quality.label, scope="col", class_="number"))
    return table_box(tag("table", tag("thead", tag("tr", *heads)), tag("tbody", *rows)), heading)


def _unit(known: Column) -> str:
    return f" {known.unit}" if known.unit and known.unit not in known.label else ""


def _head(label: str, number: bool = False, direction: str = "") -> Html:
    arrow = {"lower is better": "↓", "higher is better": "↑"}.get(direction, "")
    shown = tag("abbr", arrow, title=direction) if arrow else ""
    button = tag("button", label, " ", shown, type="button")
    return tag("th", button, scope="col", class_="number" if number else None, aria_sort="none")


def _row(entry: Entry, style: Style, columns: Sequence[Column], best: dict[str, list[Entry]]) -> Html:
    first = entry.first
    model = tag("small", first.denoiser) if first.denoiser != entry.name else ""
    failed = tag("small", "failed") if not entry.runs else ""
    name = tag("th", named(style, entry.name), model, failed, scope="row", data_v=entry.name)
    facts = [
        tag("td", first.family, data_v=first.family),
        tag("td", first.process, data_v=first.process),
        tag("td", len(entry.runs) or "failed", class_="number", data_v=len(entry.runs)),
    ]
    return tag("tr", name, *(_cell(entry, known, best[known.key]) for known in columns), *facts)


def _cell(entry: Entry, known: Column, best: Sequence[Entry]) -> Html:
    mean = entry.mean(known.key)
    if mean is None:
        return tag("td", "–", class_="number", data_v="")
    is_best = entry in best
    title = (
        "best of its column"
        if len(best) == 1
        else f"best of its column, within the seeds' spread, like {len(best) - 1} more"
    )
    star = tag("span", "★", title=title, class_="star", role="img", aria_label="best") if is_best else ""
    return tag(
        "td", star, _cell_text(entry, known), class_="number best" if is_best else "number", data_v=f"{mean:.12g}"
    )


def _cell_text(entry: Entry, known: Column) -> str:
    stat = entry.stat(known.key)
    return format_spread(stat.mean, stat.std, known.kind) if stat else "–"


def _best(known: Column, entries: Sequence[Entry]) -> list[Entry]:
    """The best of a column and those that the seeds' spread does not tell from it; none where all are equal."""
    priced = [entry for entry in entries if entry.mean(known.key) is not None]
    if not known.better or len(priced) < 2:
        return []
    first = min(priced, key=lambda entry: badness(entry, known.key))
    level = [entry for entry in priced if within_spread(entry, first, known.key)]
    return level if len(level) < len(priced) else []


def floor_note(comparison: Comparison) -> str:
    """A sentence on the floor; empty where it was not measured."""
    floor, label = floor_of(comparison), column(comparison.quality).label
    if floor is None:
        return ""
    others = "".join(f", that of {d} {format_value(floor_of(comparison, d))}" for d in other_distances(comparison))
    return (
        f"The floor of {label} is {format_value(floor)}{others}: what two halves of the real images score against each "
        "other. No denoiser is expected to do much better."
    )
