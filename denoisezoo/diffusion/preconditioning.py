"""Preconditioning: how a raw network F becomes a denoiser.

Every preconditioning here is one line: the network is trained to return F = p u_0 + q eps. With
u_t = alpha u_0 + sigma eps this pair of equations is solved for u_0 and eps:

    u_0 = (q u_t - sigma F) / det,    eps = (alpha F - p u_t) / det,    det = alpha q - sigma p,

which is D = c_skip u_t + c_out F(c_in u_t; c_noise) of EDM (arXiv 2206.00364, equation 7) with c_skip = q / det and
c_out = -sigma / det, for any alpha, and without a division by alpha or sigma that the target does not force.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from denoisezoo.diffusion.process import Process, ScalarProcess
from denoisezoo.errors import UserError
from denoisezoo.registry import Registry

PRECONDITIONINGS: Registry[type[Preconditioning]] = Registry("preconditioning")


def over_images(coefficient: Tensor, like: Tensor) -> Tensor:
    """A coefficient per sample (B,) shaped to broadcast over images (B, C, H, W), in the dtype of `like`."""
    return coefficient.to(like.dtype).reshape(-1, *[1] * (like.ndim - 1))


class Preconditioning(ABC):
    """Relates the network's input and output to states of a process."""

    def check(self, process: Process) -> None:
        """Refuse a process that this preconditioning cannot serve."""
        if not isinstance(process, ScalarProcess):
            raise UserError(
                f"preconditioning {type(self).__name__} needs one noise level for all coefficients, "
                f"which {type(process).__name__} has not",
                "choose another preconditioning",
            )

    @abstractmethod
    def inputs(self, process: Process, u_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """The network's image input c_in u_t (B, C, H, W) and noise input c_noise (B,)."""

    @abstractmethod
    def target(self, process: Process, u_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """What F should return for u_t = A_t u_0 + R_t eps, (B, C, H, W)."""

    @abstractmethod
    def prediction(self, process: Process, u_t: Tensor, t: Tensor, F_x: Tensor) -> tuple[Tensor, Tensor]:
        """Estimates of u_0 and eps from the network's output, each (B, C, H, W)."""

    @abstractmethod
    def c_out(self, process: Process, t: Tensor) -> Tensor:
        """Factor (B,) by which an error of F becomes an error of u_0 (its absolute value)."""


class ScalarPreconditioning(Preconditioning):
    """Base of the preconditionings of scalar processes: F = p u_0 + q eps."""

    @abstractmethod
    def mix(self, process: ScalarProcess, t: Tensor) -> tuple[Tensor, Tensor]:
        """The weights p and q of u_0 and eps in the target, each (B,)."""

    def c_in(self, process: ScalarProcess, t: Tensor) -> Tensor | None:
        """Scale (B,) of the network's input; None leaves u_t as it is."""
        return None

    def c_noise(self, process: ScalarProcess, t: Tensor) -> Tensor:
        """The network's noise input (B,)."""
        return process.time_label(t)

    def inputs(self, process: Process, u_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """c_in u_t and c_noise."""
        scalar = _scalar(process)
        c_in = self.c_in(scalar, t)
        return u_t if c_in is None else over_images(c_in, u_t) * u_t, self.c_noise(scalar, t)

    def target(self, process: Process, u_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """p u_0 + q eps."""
        p, q = self.mix(_scalar(process), t)
        return over_images(p, u_0) * u_0 + over_images(q, eps) * eps

    def prediction(self, process: Process, u_t: Tensor, t: Tensor, F_x: Tensor) -> tuple[Tensor, Tensor]:
        """The two equations of the module's docstring."""
        scalar = _scalar(process)
        alpha, sigma = scalar.alpha(t), scalar.sigma(t)
        p, q = self.mix(scalar, t)
        det = alpha * q - sigma * p
        u_0 = over_images(q / det, u_t) * u_t - over_images(sigma / det, u_t) * F_x
        eps = over_images(alpha / det, u_t) * F_x - over_images(p / det, u_t) * u_t
        return u_0, eps

    def c_out(self, process: Process, t: Tensor) -> Tensor:
        """|sigma / det|."""
        scalar = _scalar(process)
        alpha, sigma = scalar.alpha(t), scalar.sigma(t)
        p, q = self.mix(scalar, t)
        return (sigma / (alpha * q - sigma * p)).abs()


def _scalar(process: Process) -> ScalarProcess:
    assert isinstance(process, ScalarProcess), "NetworkDenoiser checks this when it is built"
    return process


@PRECONDITIONINGS.register("eps")
class Epsilon(ScalarPreconditioning):
    """F predicts the noise (DDPM, arXiv 2006.11239, equation 14)."""

    def mix(self, process: ScalarProcess, t: Tensor) -> tuple[Tensor, Tensor]:
        """F = eps."""
        return torch.zeros_like(t), torch.ones_like(t)


@PRECONDITIONINGS.register("x0")
class X0(ScalarPreconditioning):
    """F predicts the image."""

    def mix(self, process: ScalarProcess, t: Tensor) -> tuple[Tensor, Tensor]:
        """F = u_0."""
        return torch.ones_like(t), torch.zeros_like(t)


@PRECONDITIONINGS.register("v")
class V(ScalarPreconditioning):
    """F predicts v = alpha eps - sigma u_0 (progressive distillation, arXiv 2202.00512, appendix D)."""

    def mix(self, process: ScalarProcess, t: Tensor) -> tuple[Tensor, Tensor]:
        """F = -sigma u_0 + alpha eps."""
        return -process.sigma(t), process.alpha(t)


@PRECONDITIONINGS.register("velocity")
class Velocity(ScalarPreconditioning):
    """F predicts du_t/dt = alpha' u_0 + sigma' eps; eps - u_0 for rectified flow (arXiv 2209.03003, equation 1)."""

    def mix(self, process: ScalarProcess, t: Tensor) -> tuple[Tensor, Tensor]:
        """F = alpha' u_0 + sigma' eps."""
        return process.derivatives(t)


@PRECONDITIONINGS.register("edm")
class EDMPreconditioning(ScalarPreconditioning):
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

    def _std(self, process: ScalarProcess, t: Tensor) -> Tensor:
        return (process.sigma(t) ** 2 + (process.alpha(t) * self.sigma_data) ** 2).sqrt()

    def mix(self, process: ScalarProcess, t: Tensor) -> tuple[Tensor, Tensor]:
        """F = (u_0 - c_skip u_t) / c_out."""
        std = self._std(process, t)
        return process.sigma(t) / (self.sigma_data * std), -process.alpha(t) * self.sigma_data / std

    def c_in(self, process: ScalarProcess, t: Tensor) -> Tensor:
        """1 / sqrt(sigma^2 + alpha^2 sigma_data^2)."""
        return 1 / self._std(process, t)

    def c_noise(self, process: ScalarProcess, t: Tensor) -> Tensor:
        """ln(sigma) / 4 with EDM's relative sigma."""
        return (process.edm_sigma(t).log() / 4).clamp(-self.MAX_C_NOISE, self.MAX_C_NOISE)
