"""Ancestral DDPM sampling and DDIM: both step through the posterior of u_s given u_t and the predicted image."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from denoisezoo.diffusion.blocks import apply_blocks
from denoisezoo.diffusion.denoiser import Prediction
from denoisezoo.diffusion.noise import Noise, normal_like
from denoisezoo.diffusion.process import Process, ScalarProcess
from denoisezoo.diffusion.samplers.base import SAMPLERS, Caller, GridSampler, transfer
from denoisezoo.errors import UserError


def require_scalar(process: Process, name: str) -> ScalarProcess:
    """`process` as a scalar one, or a `UserError` that names the sampler."""
    if not isinstance(process, ScalarProcess):
        raise UserError(
            f"sampler {name!r} cannot walk {type(process).__name__}, whose coefficients differ in noise level",
            "use ddim, which walks every process",
        )
    return process


def bridge(process: ScalarProcess, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """alpha_ts = alpha_t/alpha_s, the variance of u_t given u_s, and the variance of u_s given u_t and u_0; each ()."""
    alpha_ts = process.alpha(t) / process.alpha(s)
    var_ts = process.sigma(t) ** 2 - alpha_ts**2 * process.sigma(s) ** 2
    return alpha_ts, var_ts, process.sigma(s) ** 2 * var_ts / process.sigma(t) ** 2


def clip_prediction(prediction: Prediction, process: ScalarProcess, u_t: Tensor, t: Tensor) -> Prediction:
    """The prediction with its image clipped to [-1, 1] and the noise that then belongs to u_t."""
    u_0 = prediction.u_0.clamp(-1, 1)
    alpha, sigma = (c.to(u_t.dtype) for c in (process.alpha(t), process.sigma(t)))
    return Prediction(u_0, (u_t - alpha * u_0) / sigma)


@SAMPLERS.register("ddpm")
@dataclass(frozen=True)
class DDPM(GridSampler):
    """Ancestral sampling (arXiv 2006.11239, algorithm 2), on any grid of any scalar process.

    Attributes:
        variance: "small", the posterior's (beta-tilde), or "large", that of u_t given u_s (beta).
        clip: Clip the predicted image to [-1, 1], as DDPM does.
    """

    name: ClassVar[str] = "ddpm"
    variance: Literal["small", "large"] = "small"
    clip: bool = True

    def check(self, process: Process) -> None:
        """Scalar processes only."""
        require_scalar(process, self.name)

    def walk(self, call: Caller, u: Tensor, grid: Tensor, generator: Noise) -> Tensor:
        """u_s ~ N(mean of u_s given u_t and the predicted u_0, variance)."""
        process = require_scalar(call.process, self.name)
        for t, s in itertools.pairwise(grid):
            found = call(u, t)
            u_0 = found.u_0.clamp(-1, 1) if self.clip else found.u_0
            if s == 0:
                return u_0
            alpha_ts, var_ts, posterior = bridge(process, s, t)
            # DDPM, equation 7.
            of_u_t = alpha_ts * process.sigma(s) ** 2 / process.sigma(t) ** 2
            of_u_0 = process.alpha(s) * var_ts / process.sigma(t) ** 2
            std = (posterior if self.variance == "small" else var_ts).sqrt()
            u = of_u_t.to(u.dtype) * u + of_u_0.to(u.dtype) * u_0 + std.to(u.dtype) * normal_like(u, generator)
        return u


@SAMPLERS.register("ddim")
@dataclass(frozen=True)
class DDIM(GridSampler):
    """DDIM (arXiv 2010.02502, equation 12). eta = 0 is deterministic, of order 1, and walks every process.

    Attributes:
        eta: 0 for the deterministic path, 1 for ancestral noise.
        clip: Clip the predicted image to [-1, 1].
    """

    name: ClassVar[str] = "ddim"
    order: ClassVar[int | None] = 1
    eta: float = 0.0
    clip: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise UserError(f"eta is {self.eta}", "give a number from 0 (deterministic) to 1 (ancestral)")

    def check(self, process: Process) -> None:
        """Noise and clipping need a scalar process."""
        if self.eta or self.clip:
            require_scalar(process, self.name)

    def walk(self, call: Caller, u: Tensor, grid: Tensor, generator: Noise) -> Tensor:
        """u_s = A_s u_0 + sqrt(R_s^2 - std^2) eps + std z, with std = eta times the posterior's."""
        for t, s in itertools.pairwise(grid):
            found = call(u, t)
            if self.clip:
                found = clip_prediction(found, require_scalar(call.process, self.name), u, t)
            u = self._noisy(call.process, found, s, t, generator) if self.eta else transfer(call.process, found, s)
        return u

    def _noisy(self, process: Process, found: Prediction, s: Tensor, t: Tensor, generator: Noise) -> Tensor:
        scalar = require_scalar(process, self.name)
        std = self.eta * bridge(scalar, s, t)[2].clamp(min=0).sqrt()
        rest = (scalar.sigma(s) ** 2 - std**2).clamp(min=0).sqrt()
        u = apply_blocks(scalar.signal(s.reshape(1)), found.u_0) + rest.to(found.eps.dtype) * found.eps
        return u + std.to(u.dtype) * normal_like(u, generator)
