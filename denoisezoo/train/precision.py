"""In which precision a run trains: the ones there are, by all their names, and the loss scale of float16."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch.plugins.precision import MixedPrecision

from denoisezoo.errors import UserError

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
"""Weights are float32 in each of them; the mixed ones compute in bfloat16 and float16 what torch's autocast allows."""
SHORT = {"None": "32-true", "32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}
"""Lightning's other names for them."""


def full_name(precision: Any) -> str:
    """The name among `PRECISIONS`; of others, what was given."""
    return SHORT.get(str(precision), str(precision))


def check_precision(precision: Any) -> None:
    """Refuse precisions in which weights, moments, averages and times would be rounded, or that need other layers.

    Args:
        precision: What `trainer.precision` of a recipe says.

    Raises:
        UserError: It is none of `PRECISIONS`.
    """
    if full_name(precision) not in PRECISIONS:
        raise UserError(f"trainer.precision {precision} is not supported", f"use one of {', '.join(PRECISIONS)}")


def keep_float16(trainer: Any, precision: Any) -> None:
    """Compute in float16 where that was asked for: on a CPU Lightning takes bfloat16 instead, with a warning."""
    if full_name(precision) == "16-mixed" != trainer.precision:
        trainer.strategy.precision_plugin = MixedPrecision("16-mixed", trainer.strategy.root_device.type)


def scaler_of(trainer: Any) -> torch.amp.GradScaler | None:
    """What multiplies losses, lest gradients vanish in float16; None in other precisions."""
    return getattr(trainer.precision_plugin, "scaler", None)


def loss_scale(trainer: Any) -> float | None:
    """By what losses are multiplied; None where they are not."""
    scaler = scaler_of(trainer)
    return None if scaler is None else float(scaler.get_scale())
