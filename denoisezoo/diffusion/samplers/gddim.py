"""Generalised DDIM (gDDIM: Zhang, Tao, Chen 2022, arXiv 2206.05564): exponential multistep integration in R's noise.

With eps constant along the path, u(s) = psi(s, t) u(t) + (R_s - psi(s, t) R_t) eps solves the probability flow of any
process exactly, which is what one call does for data that are a single point. A polynomial through the last q values of
eps makes it a method of order q.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from denoisezoo.diffusion.blocks import apply_blocks, product, square_root, transpose
from denoisezoo.diffusion.denoiser import Prediction
from denoisezoo.diffusion.noise import Noise, normal_like
from denoisezoo.diffusion.process import Process
from denoisezoo.diffusion.samplers.base import SAMPLERS, Caller, GridSampler, transfer
from denoisezoo.diffusion.samplers.exponential import multistep_coefficients, stochastic_transition
from denoisezoo.errors import UserError

History = list[tuple[Tensor, Tensor]]
"""Times (()) and noise predictions (B, C, H, W) of the last calls, the newest first."""


@SAMPLERS.register("gddim")
@dataclass(frozen=True)
class GDDIM(GridSampler):
    """Order q, deterministic or stochastic, with or without a corrector. The last step is the predicted image.

    NFE = N; with the corrector 2N - 1. The first steps, and those after a stage begins, are of orders 1, 2 ... q: the
    error of the first is of second order, but small at the noisy end, where eps hardly changes. On a grid of even steps
    it is what remains in the end of q = 3 and 4; where the first steps shrink as 1/N^2 whole walks are of order q.

    Attributes:
        q: Values of eps that a step extrapolates from, 1 to 4; 1 is DDIM. (The authors' `deis_order` is q - 1.)
        lam: lambda; 0 is deterministic, 1 has the noise of the reverse SDE. Above 0, q is 1.
        corrector: After each step, call the denoiser at its end and step again with that value among the nodes
            (Adams and Moulton), which adds one to the order.
    """

    name: ClassVar[str] = "gddim"
    order: ClassVar[int | None] = 1
    q: int = 1
    lam: float = 0.0
    corrector: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.q <= 4 or self.lam < 0:
            raise UserError(f"q {self.q} or lam {self.lam} is out of range", "give q from 1 to 4 and lam >= 0")
        if self.lam and (self.q > 1 or self.corrector):
            raise UserError(f"lam {self.lam} with q {self.q} or a corrector", "noise needs q=1 and corrector=false")

    def nfe(self, steps: int) -> int:
        """N, or 2N - 1 with the corrector."""
        return 2 * steps - 1 if self.corrector else steps

    def fewest(self, process: Process) -> int:
        """As many as it extrapolates from."""
        return max(self.q, super().fewest(process))

    def grid(self, process: Process, steps: int) -> Tensor:
        """The chosen grid.

        Raises:
            UserError: q larger than the steps.
        """
        if self.q > steps:
            raise UserError(f"q {self.q} is larger than steps {steps}", f"give q of at most {max(1, steps)}")
        return super().grid(process, steps)

    def walk(self, call: Caller, u: Tensor, grid: Tensor, generator: Noise) -> Tensor:
        """Section 4 of the paper; psi(s, t) u + sum C_j eps_j, with C_0 taken from the sum of all C_j."""
        process = call.process
        history: History = []
        for t, s in itertools.pairwise(grid):
            u = process.expand(u, t, generator)
            found = call(u, t)
            if s == 0:
                return found.u_0
            if self.lam:
                u = self._noisy(process, found, s, t, generator)
                continue
            kept = [(time, eps) for time, eps in history if eps.shape == u.shape]
            history = [(t, found.eps), *kept][: self.q]
            u = multistep(process, found, s, history)
            if self.corrector:
                ahead = (s, call(u, s).eps)
                u = multistep(process, found, s, [history[0], ahead, *history[1:]])
        return u

    def _noisy(self, process: Process, found: Prediction, s: Tensor, t: Tensor, generator: Noise) -> Tensor:
        """N(A_s u_0 + Psihat R_t eps, Sigma_s - Psihat Sigma_t Psihat^T) (proposition 6)."""
        Psihat = stochastic_transition(process, s, t, self.lam)
        R_s, R_t = (process.noise(x.reshape(1)) for x in (s, t))
        carried = product(Psihat, R_t)
        P = product(R_s, transpose(R_s)) - product(carried, transpose(carried))
        mean = apply_blocks(process.signal(s.reshape(1)), found.u_0) + apply_blocks(carried, found.eps)
        return mean + apply_blocks(square_root(P), normal_like(mean, generator))


def multistep(process: Process, found: Prediction, s: Tensor, history: History) -> Tensor:
    """The state at s from the prediction at history[0]'s time and the noise at all of them."""
    u, eps = transfer(process, found, s), history[0][1]
    coefficients = multistep_coefficients(process, s, torch.stack([time for time, _ in history]))
    for C_j, (_, eps_j) in zip(coefficients, history[1:], strict=True):
        u = u + apply_blocks(C_j, eps_j - eps)
    return u
