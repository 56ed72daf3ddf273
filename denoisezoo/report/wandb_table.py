"""A comparison as a W&B run: quality against cost as a table and a scatter by family, and a card for every result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from denoisezoo.compare.records import RunRecord
from denoisezoo.train.tracking import Tracker, log_card, make_tracker

COLUMNS = ["name", "family", "seed", "quality", "macs_per_image", "latency_ms_per_image", "params", "train_macs"]


def track_comparison(project: str, out: Path, records: list[RunRecord], quality: str, command: str) -> None:
    """Send a comparison to W&B, if it can be used.

    Args:
        project: W&B's project.
        out: Folder of the comparison.
        records: Its runs; those that failed are left out.
        quality: The metric that is compared.
        command: The command that made it.
    """
    good = [record for record in records if record.error is None]
    tracker = make_tracker(out, project, {"command": command, "quality": quality}, job_type="comparison")
    if tracker is None:
        return
    tracker.attempt(_log_pareto, tracker, [pareto_row(record, quality) for record in good], quality)
    for record in good:
        card = {"name": record.name, "family": record.family, **record.metrics, **record.costs, **record.card}
        log_card(tracker, f"{record.name}-seed{record.seed}", card, (record.samples,) if record.samples else ())
    tracker.close()


def pareto_row(record: RunRecord, quality: str) -> dict[str, Any]:
    """What one run is and costs."""
    costs = {key: record.costs.get(key) for key in COLUMNS[4:]}
    return {
        "name": record.name,
        "family": record.family,
        "seed": record.seed,
        "quality": record.metrics.get(quality),
    } | costs


def _log_pareto(tracker: Tracker, rows: list[dict[str, Any]], quality: str) -> None:
    import plotly.graph_objects as go
    import wandb

    figure = go.Figure()
    for family in sorted({row["family"] for row in rows}):
        mine = [row for row in rows if row["family"] == family]
        x, y, names = ([row[key] for row in mine] for key in ("macs_per_image", "quality", "name"))
        figure.add_scatter(x=x, y=y, text=names, mode="markers", name=family)
    figure.update_xaxes(type="log", title="MACs per image")
    figure.update_yaxes(title=quality)
    columns: list[str | int] = [*COLUMNS]
    table = wandb.Table(columns=columns, data=[[row[key] for key in COLUMNS] for row in rows])
    tracker.log_metrics({"pareto/table": table, "pareto/scatter": wandb.Plotly(figure)})
