"""Images with the conditions that belong to them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor

from denoisezoo.errors import UserError


@dataclass(frozen=True)
class Pair:
    """Images and their conditions.

    Attributes:
        x: The truth (N, C, H, W) in [-1, 1].
        y: The condition (N, Cy, H, W), what networks see.
        mask: 1 where y shows x as it is, else 0, (N, 1, H, W); None where there is no such thing.
        operator: What of an image the condition determines, (N, C, H, W) -> (N, ...) in [-1, 1]; None is the image.
    """

    x: Tensor
    y: Tensor
    mask: Tensor | None = None
    operator: Callable[[Tensor], Tensor] | None = None

    def __post_init__(self) -> None:
        if self.mask is not None:
            check_mask(self.mask)

    def __len__(self) -> int:
        return len(self.x)

    def take(self, index: Tensor) -> Pair:
        """The pairs `index` (M,), on any device."""
        index = index.to(self.x.device)
        mask = None if self.mask is None else self.mask[index]
        return replace(self, x=self.x[index], y=self.y[index], mask=mask)


def check_mask(mask: Tensor) -> None:
    """Refuse a mask with other values than 0 and 1.

    Raises:
        UserError: Naming one of them.
    """
    wrong = mask[(mask != 0) & (mask != 1)]
    if wrong.numel():
        raise UserError(f"the mask holds the value {float(wrong[0]):g}", "give 1 for known pixels and 0 for the others")
