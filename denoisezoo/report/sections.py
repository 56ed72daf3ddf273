"""The sections of the page, each a function of `Page`; a section without data says so."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from denoisezoo.compare.records import FILE_NAME
from denoisezoo.files import json_safe
from denoisezoo.report.columns import column, explain, glossary
from denoisezoo.report.markup import Html, code, facts, join, named, plain, said, table_box, tag
from denoisezoo.report.page import Page, bullets, note
from denoisezoo.report.summary import Entry, shown_keys
from denoisezoo.report.table import choice_tables, floor_note, results_table
from denoisezoo.report.verdict import Name, Sentence, automatic_notes, verdict
from denoisezoo.tables import flatten

CSV_NAME, JSONL_NAME = "results.csv", "results.jsonl"
NO_PLOTLY = (
    "The interactive figures are missing because plotly is not installed: pip install plotly, then write it again."
)
UNITS = (
    "MACs are multiply-adds: 1 MAC = 1 multiply-add, and FLOPs = 2 × MACs. k, M, G, T stand for 10³, 10⁶, 10⁹, 10¹²; "
    "KiB, MiB, GiB for 2¹⁰, 2²⁰, 2³⁰ bytes. NFE is the number of calls of the denoiser per image. ± is the standard "
    "deviation over training seeds."
)
PARETO = (
    "Each mark is the mean over seeds, bars are one standard deviation, faint marks are single seeds. The steps are "
    "the Pareto front: they join the denoisers that no other one beats in both quality and cost, where costs within "
    "the seeds' spread count as equal. The dashed line is the floor: what two halves of the real images score against "
    "each other. Costs are on a log scale."
)

BUDGET = (
    "Of those compared, the denoiser with the best images from this much on; of those whose cost the seeds' spread "
    "does not tell apart, the better one."
)

Section = tuple[str, str, Callable[[Page], Html]]


def all_sections() -> list[Section]:
    """Anchor, heading and body of each section, in the order of the page."""
    return [
        ("verdict", "Verdict", verdict_section),
        ("pareto", "Quality against cost", pareto_section),
        ("results", "All results", results_section),
        ("samples", "Samples", samples_section),
        ("neighbours", "Nearest training images", neighbours_section),
        ("training", "Training", training_section),
        ("trajectory", "Cost along the trajectory", trajectory_section),
        ("cards", "Result cards", cards_section),
        ("reproduce", "Machine and command", reproduce_section),
    ]


def verdict_section(page: Page) -> Html:
    """The answer in words, the short answers, what to beware of, and what was equal."""
    conclusion, comparison = verdict(page.comparison), page.comparison
    answers = [
        tag("div", tag("dt", a.question), tag("dd", tag("strong", a.name), tag("span", a.value)))
        for a in conclusion.answers
    ]
    return join(
        [
            tag("p", _sentence(conclusion.headline), class_="headline"),
            tag("dl", *answers, class_="answers") if answers else "",
            bullets(_sentence(sentence) for sentence in conclusion.sentences) if conclusion.sentences else "",
            note(explain(comparison.quality)),
            _beware(page),
            tag(
                "div",
                _fact_card("Equal terms", comparison.terms),
                _fact_card("Data", comparison.data),
                class_="columns",
            ),
        ]
    )


def _beware(page: Page) -> Html:
    notes = list(dict.fromkeys([*page.comparison.notes, *automatic_notes(page.comparison)]))
    if not page.drawable:
        notes.append(NO_PLOTLY)
    return tag("aside", tag("h3", "Beware"), bullets(notes), class_="beware") if notes else Html("")


def pareto_section(page: Page) -> Html:
    """Quality against each cost, and which denoiser to take for a budget."""
    main, others = page.plot("pareto-macs_per_image"), page.plots("pareto-latency_ms_per_image", "pareto-params")
    tables = choice_tables(page.comparison, page.entries)
    if not tables:
        return tag("p", f"No run has both a finite {column(page.comparison.quality).label} and a cost.")
    choice = join([tag("h3", "Which one for your budget?"), tag("p", BUDGET)])
    return join([tag("p", PARETO) if main or others else "", main, others, choice, tables])


def results_section(page: Page) -> Html:
    """The table of everything."""
    if not page.entries:
        return tag("p", "There is no run.")
    hint = (
        "Click a heading to sort. ★ marks the best of its column and what the seeds' spread does not tell from it; "
        "↓ lower is better, ↑ higher is better."
    )
    table = results_table(page.comparison, page.entries)
    return join(
        [tag("p", hint), table, note(floor_note(page.comparison), *glossary(shown_keys(page.comparison)), UNITS)]
    )


def samples_section(page: Page) -> Html:
    """Samples of each denoiser side by side with real images."""
    cards, shown = page.gallery("samples")
    if not shown:
        return tag("p", "No run has samples.")
    real = page.image(page.comparison.real)
    if real:
        caption = tag("figcaption", tag("strong", "Real images"), tag("span", "from the data set"))
        cards.insert(0, tag("figure", real.image("real images"), caption, class_="card real"))
        shown.append(real)
    odd = len({(png.width, png.height) for png in shown}) > 1
    return join(
        [
            note(
                "" if real else "The grid of real images is missing.",
                "The grids differ in size: compare them with care." if odd else "",
            ),
            tag("div", *cards, class_="pictures"),
        ]
    )


def neighbours_section(page: Page) -> Html:
    """Samples beside the training images nearest to them: a copy would show here."""
    cards, shown = page.gallery("neighbours")
    if not shown:
        return tag("p", "No nearest training images were stored.")
    how = "Samples, each beside the training images nearest to it. A sample equal to its neighbour is memorised."
    return join([tag("p", how), tag("div", *cards, class_="pictures wide")])


def training_section(page: Page) -> Html:
    """Loss curves, loss by noise level, training speed."""
    plots = join([page.plots("loss", "noise"), page.plot("speed")])
    return plots or tag("p", "No training figure: the runs have no such data, or it cannot be drawn.")


def trajectory_section(page: Page) -> Html:
    """MACs of each call of the denoiser."""
    return page.plot("trajectory") or tag("p", "No trajectory figure: none was recorded, or it cannot be drawn.")


def cards_section(page: Page) -> Html:
    """The result card of each denoiser, with the command of each of its runs."""
    how = "What each number was measured with; a fact on which the seeds agree is shown once."
    return join([tag("p", how), *(_card(page, entry) for entry in page.entries)])


def _card(page: Page, entry: Entry) -> Html:
    runs = [*entry.runs, *entry.failed]
    columns = [flatten(json_safe(dict(run.card))) for run in runs]
    keys = dict.fromkeys(key for card in columns for key in card)
    heads = [tag("th", f"seed {run.seed}", scope="col") for run in runs]
    head = tag("thead", tag("tr", tag("th", "Fact", scope="col"), *heads))
    rows = [_card_row(key, [card.get(key) for card in columns]) for key in keys]
    table = table_box(tag("table", head, tag("tbody", *rows), class_="facts"), f"Result card of {entry.name}")
    summary = tag("summary", named(page.styles[entry.name], entry.name), tag("small", entry.first.denoiser))
    commands = [code(command) for command in dict.fromkeys(run.command for run in runs) if command]
    return tag("details", summary, table if keys else tag("p", "This run has no card."), *commands, class_="card")


def _card_row(key: str, values: Sequence[Any]) -> Html:
    shown = [said(value) for value in values]
    name = tag("th", plain(key), scope="row")
    if len(set(shown)) == 1:
        return tag("tr", name, tag("td", shown[0], colspan=len(shown)))
    return tag("tr", name, *(tag("td", value) for value in shown))


def reproduce_section(page: Page) -> Html:
    """The machine, the exact command, and where the numbers lie as files."""
    links = [tag("a", name, href=name) for name in (CSV_NAME, JSONL_NAME, FILE_NAME)]
    return join(
        [
            tag("p", "This report was made by"),
            code(page.comparison.command),
            tag(
                "p",
                "Its numbers lie beside it, one row per run: ",
                links[0],
                " and ",
                links[1],
                "; all it shows: ",
                links[2],
            ),
            _fact_card("Machine", page.comparison.machine),
        ]
    )


def _fact_card(title: str, pairs: Mapping[str, Any]) -> Html:
    flat = flatten(json_safe(dict(pairs)))
    return tag("div", tag("h3", title), facts(flat), class_="card") if flat else Html("")


def _sentence(sentence: Sentence) -> Html:
    return join(tag("strong", part) if isinstance(part, Name) else part for part in sentence)


def figure_data(page: Page) -> Html:
    """What plotly.js draws, as JSON that cannot end the script element it stands in."""
    specs = {f"plot-{key}": {"data": f.data, "layout": f.layout} for key, f in page.figures.items()}
    return Html(json.dumps(json_safe(specs), allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"))
