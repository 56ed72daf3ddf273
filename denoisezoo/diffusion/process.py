"""Processes: how an image is destroyed. Linear and Gaussian in an orthonormal basis, u_t = A_t u_0 + R_t eps.

Coefficients are *blocks*: a tensor (B or 1, k, k, C or 1, H or 1, W or 1) that broadcasts over the image-shaped state,
so one number serves VP, VE, EDM and rectified flow, a map serves a process that treats frequencies or sub-bands apart,
and k = 2 serves Langevin diffusion, whose state stacks position and velocity along the channels. `apply_blocks` is the
one function that applies them. Reference: gDDIM, arXiv 2206.05564, section 2; EDM, arXiv 2206.00364, table 1.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from denoisezoo.diffusion.noise import Noise, standard_normal
from denoisezoo.registry import Registry

PROCESSES: Registry[type[Process]] = Registry("process")


def apply_blocks(blocks: Tensor, u: Tensor) -> Tensor:
    """Multiply an image-shaped state by (k, k) blocks.

    Args:
        blocks: (B or 1, k, k, C or 1, H or 1, W or 1).
        u: State (B, k*C, H, W).

    Returns:
        (B, k*C, H, W), in the dtype of `u`.
    """
    k = blocks.shape[1]
    blocks = blocks.to(u)
    if k == 1:
        return blocks[:, 0, 0] * u
    parts = u.unflatten(1, (k, -1))
    return torch.einsum("bijchw,bjchw->bichw", blocks.expand(u.shape[0], -1, -1, *parts.shape[2:]), parts).flatten(1, 2)


def scalar_blocks(coefficient: Tensor) -> Tensor:
    """A scalar per sample (B,) as blocks (B, 1, 1, 1, 1, 1)."""
    return coefficient.reshape(-1, 1, 1, 1, 1, 1)


class Process(ABC):
    """A linear Gaussian forward process. Time t runs from `t_min` (almost clean) to `t_max` (prior); 0 is the image.

    Attributes:
        t_min: Smallest time that a network is trained and evaluated at.
        t_max: Time of the prior.
    """

    default_preconditioning: ClassVar[str]
    """Name of the preconditioning that networks of this process customarily have."""

    t_min: float
    t_max: float

    def encode(self, image: Tensor) -> Tensor:
        """Image (B, C, H, W) in [-1, 1] to the state u_0, in an orthonormal basis; white noise stays white."""
        return image

    def decode(self, state: Tensor) -> Tensor:
        """Inverse of `encode`."""
        return state

    def state_shape(self, image_shape: torch.Size | tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the state for images of a shape (B, C, H, W)."""
        return tuple(image_shape)

    @abstractmethod
    def psi(self, s: Tensor, t: Tensor) -> Tensor:
        """Blocks of the transition mean: the signal part of u_s given that of u_t; A_t = psi(t, 0). s, t: (B,)."""

    @abstractmethod
    def noise(self, t: Tensor) -> Tensor:
        """Blocks of R_t with R_t R_t^T = Sigma_t and dR/dt = (F + 1/2 G G^T Sigma^-1) R (gDDIM, section 3). t: (B,)."""

    @abstractmethod
    def log_snr(self, t: Tensor) -> Tensor:
        """Logarithm of the signal-to-noise ratio (B,), strictly decreasing in t; averaged where coefficients differ."""

    @abstractmethod
    def grid(self, steps: int) -> Tensor:
        """The process's usual sampling times (steps + 1,), float64, from `t_max` down to 0."""

    def signal(self, t: Tensor) -> Tensor:
        """Blocks of A_t = psi(t, 0)."""
        return self.psi(t, torch.zeros_like(t))

    def perturb(self, u_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """u_t = A_t u_0 + R_t eps. The only place that broadcasts.

        Args:
            u_0: State of the clean image (B, C, H, W).
            eps: Standard normal noise like `u_0`.
            t: Times (B,).
        """
        return apply_blocks(self.signal(t), u_0) + apply_blocks(self.noise(t), eps)

    def prior(
        self,
        shape: torch.Size | tuple[int, ...],
        generator: Noise = None,
        *,
        t: float | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float64,
    ) -> Tensor:
        """A draw of u_T for images of `shape` (B, C, H, W): R_T eps, the image's own share there being negligible.

        Args:
            shape: Shape of the images.
            generator: Source of the noise, drawn in float32 so that every dtype sees the same numbers.
            t: The first time of the sampler's grid; t_max unless given.
            device: Where to draw; the generator's device unless given.
            dtype: Of the iterates to come.
        """
        eps = standard_normal(self.state_shape(shape), generator, device, dtype)
        start = torch.full((1,), self.t_max if t is None else t, device=eps.device, dtype=torch.float64)
        return apply_blocks(self.noise(start), eps)

    @abstractmethod
    def time_label(self, t: Tensor) -> Tensor:
        """What networks are customarily told of the time t: c_noise (B,)."""

    def sample_times(self, uniform: Tensor) -> Tensor:
        """Uniform numbers in [0, 1) to training times uniform over [t_min, t_max]; same shape and dtype."""
        return self.t_min + (self.t_max - self.t_min) * uniform

    def nearest_time(self, t: Tensor) -> Tensor:
        """The nearest time at which the process is defined; discrete processes round."""
        return t


class ScalarProcess(Process):
    """A process with one signal and one noise level for all coefficients: u_t = alpha(t) u_0 + sigma(t) eps."""

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Scale of the image (B,)."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """Standard deviation of the noise in u_t (B,)."""

    @abstractmethod
    def derivatives(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """d alpha / dt and d sigma / dt, each (B,)."""

    @abstractmethod
    def t_of_sigma(self, sigma: Tensor) -> Tensor:
        """Time at which the relative noise `edm_sigma` is `sigma`; its inverse."""

    def round_sigma(self, sigma: Tensor) -> Tensor:
        """The relative noise level nearest to `sigma` (any shape) that networks are trained on; discrete ones round."""
        return sigma

    def edm_sigma(self, t: Tensor) -> Tensor:
        """EDM's sigma: noise relative to the unscaled image, sigma(t) / alpha(t); infinite where no signal is left."""
        return self.sigma(t) / self.alpha(t)

    def log_snr(self, t: Tensor) -> Tensor:
        """2 ln(alpha / sigma)."""
        return 2 * (self.alpha(t).log() - self.sigma(t).log())

    def psi(self, s: Tensor, t: Tensor) -> Tensor:
        """alpha(s) / alpha(t)."""
        return scalar_blocks(self.alpha(s) / self.alpha(t))

    def noise(self, t: Tensor) -> Tensor:
        """sigma(t)."""
        return scalar_blocks(self.sigma(t))

    def signal(self, t: Tensor) -> Tensor:
        """alpha(t)."""
        return scalar_blocks(self.alpha(t))
