"""Processes: how an image is destroyed. Linear and Gaussian in an orthonormal basis, u_t = A_t u_0 + R_t eps.

Coefficients are *blocks*: a tensor (B or 1, k, k, C or 1, H or 1, W or 1) that broadcasts over the image-shaped state,
so one number serves VP, VE, EDM and rectified flow, a map serves a process that treats frequencies or sub-bands apart,
and k = 2 serves Langevin diffusion, whose state stacks position and velocity along the channels. `apply_blocks` is the
one function that applies them. Reference: gDDIM, arXiv 2206.05564, section 2; EDM, arXiv 2206.00364, table 1.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from denoisezoo.diffusion.coefficients import apply_blocks, inverse, map_blocks, product, transpose
from denoisezoo.diffusion.noise import Noise, standard_normal
from denoisezoo.errors import UserError
from denoisezoo.registry import Registry

PROCESSES: Registry[type[Process]] = Registry("process")


Clamp = Callable[[Tensor, float], Tensor]
"""Clips images to [-most, most]; see `Codec.clamp`."""


def clamped(image: Tensor, most: float) -> Tensor:
    """Pixels clipped to [-most, most]."""
    return image.clamp(-most, most)


def check_finite(**arguments: Any) -> None:
    """Refuse arguments, numbers or lists of them, that are not finite; None is none.

    Raises:
        UserError: Naming the first.
    """
    for name, value in arguments.items():
        if value is not None and not np.isfinite(value).all():
            raise UserError(f"{name} is {value}", "give finite numbers")


class Process(ABC):
    """A linear Gaussian forward process. Time t runs from `t_min` (almost clean) to `t_max` (prior); 0 is the image.

    Coefficients that are pure noise may leave the state, from some time on, by which its height and width are halved:
    the state of a *stage* is the top left crop of the whole. Walking back, `expand` lets them in again as fresh noise.

    Attributes:
        t_min: Smallest time that a network is trained and evaluated at.
        t_max: Time of the prior.
        resolution: Height and width of the images, for a process that treats coefficients apart; None serves any.
        cond_channels: Channels of a condition that is part of the state; 0 where conditions are none of its business.
        given_channels: Channels that the condition has when it is given.
    """

    default_preconditioning: ClassVar[str]
    """Name of the preconditioning that networks of this process customarily have."""

    sampler: ClassVar[str | None] = None
    """Name of the only sampler that can walk it back; None where samplers say themselves what they can walk."""

    k: ClassVar[int] = 1
    """Size of the blocks: the state has k times the channels of the image."""

    t_min: float
    t_max: float
    resolution: int | None = None
    cond_channels: int = 0
    given_channels: int = 0

    @classmethod
    def for_images(cls, resolution: int, stages: int = 1) -> Process:
        """The process with its defaults, for square images of a size and a network that serves so many stages."""
        return cls()

    def encode(self, image: Tensor) -> Tensor:
        """Image (B, C, H, W) in [-1, 1] to the state u_0, in an orthonormal basis; white noise stays white."""
        return self.from_pixels(image)

    def decode(self, state: Tensor) -> Tensor:
        """Inverse of `encode`."""
        return self.to_pixels(state)

    def to_pixels(self, u: Tensor) -> Tensor:
        """A state (B, k*C, H, W), whole or of a stage, in the space that networks see; inverse of `from_pixels`."""
        return u

    def from_pixels(self, x: Tensor) -> Tensor:
        """What a network puts out (B, k*C or C, H, W) in the basis of the state."""
        return x

    def seen(self, u: Tensor, t: Tensor) -> Tensor:
        """What networks are shown of a state (B, k*C, H, W) at times t (B,), before it is scaled: most, the state."""
        return u

    def start(self, image: Tensor, generator: torch.Generator | None = None, cond: Tensor | None = None) -> Tensor:
        """A clean state u_0 to train on: `encode`, what is drawn at random of it, and the condition if it is part."""
        return self.encode(image)

    @property
    def free(self) -> Process:
        """The process of what samplers walk: of all of the state, but for a condition that is given."""
        return self

    def advance(self, step: int) -> None:
        """Become what the process is after so many optimiser steps; most never change."""
        return

    def clip(self, u_0: Tensor, clamp: Clamp = clamped) -> Tensor:
        """The clean state of the image clipped to [-1, 1]; `clamp` does so where it is not the pixels that it is."""
        return self.encode(clamp(self.decode(u_0), 1))

    def state_channels(self, channels: int) -> int:
        """Channels of the state for images of some channels."""
        return self.k * channels

    def image_channels(self, channels: int) -> int:
        """Channels of the image for a state of some channels.

        Raises:
            UserError: The state's channels are no multiple of k.
        """
        if channels % self.k:
            raise UserError(
                f"{type(self).__name__} has no states of {channels} channels", f"give a multiple of {self.k}"
            )
        return channels // self.k

    def check_outputs(self, channels: int) -> None:
        """Refuse a network that puts out so many channels, where they cannot be parts of the state.

        Raises:
            UserError: Naming the number that would do.
        """
        return

    def state_shape(self, image_shape: torch.Size | tuple[int, ...], t: float = 0.0) -> tuple[int, ...]:
        """Shape of the state at time t for images of a shape (B, C, H, W)."""
        B, C, H, W = image_shape
        halvings = self.dropped(t)
        return B, self.state_channels(C), H >> halvings, W >> halvings

    def check_images(self, resolution: int, stages: int = 1) -> None:
        """Refuse a network of another size, or of several stages where there are others.

        Raises:
            UserError: Naming both.
        """
        if self.resolution not in (None, resolution):
            raise UserError(
                f"{type(self).__name__} is for {self.resolution} pixels a side, and the network for {resolution}",
                f"add --model.process.resolution {resolution}",
            )
        if stages not in (1, len(self.stages)):
            raise UserError(
                f"the network has {stages} stages, and {type(self).__name__} {len(self.stages)}",
                "choose a process with as many stages as the network: --process, or model.process of a recipe",
            )

    @property
    def stages(self) -> tuple[tuple[float, float], ...]:
        """First and last time of each stage, the noisiest stage first."""
        return ((self.t_max, self.t_min),)

    @property
    def chain_length(self) -> int | None:
        """Steps of the chain that a discrete process is; None in continuous time."""
        return None

    @property
    def changing(self) -> tuple[float, ...]:
        """What of it changes in training, if anything: what is kept for a process holds for these values alone."""
        return ()

    def dropped(self, t: float) -> int:
        """How often height and width of the state at time t have been halved, 0 for the whole state."""
        return 0

    def expand(self, u: Tensor, t: Tensor, generator: Noise = None) -> Tensor:
        """The state `u` with the coefficients that enter at time t (()), walking back, as fresh noise.

        Args:
            u: The state as it was just above t.
            t: A time at which stages meet; at other times nothing enters.
            generator: Source of the noise.
        """
        if self.resolution is None or not self.dropped(self.t_max):
            return u
        if u.shape[-1] == (side := self.resolution >> self.dropped(float(t))):
            return u
        eps = standard_normal((*u.shape[:2], side, side), generator, u.device, u.dtype)
        entered = apply_blocks(self.noise(t.reshape(1)), eps)
        entered[..., : u.shape[-2], : u.shape[-1]] = u
        return entered

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

    @abstractmethod
    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Blocks of dA/dt and dR/dt, of which the probability flow du/dt = A' u_0 + R' eps is made. t: (B,)."""

    def signal(self, t: Tensor) -> Tensor:
        """Blocks of A_t = psi(t, 0)."""
        return self.psi(t, torch.zeros_like(t))

    def marginal(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Blocks of A_t and R_t, `signal` and `noise` at once."""
        return self.signal(t), self.noise(t)

    def diffusion(self, t: Tensor) -> Tensor:
        """Blocks of G G^T = 2 (R' - F R) R^T with F = A' A^-1 (from the equation of `noise`). t: (B,)."""
        A_dot, R_dot = self.rates(t)
        R = self.noise(t)
        F = product(A_dot, inverse(self.signal(t)))
        return 2 * product(R_dot - product(F, R), transpose(R))

    def perturb(self, u_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """u_t = A_t u_0 + R_t eps. The only place that broadcasts.

        Args:
            u_0: State of the clean image (B, C, H, W).
            eps: Standard normal noise like `u_0`.
            t: Times (B,).
        """
        A_t, R_t = self.marginal(t)
        return apply_blocks(A_t, u_0) + apply_blocks(R_t, eps)

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
        first = self.t_max if t is None else t
        eps = standard_normal(self.state_shape(shape, first), generator, device, dtype)
        start = torch.full((1,), first, device=eps.device, dtype=torch.float64)
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


class DiagonalProcess(Process):
    """A process with k = 1: u_t = alpha(t) u_0 + sigma(t) eps, a number or a map over the coefficients.

    alpha, sigma and their derivatives are (B,), or maps (B, C or 1, H or 1, W or 1).
    """

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Scale of the clean state."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """Standard deviation of the noise in u_t."""

    @abstractmethod
    def derivatives(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """d alpha / dt and d sigma / dt."""

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """alpha and sigma at once; what both come from is then computed only once."""
        return self.alpha(t), self.sigma(t)

    def marginal(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Of `alpha_sigma`."""
        alpha, sigma = self.alpha_sigma(t)
        return map_blocks(alpha), map_blocks(sigma)

    def log_snr(self, t: Tensor) -> Tensor:
        """2 ln(alpha / sigma), the mean over the map."""
        alpha, sigma = self.alpha_sigma(t)
        log_snr = 2 * (alpha.log() - sigma.log())
        return log_snr if log_snr.ndim == 1 else log_snr.flatten(1).mean(1)

    def psi(self, s: Tensor, t: Tensor) -> Tensor:
        """alpha(s) / alpha(t)."""
        return map_blocks(self.alpha(s) / self.alpha(t))

    def noise(self, t: Tensor) -> Tensor:
        """sigma(t)."""
        return map_blocks(self.sigma(t))

    def signal(self, t: Tensor) -> Tensor:
        """alpha(t)."""
        return map_blocks(self.alpha(t))

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """alpha' and sigma'."""
        alpha_dot, sigma_dot = self.derivatives(t)
        return map_blocks(alpha_dot), map_blocks(sigma_dot)


class ScalarProcess(DiagonalProcess):
    """A process with one signal and one noise level for all coefficients: alpha, sigma and derivatives are (B,)."""

    @abstractmethod
    def t_of_sigma(self, sigma: Tensor) -> Tensor:
        """Time at which the relative noise `edm_sigma` is `sigma`; its inverse."""

    def round_sigma(self, sigma: Tensor) -> Tensor:
        """The relative noise level nearest to `sigma` (any shape) that the process has; discrete ones round."""
        return sigma

    def edm_sigma(self, t: Tensor) -> Tensor:
        """EDM's sigma: noise relative to the unscaled image, sigma(t) / alpha(t); infinite where no signal is left."""
        return self.sigma(t) / self.alpha(t)


class TimesOfPart:
    """For a process around another, `x`: its clock and times are those of x. Comes before the process it mixes with.

    Attributes:
        x: The process within.
    """

    x: ScalarProcess

    @property
    def chain_length(self) -> int | None:
        """That of x."""
        return self.x.chain_length

    def log_snr(self, t: Tensor) -> Tensor:
        """That of x."""
        return self.x.log_snr(t)

    def time_label(self, t: Tensor) -> Tensor:
        """That of x."""
        return self.x.time_label(t)

    def sample_times(self, uniform: Tensor) -> Tensor:
        """As x spreads them."""
        return self.x.sample_times(uniform)

    def nearest_time(self, t: Tensor) -> Tensor:
        """That of x."""
        return self.x.nearest_time(t)

    def grid(self, steps: int) -> Tensor:
        """That of x."""
        return self.x.grid(steps)
