"""The page of the ledger: each paper's claims with their verdicts, and bars of figures that can be held together."""

from __future__ import annotations

import itertools
import os
from collections import Counter, defaultdict

from denoisezoo.compare.claims import VERDICTS, Claim, Ledger, Quantity
from denoisezoo.files import write_text
from denoisezoo.report.html import resource
from denoisezoo.report.markup import Html, facts, join, plain, tag, text

COLOURS = dict(zip(VERDICTS, ("var(--f2)", "var(--f0)", "var(--f1)", "var(--f6)"), strict=True))


def write_claims(ledger: Ledger, path: str | os.PathLike[str], results: str | os.PathLike[str] = "results") -> None:
    """Write one page that needs nothing else.

    Args:
        ledger: The claims.
        path: Where to write, atomically.
        results: Folder of the rows that the figures come from.

    Raises:
        UserError: A row that is not there, or a path that cannot be written.
    """
    counted = Counter(claim.verdict for claim in ledger.claims)
    legend = (tag("span", _badge(verdict), f" {counted[verdict]} ") for verdict in VERDICTS)
    body = [tag("p", *legend)]
    for paper, group in itertools.groupby(ledger.claims, key=lambda claim: claim.paper):
        claims = list(group)
        cards = (_card(claim, claim.measure(results)) for claim in claims)
        body.append(tag("section", tag("h2", paper), _shares(claims), *cards))
    style = resource("style.css") + resource("claims.css")
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><title>Claims</title><style>{style}</style>'
    )
    top = tag(
        "header",
        tag("p", "denoisezoo claims", class_="brand"),
        tag("h1", "What the papers claim, and what was measured"),
    )
    page = join([top, tag("main", *body)])
    write_text(path, f'<!DOCTYPE html><html lang="en"><head>{head}</head><body>{page}</body></html>\n')


def _badge(verdict: str) -> Html:
    return tag("span", verdict, class_="badge", style=f"background:{COLOURS[verdict]}")


def _shares(claims: list[Claim]) -> Html:
    """One bar, a part for each verdict."""
    counted = Counter(claim.verdict for claim in claims)
    parts = (
        tag("span", style=f"background:{COLOURS[v]};flex:{counted[v]}", title=f"{v}: {counted[v]}")
        for v in VERDICTS
        if counted[v]
    )
    said = ", ".join(f"{counted[v]} {v}" for v in VERDICTS if counted[v])
    return tag("div", *parts, class_="verdicts", role="img", aria_label=said)


def _card(claim: Claim, measured: dict[str, Quantity]) -> Html:
    known = {key: getattr(claim, key) for key in ("source", "conditions", "counting") if getattr(claim, key)}
    command = tag("pre", tag("code", claim.command)) if claim.command else ""
    return tag(
        "article",
        tag("h3", claim.claim, " ", _badge(claim.verdict)),
        tag("p", claim.reason),
        *_bars(claim, measured),
        facts(known),
        command,
        class_="card",
        id=claim.name.replace("/", "-"),
    )


def _bars(claim: Claim, measured: dict[str, Quantity]) -> list[Html]:
    """A group of bars for every column of which the claim names several figures; whiskers are standard deviations."""
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for name, figure in (claim.figures or {}).items():
        if {"take", "says"} <= set(figure) and measured[name].value > 0:
            groups[figure["take"]].append(name)
    drawn = []
    for column, names in groups.items():
        if len(names) < 2:
            continue
        longest = max(measured[name].value + (measured[name].spread or 0.0) for name in names)
        lines = [
            _bar(name, str((claim.figures or {})[name].get("says", "")), measured[name], longest) for name in names
        ]
        drawn.append(tag("figure", tag("figcaption", plain(column)), tag("div", *lines, class_="bars")))
    return drawn


def _bar(name: str, said: str, measured: Quantity, longest: float) -> Html:
    value, spread = measured
    whisker: Html | str = ""
    if spread:  # in shares of the bar, which it straddles the end of
        low, high = max(0.0, 1 - spread / value), 1 + spread / value
        whisker = tag("span", class_="whisker", style=f"left:{low:.2%};width:{high - low:.2%}")
    bar = tag("div", whisker, class_="bar", style=f"width:{value / longest:.2%}")
    return join([tag("span", plain(name)), tag("div", bar, class_="track"), text(said)])
