"""UniPC: a multistep predictor, and a corrector that costs no call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from denoisezoo.diffusion.samplers.exponential_multistep import ExponentialMultistep, Predicted, check_order
from denoisezoo.diffusion.samplers.sampler import SAMPLERS


@SAMPLERS.register("unipc")
@dataclass(frozen=True)
class UniPC(ExponentialMultistep):
    """UniPC (arXiv 2302.04867), algorithms 5 to 8. NFE = N.

    The call at a step's end corrects that step and begins the next: the corrector adds one to the order, and no call.
    B(h) enters where the predictor has two nodes and the corrector's first step has: these take half of it for the
    integral of x / h. All other integrals are exact, and B(h) drops out of them.

    Attributes:
        order: Calls that the predictor extrapolates from, 1 to 3.
        variant: "bh2", B = e^h - 1 with h negative for images, or "bh1", B = h.
        corrector: UniPC; without it UniP, of one order less.
        predicted: What the polynomial goes through, the predicted "image" or "noise".
    """

    convergence: ClassVar[int | None] = 3
    lowered_below: ClassVar[int | None] = None
    order: int = 2
    variant: Literal["bh1", "bh2"] = "bh2"
    corrector: bool = True
    predicted: Predicted = "image"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_order(self.order)

    @property
    def nodes(self) -> int:
        """The order."""
        return self.order

    def moments(self, h: Tensor, n: int) -> Tensor:
        """B(h) / 2 for that of x / h alone."""
        if n > 1:
            return super().moments(h, n)
        return (h if self.variant == "bh1" else self.whole(h)).reshape(1) / 2
