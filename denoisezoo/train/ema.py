"""Exponential moving average of the weights, with a ramp-up: early samples are not those of the first weights."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch.optim.swa_utils import AveragedModel

from denoisezoo.errors import UserError
from denoisezoo.train.guard import bad_on_device, was_skipped
from denoisezoo.train.sharding import gathered, mine, reshard

Tensors = tuple[list[torch.Tensor], list[torch.Tensor]]
"""Parameters and buffers of a module."""


class EMA(WeightAveraging):
    """EMA with EDM's half-life in images (arXiv 2206.00364, appendix F.2).

    decay = 0.5^(batch / h) with h = min(half_life, ramp_up * images seen). Lightning's callback has a fixed decay, and
    torch's `AveragedModel` asks the device for a number at every update, which makes the host wait; both are replaced
    here by one fused update. Buffers are copied, not averaged.

    Where steps choose what they train, a step averages that alone: a parameter without a gradient, such as those of a
    stage whose turn it was not, keeps its average (MSDiff, arXiv 2207.09786, has an average for each stage). Where
    steps train one stage each, the half-life thus counts the images of the stage's own batches; where each trains all
    of them, those of the whole batch. The ramp-up counts all images.

    Args:
        half_life: Images after which the weight of old parameters has halved.
        ramp_up: The half-life is at most this share of the images seen so far; 0 switches the ramp off.
    """

    def __init__(self, half_life: float = 10_000.0, ramp_up: float = 0.05) -> None:
        if not (0 < half_life < math.inf and 0 <= ramp_up < math.inf):
            raise UserError(f"half_life {half_life} or ramp_up {ramp_up} is out of range", "give positive numbers")
        super().__init__()
        self._latest_update_step = 0
        self._pairs: tuple[torch.nn.Module, Tensors, Tensors] | None = None
        self._parameters: list[torch.nn.Parameter] = []
        self._trained: list[bool] = []
        self.half_life, self.ramp_up = half_life, ramp_up

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Copy the module before its weights are divided, and divide those of the copy alike."""
        if stage != "fit":
            return
        mesh, pl_module._device_mesh = pl_module._device_mesh, None  # processes cannot be copied
        self._average_model = AveragedModel(pl_module, device=pl_module.device, use_buffers=True)
        average: Any = self.average(pl_module)
        if (denoiser := getattr(pl_module, "denoiser", None)) is not None:
            average.denoiser.codec = denoiser.codec  # frozen: it has no average, and is kept once
        average.objective = getattr(pl_module, "objective", None)  # it may hold a teacher
        for name in getattr(pl_module, "frozen", ()):
            setattr(average, name, getattr(pl_module, name))
        pl_module._device_mesh = average._device_mesh = mesh
        average.configure_model()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """The average beside the weights, whole."""
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        checkpoint["state_dict"] = gathered(checkpoint["state_dict"])

    def decay(self, images_seen: int, batch: int) -> float:
        """The factor of the old average after `images_seen` images, for an update that brings `batch` more."""
        half_life = min(self.half_life, self.ramp_up * images_seen) if self.ramp_up else self.half_life
        return 0.5 ** (batch / max(half_life, 1e-8))

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        """Note which parameters the step trains, where it chooses: the module forgets its gradients after it."""
        if not getattr(pl_module, "chooses", True):
            return
        self._parameters = self._parameters or _averaged(pl_module.parameters(), pl_module)
        self._trained = [parameter.grad is not None for parameter in self._parameters]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Update the average after every optimiser step."""
        if trainer.global_step <= self._latest_update_step or was_skipped(trainer):
            return
        images_seen = int(pl_module.images_seen)
        per_step = max(1, images_seen // max(trainer.global_step, 1))
        self._update(pl_module, 1 - self.decay(images_seen - per_step, per_step), bad_on_device(trainer))
        self._latest_update_step = trainer.global_step

    @torch.no_grad()
    def _update(self, pl_module: LightningModule, weight: float, bad: torch.Tensor | None = None) -> None:
        average = self.average(pl_module)
        if self._pairs is None or self._pairs[0] is not average:  # walking through the modules takes longer than this
            self._pairs = average, _tensors(average), _tensors(pl_module)
        _, (means, mean_buffers), (weights, buffers) = self._pairs
        if self._trained:
            means, weights = (list(itertools.compress(tensors, self._trained)) for tensors in (means, weights))
        if means:
            lerp(means, weights, weight, bad)
        if mean_buffers:
            torch._foreach_copy_(mean_buffers, buffers)

    def average(self, pl_module: LightningModule) -> torch.nn.Module:
        """The module that holds the averaged weights."""
        assert self._average_model is not None, "the average exists from the start of training"
        return self._average_model.module

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Nothing: steps count, not epochs."""

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Nothing: copying the average into the live weights would make the last checkpoint impossible to resume."""

    def _swap_models(self, pl_module: LightningModule) -> None:
        """Exchange them between passes: whole weights would not be those of the shares."""
        for child in pl_module.modules():
            reshard(child)
        super()._swap_models(pl_module)

    @contextlib.contextmanager
    def averaged(self, pl_module: LightningModule) -> Iterator[None]:
        """Within it the module has the averaged weights; before and after, its own."""
        self._swap_models(pl_module)
        try:
            yield
        finally:
            self._swap_models(pl_module)


def lerp(
    means: list[torch.Tensor], weights: list[torch.Tensor], weight: float, bad: torch.Tensor | None = None
) -> None:
    """Move averages towards weights by a share of the way, in one launch, or not at all where `bad` is 1.

    Args:
        means: The averages; changed in place.
        weights: Alike.
        weight: The share.
        bad: From the device, (); None moves them.
    """
    if bad is None:
        torch._foreach_lerp_(means, weights, weight=weight)
        return
    # A step of SGD, p - lr (g + weight_decay p), with p the average, g the weights, -lr the share, weight_decay -1.
    torch._fused_sgd_(
        means,
        weights,
        [],
        weight_decay=-1.0,
        momentum=0.0,
        lr=-weight,
        dampening=0.0,
        nesterov=False,
        maximize=False,
        is_first_step=False,
        found_inf=bad,
    )


T = TypeVar("T", bound=torch.Tensor)


def _averaged(tensors: Iterable[T], module: torch.nn.Module) -> list[T]:
    """Those that have an average: not those of a codec and other frozen parts, which are the same in both modules."""
    codec: Any = getattr(getattr(module, "denoiser", None), "codec", torch.nn.Module())
    shared = [codec, *(getattr(module, name) for name in getattr(module, "frozen", ()))]
    frozen = {id(tensor) for part in shared for tensor in (*part.parameters(), *part.buffers())}
    return [tensor for tensor in tensors if id(tensor) not in frozen]


def _tensors(module: torch.nn.Module) -> Tensors:
    parameters = [mine(parameter) for parameter in _averaged(module.parameters(), module)]
    return parameters, _averaged(module.buffers(), module)


def averaged_weights(trainer: Trainer, pl_module: LightningModule) -> contextlib.AbstractContextManager[None]:
    """The trainer's EMA as a context, or a context that changes nothing where there is none."""
    for callback in trainer.callbacks:
        if isinstance(callback, EMA) and callback._average_model is not None:
            return callback.averaged(pl_module)
    return contextlib.nullcontext()


def average_of(trainer: Trainer, pl_module: Any) -> Any:
    """The averaged denoiser that goes with a module in training, for calls without gradients; itself without an EMA."""
    for callback in trainer.callbacks:
        if isinstance(callback, EMA) and callback._average_model is not None:
            average: Any = callback.average(pl_module)
            average.denoiser.process = pl_module.denoiser.process  # one that changes in training is changed there
            return average.denoiser.requires_grad_(False).eval()
    return pl_module.denoiser
