"""What is not finite does not reach the weights, and is told: where in noise it was, and where in the network it began.

A step whose loss or gradient holds a NaN or an infinity is skipped: weights, average of the weights and moments of the
optimiser stay as they are. Many such steps in a row end training, with a diagnosis.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from denoisezoo.errors import ComputationError, UserError
from denoisezoo.ranks import gather
from denoisezoo.train.checkpoint import newest_checkpoint
from denoisezoo.train.efforts import losses_of
from denoisezoo.train.log import log_due, log_now, loss_due
from denoisezoo.train.noise_bins import bin_names, bin_of
from denoisezoo.train.precision import loss_scale
from denoisezoo.train.sharding import all_finite, full_weights
from denoisezoo.train.sharding import norms as norms_of

SCALE_FLOOR = 1.0
"""Loss scale of float16 below which a gradient that overflows is no matter of the scale."""


class DivergenceError(ComputationError):
    """What all processes have agreed on, so that one of them may tell it for all."""


class Guard(Callback):
    """Skips steps that are not finite, and logs the norm of the gradient, whole and by block of the network.

    Args:
        max_in_row: Steps in a row that may be skipped; one more ends training.

    Attributes:
        skipped: Steps that were skipped.
        in_row: Steps that were skipped since the last good one.
        by_noise: Bin of noise level -> samples that were not finite; where only the gradient was not, the worst sample
            of the step counts.
    """

    def __init__(self, max_in_row: int = 10) -> None:
        if max_in_row < 0:
            raise UserError(f"max_in_row is {max_in_row}", "give a whole number of at least 0")
        self.max_in_row = max_in_row
        self.skipped = self.in_row = 0
        self.by_noise: Counter[str] = Counter()
        self._losses: list[Tensor] = []
        self._samples: list[tuple[Tensor, Tensor]] = []
        self._batches: list[tuple[Any, int]] = []
        self._norms: dict[str, float] = {}
        self._named: list[tuple[str, nn.Parameter]] = []

    def state_dict(self) -> dict[str, Any]:
        """What was skipped so far."""
        return {"skipped": self.skipped, "in_row": self.in_row, "by_noise": dict(self.by_noise)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self.skipped, self.in_row = int(state_dict["skipped"]), int(state_dict["in_row"])
        self.by_noise = Counter(state_dict["by_noise"])

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Keep the batches of the step, to look for what was wrong with them."""
        self._batches.append((batch, batch_idx))

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Keep the loss of each part of the step."""
        self._losses.append(loss.detach())
        if pl_module.noise_bins.latest is not None:
            self._samples.append(pl_module.noise_bins.latest)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        """Skip the step if it is not finite.

        Raises:
            ComputationError: Too many in a row were not.
        """
        losses, samples, batches = self._losses, self._samples, self._batches
        self._losses, self._samples, self._batches = [], [], []
        self._named = self._named or list(pl_module.named_parameters())  # walking through them takes time
        gradients = {name: grad for name, p in self._named if (grad := p.grad) is not None}
        if not gradients:
            self._missed(pl_module)
            return
        scale, grads = loss_scale(trainer), list(gradients.values())
        if self._good(trainer, losses, grads):
            self.in_row = 0
            if loss_due(trainer):
                self._norms = block_norms(list(gradients), norms_of(grads))
            return
        self._norms = {}
        # An overflow of the gradient alone is a matter of the scale, which the scaler halves.
        overflow = scale is not None and scale > SCALE_FLOOR and self._good(trainer, losses)
        if not overflow:
            self._skip(trainer, pl_module, samples)
            if self.in_row > self.max_in_row:
                raise self._diagnosis(trainer, pl_module, losses, gradients, batches)
        for _, parameter in self._named:
            parameter.grad = None  # optimisers leave a parameter without a gradient alone

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log as often as the loss."""
        if not log_due(trainer):
            return
        skipped = {"skipped": self.skipped + pl_module.skipped}
        skipped |= {f"skipped_by_noise/{name}": count for name, count in sorted(self.by_noise.items())}
        log_now(trainer, {**self._norms, **{f"guard/{key}": value for key, value in skipped.items()}})

    def _missed(self, pl_module: LightningModule) -> None:
        """Count a step of which nothing could be computed.

        Raises:
            ComputationError: Too many in a row could not.
        """
        self.in_row += 1
        if self.in_row > self.max_in_row:
            raise ComputationError(
                f"{self.in_row} steps in a row could not be computed ({pl_module.failure})",
                "leave out `model.on_failure=skip` to stop at the first, and see what it says",
            )

    def _good(self, trainer: Trainer, losses: list[Tensor], gradients: Sequence[Tensor] = ()) -> bool:
        """Whether losses and gradients are finite, on every process."""
        finite = torch.stack([loss.isfinite().all() for loss in losses]).all()
        if gradients:
            finite = finite & all_finite(gradients)
        if trainer.world_size > 1:
            finite = trainer.strategy.reduce(finite.float(), reduce_op="min") > 0
        return bool(finite)

    def _skip(self, trainer: Trainer, pl_module: LightningModule, samples: list[tuple[Tensor, Tensor]]) -> None:
        self.skipped, self.in_row = self.skipped + 1, self.in_row + 1
        here = [torch.zeros(0, 2, device=pl_module.device), *(torch.stack(pair, 1).float() for pair in samples)]
        log_snr, loss = gather(torch.cat(here)).unbind(1)
        if len(loss):
            bad = ~loss.isfinite()
            worst = log_snr[bad] if bad.any() else log_snr[loss.argmax()][None]
            names = bin_names()
            self.by_noise.update(names[i] for i in bin_of(worst.nan_to_num()).tolist())

    def _diagnosis(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        losses: list[Tensor],
        gradients: dict[str, Tensor],
        batches: Any,
    ) -> DivergenceError:
        norms = norms_of(list(gradients.values()))
        with full_weights(pl_module.denoiser.backbone), trainer.precision_plugin.train_step_context():
            found = [first_non_finite(pl_module, *batch) for batch in batches]
        where = first_of_all(trainer, next(filter(None, found), None)) or _gradient(list(gradients), norms)
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        folder = Path(trainer.default_root_dir)
        good = newest_checkpoint(folder)
        worst = next((loss for loss in losses if not loss.isfinite()), losses[-1])
        loss = float(worst) * trainer.accumulate_grad_batches / (loss_scale(trainer) or 1.0)
        return DivergenceError(
            f"{self.in_row} steps in a row were not finite, the last of them step {trainer.global_step + 1}: "
            f"loss {loss:g}, {where}, {self._sigmas()}, learning rate {rate:g}, precision {trainer.precision}",
            "check the data, lower the learning rate, or clip gradients; the last good checkpoint is "
            + (str(good) if good else "none, training had just begun"),
        )

    def _sigmas(self) -> str:
        """Where in noise it was, as log-SNR and as sigma, the noise relative to the image."""
        edges = [tuple(map(float, name.split("_to_"))) for name in self.by_noise]
        if not edges:
            return "sigma unknown"
        low, high = min(edge[0] for edge in edges), max(edge[1] for edge in edges)
        return f"sigma {math.exp(-high / 2):.3g} to {math.exp(-low / 2):.3g} (log-SNR {low:g} to {high:g})"


