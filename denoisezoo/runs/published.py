"""Published weights: one safetensors file that holds the weights of a run, its configuration and its card.

The layout is that of `denoisezoo.interop.safetensors_file`.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from denoisezoo import __version__
from denoisezoo.archs import FORMAT
from denoisezoo.errors import UserError
from denoisezoo.evaluation.card import ResultCard
from denoisezoo.files import atomic_path, json_safe
from denoisezoo.interop.safetensors_file import KEY, SUFFIX, digest, save, tensors_of
from denoisezoo.recorded import UndescribableError
from denoisezoo.train.described import describe_denoiser

if TYPE_CHECKING:
    from denoisezoo.runs.run import Run

FACTS = ("images_seen", "train_steps", "train_seconds", "train_macs", "perceptual", "teacher_sha256")
IMPORTED = f"model{SUFFIX}"
"""The one file of a run folder that holds weights from elsewhere."""
CURE = "fetch it again, or export it again with `denoisezoo export`"


def publish(run: Run, path: str | os.PathLike[str]) -> dict[str, Any]:
    """Write the weights of a run as safetensors.

    Args:
        run: The run; its averaged or raw weights are written, whichever it was loaded with.
        path: The file.

    Returns:
        The header.

    Raises:
        UserError: The file cannot be written, or some weights are not finite.
    """
    check_finite(run)
    with atomic_path(path) as temporary:
        return save(about(run), tensors_of(run.denoiser), temporary)


def check_finite(run: Run) -> None:
    """Refuse weights that are not worth keeping.

    Raises:
        UserError: Some are not finite.
    """
    state = run.denoiser.state_dict(prefix="denoiser.")
    if bad := [name for name, value in state.items() if not bool(value.isfinite().all())]:
        raise UserError(
            f"{len(bad)} of the {len(state)} tensors of {run.name} hold NaN or infinity, first {bad[0]}",
            "export an earlier checkpoint, or `weights=raw` or ema, whichever is finite",
        )


def about(run: Run) -> dict[str, Any]:
    """What a file tells of a run, in plain values: version, format, weights, recipe, card, data."""
    recipe = run.config
    if not recipe:
        with contextlib.suppress(UndescribableError):
            recipe = {"model": describe_denoiser(run.denoiser)}
    header = {"version": __version__, "format": FORMAT, "weights": run.weights}
    header |= {"recipe": json_safe(recipe), "card": _card(run)}
    header["data"] = run.known and {**run.known, "origin": None}  # it goes elsewhere
    return header


def _card(run: Run) -> dict[str, Any]:
    """What training was, and the row of the evaluation of this checkpoint, if there is one."""
    facts: dict[str, Any] = {key: run.facts.get(key) for key in FACTS}
    written = run.checkpoint is not None
    data = (_json(run.folder / "run.json").get("data") if written else None) or {}
    card = ResultCard.here(
        dataset=data.get("dataset"),
        dataset_sha256=data.get("dataset_sha256"),
        resolution=run.image_shape[-1],
        weights=run.weights_text,
        training_seed=run.facts.get("seed"),
        **run.denoiser.codec.facts(),
        params=sum(parameter.numel() for parameter in run.denoiser.backbone.parameters()),
        **facts,
    )
    result = _json(run.folder / "evaluation" / "result.json") if written else {}
    fits = result.get("weights") == run.weights_text and result.get("train_steps") == facts["train_steps"]
    return {"name": run.name, "family": run.family, **json_safe(card.as_dict()), "result": result if fits else None}


def _json(path: Path) -> dict[str, Any]:
    """A JSON object, or an empty one where there is none."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def read_published(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and tensors of a published file.

    Raises:
        UserError: The file is missing, damaged, or not one that `denoisezoo export` wrote.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(os.fspath(path), framework="pt") as file:
            text = (file.metadata() or {}).get(KEY)
            tensors = {name: file.get_tensor(name) for name in file.keys()} if text else {}  # noqa: SIM118
    except (SafetensorError, ValueError, OverflowError, MemoryError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0][:80]
        raise UserError(f"{path} is damaged or no safetensors file ({reason})", CURE) from error
    if not text:
        what = f"{path} is no file of denoisezoo: its header lacks {KEY!r}"
        raise UserError(what, "give one that `denoisezoo export` wrote")
    return _checked(path, text, tensors), tensors


def _checked(path: str | os.PathLike[str], text: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    try:
        header = json.loads(text)
        expected = header.pop("sha256")
        whole = expected == digest(header, tensors)
    except (ValueError, AttributeError, KeyError, TypeError):
        whole = False
    if not whole:
        raise UserError(f"{path} is damaged: it differs from the checksum in its header", CURE)
    return {**header, "sha256": expected}
