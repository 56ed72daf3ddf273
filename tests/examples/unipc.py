"""UniPC of order 2 (Zhao et al. 2023, arXiv 2302.04867) as a sampler of another package; ours is `unipc`.

A package with this file has it found as a plugin: by the entry point of the group `denoisezoo.plugins` in its
pyproject.toml,

    [project.entry-points."denoisezoo.plugins"]
    unipc = "unipc"

after which `denoisezoo sample RUN --sampler unipc_2:variant=bh1 --steps 6` knows it, as every other command does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from denoisezoo.diffusion import SAMPLERS, Noise, Process, ScalarProcess
from denoisezoo.diffusion.samplers import Caller, GridSampler
from denoisezoo.errors import UserError


@SAMPLERS.register("unipc_2")
@dataclass(frozen=True)
class UniPC(GridSampler):
    """Predictor and corrector of order 2 on the predicted image, of a scalar process. NFE = N.

    The call at a step's end corrects that step, and begins the next: the corrector adds one to the order, and no call.
    The first step is of order 1, the last is the predicted image.

    Attributes:
        variant: B for a step of size h in lambda = ln(alpha / sigma): "bh1" is -h, "bh2" e^-h - 1.
        corrector: UniPC, of order 3; without it UniP, of order 2.
    """

    convergence: ClassVar[int | None] = 3
    variant: Literal["bh1", "bh2"] = "bh2"
    corrector: bool = True

    def check(self, process: Process) -> None:
        """Scalar processes only: all coefficients have one lambda."""
        _scalar(process)

    def step(self, call: Caller, u: Tensor, t: Tensor, s: Tensor, history: list[_Step], generator: Noise) -> Tensor:
        """Correct the step before, which is the history, and predict the next."""
        process, last = _scalar(call.process), history.pop() if history else None
        D_t = call(u, t).u_0
        if self.corrector and last is not None:
            u = last.corrected(D_t)
        lambda_t, lambda_s = process.log_snr(torch.stack([t, s])) / 2
        h = lambda_s - lambda_t
        B = -h if self.variant == "bh1" else torch.expm1(-h)
        slope = None
        if last is not None:
            r = (last.lambda_t - lambda_t) / h
            slope = r, _times(1 / r, last.D_t - D_t)
        base = _times(process.sigma(s) / process.sigma(t), u) - _times(process.alpha(s) * torch.expm1(-h), D_t)
        step = _Step(lambda_t, h, B, process.alpha(s) * B, base, D_t, slope)
        if torch.isfinite(h):  # from where no signal is left h is infinite: no polynomial in lambda goes through there
            history.append(step)
        return step.predicted()


def _scalar(process: Process) -> ScalarProcess:
    if not isinstance(process, ScalarProcess):
        what = f"sampler 'unipc_2' cannot walk {type(process).__name__}"
        raise UserError(what, "use gddim, which walks every process")
    return process


@dataclass(frozen=True)
class _Step:
    """A step of size h from t to s: u_s = base - alpha_s B(h) (rho_1 D_1 + rho_2 (D_s - D_t)), with B in B(h).

    Attributes:
        lambda_t: Where it begins.
        h: Its size in lambda.
        B: B(h).
        weight: alpha_s B(h).
        base: Its end of first order (B, C, H, W).
        D_t: The image predicted at t.
        slope: r and D_1 = (D_r - D_t) / r of the call before, which lies r h from t; None in a first step.
    """

    lambda_t: Tensor
    h: Tensor
    B: Tensor
    weight: Tensor
    base: Tensor
    D_t: Tensor
    slope: tuple[Tensor, Tensor] | None

    def predicted(self) -> Tensor:
        """The end by the predictor; rho_1 = 1/2 is exact enough for order 2."""
        if self.slope is None:
            return self.base
        return self.base - _times(self.weight / 2, self.slope[1])

    def corrected(self, D_s: Tensor) -> Tensor:
        """The end by the corrector, from the image predicted there."""
        change = D_s - self.D_t
        if self.slope is None:
            return self.base - _times(self.weight / 2, change)
        r, D_1 = self.slope
        # Exact for images linear and quadratic in lambda: rho_1 + rho_2 = b_1 and r rho_1 + rho_2 = b_2, which are
        # k! x phi_(k+1)(x) / B at x = -h, with phi_1 = (e^x - 1) / x and phi_(k+1) = (phi_k - 1 / k!) / x.
        x = -self.h
        phi_1 = torch.expm1(x) / x
        phi_2 = (phi_1 - 1) / x
        b_1, b_2 = (phi_1 - 1) / self.B, 2 * (phi_2 - 1 / 2) / self.B
        rho_1 = (b_2 - b_1) / (r - 1)
        return self.base - _times(self.weight * rho_1, D_1) - _times(self.weight * (b_1 - rho_1), change)


def _times(factor: Tensor, u: Tensor) -> Tensor:
    return factor.to(u.dtype) * u
