"""What is shown of a profile's rows: the main table, the tree of modules, the counters and the calls of a sampler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from denoisezoo.tables import Column, human, human_bytes, plain

Row = Mapping[str, Any]

COUNTERS = ("torch", "fvcore", "diff-pruning")
"""Ways to count multiply-adds that can stand side by side."""


def columns(rows: Sequence[Row], counters: Sequence[str] = ()) -> list[Column]:
    """Columns of the main table; those that no row has a value for are left out."""
    every = [
        Column("name", "name"),
        Column("run", "run"),
        Column("variant", "variant"),
        Column("input", "input"),
        Column("effort", "effort", plain, right=True),
        Column("batch", "batch_size", right=True),
        Column("params", "params", human, right=True),
        Column("MACs", lambda row: bound(row, "macs"), right=True),
        Column("FLOPs", "flops", human, right=True),
        Column("attention", "macs_attention", human, right=True),
        Column("fvcore", "macs_fvcore", human, right=True),
        Column("Diff-Pruning", "macs_diff_pruning", human, right=True),
        Column("latency ms", lambda row: latency_text(row["latency_ms"]), right=True),
        Column("runs", lambda row: row["latency_ms"] and row["latency_ms"]["runs"], right=True),
        Column("images/s", "images_per_s", lambda value: f"{value:.4g}", right=True),
        Column("of peak", roofline_text, right=True),
        Column("memory", "peak_memory_bytes", human_bytes, right=True),
        Column("J/image", "energy_j_per_image", lambda value: f"{value:.3g}", right=True),
        Column("training ms", lambda row: latency_text(inner(row, "training", "latency_ms")), right=True),
        Column("training memory", lambda row: inner(row, "training", "peak_memory_bytes"), human_bytes, right=True),
        Column("cold start ms", cold_text, right=True),
        Column("sampler", "sampler"),
        Column("steps", "steps", right=True),
        Column("guidance", "guidance", plain, right=True),
        Column("NFE", "nfe", right=True),
        Column("MACs/image", lambda row: bound(row, "macs_per_image"), right=True),
        Column("device", "device"),
        Column("threads", lambda row: row["threads"] if row["device"] == "cpu" else None, right=True),
        Column("dtype", "dtype"),
    ]
    if "diff-pruning" not in counters:
        every = [column for column in every if column.title != "Diff-Pruning"]
    return present(every, rows)


def present(every: Sequence[Column], rows: Sequence[Row]) -> list[Column]:
    """Those columns that some row has a value for."""
    return [column for column in every if any(column.text(row) != "-" for row in rows)]


MODULE_COLUMNS = [
    Column("module", lambda row: "  " * row["depth"] + (row["path"] or "(all)")),
    Column("type", "type"),
    Column("params", "params", human, right=True),
    Column("MACs", "macs", human, right=True),
    Column("share", "share", lambda value: f"{value:.1%}", right=True),
    Column("time", "latency_share", lambda value: f"{value:.1%}", right=True),
    Column("activations", "activation_bytes", human_bytes, right=True),
]

DIFFERENCE_COLUMNS = [
    Column("operators", "kind"),
    Column("MACs", "macs", human, right=True),
    Column("fvcore", "macs_fvcore", human, right=True),
    Column("why", "why"),
]

CALL_COLUMNS = [
    Column("call", "call", right=True),
    Column("t", "t", lambda value: f"{value:.4g}", right=True),
    Column("sigma", "sigma", lambda value: f"{value:.4g}", right=True),
    Column("effort", "effort", plain, right=True),
    Column("MACs", "macs", human, right=True),
    Column("inner NFE", "inner_nfe", right=True),
    Column("latency ms", "latency_ms", lambda value: f"{value:.2f}", right=True),
]


def bound(row: Any, key: str) -> str | None:
    """A number of MACs, marked where it is a lower bound."""
    return None if key not in row else ("≥ " if row["uncounted_ops"] else "") + human(row[key])


def latency_text(timing: Any) -> str | None:
    """Median and spread."""
    return timing and f"{timing['median']:.2f} ({timing['p10']:.2f} to {timing['p90']:.2f})"


def roofline_text(row: Any) -> str | None:
    """What bounds the call, and how much of that peak it reaches."""
    bounds = row["roofline"]
    if not bounds:
        return None
    share = max(bounds["share_flops"], bounds["share_bytes"])
    return f"{share:.0%} {bounds['bound']}"


def cold_text(row: Any) -> str | None:
    """What happens once: building, and the first call or compilation."""
    parts = row["cold_start_ms"]
    return parts and ", ".join(f"{name.replace('_', ' ')} {ms:.0f}" for name, ms in parts.items())


def inner(row: Any, *keys: str) -> Any:
    """A nested value, or None where it is missing."""
    for key in keys:
        row = row.get(key) if row else None
    return row
