"""The answer in words, computed from the numbers: the best images, and what comes close to them for less."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from denoisezoo.compare.records import Comparison
from denoisezoo.report.columns import column, format_spread, format_value
from denoisezoo.report.summary import Entry, badness, entries, floor_of, other_distances, within_spread

NEAR = 0.10  # a denoiser is near the best when its quality is at most this share worse


class Name(str):
    """A denoiser's name within a sentence; the page sets it in bold."""

    __slots__ = ()


Sentence = list[str]


@dataclass(frozen=True)
class Answer:
    """A question of the reader, the denoiser that answers it, and the number that says why."""

    question: str
    name: str
    value: str


@dataclass(frozen=True)
class Verdict:
    """The headline, the sentences under it, and the short answers."""

    headline: Sentence
    sentences: list[Sentence]
    answers: list[Answer]


@dataclass(frozen=True)
class _Saving:
    """A cost by which to choose among the denoisers near the best, and the words for it."""

    key: str
    name: str
    question: str
    less: str
    same: str


_SAVINGS = (
    _Saving(
        "macs_per_image",
        "MACs per image",
        "Fewest MACs within 10 % of the best",
        "times fewer MACs per image",
        "the same MACs per image",
    ),
    _Saving(
        "latency_ms_per_image",
        "time per image",
        "Fastest within 10 % of the best",
        "times less time per image",
        "the same time per image",
    ),
)


def verdict(comparison: Comparison) -> Verdict:
    """What the comparison found, in words."""
    quality = comparison.quality
    judged = [entry for entry in entries(comparison) if entry.mean(quality) is not None]
    if not judged:
        return Verdict([f"No run has a finite {column(quality).label}: there is nothing to rank."], [], [])
    best = judged[0]
    tied = [entry for entry in judged[1:] if within_spread(best, entry, quality)]
    sentences = [_value_sentence(best, comparison), *_near_sentences(judged, quality)]
    if len(judged) > 1:
        sentences.append(_spread_sentence(judged, tied, quality))
        sentences += [_other_sentence(judged, distance) for distance in other_distances(comparison)]
    return Verdict(_headline(judged, tied, quality), sentences, _answers(judged, quality))


def near_best(judged: Sequence[Entry], quality: str) -> list[Entry]:
    """The denoisers whose quality is at most 10 % worse than the best; `judged` has the best first."""
    best = badness(judged[0], quality)
    return [entry for entry in judged if badness(entry, quality) - best <= NEAR * abs(best)]


def cheapest_near(judged: Sequence[Entry], quality: str, cost: str) -> list[Entry]:
    """The cheapest denoisers near the best, the better one first of those that the spread of the seeds does not tell
    apart; empty when the best has no such cost."""
    if judged[0].mean(cost) is None:
        return []
    near = near_best(judged, quality)
    least = min(near, key=lambda entry: badness(entry, cost))
    return [entry for entry in near if within_spread(entry, least, cost)]


def automatic_notes(comparison: Comparison) -> list[str]:
    """What a reader must know of failed runs and of values that are missing."""
    notes = []
    for entry in entries(comparison):
        notes += [f"{entry.name}, seed {run.seed}, failed: {run.error}" for run in entry.failed]
        stat = entry.stat(comparison.quality)
        lost = len(entry.runs) - (len(stat.values) if stat else 0)
        if lost:
            notes.append(
                f"{entry.name}: {lost} of {len(entry.runs)} seeds without a finite {column(comparison.quality).label}; "
                "its mean is over the others."
                if stat
                else f"{entry.name}: no finite {column(comparison.quality).label} from any seed."
            )
    return notes


def _headline(judged: Sequence[Entry], tied: Sequence[Entry], quality: str) -> Sentence:
    best = Name(judged[0].name)
    if len(judged) == 1:
        return [best, " is the only denoiser here with a result, so there is nothing to rank it against."]
    if tied:
        return [*_names([judged[0], *tied]), " give the best images; between them the seeds decide."]
    cheap, *_ = [*cheapest_near(judged, quality, "macs_per_image"), judged[0]]
    if cheap is judged[0]:
        return [best, " gives the best images."]
    return [best, " gives the best images; ", Name(cheap.name), f" comes within 10 % for {_saving(judged[0], cheap)}."]


