"""Two networks against each other: ratios of what they cost, timed in turns."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from denoisezoo.commands.output import print_table, write_rows
from denoisezoo.errors import UserError
from denoisezoo.profiling.profile_columns import latency_text, present
from denoisezoo.tables import Column, human

if TYPE_CHECKING:
    from denoisezoo.profiling.setting import Setting
    from denoisezoo.runs.subjects import Subject

DEFAULT_ROUNDS = 15


def compare(subjects: list[Subject], settings: list[Setting], args: argparse.Namespace) -> int:
    """Print the ratios of the second to the first, and write them.

    Raises:
        UserError: Not two networks, or a sampler, which the comparison has no use for.
    """
    if len(subjects) != 2:
        raise UserError(f"--compare takes two networks, not {len(subjects)}", "name two, without patterns")
    if args.sampler:
        raise UserError("--compare compares single calls", "leave --sampler out, or profile both")
    first, second = subjects
    rows = [row for setting in settings for row in ratios(first, second, setting, args)]
    write_rows(rows, args)
    print_table(rows, present(COLUMNS, rows), f"{second.name} over {first.name}")
    return 0


def ratios(first: Subject, second: Subject, setting: Setting, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A row for each batch size, of both networks at their full effort."""
    from denoisezoo.profiling.pairing import pair
    from denoisezoo.profiling.profile import count_backbone, prepared_call

    backbones = [subject.build(setting.counts_only) for subject in (first, second)]
    for backbone in backbones:
        setting.prepare(backbone)
    a, b = (count_backbone(backbone, setting).macs for backbone in backbones)
    p, q = (sum(parameter.numel() for parameter in backbone.parameters()) for backbone in backbones)
    for batch_size in args.batch_size:
        row = {"a": first.name, "b": second.name, "variant": setting.variant, "batch_size": batch_size}
        row |= {"params_a": p, "params_b": q, "params_ratio": q / p, "macs_a": a, "macs_b": b, "macs_ratio": b / a}
        if not setting.counts_only:
            with (
                prepared_call(backbones[0], setting, batch_size) as x,
                prepared_call(backbones[1], setting, batch_size) as y,
            ):
                found = pair(x, y, setting.device, rounds=args.runs or DEFAULT_ROUNDS)
            row |= {"latency_a_ms": found.a.to_dict(), "latency_b_ms": found.b.to_dict()}
            row |= {"latency_ratio": found.ratio, "low": found.low, "high": found.high, "confidence": found.confidence}
        yield row


def ratio_text(row: Any) -> str | None:
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
    Column("latency ratio", ratio_text, right=True),
]
