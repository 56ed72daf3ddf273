"""Ancestral DDPM sampling and DDIM: both step through the posterior of u_s given u_t and the predicted image."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from denoisezoo.diffusion.coefficients import apply_blocks, beside, inverse
from denoisezoo.diffusion.denoiser import Prediction
from denoisezoo.diffusion.noise import Noise, normal_like
from denoisezoo.diffusion.processes.process import DiagonalProcess, Process, ScalarProcess
from denoisezoo.diffusion.samplers.sampler import SAMPLERS, Caller, GridSampler, History, transfer
from denoisezoo.errors import UserError


def require_scalar(process: Process, name: str) -> ScalarProcess:
    """`process` as a scalar one, or a `UserError` that names the sampler."""
    if not isinstance(process, ScalarProcess):
        raise UserError(
            f"sampler {name!r} cannot walk {type(process).__name__}, whose coefficients differ in noise level",
            "use gddim, which walks every process",
        )
    return process


def require_diagonal(process: Process, name: str) -> DiagonalProcess:
    """`process` as a diagonal one, or a `UserError` that names the sampler."""
    if not isinstance(process, DiagonalProcess):
        raise UserError(
            f"sampler {name!r} cannot walk {type(process).__name__}, whose state has {process.basis.k} parts",
            "use gddim:lam=1 for ancestral noise, which walks every process",
        )
    return process


def bridge(process: DiagonalProcess, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Blocks of alpha_ts = alpha_t/alpha_s, of the variance of u_t given u_s, and of that of u_s given u_t and u_0."""
    s, t = s.reshape(1), t.reshape(1)
    alpha_ts, var_s, var_t = process.psi(t, s), process.noise(s) ** 2, process.noise(t) ** 2
    var_ts = var_t - alpha_ts**2 * var_s
    return alpha_ts, var_ts, var_s * var_ts / var_t


def clip_prediction(
    prediction: Prediction, call: Caller, u_t: Tensor, t: Tensor, *, keep_eps: bool = False
) -> Prediction:
    """The prediction with its image clipped to [-1, 1], and the noise that then belongs to u_t, or as it was.

    Pixels are clipped, through the codec where it is lossless; latents of an autoencoder have no range (`Codec.clamp`).
    """
    if not call.codec.lossless:
        return prediction
    process = call.process
    u_0, times = process.basis.clip(prediction.u_0, call.codec.clamp), t.reshape(1)
    if keep_eps:
        return dataclasses.replace(prediction, u_0=u_0)
    gap = u_t - apply_blocks(process.signal(times), u_0)
    return Prediction(u_0, apply_blocks(inverse(process.noise(times)), gap))


Last = Literal["denoised", "sigma_min"]


def without_last(process: Process, grid: Tensor) -> Tensor:
    """A grid (steps + 1,) that ends at the smallest noise level of the process in place of 0."""
    return torch.cat([grid[:-1], grid.new_tensor([process.t_min]).clamp(max=grid[-2])])


@SAMPLERS.register("ddpm")
@dataclass(frozen=True)
class DDPM(GridSampler):
    """Ancestral sampling (arXiv 2006.11239, algorithm 2), on any grid of any diagonal process.

    Attributes:
        variance: "small", the posterior's (beta-tilde), "large", that of u_t given u_s (beta), or "learned", between
            the two where the network says so. Betas are those of the grid's own, respaced chain.
        clip: Clip the predicted image to [-1, 1], as DDPM does; latents of an autoencoder are left as they are.
    """

    variance: Literal["small", "large", "learned"] = "small"
    clip: bool = True

    def check(self, process: Process) -> None:
        """Diagonal processes only."""
        require_diagonal(process, self.name)

    def predict(self, call: Caller, u: Tensor, t: Tensor) -> Prediction:
        """Clipped, if so set."""
        prediction = call(u, t)
        return clip_prediction(prediction, call, u, t, keep_eps=True) if self.clip else prediction

    def step(self, call: Caller, u: Tensor, t: Tensor, s: Tensor, history: History, generator: Noise) -> Tensor:
        """u_s ~ N(mean of u_s given u_t and the predicted u_0, variance)."""
        process = require_diagonal(call.process, self.name)
        prediction = self.predict(call, u, t)
        alpha_ts, var_ts, posterior = bridge(process, s, t)
        var_s, var_t = (process.noise(x.reshape(1)) ** 2 for x in (s, t))
        # DDPM, equation 7.
        mean = apply_blocks(alpha_ts * var_s / var_t, u)
        mean = mean + apply_blocks(process.signal(s.reshape(1)) * var_ts / var_t, prediction.u_0)
        if self.variance == "learned":
            return mean + learned_std(posterior, var_ts, prediction) * normal_like(u, generator)
        std = (posterior if self.variance == "small" else var_ts).clamp(min=0).sqrt()
        return mean + apply_blocks(std, normal_like(u, generator))


