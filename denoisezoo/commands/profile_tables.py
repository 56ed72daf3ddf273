"""The tables of `profile`: the rows, where a network's cost sits, and the calls of a sampler run."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from denoisezoo.commands.output import print_table
from denoisezoo.profiling.profile_columns import CALL_COLUMNS, DIFFERENCE_COLUMNS, MODULE_COLUMNS, columns, present
from denoisezoo.tables import human, plain

if TYPE_CHECKING:
    from denoisezoo.profiling.profile import Row

LONGEST_TRAJECTORY = 40
MOST_TRAJECTORIES = 4
"""Calls of a sampler run, and runs, that are printed; the files have them all."""


def print_rows(rows: Sequence[Row], args: argparse.Namespace) -> None:
    """Print the table of all rows, then the trees, counters and trajectories that were asked for."""
    print_table(rows, columns(rows, args.counter))
    for row in rows:
        title = f"{row['name']} at effort {plain(row['effort'])}"
        if args.by_module:
            print()
            print_table(row["modules"], present(MODULE_COLUMNS, row["modules"]), title)
        if row.get("differences"):
            print()
            print_table(row["differences"], DIFFERENCE_COLUMNS, f"{title}: counters")
    walked = [row for row in rows if "trajectory" in row]
    for row in walked[:MOST_TRAJECTORIES]:
        print()
        print_trajectory(row)
    if len(walked) > MOST_TRAJECTORIES:
        print(f"\n{len(walked) - MOST_TRAJECTORIES} more trajectories are not shown; --json writes them all")
    print_notes(rows)


def print_trajectory(row: Row) -> None:
    """Print the calls of a sampler run; of a long one, the first and last."""
    calls, half = row["trajectory"], LONGEST_TRAJECTORY // 2
    title = (
        f"{row['name']} at effort {plain(row['effort'])}: {row['sampler']}, {row['steps']} steps, NFE {row['nfe']}, "
        f"inner NFE {row['inner_nfe']}, {human(row['macs_per_image'])} MACs per image"
    )
    if attention := sum(call["macs_attention"] for call in calls):
        title += f", {human(attention)} of them products of attention"
    if len(calls) > LONGEST_TRAJECTORY:
        title += f"; {len(calls) - 2 * half} calls in the middle are not shown"
        calls = calls[:half] + calls[-half:]
    shown = [call | {"call": call["label"]} if "label" in call else call for call in calls]
    print_table(shown, CALL_COLUMNS, title)


def print_notes(rows: Sequence[Row]) -> None:
    """Say which counts are incomplete and which batches did not fit, and why."""
    for row in rows:
        if row["uncounted_ops"]:
            missing = ", ".join(f"{name} ({calls} calls)" for name, calls in row["uncounted_ops"].items())
            print(f"{row['name']}: MACs are a lower bound; no formula for {missing}")
        if "batch_size_asked" in row:
            print(f"{row['name']}: a batch of {row['batch_size_asked']} does not fit; {row['batch_size']} does")
