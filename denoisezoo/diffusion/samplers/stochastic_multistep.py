"""DPM-Solver++(2M) with noise: second order on the predicted image, with any share of the reverse SDE's noise."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from denoisezoo.diffusion.coefficients import apply_blocks
from denoisezoo.diffusion.denoiser import Prediction
from denoisezoo.diffusion.noise import Noise, normal_like
from denoisezoo.diffusion.processes.process import Process
from denoisezoo.diffusion.samplers.exponential_multistep import LONGEST
from denoisezoo.diffusion.samplers.first_order import clip_prediction, require_diagonal
from denoisezoo.diffusion.samplers.sampler import SAMPLERS, Caller, GridSampler
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
    stage, the last, which is the predicted image, and those over `LONGEST` times the one before are of first order. A
    step from where no signal is left has an infinite h, one of a coefficient that stands still has h = 0: both are the
    formula's limits. A coefficient's own first step after it stood still is of first order too. NFE = N.

    Attributes:
        tau: Noise, relative to that of the reverse SDE.
        corrector: Take each step again, with the same noise, once the call at its end is there (section 4.3): D is then
            the parabola through the last three calls. The call is not repeated, so that NFE stays N.
        clip: Clip every predicted image to [-1, 1], as ancestral sampling does.
    """

    tau: float = 1.0
    corrector: bool = False
    clip: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tau < 0:
            raise UserError(f"tau is {self.tau}", "give 0 (deterministic), 1 (the noise of the reverse SDE) or between")

    def check(self, process: Process) -> None:
        """Diagonal processes only."""
        require_diagonal(process, self.name)

    def predict(self, call: Caller, u: Tensor, t: Tensor) -> Prediction:
        """Clipped, if so set."""
        prediction = call(u, t)
        return clip_prediction(prediction, call, u, t, keep_eps=True) if self.clip else prediction

    def step(self, call: Caller, u: Tensor, t: Tensor, s: Tensor, history: list[_Step], generator: Noise) -> Tensor:
        """One call, one step, from the last two or three calls' images; the history is the step before."""
        process, last = require_diagonal(call.process, self.name), history.pop() if history else None
        u_0 = self.predict(call, u, t).u_0
        if self.corrector and last is not None:
            u = last.corrected(u_0)
        step = self._step(process, u, u_0, (t, s), last, generator)
        history.append(step)
        return step.predicted()

    def _step(
        self, process: Process, u: Tensor, u_0: Tensor, span: tuple[Tensor, Tensor], last: _Step | None, noise: Noise
    ) -> _Step:
        """The step over `span`, t to s, with its noise drawn."""
        (A_t, R_t), (A_s, R_s) = (process.marginal(x.reshape(1)) for x in span)
        h = ((A_s / A_t).log() - (R_s / R_t).log()).clamp(min=0)  # of what stands still, no less than 0 by rounding
        kept = apply_blocks(R_s / R_t * (torch.exp(-(self.tau**2) * h) if self.tau else 1), u)
        if self.tau:
            std = R_s * (-torch.expm1(-2 * self.tau**2 * h)).sqrt()
            kept = kept + apply_blocks(std, normal_like(u, noise))
        before = None
        if last is not None:
            before = u_0 - last.u_0, torch.where(h > LONGEST * last.spacing, torch.inf, last.spacing)
        return _Step(kept, u_0, A_s, h, torch.where(moving(process, span[0]), h, torch.inf), 1 + self.tau**2, before)


def moving(process: Process, t: Tensor) -> Tensor:
    """Blocks of whether a coefficient's signal or noise changes at a time (()): a band that has ended stands still."""
    A_dot, R_dot = process.rates(t.reshape(1))
    return (A_dot != 0) | (R_dot != 0)


@dataclass(frozen=True)
class _Step:
    """One step: what does not depend on the image within it, and what does.

    Attributes:
        kept: What is left of u_t, and the noise.
        u_0: The image predicted at t, D_t.
        A_s: Signal at the end, blocks.
        h: Its length in lambda, blocks; 0 where nothing moves, infinite from where there is no signal.
        spacing: h, or infinite for a coefficient that stood still for some of the step: what changed in D then has
            nothing to do with its lambda, and is no slope.
        c: 1 + tau^2.
        before: D_t less the image of the call before, and `spacing` of that step, infinite where it is too short to
            extrapolate from; None for a first step.
    """

    kept: Tensor
    u_0: Tensor
    A_s: Tensor
    h: Tensor
    spacing: Tensor
    c: float
    before: tuple[Tensor, Tensor] | None

    @property
    def moments(self) -> tuple[Tensor, Tensor, Tensor]:
        """Integrals over x in 0 ... h of c e^(-c (h - x)) times 1, x / h and x (x - h) / h, with their limits."""
        share = -torch.expm1(-self.c * self.h)
        first = torch.where(self.h > 0, 1 - share / (self.c * self.h), 0.0)
        return share, first, (share - 2 * first) / self.c

    def predicted(self) -> Tensor:
        """u_s for D a line through D_t and the image before."""
        share, first, _ = self.moments
        u = self.kept + apply_blocks(self.A_s * share, self.u_0)
        if self.before is None:
            return u
        change, last_h = self.before
        return u + apply_blocks(self.A_s * first * self.h / last_h, change)

    def corrected(self, u_0: Tensor) -> Tensor:
        """u_s for D through D_t and `u_0`, the image at s, and the image before: a line, or Newton's parabola."""
        share, first, bend = self.moments
        u = self.kept + apply_blocks(self.A_s * share, self.u_0)
        u = u + apply_blocks(self.A_s * first, u_0 - self.u_0)
        if self.before is None:
            return u
        change, last_h = self.before
        bend = self.A_s * bend / (self.h + last_h)
        return u + apply_blocks(bend, u_0 - self.u_0) - apply_blocks(bend * self.h / last_h, change)
