"""Optimisers and their learning rate over time."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Timer

from denoisezoo.errors import UserError, unknown


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimiser and its learning rate over time.

    Args:
        name: Any optimiser of timm, e.g. adamw, adam, muon, lion.
        lr: Learning rate after warm-up.
        betas: Momentum factors, of optimisers that have two; others keep their own, which are timm's.
        weight_decay: Decay of weights; not of biases and norms.
        warmup_steps: Steps of linear warm-up.
        schedule: What follows: "constant", "linear" to zero, or "cosine" to zero, at the last step; or "inverse_sqrt",
            1 / sqrt(max(step / t_ref, 1)), whatever the last step is (EDM2, arXiv 2312.02696, equation 67).
        t_ref: Step after which the rate of "inverse_sqrt" falls; the warm-up counts among them.
    """

    name: str = "adamw"
    lr: float = 2e-4
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    warmup_steps: int = 0
    schedule: Literal["constant", "linear", "cosine", "inverse_sqrt"] = "constant"
    t_ref: int | None = None

    def __post_init__(self) -> None:
        for key, value in vars(self).items():
            if value is None and key != "t_ref":  # a recipe's `null`, which jsonargparse lets through
                raise UserError(f"{key} is null", "give a value, or leave it out")
        if not 0 < self.lr < math.inf:
            raise UserError(f"lr is {self.lr}", "give a finite learning rate above 0, such as 0.0002")
        if not 0 <= self.weight_decay < math.inf:
            raise UserError(f"weight_decay is {self.weight_decay}", "give 0 or a positive number")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise UserError(f"betas is {list(self.betas)}", "give two numbers of at least 0 and below 1")
        if self.warmup_steps < 0:
            raise UserError(f"warmup_steps is {self.warmup_steps}", "give a whole number of at least 0")
        known = self.t_ref is not None
        if (self.schedule == "inverse_sqrt") != known or (self.t_ref is not None and self.t_ref < 1):
            cure = "give a whole number of at least 1 with inverse_sqrt, such as 70000, and none with other schedules"
            raise UserError(f"t_ref is {self.t_ref} and schedule {self.schedule}", cure)

    def factor(self, step: int, max_steps: float) -> float:
        """Learning rate at a step as a share of `lr`; `max_steps` may be infinite."""
        ramp = min(1.0, (step + 1) / max(1, self.warmup_steps))
        if self.t_ref is not None:
            return ramp / math.sqrt(max(step / self.t_ref, 1.0))
        if step < self.warmup_steps:
            return ramp
        done = min(1.0, (step - self.warmup_steps) / max(1, max_steps - self.warmup_steps))
        return {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}[self.schedule]

    def build(self, module: torch.nn.Module) -> torch.optim.Optimizer:
        """The optimiser for the trainable parameters of `module`, fused where torch offers it."""
        with warnings.catch_warnings():  # timm scripts some optimisers as it is imported, which torch has deprecated
            warnings.simplefilter("ignore", FutureWarning)
            from timm.optim import create_optimizer_v2, get_optimizer_class, list_optimizers

        names = [str(name) for name in list_optimizers()]
        if self.name not in names:
            raise unknown("optimizer", self.name, names)
        options: dict[str, Any] = {"fused": True} if self.name in {"adam", "adamw"} else {}
        try:
            takes = inspect.signature(get_optimizer_class(self.name, bind_defaults=False)).parameters
            if "betas" in takes and len(takes["betas"].default or self.betas) == len(self.betas):
                options["betas"] = self.betas
            optimizer = create_optimizer_v2(
                module, opt=self.name, lr=self.lr, weight_decay=self.weight_decay, **options
            )
        except (AssertionError, ImportError) as error:  # of apex and bitsandbytes
            raise UserError(f"optimizer {self.name} is not available ({error})", "choose another") from error
        if getattr(optimizer, "is_second_order", False):
            raise UserError(f"optimizer {self.name} takes second derivatives", "choose another")
        # A fused step can also divide by the scale of a scaled loss; but the guard and clipping want to see gradients
        # before the step as they are. Of optimisers without this mark, Lightning's scaler divides beforehand.
        optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]
        optimizer.register_load_state_dict_post_hook(_lay_out)
        return optimizer


def _lay_out(optimizer: torch.optim.Optimizer) -> None:
    """Lay moments out in memory as their parameters are, which fused optimisers take for granted.

    Those of a run that had its weights divided are contiguous, and parameters may be channels-last.
    """
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            alike = isinstance(value, torch.Tensor) and value.shape == parameter.shape
            if alike and value.stride() != parameter.stride():
                state[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


DEFAULT = OptimizerConfig()


def follow_schedule(schedule: Any, factor: Callable[[int], float]) -> None:
    """Give the step in hand its learning rate, which a checkpoint has from a run that was perhaps to end elsewhere.

    Args:
        schedule: A `LambdaLR`.
        factor: Step -> learning rate as a share of each group's own.
    """
    for group, base in zip(schedule.optimizer.param_groups, schedule.base_lrs, strict=True):
        group["lr"] = base * factor(schedule.last_epoch)


def last_step(trainer: Trainer, step: int, seconds: float, agreed: tuple[int, float] = (0, 0.0)) -> float:
    """The step that training ends with: known, or by its pace so far if a time limits it; infinite without an end.

    Args:
        trainer: Lightning's.
        step: Steps done.
        seconds: What they took.
        agreed: Steps and seconds that all processes know, since the last log: of several, clocks differ, and learning
            rates must not; to ask for the first one's in every step would make all wait in every step.
    """
    known = trainer.estimated_stepping_batches
    timer = next((c for c in trainer.callbacks if isinstance(c, Timer)), None)
    limit = timer and timer._duration
    if trainer.world_size > 1:
        step, seconds = agreed
    if not limit or not step or seconds <= 0:
        return known
    return min(known, step * limit / seconds)
