"""What happens beside the training step: sample grids, throughput, garbage."""

from __future__ import annotations

import contextlib
import gc
import sys
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from denoisezoo.diffusion import Given, NetworkDenoiser, Process, create_sampler
from denoisezoo.diffusion.capabilities import unconditioned
from denoisezoo.diffusion.generate import generate
from denoisezoo.errors import ComputationError, UserError
from denoisezoo.evaluation.conditions import Conditions, held_out, sample_labels, sample_picture
from denoisezoo.pictures import save_png
from denoisezoo.profiling.roofline import known_peaks, peaks
from denoisezoo.ranks import gather, share
from denoisezoo.train.ema import averaged_weights
from denoisezoo.train.log import log_due, log_now, step_done
from denoisezoo.train.sharding import full_weights


class SampleGrid(Callback):
    """Draws a grid of samples from the averaged weights, always from the same noise: image i has seed `seed` + i.

    Where a logger takes images, the same noise is also drawn from the raw weights, for comparison. Several processes
    share the work. A picture that cannot be drawn, because a number is not finite, or not be written, is warned of and
    does not end training: the guard watches its numbers.

    Args:
        every_n_steps: Steps between grids; 0 draws none.
        num: Images in a grid.
        sampler: Sampler with its options, e.g. "heun" or "ddim:eta=0.5".
        steps: Its steps.
        seed: Seed of the noise.
    """

    def __init__(
        self, every_n_steps: int = 500, num: int = 36, sampler: str = "ddim", steps: int = 25, seed: int = 0
    ) -> None:
        if every_n_steps < 0 or num < 1 or steps < 1:
            raise UserError(
                f"every_n_steps {every_n_steps}, num {num} or steps {steps} is out of range",
                "give every_n_steps of at least 0, num and steps of at least 1",
            )
        self.every_n_steps, self.num, self.sampler = every_n_steps, num, create_sampler(sampler)
        self.steps, self.seed = steps, seed
        self._conditions: Conditions | None = None

    def check(self, process: Process, max_steps: int) -> None:
        """Refuse grids that could not be drawn when their step comes.

        Args:
            process: The process that is trained.
            max_steps: The last step, -1 where it is not known.

        Raises:
            UserError: What the sampler says.
        """
        if self.every_n_steps and not 0 <= max_steps < self.every_n_steps:
            self.sampler.checked_grid(unconditioned(process), self.steps)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Draw a grid when its step has come."""
        if not self.every_n_steps or not step_done(trainer) or trainer.global_step % self.every_n_steps:
            return
        self._conditions = held_out(trainer.datamodule, self.num) if pl_module.denoiser.cond_shape else None
        self._show(trainer, "ema", self.draw(trainer, pl_module))
        if any(hasattr(logger, "log_image") for logger in trainer.loggers):
            self._show(trainer, "raw", self.draw(trainer, pl_module, averaged=False))

    def draw(self, trainer: Trainer, pl_module: LightningModule, *, averaged: bool = True) -> torch.Tensor:
        """Samples (num, C, H, W) of the averaged or raw weights; the random state of training is left alone.

        Those of a process whose walk was not finite are NaN.
        """
        denoiser = pl_module.denoiser
        was_training = denoiser.training
        denoiser.eval()
        weights = averaged_weights(trainer, pl_module) if averaged else contextlib.nullcontext()
        try:
            with weights, full_weights(denoiser.backbone):
                return self._images(denoiser, pl_module.device)
        finally:
            denoiser.train(was_training)

    def _images(self, denoiser: NetworkDenoiser, device: torch.device) -> torch.Tensor:
        shape = denoiser.image_shape
        mine = share(self.num)
        labels = sample_labels(self.num, denoiser.backbone.spec.num_classes, self._conditions)
        images, conditions = torch.zeros(0, *shape), self._conditions
        if len(mine):
            try:
                images = generate(
                    denoiser,
                    self.sampler,
                    len(mine),
                    shape,
                    steps=self.steps,
                    first_seed=self.seed + mine.start,
                    given=Given(
                        label=None if labels is None else labels[mine.start : mine.stop],
                        image=conditions.pair.y if conditions else None,
                    ),
                    image_index=conditions.index(self.num)[mine.start : mine.stop] if conditions else None,
                    device=device,
                ).images
            except ComputationError as error:
                print(f"warning: no grid of samples: {error.what}", file=sys.stderr)
                images = torch.full((len(mine), *shape), torch.nan)  # other processes wait for them
        return gather(images.to(device)).cpu()

    def _show(self, trainer: Trainer, weights: str, images: torch.Tensor) -> None:
        if not trainer.is_global_zero or not bool(images.isfinite().all()):
            return
        name = f"step_{trainer.global_step:08d}.png" if weights == "ema" else f"raw_{trainer.global_step:08d}.png"
        path = Path(trainer.default_root_dir) / "samples" / name
        try:
            save_png(sample_picture(images, self._conditions), path)
        except UserError as error:
            print(f"warning: {error.what}", file=sys.stderr)
            return
        for logger in trainer.loggers:
            if hasattr(logger, "log_image"):
                logger.log_image(f"samples/{weights}", [str(path)], step=trainer.global_step - 1)


class Throughput(Callback):
    """Logs images per second and achieved FLOP/s, and counts the multiply-adds of training.

    A training step (forward and backward, for one image) is counted once, on a copy without weights, before training.

    Attributes:
        macs_per_image: Multiply-adds of training on one image; None where they depend on the data.
        peak: FLOP/s that all devices together reach at best, as measured; 0 where it is not known.
    """

    def __init__(self) -> None:
        self.macs_per_image: int | None = None
        self.peak = 0.0
        self._since = (0.0, 0)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count a step, look up the peak, and start the clock."""
        self.macs_per_image = pl_module.training_macs()
        self.peak = peak_flops(trainer)
        self._since = (time.perf_counter(), int(pl_module.images_seen))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the rates since the last time, as often as the loss."""
        if not log_due(trainer):
            return
        now, images = time.perf_counter(), int(pl_module.images_seen)
        rate = (images - self._since[1]) / max(now - self._since[0], 1e-9)
        self._since = (now, images)
        rates = {"images_per_s": rate}
        if self.macs_per_image is not None:
            rates["flop_per_s"] = rate * 2 * self.macs_per_image
            if self.peak:
                rates["share_of_peak"] = rates["flop_per_s"] / self.peak
        log_now(trainer, rates, shown=["images_per_s"])


class GarbageCollection(Callback):
    """Python's garbage collector runs when the log is due, and leaves alone what was there when training began.

    Modules, networks and callbacks are some hundred thousand objects, among which nothing becomes garbage; to walk
    through them takes as long as several small steps. Steps themselves leave no cycles that hold tensors.
    """

    def __init__(self) -> None:
        self._was_enabled = gc.isenabled()
        self._frozen = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Collect once, and set aside what is left."""
        self._was_enabled = gc.isenabled()
        # Python has one set of frozen objects and thaws all of it: a caller who keeps some there shall find them there.
        self._frozen = not gc.get_freeze_count()
        gc.collect()
        if self._frozen:
            gc.freeze()
        gc.disable()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Collect what callbacks of others may have left."""
        if log_due(trainer):
            gc.collect()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the collector run as before."""
        self._restore()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Let the collector run as before."""
        self._restore()

    def _restore(self) -> None:
        if self._frozen:
            gc.unfreeze()
        if self._was_enabled:
            gc.enable()


def peak_flops(trainer: Trainer) -> float:
    """FLOP/s of large products and convolutions in the training's type, over all devices (see `roofline`)."""
    precision = str(trainer.precision)
    dtype = torch.bfloat16 if "bf16" in precision else torch.float16 if precision.startswith("16") else torch.float32
    device = trainer.strategy.root_device
    if not known_peaks(device, dtype) and trainer.world_size > 1:
        return 0.0  # processes that share a device would measure each other
    return peaks(device, dtype).flops_per_s * trainer.world_size
