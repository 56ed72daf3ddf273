"""What a run needs to go on: each part of the checkpoint there and of its type, and a run.json that can be read.

A part that is missing would not always be noticed otherwise: without its average, for one, a run would go on and begin
another.
"""

from __future__ import annotations

import contextlib
import json
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from denoisezoo.errors import UserError
from denoisezoo.train.checkpoint import CURE
from denoisezoo.train.device_choices import with_defaults
from denoisezoo.train.places import without_places
from denoisezoo.train.precision import full_name

FREE_SECTIONS = ("trainer", "checkpoint", "posthoc", "samples", "guard", "wandb")
FIXED_OF_TRAINER = (
    *("accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm", "precision"),
    "overfit_batches",
)
SUMMARY = "run.json"
PARTS: dict[str, type] = {
    "global_step": int,
    "pytorch-lightning_version": str,
    "state_dict": dict,
    "current_model_state": dict,
    "averaging_state": dict,
    "optimizer_states": list,
    "lr_schedulers": list,
    "loops": dict,
    "callbacks.EMA": dict,
    "callbacks.Guard": dict,
    "callbacks.Checkpoints": dict,
    "loops.fit_loop": dict,
    "loops.fit_loop.state_dict.combined_loader": list,
    "denoisezoo.images_seen": int,
    "denoisezoo.train_seconds": float,
    "denoisezoo.seed": int,
    "denoisezoo.skipped": int,
    "denoisezoo.noise_bins.total": Tensor,
    "denoisezoo.noise_bins.count": Tensor,
}
"""Key, dotted, of what a checkpoint must hold -> its type."""
FACTS: dict[str, type] = {"finished": bool, "images_seen": int, "train_steps": int, "denoiser": str}
"""The same for run.json of a run that ended."""
COUNTERS = ("ready", "started", "processed", "completed")
"""What Lightning counts of batches."""
CONNECTOR = "checkpoint_connector.py"


def check_resumable(content: dict[str, Any], path: Path) -> None:
    """Refuse a checkpoint that a run could not go on from.

    Raises:
        UserError: A part is missing, empty or of another type.
    """
    for key, kind in PARTS.items():
        value: Any = content
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if not isinstance(value, kind) or isinstance(value, bool) or (kind in (dict, list) and not value):
            what = "lacks" if value is None else "is damaged:"
            raise UserError(f"{path} {what} {key}, and a run cannot go on from it", CURE)
    for loader in content["loops"]["fit_loop"]["state_dict"]["combined_loader"]:
        if not isinstance(loader, dict) or not isinstance(loader.get("position"), int):
            raise UserError(f"{path} is damaged: it lacks the place in the data", CURE)


def accumulated(recipe: Mapping[str, Any]) -> int:
    """Over how many batches a resolved recipe accumulates gradients."""
    return int((recipe.get("trainer") or {}).get("accumulate_grad_batches") or 1)


def divide_anew(checkpoint: dict[str, Any], accumulate: int) -> None:
    """Count a checkpoint's batches as a run does that accumulates over another number of them.

    A step of two processes is one batch to each of them, and two to a single process that takes both parts.

    Args:
        checkpoint: Changed in place: the place in the data, and Lightning's counters.
        accumulate: Batches of a step in the run that goes on.
    """
    before = accumulated(checkpoint["denoisezoo"]["recipe"])
    if before == accumulate:
        return
    loop = checkpoint["loops"]["fit_loop"]
    places = loop["state_dict"]["combined_loader"]
    for counts, key in (
        *((place, "position") for place in places),
        *((loop["epoch_loop.batch_progress"][kind], key) for kind in ("total", "current") for key in COUNTERS),
    ):
        counts[key] = counts[key] // before * accumulate  # checkpoints are written between steps


@contextlib.contextmanager
def resuming(path: Path | None) -> Iterator[None]:
    """Tell of a part of the checkpoint that Lightning cannot take up in one line.

    Args:
        path: The checkpoint; None where a run begins.

    Raises:
        UserError: Something in it does not fit.
    """
    try:
        yield
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        restoring = any(frame.filename.endswith(CONNECTOR) and "restore" in frame.name for frame in frames)
        if path is None or isinstance(error, UserError) or not restoring:
            raise
        reason = (str(error) or type(error).__name__).splitlines()[0][:120]
        raise UserError(f"{path} does not fit this training ({type(error).__name__}: {reason})", CURE) from error


def read_summary(folder: Path) -> dict[str, Any]:
    """What run.json says; nothing where there is none.

    Raises:
        UserError: It cannot be read, or lacks what the run.json of an ended run has.
    """
    path = folder / SUMMARY
    if not path.is_file():
        return {}
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        facts = None
    if not isinstance(facts, dict) or any(not isinstance(facts.get(key), kind) for key, kind in FACTS.items()):
        raise UserError(f"{path} is damaged", "delete it; `denoisezoo train` writes it again at the run's end")
    return facts


def kept(config: dict[str, Any], moved: bool = False) -> dict[str, Any]:
    """The part of a configuration that a resumed run must share; with `moved` its data may lie elsewhere."""
    trainer = config.get("trainer") or {}
    fixed = {key: trainer.get(key) for key in FIXED_OF_TRAINER}
    fixed["precision"] = full_name(fixed["precision"])
    config = config | {"data": without_places(config["data"])} if moved else config
    config = config | {"model": with_defaults(config.get("model") or {})}
    sections = {key: value for key, value in config.items() if key not in FREE_SECTIONS} | {"trainer": fixed}
    kept_by_name: dict[str, Any] = by_name(sections)
    return kept_by_name


def by_name(value: Any) -> Any:
    """A configuration with this package's classes by their names alone: files move from version to version."""
    if isinstance(value, dict):
        return {
            key: f"denoisezoo.{inside.rpartition('.')[2]}"
            if key == "class_path" and isinstance(inside, str) and inside.startswith("denoisezoo.")
            else by_name(inside)
            for key, inside in value.items()
        }
    return [by_name(inside) for inside in value] if isinstance(value, list) else value


def first_difference(a: Any, b: Any, path: str = "") -> str | None:
    """The first key, dotted, at which two plain configurations differ."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key in [*a, *(k for k in b if k not in a)]:
            inside = f"{path}.{key}" if path else str(key)
            if difference := first_difference(a.get(key), b.get(key), inside):
                return difference
        return None
    return None if a == b else path or "configuration"
