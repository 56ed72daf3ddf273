"""DPM-Solver++(2M) with noise: second order on the predicted image, with any share of the reverse SDE's noise."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from denoisezoo.diffusion.blocks import apply_blocks
from denoisezoo.diffusion.noise import Noise, normal_like
from denoisezoo.diffusion.process import Process
from denoisezoo.diffusion.samplers.base import SAMPLERS, Caller, GridSampler
from denoisezoo.diffusion.samplers.first_order import require_diagonal
from denoisezoo.errors import UserError


@SAMPLERS.register("dpmpp_2m_sde")
@dataclass(frozen=True)
class StochasticDPMSolverPP2M(GridSampler):
    """SA-Solver's predictor of two steps (arXiv 2309.05019, section 4) in every coefficient of a diagonal process.

    With lambda = ln(alpha / sigma), h = lambda_s - lambda_t and c = 1 + tau^2, the SDE with tau^2 times the noise of
    the reverse SDE goes from t to s, for an image D(lambda) = D_t + (lambda - lambda_t) D', by

        u_s = sigma_s/sigma_t e^(-tau^2 h) u_t + alpha_s (1 - e^(-c h)) D_t + alpha_s (h - (1 - e^(-c h))/c) D'
              + sigma_s sqrt(1 - e^(-2 tau^2 h)) z.

    tau 0 is deterministic, 1 has the noise of DDPM. D' comes from the last two calls. The first step, the first of a
    stage, and the last, which is the predicted image, are of first order. NFE = N.

    Attributes:
        tau: Noise, relative to that of the reverse SDE.
    """

    name: ClassVar[str] = "dpmpp_2m_sde"
    tau: float = 1.0

    def __post_init__(self) -> None:
        if self.tau < 0:
            raise UserError(f"tau is {self.tau}", "give 0 (deterministic), 1 (the noise of the reverse SDE) or between")

    def check(self, process: Process) -> None:
        """Diagonal processes only."""
        require_diagonal(process, self.name)

    def walk(self, call: Caller, u: Tensor, grid: Tensor, generator: Noise) -> Tensor:
        """Two calls' images, one step."""
        process = require_diagonal(call.process, self.name)
        before: tuple[Tensor, Tensor] | None = None  # h of the last step, image of the last call
        for t, s in itertools.pairwise(grid):
            u = process.expand(u, t, generator)
            u_0 = call(u, t).u_0
            if s == 0:
                return u_0
            if before is not None and before[1].shape != u_0.shape:
                before = None
            A_t, R_t = process.marginal(t.reshape(1))
            A_s, R_s = process.marginal(s.reshape(1))
            h = (A_s / A_t).log() - (R_s / R_t).log()
            u = apply_blocks(R_s / R_t * torch.exp(-(self.tau**2) * h), u) + self._drawn(A_s, h, u_0, before)
            if self.tau:
                std = R_s * (-torch.expm1(-2 * self.tau**2 * h)).sqrt()
                u = u + apply_blocks(std, normal_like(u, generator))
            before = h, u_0
        return u

    def _drawn(self, A_s: Tensor, h: Tensor, u_0: Tensor, before: tuple[Tensor, Tensor] | None) -> Tensor:
        """What the step draws u to: the predicted image and, from the second call on, its change per unit of lambda."""
        c = 1 + self.tau**2
        share = -torch.expm1(-c * h)
        drawn = apply_blocks(A_s * share, u_0)
        if before is None:
            return drawn
        last_h, last_u_0 = before
        return drawn + apply_blocks(A_s * (h - share / c) / last_h, u_0 - last_u_0)
