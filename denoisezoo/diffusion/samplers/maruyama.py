"""Euler's and Maruyama's method on the reverse SDE of any process, between probability flow and ancestral noise."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from denoisezoo.diffusion.coefficients import apply_blocks, inverse, product, square_root, transpose
from denoisezoo.diffusion.noise import Noise, normal_like
from denoisezoo.diffusion.processes.process import Process
from denoisezoo.diffusion.samplers.probability_flow import slope
from denoisezoo.diffusion.samplers.sampler import SAMPLERS, Caller, GridSampler
from denoisezoo.errors import UserError


@SAMPLERS.register("euler_maruyama")
@dataclass(frozen=True)
class EulerMaruyama(GridSampler):
    """du = [F u - (1 + lam^2)/2 G G^T score] dt + lam G dw, backwards in t (gDDIM, arXiv 2206.05564, equation 6).

    The last step is the predicted image. NFE = N.

    Attributes:
        lam: lambda; 1 is the reverse SDE, 0 Euler's method on the probability flow.
    """

    name: ClassVar[str] = "euler_maruyama"
    lam: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lam < 0:
            raise UserError(f"lam is {self.lam}", "give a number of at least 0; 1 is the reverse SDE")

    def walk(self, call: Caller, u: Tensor, grid: Tensor, generator: Noise) -> Tensor:
        """u_s = u_t + (s - t) drift + lam sqrt(t - s) G z."""
        process = call.process
        for t, s in itertools.pairwise(grid):
            u = process.expand(u, t, generator)
            found = call(u, t)
            if s == 0:
                return found.u_0
            d = slope(process, found, t)
            if self.lam:
                # -score = R^-T eps; what the flow lacks of the SDE's drift is lam^2/2 G G^T of it.
                G2 = finite_diffusion(process, t)
                push = product(G2, inverse(transpose(process.noise(t.reshape(1)))))
                d = d + apply_blocks(self.lam**2 / 2 * push, found.eps)
            u = u + (s - t).to(u.dtype) * d
            if self.lam:
                u = u + apply_blocks(self.lam * (t - s).sqrt() * square_root(G2), normal_like(u, generator))
        return u


def finite_diffusion(process: Process, t: Tensor) -> Tensor:
    """Blocks of G G^T at a time (()).

    Raises:
        UserError: It is infinite, because no signal is left at t.
    """
    G2 = process.diffusion(t.reshape(1))
    if not bool(G2.isfinite().all()):
        raise UserError(
            f"the reverse SDE of {type(process).__name__} is singular at t = {float(t):g}, where no signal is left",
            "use gddim:lam=1, or a grid that begins later, such as time_grid=edm",
        )
    return G2
