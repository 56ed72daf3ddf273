"""What is not finite does not reach the weights, and is told: where in noise it was, and where in the network it began.

A step whose loss or gradient holds a NaN or an infinity is skipped: weights, average of the weights and moments of the
optimiser stay as they are. Many such steps in a row end training, with a diagnosis.

On a GPU the host does not wait for the answer: fused optimisers and averages look at it on the device, and the guard
reads it a step later, when the device has long gone on. After a step that was bad it waits again until one is good, so
that what ends training is diagnosed where it is. Other optimisers, float16, whose scaler waits in any case, and weights
that are divided among processes are waited for in every step.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from denoisezoo.errors import ComputationError, UserError
from denoisezoo.ranks import gather
from denoisezoo.train.checkpoint import newest_checkpoint
from denoisezoo.train.efforts import losses_of
from denoisezoo.train.log import log_due, loss_due
from denoisezoo.train.noise_bins import bin_names, bin_of
from denoisezoo.train.precision import loss_scale
from denoisezoo.train.sharding import all_finite, full_weights, is_sharded
from denoisezoo.train.sharding import norms as norms_of

SCALE_FLOOR = 1.0
"""Loss scale of float16 below which a gradient that overflows is no matter of the scale."""


class Verdict(NamedTuple):
    """What the device will have found of a step.

    Attributes:
        bad: 1. if something was not finite, else 0., (), on the device.
        told: Whether all was finite, (), in pinned memory, once `there` has happened.
        there: When it is.
        samples: Log-SNRs and losses (B,) of the parts of the step.
    """

    bad: Tensor
    told: Tensor
    there: torch.cuda.Event
    samples: list[tuple[Tensor, Tensor]]

    @classmethod
    def of(cls, finite: Tensor, samples: list[tuple[Tensor, Tensor]]) -> Verdict:
        """Of a boolean on the device."""
        told = torch.empty((), dtype=torch.bool, pin_memory=True)
        told.copy_(finite, non_blocking=True)
        there = torch.cuda.Event()
        there.record()
        return cls((~finite).float(), told, there, samples)


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
        self._nothing = torch.zeros(0, 2)  # what a process without samples has to say of them
        self._norms: tuple[list[str], Tensor] | None = None
        self._late: Verdict | None = None
        self._named: list[tuple[str, nn.Parameter]] = []

    def state_dict(self) -> dict[str, Any]:
        """What was skipped so far."""
        self._settle()
        return {"skipped": self.skipped, "in_row": self.in_row, "by_noise": dict(self.by_noise)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self.skipped, self.in_row = int(state_dict["skipped"]), int(state_dict["in_row"])
        self.by_noise = Counter(state_dict["by_noise"])

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Keep the batches of the step, to look for what was wrong with them."""
        if self._nothing.device != pl_module.device:
            self._nothing = self._nothing.to(pl_module.device)
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
        self._settle()
        losses, samples, batches = self._losses, self._samples, self._batches
        self._losses, self._samples, self._batches = [], [], []
        self._named = self._named or list(pl_module.named_parameters())  # walking through them takes time
        gradients = {name: grad for name, p in self._named if (grad := p.grad) is not None}
        if not gradients:
            self._missed(pl_module)
            return
        scale, grads = loss_scale(trainer), list(gradients.values())
        self._norms = (list(gradients), norms_of(grads)) if loss_due(trainer) else None
        finite = self._finite(trainer, losses, grads)
        if self._defers(trainer, pl_module, scale):
            self._late = Verdict.of(finite, samples)
        for one in _optimizers(trainer, pl_module):
            one.found_inf = self._late and self._late.bad
        if self._late is not None:
            return
        if bool(finite):
            self.in_row = 0
            return
        self._norms = None
        # An overflow of the gradient alone is a matter of the scale, which the scaler halves.
        overflow = scale is not None and scale > SCALE_FLOOR and bool(self._finite(trainer, losses))
        if not overflow:
            self._skip(samples)
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
        self._settle()
        skipped = {"skipped": self.skipped + pl_module.skipped}
        skipped |= {f"skipped_by_noise/{name}": count for name, count in sorted(self.by_noise.items())}
        counts = {f"guard/{key}": float(value) for key, value in skipped.items()}
        names, norms = self._norms or ([], torch.zeros(0, device=pl_module.device))
        pl_module.readings.add(norms, lambda found: counts | (block_norms(names, torch.tensor(found)) if names else {}))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count the last step, too."""
        self._settle()

    def _defers(self, trainer: Trainer, pl_module: LightningModule, scale: float | None) -> bool:
        """Whether the step in hand may be judged while the host goes on."""
        if pl_module.device.type != "cuda" or scale is not None or self.in_row or not self.max_in_row:
            return False
        skip = all(map(skips_on_device, _optimizers(trainer, pl_module)))
        return skip and not is_sharded(pl_module.denoiser.backbone)

    def _settle(self) -> None:
        """Count the step before, if that has not been done: the device has gone on since, and there is no wait."""
        late, self._late = self._late, None
        if late is None:
            return
        late.there.synchronize()
        if not bool(late.told):
            self._norms = None
            self._skip(late.samples)

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

    def _finite(self, trainer: Trainer, losses: list[Tensor], gradients: Sequence[Tensor] = ()) -> Tensor:
        """Whether losses and gradients are finite, on every process; a boolean on the device."""
        finite = torch.stack([loss.isfinite().all() for loss in losses]).all()
        if gradients:
            finite = finite & all_finite(gradients)
        if trainer.world_size > 1:
            finite = trainer.strategy.reduce(finite.float(), reduce_op="min") > 0
        return finite

    def _skip(self, samples: list[tuple[Tensor, Tensor]]) -> None:
        self.skipped, self.in_row = self.skipped + 1, self.in_row + 1
        pairs = [torch.stack([log_snr.to(loss), loss], 1).float() for log_snr, loss in samples]
        log_snr, loss = gather(torch.cat(pairs) if pairs else self._nothing).unbind(1)
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
    """Whether the guard skipped the step that was taken last; what it does not know yet, `bad_on_device` knows."""
    return any(callback.in_row > 0 for callback in trainer.callbacks if isinstance(callback, Guard))


def bad_on_device(trainer: Trainer) -> Tensor | None:
    """1. if the step that was taken last is to be skipped, else 0., (), on the device; None where the host knows."""
    late = [callback._late for callback in trainer.callbacks if isinstance(callback, Guard)]
    return next((verdict.bad for verdict in late if verdict is not None), None)


def skips_on_device(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a step changes nothing, moments and counts of steps included, where its `found_inf` is 1."""
    fused = all(group.get("fused") for group in optimizer.param_groups)
    return fused and isinstance(optimizer, torch.optim.Adam | torch.optim.AdamW)


def _optimizers(trainer: Trainer, pl_module: LightningModule) -> list[Any]:
    """The denoiser's and those of its opponents."""
    return [*trainer.optimizers, *(opponent.optimizer for opponent in pl_module.opponents.values())]


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