def first_of_all(trainer: Trainer, found: str | None) -> str | None:
    """What the first process that found something has found."""
    if trainer.world_size == 1:
        return found
    everywhere: list[str | None] = [None] * trainer.world_size
    torch.distributed.all_gather_object(everywhere, found)
    return next(filter(None, everywhere), None)


def was_skipped(trainer: Trainer) -> bool:
    """Whether the guard skipped the step that was taken last."""
    return any(callback.in_row > 0 for callback in trainer.callbacks if isinstance(callback, Guard))


def block_norms(names: list[str], norms: Tensor) -> dict[str, float]:
    """Norm of the gradient, whole and by block: the part of a parameter's name below `backbone`, with a number."""
    squares: dict[str, float] = {}
    for name, square in zip(names, norms.square().tolist(), strict=True):
        block = block_of(name)
        squares[block] = squares.get(block, 0.0) + square
    found = {f"grad_norm/{block}": math.sqrt(square) for block, square in squares.items()}
    return {"grad_norm": math.sqrt(sum(squares.values())), **found}


def block_of(name: str) -> str:
    """The block of a parameter: "denoiser.backbone.down.3.conv.weight" is in "down.3"."""
    parts = name.rpartition("backbone.")[2].split(".")
    return ".".join(parts[:2]) if len(parts) > 2 and parts[1].isdigit() else parts[0]


def _gradient(names: list[str], norms: Tensor) -> str:
    bad = [name for name, norm in zip(names, norms.tolist(), strict=True) if not math.isfinite(norm)]
    return f"first non-finite gradient in {bad[0]}" if bad else "the loss alone"


def first_non_finite(module: LightningModule, batch: Any, batch_idx: int) -> str | None:
    """What was not finite first: the batch, a weight, or the activation of a module; None if nothing was.

    The batch is computed once more, with the same times and noise.
    """
    if not batch["image"].isfinite().all():
        return "the batch itself holds values that are not finite"
    for name, parameter in module.named_parameters():
        if not parameter.detach().isfinite().all():
            return f"weight {name} is not finite"
    with torch.no_grad(), _watched(module) as found:
        losses_of(module.objective, module.passes(module.encoded(batch, batch_idx), batch_idx))
    return f"first non-finite activation in {found[0]}" if found else None


@contextmanager
def _watched(module: nn.Module) -> Iterator[list[str]]:
    """Yields a list to which every module whose output is not finite adds its name."""
    found: list[str] = []

    def hook(name: str) -> Any:
        def look(_: nn.Module, __: Any, output: Any) -> None:
            if isinstance(output, Tensor) and not output.isfinite().all():
                found.append(name)

        return look

    handles = [child.register_forward_hook(hook(name)) for name, child in module.named_modules() if name]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