def _saving(best: Entry, cheap: Entry, saving: _Saving = _SAVINGS[0]) -> str:
    ratio = (best.mean(saving.key) or 0.0) / (cheap.mean(saving.key) or math.nan)
    return f"{ratio:.2g} {saving.less}" if ratio >= 1.005 else saving.same


def _value_sentence(best: Entry, comparison: Comparison) -> Sentence:
    stat, floor = best.stat(comparison.quality), floor_of(comparison)
    if stat is None:
        return []
    label = column(comparison.quality).label
    seeds = f"mean ± standard deviation over {len(stat.values)} seeds" if len(stat.values) > 1 else "one seed"
    text = f" reaches {label} {format_spread(stat.mean, stat.std)} ({seeds})"
    if floor:
        text += f", {stat.mean / floor:.2f} times what two halves of the real images score ({format_value(floor)})"
    return [Name(best.name), f"{text}."]


def _near_sentences(judged: Sequence[Entry], quality: str) -> list[Sentence]:
    best, near = judged[0], near_best(judged, quality)
    if len(judged) > 1 and len(near) == 1:
        return [[f"No other denoiser comes within 10 % of that {column(quality).label}."]]
    found = [(saving, cheapest_near(judged, quality, saving.key)) for saving in _SAVINGS] if len(near) > 1 else []
    picks = [(saving, level[0]) for saving, level in found if level]
    cheaper = [_cheaper_sentence(best, e, quality, saving) for saving, e in picks if e is not best]
    own = [saving.name for saving, e in picks if e is best]
    if own:
        cheaper.append([f"Of those within 10 % of the best, none is cheaper than it by {' or by '.join(own)}."])
    return cheaper


def _cheaper_sentence(best: Entry, cheap: Entry, quality: str, saving: _Saving) -> Sentence:
    known = column(saving.key)
    worse = (badness(cheap, quality) - badness(best, quality)) / (abs(badness(best, quality)) or 1.0)
    less, more = (format_value(entry.mean(saving.key), known.kind) for entry in (cheap, best))
    costs = f"{less} instead of {more} {known.unit}"
    return [Name(cheap.name), f" is {100 * worse:.2g} % worse for {_saving(best, cheap, saving)} ({costs})."]


def _spread_sentence(judged: Sequence[Entry], tied: Sequence[Entry], quality: str) -> Sentence:
    alone = [e for e in judged if (stat := e.stat(quality)) is not None and stat.std is None]
    if len(alone) == len(judged):
        return ["One seed each: the spread between seeds is not known, so a small difference may be chance."]
    if tied:
        one = len(tied) == 1
        return [
            f"The difference{'' if one else 's'} to ",
            *_names(tied),
            f" {'lies' if one else 'lie'} within the seeds' spread: more seeds may change the order.",
        ]
    return ["Every other denoiser differs from it by more than the seeds' spread."]


def _other_sentence(judged: Sequence[Entry], distance: str) -> Sentence:
    """Which is best in another feature space."""
    first, *_ = ranked = sorted(judged, key=lambda entry: badness(entry, distance))
    stat = first.stat(distance)
    if stat is None:
        return [f"No run has a finite {distance}."]
    level = [first, *(entry for entry in ranked[1:] if within_spread(first, entry, distance))]
    verb = "is" if len(level) == 1 else "are"
    return [f"By {distance} ", *_names(level), f" {verb} best, {format_spread(stat.mean, stat.std)}."]


def _names(entries: Iterable[Entry]) -> list[str]:
    """Names in a sentence: A, B and C."""
    names = [Name(entry.name) for entry in entries]
    parts: list[str] = []
    for index, name in enumerate(names):
        parts += [*([" and " if index == len(names) - 1 else ", "] if index else []), name]
    return parts


def _answers(judged: Sequence[Entry], quality: str) -> list[Answer]:
    best = judged[0]
    stat = best.stat(quality)
    value = format_spread(stat.mean, stat.std) if stat else ""
    answers = [Answer("Best images", best.name, f"{column(quality).label} {value}")]
    for saving in _SAVINGS:
        level, known = cheapest_near(judged, quality, saving.key), column(saving.key)
        if level and len(judged) > 1:
            cost = f"{format_value(level[0].mean(saving.key), known.kind)} {known.unit} per image"
            others = f"; {''.join(_names(level[1:]))} within the seeds' spread of it" if level[1:] else ""
            answers.append(Answer(saving.question, level[0].name, cost + others))
    return answers
