"""Two networks against each other: ratios of what they cost, timed in turns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from denoisezoo.errors import UserError
from denoisezoo.profiling.pairing import pair
from denoisezoo.profiling.profile import Row, count_backbone, prepared_call
from denoisezoo.profiling.profile_columns import latency_text, present
from denoisezoo.profiling.setting import Setting
from denoisezoo.runs.pricing import PricingTerms
from denoisezoo.runs.subjects import Subject
from denoisezoo.tables import Column, Table, Tabular, human

ROUNDS = 15
"""Timed pairs of calls unless given; the interval of the median needs six."""


@dataclass(frozen=True)
class Ratios(Tabular):
    """What a second network costs over a first; prints as a table.

    Attributes:
        data: A row for each setting and batch size: `params_ratio`, `macs_ratio`, and `latency_ratio` with the ends
            `low` and `high` of its interval of `confidence`, beside the figures of the networks `a` and `b`.
    """

    data: list[Row]

    def summary(self) -> Table:
        """The ratios."""
        return Table(self.data, present(COLUMNS, self.data), f"{self.data[0]['b']} over {self.data[0]['a']}")


def price_ratios(subjects: Sequence[Subject], terms: PricingTerms) -> Ratios:
    """Price two networks at their full effort in turns, so that a busy machine slows both.

    Args:
        subjects: The two.
        terms: How they are priced; `runs` is the number of timed pairs.

    Raises:
        UserError: Not two networks, or a sampler, which the comparison has no use for.
    """
    if len(subjects) != 2:
        raise UserError(
            f"`compare` takes two networks, not {len(subjects)}",
            "name two without patterns, in Python as a list, [first, second]",
        )
    if terms.sampler is not None:
        raise UserError("`compare` compares single calls", "leave `sampler` out, or profile both")
    first, second = subjects
    return Ratios([row for setting in terms.settings() for row in _rows(first, second, setting, terms)])


def _rows(first: Subject, second: Subject, setting: Setting, terms: PricingTerms) -> Iterator[dict[str, Any]]:
    """A row for each batch size."""
    backbones = [subject.build(setting.counts_only) for subject in (first, second)]
    for backbone in backbones:
        setting.prepare(backbone)
    a, b = (count_backbone(backbone, setting).macs for backbone in backbones)
    p, q = (sum(parameter.numel() for parameter in backbone.parameters()) for backbone in backbones)
    for batch_size in terms.batch_sizes:
        row: dict[str, Any] = {"a": first.name, "b": second.name, "variant": setting.variant, "batch_size": batch_size}
        row |= {"params_a": p, "params_b": q, "params_ratio": q / p, "macs_a": a, "macs_b": b, "macs_ratio": b / a}
        if not setting.counts_only:
            with (
                prepared_call(backbones[0], setting, batch_size) as x,
                prepared_call(backbones[1], setting, batch_size) as y,
            ):
                times = pair(x, y, setting.device, rounds=terms.runs or ROUNDS)
            row |= {"latency_a_ms": times.a.to_dict(), "latency_b_ms": times.b.to_dict()}
            row |= {"latency_ratio": times.ratio, "low": times.low, "high": times.high, "confidence": times.confidence}
        yield row


def _latency_ratio(row: Any) -> str | None:
    """The ratio of the latencies with its interval."""
    if "latency_ratio" not in row:
        return None
    return f"{row['latency_ratio']:.3f} ({row['low']:.3f} to {row['high']:.3f} at {row['confidence']:.0%})"


COLUMNS = [
    Column("variant", "variant"),
    Column("batch", "batch_size", right=True),
    Column("params", lambda row: f"{human(row['params_b'])} / {human(row['params_a'])}", right=True),
    Column("ratio", "params_ratio", lambda value: f"{value:.3f}", right=True),
    Column("MACs", lambda row: f"{human(row['macs_b'])} / {human(row['macs_a'])}", right=True),
    Column("ratio", "macs_ratio", lambda value: f"{value:.3f}", right=True),
    Column("first ms", lambda row: latency_text(row.get("latency_a_ms")), right=True),
    Column("second ms", lambda row: latency_text(row.get("latency_b_ms")), right=True),
    Column("latency ratio", _latency_ratio, right=True),
]
