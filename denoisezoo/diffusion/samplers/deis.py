"""DEIS: exponential integration of the predicted noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from denoisezoo.diffusion.samplers.exponential_multistep import ExponentialMultistep, Predicted, check_order
from denoisezoo.diffusion.samplers.sampler import SAMPLERS


@SAMPLERS.register("deis")
@dataclass(frozen=True)
class DEIS(ExponentialMultistep):
    """DEIS (arXiv 2204.13902) with polynomials in ln(sigma / alpha), as diffusers has it. NFE = N.

    With polynomials in t, on any process, it is `gddim:q=ORDER`.

    Attributes:
        order: Calls that a step extrapolates from, 1 to 3; 1 is DDIM.
    """

    convergence: ClassVar[int | None] = 2
    order: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_order(self.order)

    @property
    def nodes(self) -> int:
        """The order."""
        return self.order

    @property
    def predicted(self) -> Predicted:
        """The noise."""
        return "noise"
