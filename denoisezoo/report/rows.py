"""Flat result rows, one per run, as CSV and as JSON lines."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from denoisezoo.compare.records import Comparison, RunRecord
from denoisezoo.files import atomic_path, json_safe, write_text
from denoisezoo.tables import flatten


def result_row(run: RunRecord) -> dict[str, Any]:
    """One run as one flat row: who it is, metrics, costs, and its card under keys `card.*`."""
    who = {key: getattr(run, key) for key in ("name", "denoiser", "family", "process", "seed", "error")}
    figures: dict[str, Any] = json_safe(dict(run.metrics) | dict(run.costs))
    return who | figures | flatten(json_safe(dict(run.card)), "card.") | {"command": run.command}


def result_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """The rows of all runs, each with every column: None where a run has no such value."""
    rows = [result_row(run) for run in comparison.runs]
    columns = dict.fromkeys(key for row in rows for key in row)
    return [{key: row.get(key) for key in columns} for row in rows]


def write_csv(path: str | os.PathLike[str], rows: Iterable[Mapping[str, Any]]) -> Path:
    """Write rows of equal columns as CSV, atomically; None is an empty cell."""
    rows = list(rows)
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else [], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return Path(path)


def write_jsonl(path: str | os.PathLike[str], rows: Iterable[Mapping[str, Any]]) -> Path:
    """Write rows as JSON lines, atomically."""
    write_text(path, "".join(json.dumps(json_safe(dict(row)), allow_nan=False) + "\n" for row in rows))
    return Path(path)
