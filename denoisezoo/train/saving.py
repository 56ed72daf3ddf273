"""When checkpoints are written, and which of them stay.

They are written between steps: after everything that belongs to a step, its log and its validation included, and before
the next batch is taken. So a run that goes on from a checkpoint neither repeats nor misses anything.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from denoisezoo.errors import UserError
from denoisezoo.train.checkpoint import BEST, LAST, AtomicCheckpointIO, list_checkpoints, step_of
from denoisezoo.train.ema import average_of
from denoisezoo.train.sharding import norms
from denoisezoo.train.stopping import stopper

MONITOR = "val/loss"


class Checkpoints(Checkpoint):
    """Writes `checkpoints/step_N.ckpt` and links the newest as `last.ckpt`, the best as `best.ckpt`.

    A checkpoint that cannot be written (a full disk, a folder that has become read-only) does not end training; the
    next one may succeed. Only the last one of a run must.

    Args:
        every_n_steps: Steps between checkpoints.
        every_n_minutes: Minutes between them, whichever comes first; 0 counts steps alone.
        keep: How many of the newest to keep; with 2, a damaged newest one costs no more than the steps since the other.
        keep_best: Also keep the one with the lowest validation loss; each new best is written when it is found.
        keep_all: Keep all of them.

    Attributes:
        dirpath: Their folder.
        failed: Checkpoints that could not be written.
    """

    def __init__(
        self,
        every_n_steps: int = 1000,
        every_n_minutes: float = 0.0,
        keep: int = 2,
        keep_best: bool = True,
        keep_all: bool = False,
    ) -> None:
        if every_n_steps < 1 or keep < 1 or every_n_minutes < 0:
            raise UserError(
                f"every_n_steps {every_n_steps}, keep {keep} or every_n_minutes {every_n_minutes} is out of range",
                "give every_n_steps and keep of at least 1, every_n_minutes of at least 0",
            )
        self.every_n_steps, self.every_n_minutes = every_n_steps, every_n_minutes
        self.keep, self.keep_best, self.keep_all = keep, keep_best, keep_all
        self.dirpath = Path(".")
        self.failed = 0
        self._best: tuple[float, int] = (float("inf"), -1)
        self._new_best = False
        self._hosts: Any = None
        self._seen_step, self._saved_step, self._saved_at = -1, -1, 0.0

    def state_dict(self) -> dict[str, Any]:
        """The best so far."""
        return {"best_loss": self._best[0], "best_step": self._best[1]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on comparing with the best so far."""
        self._best = float(state_dict.get("best_loss", float("inf"))), int(state_dict.get("best_step", -1))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ask the loader to call between steps."""
        self._seen_step = self._saved_step = trainer.global_step
        self._saved_at = time.monotonic()
        if trainer.world_size > 1 and self._hosts is None:
            # They agree after every step, and through the devices each host would wait for its own to be done.
            self._hosts = dist.new_group(backend="gloo")
        if trainer.is_global_zero:
            _clear(self.dirpath)
        trainer.train_dataloader.between = lambda: self._between(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Keep the loggers' steps those of the optimiser.

        Lightning counts a step twice when it resumes from a checkpoint that was written after a validation.
        """
        trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Write Lightning's counters at the end of training as they are between any two steps.

        There it counts the epoch as over. A run that goes on from the midst of an epoch would then number its epochs
        otherwise, and one that goes on from the end of an epoch would give that epoch a batch more.
        """
        loop = checkpoint["loops"]["fit_loop"]
        batches, epochs = loop["epoch_loop.batch_progress"], loop["epoch_progress"]
        if batches["current"]["completed"] >= trainer.num_training_batches:
            batches["current"] = dict.fromkeys(batches["current"], 0)
            batches["is_last_batch"] = False
        elif batches["current"]["completed"]:
            for count in (epochs["total"], epochs["current"]):
                count["processed"] = count["completed"] = count["started"] - 1

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare the validation loss with the best so far."""
        if trainer.sanity_checking:
            return
        loss = trainer.callback_metrics.get(MONITOR)
        if self.keep_best and loss is not None and float(loss) < self._best[0]:
            self._best, self._new_best = (float(loss), trainer.global_step), True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the end of training, unless that step has been written already.

        Raises:
            UserError: It cannot be written.
        """
        failure = None if self._saved_step == trainer.global_step else self._save(trainer)
        if failure is not None:
            raise failure

    def _between(self, trainer: Trainer) -> bool:
        """Called before each batch; False ends training there."""
        if trainer.global_step == self._seen_step:  # nothing new, or gradients still accumulate
            return True
        self._seen_step = trainer.global_step
        asked = stopper(trainer)
        late = 0 < self.every_n_minutes * 60 <= time.monotonic() - self._saved_at
        late, asked.status = self._agreed(trainer, late, asked.status)
        stop = asked.status > 0
        if late or stop or self._new_best or trainer.global_step % self.every_n_steps == 0:
            self._save(trainer)
        trainer.should_stop = trainer.should_stop or stop
        return not stop

    def _agreed(self, trainer: Trainer, late: bool, status: int) -> tuple[bool, int]:
        """What any process wishes, so that all do the same: a signal may have reached one of them alone."""
        if trainer.world_size == 1:
            return late, status
        wishes = torch.tensor([float(late), float(status)])
        dist.all_reduce(wishes, dist.ReduceOp.MAX, self._hosts)
        late, status = wishes.tolist()
        return bool(late), int(status)

    def _save(self, trainer: Trainer) -> UserError | None:
        """Write a checkpoint; returns why it could not be written."""
        self._saved_at = time.monotonic()
        if not _finite(trainer.lightning_module):
            return self._report(UserError("the weights are not finite", "see the last good checkpoint"), trainer)
        for logger in trainer.loggers:
            logger.save()  # what was logged before a checkpoint must outlive it
        _calibrate(trainer)
        path = self.dirpath / f"step_{trainer.global_step:08d}.ckpt"
        trainer.save_checkpoint(path)
        plugin = trainer.strategy.checkpoint_io
        if isinstance(plugin, AtomicCheckpointIO) and plugin.failure is not None:
            return self._report(plugin.failure, trainer)
        self._saved_step, self._new_best = trainer.global_step, False
        if trainer.is_global_zero:
            with contextlib.suppress(OSError):  # the checkpoint is there; links and space are a convenience
                self._tidy(path)
        return None

    def _report(self, error: UserError, trainer: Trainer) -> UserError:
        self.failed += 1
        print(f"warning: no checkpoint at step {trainer.global_step}: {error.what}", file=sys.stderr)
        return error

    def _tidy(self, newest: Path) -> None:
        """Link the newest and the best, and remove what need not stay."""
        link(newest, LAST)
        best = newest.with_name(f"step_{self._best[1]:08d}.ckpt")
        if best.is_file():
            link(best, BEST)
        if self.keep_all:
            return
        numbered = [path for path in list_checkpoints(self.dirpath.parent) if 0 <= step_of(path) <= step_of(newest)]
        for path in numbered[self.keep :]:
            if path != best:
                AtomicCheckpointIO().remove_checkpoint(path)


def _calibrate(trainer: Trainer) -> None:
    """Let the objective measure what belongs to the weights, and to their average; see `Objective.calibrate`."""
    module: Any = trainer.lightning_module
    if not getattr(getattr(module, "objective", None), "calibrates", False):
        return
    for denoiser in dict.fromkeys((module.denoiser, average_of(trainer, module))):
        module.objective.calibrate(denoiser, trainer.datamodule)


def _clear(folder: Path) -> None:
    """Remove halves of files that a killed process has left."""
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)


@torch.no_grad()
def _finite(module: torch.nn.Module) -> bool:
    """Whether all weights are finite."""
    return bool(norms([parameter.detach() for parameter in module.parameters()]).isfinite().all())


def link(target: Path, name: str) -> None:
    """Make `name` beside `target` a link to it, replacing what was there in one step."""
    temporary = target.with_name(f".{name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target.name)
    os.replace(temporary, target.with_name(name))