def learned_std(small: Tensor, large: Tensor, prediction: Prediction) -> Tensor:
    """Standard deviation (B, C, H, W) of a step: log variance = (1 + v)/2 log beta + (1 - v)/2 log beta-tilde.

    Improved DDPM, arXiv 2102.09672, equation 15, with v in [-1, 1] as its code has it. The step to the image, for which
    the code replaces a beta-tilde of 0, has no noise in a walk.

    Args:
        small: beta-tilde, blocks of a scalar process.
        large: beta.
        prediction: What the network predicts.

    Raises:
        UserError: The network has learned no variance.
    """
    if prediction.variance is None:
        raise UserError(
            "variance is 'learned', and the network puts out none",
            "use variance=small, or a network with twice the image's channels as out_channels under a scalar process",
        )
    share = (prediction.variance + 1) / 2
    log_small, log_large = (beside(blocks[:, 0, 0].log(), share) for blocks in (small, large))
    return ((share * log_large + (1 - share) * log_small) / 2).exp()


@SAMPLERS.register("ddim")
@dataclass(frozen=True)
class DDIM(GridSampler):
    """DDIM (arXiv 2010.02502, equation 12). eta = 0 is deterministic, of order 1, and walks every process.

    Attributes:
        eta: 0 for the deterministic path, 1 for ancestral noise.
        clip: Clip the predicted image to [-1, 1].
        clipped_eps: What the noise is then: "recomputed", what belongs to u_t with the clipped image (diffusers'
            `use_clipped_model_output`, guided-diffusion), or "kept", the network's own (diffusers' default).
        last: The last step: the predicted image ("denoised"), or a step to the process's smallest noise level, whose
            noise stays in the image ("sigma_min"; diffusers' `set_alpha_to_one` false).
    """

    convergence: ClassVar[int | None] = 1
    eta: float = 0.0
    clip: bool = False
    clipped_eps: Literal["recomputed", "kept"] = "recomputed"
    last: Last = "denoised"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.eta <= 1:
            raise UserError(f"eta is {self.eta}", "give a number from 0 (deterministic) to 1 (ancestral)")

    def check(self, process: Process) -> None:
        """Noise needs a diagonal process."""
        if self.eta:
            require_diagonal(process, self.name)

    def walk(self, call: Caller, u: Tensor, grid: Tensor, generator: Noise) -> Tensor:
        """See `Sampler.walk`, and `last`."""
        return super().walk(call, u, without_last(call.process, grid) if self.last == "sigma_min" else grid, generator)

    def predict(self, call: Caller, u: Tensor, t: Tensor) -> Prediction:
        """Clipped, if so set."""
        prediction = call(u, t)
        if not self.clip:
            return prediction
        return clip_prediction(prediction, call, u, t, keep_eps=self.clipped_eps == "kept")

    def step(self, call: Caller, u: Tensor, t: Tensor, s: Tensor, history: History, generator: Noise) -> Tensor:
        """u_s = A_s u_0 + sqrt(R_s^2 - std^2) eps + std z, with std = eta times the posterior's."""
        prediction = self.predict(call, u, t)
        if not self.eta:
            return transfer(call.process, prediction, s)
        process = require_diagonal(call.process, self.name)
        std = self.eta * bridge(process, s, t)[2].clamp(min=0).sqrt()
        rest = (process.noise(s.reshape(1)) ** 2 - std**2).clamp(min=0).sqrt()
        u = apply_blocks(process.signal(s.reshape(1)), prediction.u_0) + apply_blocks(rest, prediction.eps)
        return u + apply_blocks(std, normal_like(u, generator))
