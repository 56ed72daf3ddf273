"""Runs of one name as one denoiser with a spread over seeds, and the front of those that no other one beats."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from denoisezoo.compare.records import Comparison, RunRecord
from denoisezoo.report.columns import COSTS, column

FLOOR = r"(?:fd_\w+|fid)(?<!_over)_halves"
"""Keys of floors, which a note tells."""
DETAILS = ("latency_ms_p10", "latency_ms_p90")  # in the result files, but not in the table, which is wide already


@dataclass(frozen=True)
class Stat:
    """One quantity over the seeds: the finite values, by seed."""

    values: tuple[float, ...]
    seeds: tuple[int, ...]

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return statistics.fmean(self.values)

    @property
    def std(self) -> float | None:
        """Sample standard deviation over the seeds; None for a single seed."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None


@dataclass(frozen=True)
class Entry:
    """One denoiser: all runs of one name, those that failed apart."""

    name: str
    runs: tuple[RunRecord, ...]
    failed: tuple[RunRecord, ...] = ()

    @property
    def first(self) -> RunRecord:
        """The run that stands for names and images: the first that did not fail."""
        return (self.runs or self.failed)[0]

    @property
    def family(self) -> str:
        """Family in the registry."""
        return self.first.family

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds that did not fail."""
        return tuple(run.seed for run in self.runs)

    def stat(self, key: str) -> Stat | None:
        """A metric or cost over the seeds; None when no run has a finite value of it."""
        pairs = [(value, run.seed) for run in self.runs if (value := value_of(run, key)) is not None]
        return Stat(tuple(v for v, _ in pairs), tuple(s for _, s in pairs)) if pairs else None

    def mean(self, key: str) -> float | None:
        """Mean of a metric or cost over the seeds that have it."""
        stat = self.stat(key)
        return stat.mean if stat else None


def value_of(run: RunRecord, key: str) -> float | None:
    """A metric or cost of one run; None when it is absent or not finite."""
    value = run.metrics.get(key, run.costs.get(key))
    return float(value) if value is not None and math.isfinite(value) else None


def entries(comparison: Comparison) -> list[Entry]:
    """The denoisers of a comparison, best first by its deciding metric, those without a value last."""
    by_name: dict[str, list[RunRecord]] = {}
    for run in comparison.runs:
        by_name.setdefault(run.name, []).append(run)
    entries = [_entry(name, runs) for name, runs in by_name.items()]
    return sorted(entries, key=lambda entry: badness(entry, comparison.quality))


def _entry(name: str, runs: list[RunRecord]) -> Entry:
    runs = sorted(runs, key=lambda run: run.seed)
    return Entry(name, tuple(r for r in runs if r.error is None), tuple(r for r in runs if r.error is not None))


def badness(entry: Entry, key: str) -> float:
    """The mean of a quantity, signed so that lower is better; infinite when there is none."""
    mean = entry.mean(key)
    if mean is None:
        return math.inf
    return -mean if column(key).better == "high" else mean


def within_spread(a: Entry, b: Entry, key: str) -> bool:
    """Whether two means are equal, or differ by at most one standard deviation of the difference of two runs."""
    first, second = a.stat(key), b.stat(key)
    if first is None or second is None:
        return False
    return abs(first.mean - second.mean) <= math.hypot(first.std or 0.0, second.std or 0.0)


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points (cost, badness) that no other one beats, by rising cost.

    A point is beaten when another one is no worse in both and better in one; equal points are both on the front.
    """
    front: list[int] = []
    for index in sorted(range(len(points)), key=lambda i: points[i]):
        if not front or points[index][1] < points[front[-1]][1] or points[index] == points[front[-1]]:
            front.append(index)
    return front


def front_of(entries: Iterable[Entry], cost: str, quality: str) -> list[Entry]:
    """The denoisers on the Pareto front of quality against a cost, cheapest first; those without both are left out.

    One that is cheaper than a better one by no more than the seeds' spread is beaten by it.
    """
    priced = [e for e in entries if e.mean(cost) is not None and e.mean(quality) is not None]
    front = [priced[i] for i in pareto_front([(badness(e, cost), badness(e, quality)) for e in priced])]
    return [
        e
        for e, *better in (front[i:] for i in range(len(front)))
        if not any(_beats(b, e, cost, quality) for b in better)
    ]


def _beats(better: Entry, entry: Entry, cost: str, quality: str) -> bool:
    return badness(better, quality) < badness(entry, quality) and within_spread(better, entry, cost)


def floor_of(comparison: Comparison, distance: str | None = None) -> float | None:
    """What two halves of the real data score, by the deciding metric or another distance: no denoiser is expected to do
    much better."""
    key = f"{distance or comparison.quality}_halves"
    values = [v for run in comparison.runs if run.error is None and (v := value_of(run, key)) is not None]
    return statistics.fmean(values) if values else None


def other_distances(comparison: Comparison) -> list[str]:
    """Distances in further feature spaces, beside the deciding one."""
    keys = dict.fromkeys(key for run in comparison.runs if run.error is None for key in run.metrics)
    names = [key.removesuffix("_halves") for key in keys if re.fullmatch(FLOOR, key)]
    return [name for name in names if name != comparison.quality]


def shown_keys(comparison: Comparison) -> list[str]:
    """Keys of the table's columns that some run has: what decides, the main costs, other metrics, other costs."""
    quality = comparison.quality
    runs = [run for run in comparison.runs if run.error is None]
    metrics = dict.fromkeys(key for run in runs for key in run.metrics)
    costs = dict.fromkeys([known.key for known in COSTS] + [key for run in runs for key in run.costs])
    first = [quality, f"{quality}_over_halves", *other_distances(comparison), *(known.key for known in COSTS[:3])]
    leading = dict.fromkeys(first)
    keys = [key for key in leading | metrics | costs if key not in DETAILS and not re.fullmatch(FLOOR, key)]
    return [key for key in keys if any(value_of(run, key) is not None for run in runs)]
