"""The preconditionings: what a network predicts, and how it is scaled.

These serve every process, or every diagonal one. Their base is in `linear_preconditioning`; those of one family of
processes have files of their own.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from denoisezoo.diffusion.capabilities import dropped_at
from denoisezoo.diffusion.coefficients import aligned, apply_blocks, inverse, product
from denoisezoo.diffusion.linear_preconditioning import (
    PRECONDITIONINGS,
    LinearPreconditioning,
    Preconditioning,
    diagonal_of,
)
from denoisezoo.diffusion.processes.process import DiagonalProcess, Process
from denoisezoo.errors import UserError


@PRECONDITIONINGS.register("eps")
class Epsilon(LinearPreconditioning):
    """F predicts the noise (DDPM, arXiv 2006.11239, equation 14), in R's parameterisation (gDDIM) for any process.

    An error of F becomes one of the image sigma / alpha times as large: 20,291 where `VPDiscrete("cosine")` begins, so
    that improved DDPM clips the image there (`ddim:clip=true`).
    """

    def check(self, process: Process) -> None:
        """Every process is served whose walk begins with some signal."""
        _require_signal(process, self)

    def inputs(self, process: Process, u_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """u_t and the time label."""
        return u_t, process.time_label(t)

    def target(self, process: Process, u_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """eps."""
        return eps

    def prediction(self, process: Process, u_t: Tensor, t: Tensor, F_x: Tensor) -> tuple[Tensor, Tensor]:
        """u_0 = A^-1 (u_t - R eps)."""
        if isinstance(process, DiagonalProcess):
            return super().prediction(process, u_t, t, F_x)
        gap = u_t - apply_blocks(process.noise(t), F_x)
        return apply_blocks(inverse(process.signal(t)), gap), F_x

    def c_out(self, process: Process, t: Tensor) -> Tensor:
        """sigma / alpha, or the root of the mean square over the blocks of A^-1 R."""
        if isinstance(process, DiagonalProcess):
            return super().c_out(process, t)
        blocks = product(inverse(process.signal(t)), process.noise(t))
        return blocks.square().sum((1, 2)).mean((1, 2, 3)).div(process.basis.k).sqrt()

    def mix(self, process: DiagonalProcess, t: Tensor) -> tuple[Tensor, Tensor]:
        """F = eps."""
        return torch.zeros_like(t), torch.ones_like(t)


@PRECONDITIONINGS.register("score")
class Score(LinearPreconditioning):
    """F predicts the score of u_t given u_0, -eps / sigma (score_sde, arXiv 2011.13456, equation 7; MSDiff's networks).

    Errors of F count for eps sigma times as much; score_sde's weights are those of `Likelihood`, or with `Epsilon` 1.
    """

    def check(self, process: Process) -> None:
        """Diagonal processes whose walk begins with some signal."""
        super().check(process)
        _require_signal(process, self)

    def mix(self, process: DiagonalProcess, t: Tensor) -> tuple[Tensor, Tensor]:
        """F = -eps / sigma."""
        sigma = process.sigma(t)
        # Parts of a state without noise, such as a clean condition, have no score; they must not spoil the image.
        return torch.zeros_like(sigma), -1 / sigma.clamp(min=1e-12)


def _require_signal(process: Process, preconditioning: Preconditioning) -> None:
    """Refuse a process that begins in pure noise, from which noise that is known says nothing of the image."""
    if not isinstance(process, DiagonalProcess):
        return
    alpha = process.alpha(torch.tensor([process.t_max], dtype=torch.float64, device="cpu"))
    side = (process.resolution or 1) >> dropped_at(process, process.t_max)
    if bool(((alpha if alpha.ndim == 1 else alpha[..., :side, :side]) == 0).any()):
        raise UserError(
            f"preconditioning {type(preconditioning).__name__} cannot serve {type(process).__name__}, whose walk "
            "begins in noise alone: from there it would divide by a signal of 0",
            "use Velocity, V or X0",
        )


@PRECONDITIONINGS.register("x0")
class X0(LinearPreconditioning):
    """F predicts the image."""

    def mix(self, process: DiagonalProcess, t: Tensor) -> tuple[Tensor, Tensor]:
        """F = u_0."""
        return torch.ones_like(t), torch.zeros_like(t)


@PRECONDITIONINGS.register("v")
class V(LinearPreconditioning):
    """F predicts v = alpha eps - sigma u_0 (progressive distillation, arXiv 2202.00512, appendix D)."""

    def mix(self, process: DiagonalProcess, t: Tensor) -> tuple[Tensor, Tensor]:
        """F = -sigma u_0 + alpha eps."""
        alpha, sigma = process.alpha_sigma(t)
        return -sigma, alpha


@PRECONDITIONINGS.register("velocity")
class Velocity(LinearPreconditioning):
    """F predicts du_t/dt = alpha' u_0 + sigma' eps; eps - u_0 for rectified flow (arXiv 2209.03003, equation 1).

    Args:
        time_scale: What the process's label of time is multiplied by before the network is told it. Objectives that
            differentiate with respect to time want a label of a few units (MeanFlow, arXiv 2505.13447).
    """

    def __init__(self, time_scale: float = 1.0) -> None:
        if not 0 < time_scale < math.inf:
            raise UserError(f"time_scale is {time_scale}", "give a positive number, 1 for the process's own label")
        self.time_scale = time_scale

    def c_noise(self, process: DiagonalProcess, t: Tensor) -> Tensor:
        """The time label in that unit."""
        label = process.time_label(t)
        return label if self.time_scale == 1.0 else self.time_scale * label

    def check(self, process: Process) -> None:
        """Every coefficient of the state must move at all times."""
        super().check(process)
        last = torch.tensor([process.t_max], dtype=torch.float64, device="cpu")
        alpha_dot, sigma_dot = aligned(*diagonal_of(process).derivatives(last))
        side = (process.resolution or 1) >> dropped_at(process, process.t_max)
        if alpha_dot.ndim > 1 and bool(((alpha_dot == 0) & (sigma_dot == 0))[..., :side, :side].any()):
            raise UserError(
                f"some coefficients of {type(process).__name__} stand still, and have no velocity to predict",
                "use Epsilon or V, or let them leave the state",
            )

    def mix(self, process: DiagonalProcess, t: Tensor) -> tuple[Tensor, Tensor]:
        """F = alpha' u_0 + sigma' eps."""
        return process.derivatives(t)


@PRECONDITIONINGS.register("edm")
class EDMPreconditioning(LinearPreconditioning):
    """EDM's scaling: input and target of F have unit variance (arXiv 2206.00364, table 1), here for any alpha.

    With var = sigma^2 + alpha^2 sigma_data^2: c_in = 1/sqrt(var), c_skip = alpha sigma_data^2/var,
    c_out = sigma sigma_data/sqrt(var), so F = (u_0 - c_skip u_t)/c_out has p = sigma/(sigma_data sqrt(var)) and
    q = -alpha sigma_data/sqrt(var).

    Args:
        sigma_data: Standard deviation of the data.
    """

    # c_noise of a state that holds no signal at all would be infinite; this is ln(sigma)/4 at sigma = exp(20).
    MAX_C_NOISE = 5.0

    def __init__(self, sigma_data: float = 0.5) -> None:
        if sigma_data <= 0:
            raise UserError(f"sigma_data is {sigma_data}", "give the positive standard deviation of the data")
        self.sigma_data = sigma_data

    def _std(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return (sigma**2 + (alpha * self.sigma_data) ** 2).sqrt()

    def mix(self, process: DiagonalProcess, t: Tensor) -> tuple[Tensor, Tensor]:
        """F = (u_0 - c_skip u_t) / c_out."""
        alpha, sigma = process.alpha_sigma(t)
        std = self._std(alpha, sigma)
        return sigma / (self.sigma_data * std), -alpha * self.sigma_data / std

    def c_in(self, process: DiagonalProcess, t: Tensor) -> Tensor:
        """1 / sqrt(sigma^2 + alpha^2 sigma_data^2)."""
        return 1 / self._std(*process.alpha_sigma(t))

    def c_noise(self, process: DiagonalProcess, t: Tensor) -> Tensor:
        """ln(sigma) / 4 with EDM's relative sigma, sigma^-2 = SNR."""
        return (-process.log_snr(t) / 8).clamp(-self.MAX_C_NOISE, self.MAX_C_NOISE)
