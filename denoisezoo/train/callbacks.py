"""What happens beside the training step: sample grids, throughput, an orderly stop at Ctrl-C."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from denoisezoo.diffusion import create_sampler
from denoisezoo.errors import UserError
from denoisezoo.evaluation.grid import image_grid, save_png
from denoisezoo.train.ema import averaged_weights


class SampleGrid(Callback):
    """Draws a grid of samples from the averaged weights, always from the same noise.

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

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Draw a grid when its step has come."""
        if self.every_n_steps and trainer.global_step % self.every_n_steps == 0 and trainer.is_global_zero:
            images = self.draw(trainer, pl_module)
            path = Path(trainer.default_root_dir) / "samples" / f"step_{trainer.global_step:08d}.png"
            save_png(image_grid(images), path)
            for logger in trainer.loggers:
                if hasattr(logger, "log_image"):
                    logger.log_image("samples", [str(path)])

    def draw(self, trainer: Trainer, pl_module: LightningModule) -> torch.Tensor:
        """Samples (num, C, H, W) of the averaged weights; the random state of training is left alone."""
        denoiser = pl_module.denoiser
        spec = denoiser.backbone.spec
        generator = torch.Generator(pl_module.device).manual_seed(self.seed)
        shape = (self.num, *denoiser.image_shape)
        label = None
        if spec.num_classes:
            label = torch.arange(self.num, device=pl_module.device) % spec.num_classes
        u_T = self.sampler.prior(denoiser.process, shape, self.steps, generator, dtype=torch.float32)
        was_training = denoiser.training
        denoiser.eval()
        try:
            with averaged_weights(trainer, pl_module):
                return self.sampler(denoiser, u_T, steps=self.steps, label=label, generator=generator).images
        finally:
            denoiser.train(was_training)


class Throughput(Callback):
    """Logs images per second and achieved FLOP/s, and counts the multiply-adds of training.

    A training step (forward and backward, for one image) is counted once, on a copy without weights, before training.

    Attributes:
        macs_per_image: Multiply-adds of training on one image.
    """

    def __init__(self) -> None:
        self.macs_per_image = 0
        self._since = (0.0, 0)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count a step and start the clock."""
        self.macs_per_image = pl_module.training_macs()
        self._since = (time.perf_counter(), int(pl_module.images_seen))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the rates since the last time, as often as the loss."""
        if trainer.global_step % trainer.log_every_n_steps:
            return
        now, images = time.perf_counter(), int(pl_module.images_seen)
        rate = (images - self._since[1]) / max(now - self._since[0], 1e-9)
        self._since = (now, images)
        pl_module.log("images_per_s", rate, prog_bar=True)
        pl_module.log("flop_per_s", rate * 2 * self.macs_per_image)


class StopOnInterrupt(Callback):
    """The first Ctrl-C ends training after the step in hand, with a checkpoint; the second aborts at once.

    Attributes:
        interrupted: Whether that has happened.
    """

    def __init__(self) -> None:
        self.interrupted = False
        self._previous: Any = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the signal; only a main thread can."""
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, lambda *_: self._stop(trainer))

    def _stop(self, trainer: Trainer) -> None:
        self.interrupted = True
        trainer.should_stop = True
        self._restore()

    def _restore(self) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)
            self._previous = None

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the signal back."""
        self._restore()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the signal back."""
        self._restore()
