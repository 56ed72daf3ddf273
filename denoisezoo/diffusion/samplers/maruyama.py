"""Euler's and Maruyama's method on the reverse SDE of any process, between probability flow and ancestral noise."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from denoisezoo.diffusion.coefficients import apply_blocks, inverse, product, square_root, transpose
from denoisezoo.diffusion.noise import Noise, normal_like
from denoisezoo.diffusion.processes.process import Process
from denoisezoo.diffusion.samplers.probability_flow import slope
from denoisezoo.diffusion.samplers.sampler import SAMPLERS, Caller, GridSampler, History
from denoisezoo.errors import UserError


@SAMPLERS.register("euler_maruyama")
@dataclass(frozen=True)
class EulerMaruyama(GridSampler):
    """du = [F u - (1 + lam^2)/2 G G^T score] dt + lam G dw, backwards in t (gDDIM, arXiv 2206.05564, equation 6).

    The last step is the predicted image. NFE = N.

    Attributes:
        lam: lambda; 1 is the reverse SDE, 0 Euler's method on the probability flow.
    """

    lam: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lam < 0:
            raise UserError(f"lam is {self.lam}", "give a number of at least 0; 1 is the reverse SDE")

    def step(self, call: Caller, u: Tensor, t: Tensor, s: Tensor, history: History, generator: Noise) -> Tensor:
        """u_s = u_t + (s - t) drift + lam sqrt(t - s) G z."""
        process, prediction = call.process, call(u, t)
        d = slope(process, prediction, t)
        if not self.lam:
            return u + (s - t).to(u.dtype) * d
        # -score = R^-T eps; what the flow lacks of the SDE's drift is lam^2/2 G G^T of it.
        G2 = finite_diffusion(process, t)
        push = product(G2, inverse(transpose(process.noise(t.reshape(1)))))
        d = d + apply_blocks(self.lam**2 / 2 * push, prediction.eps)
        u = u + (s - t).to(u.dtype) * d
        return u + apply_blocks(self.lam * (t - s).sqrt() * square_root(G2), normal_like(u, generator))


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
