"""What each training of a comparison may cost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from denoisezoo.errors import UserError, unknown

STEPS = "--trainer.max_steps"


@dataclass(frozen=True)
class Budget:
    """Equal training for all; what is None does not limit.

    Attributes:
        images: Training images, repeats included.
        macs: Multiply-adds of training, forward and backward.
        minutes: Wall time of training.
    """

    images: float | None = None
    macs: float | None = None
    minutes: float | None = None

    def arguments(self, batch_size: int, macs_per_image: int | None) -> list[str]:
        """The budget as arguments of `train`.

        Raises:
            UserError: A budget of multiply-adds, and those of one image (None) depend on the data.
        """
        words: list[str] = []
        if self.macs and macs_per_image is None:
            raise UserError("the multiply-adds of an adaptive solver depend on the data", "limit images or minutes")
        images = [x for x in (self.images, self.macs and macs_per_image and self.macs / macs_per_image) if x]
        if images:
            words += [STEPS, str(max(1, math.floor(min(images) / batch_size)))]
        if self.minutes:
            minutes, seconds = divmod(round(self.minutes * 60), 60)
            hours, minutes = divmod(minutes, 60)
            words += ["--trainer.max_time", f"00:{hours:02d}:{minutes:02d}:{seconds:02d}"]
            if not images:
                words += [STEPS, "-1"]
        return words

    def text(self) -> str:
        """The budget in words."""
        parts = [f"{value:g} {key}" for key, value in vars(self).items() if value]
        return ", ".join(parts) or "as each recipe says"


def make_budget(budget: Budget | Mapping[str, float] | None) -> Budget:
    """A budget from its fields; none is without limits.

    Raises:
        UserError: An unknown field, or one that is no positive number.
    """
    if budget is None or isinstance(budget, Budget):
        return budget or Budget()
    for name, value in budget.items():
        if name not in Budget.__dataclass_fields__:
            raise unknown("budget", name, Budget.__dataclass_fields__)
        if not 0 < value < float("inf"):
            raise UserError(f"budget of {name} is {value}", "give a positive number")
    return Budget(**budget)
