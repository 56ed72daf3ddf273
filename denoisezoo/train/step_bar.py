"""The progress bar of training: steps of the whole run."""

from __future__ import annotations

import math
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar


class StepBar(RichProgressBar):
    """Lightning's bar, which counts the batches of an epoch, over all steps where no number of epochs is set.

    Recipes end at a number of steps or at a time; of such a run Lightning says "Epoch 0/-2", and begins anew with every
    pass through the images.
    """

    @property
    def by_steps(self) -> bool:
        """Whether the run has no last epoch."""
        return self.trainer.max_epochs in (None, -1)

    @property
    def total_train_batches(self) -> int | float:
        """Where the bar ends; infinite where the clock ends the run."""
        if not self.by_steps:
            return super().total_train_batches
        return self.trainer.max_steps if self.trainer.max_steps > 0 else math.inf

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the bar; a further epoch leaves a bar of steps alone."""
        if not self.by_steps or self.train_progress_bar_id is None:
            super().on_train_epoch_start(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the bar."""
        done = trainer.global_step - 1 if self.by_steps else batch_idx
        super().on_train_batch_end(trainer, pl_module, outputs, batch, done)

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """The figures beside it, without the version of the log, which tells nothing here."""
        metrics: dict[str, Any] = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics

    def _get_train_description(self, current_epoch: int) -> str:
        return "Step" if self.by_steps else str(super()._get_train_description(current_epoch))


def with_step_bar(callbacks: list[Any]) -> list[Any]:
    """The callbacks with this bar in place of the one that Lightning puts there of itself."""
    return [StepBar() if type(callback) is RichProgressBar else callback for callback in callbacks]
