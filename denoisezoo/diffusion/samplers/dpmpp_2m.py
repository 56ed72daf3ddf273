"""DPM-Solver++(2M): second-order multistep on the predicted image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from denoisezoo.diffusion.samplers.exponential_multistep import ExponentialMultistep
from denoisezoo.diffusion.samplers.sampler import SAMPLERS


@SAMPLERS.register("dpmpp_2m")
@dataclass(frozen=True)
class DPMSolverPP2M(ExponentialMultistep):
    """DPM-Solver++ (arXiv 2211.01095, algorithm 2) from the last two predicted images. NFE = N.

    Attributes:
        solver_type: What is taken for the integral of x / h: "midpoint" is half of the whole, "heun" exact.
    """

    convergence: ClassVar[int | None] = 2
    solver_type: Literal["midpoint", "heun"] = "midpoint"

    @property
    def nodes(self) -> int:
        """2."""
        return 2

    def moments(self, h: Tensor, n: int) -> Tensor:
        """By "midpoint" half of the whole integral for that of x / h."""
        if n > 1 or self.solver_type == "heun":
            return super().moments(h, n)
        return self.whole(h).reshape(1) / 2
