"""Processes: how an image is destroyed. Linear and Gaussian in an orthonormal basis, u_t = A_t u_0 + R_t eps.

Coefficients are *blocks*: a tensor (B or 1, k, k, C or 1, H or 1, W or 1) that broadcasts over the image-shaped state,
so one number serves VP, VE, EDM and rectified flow, a map serves a process that treats frequencies or sub-bands apart,
and k = 2 serves Langevin diffusion, whose state stacks position and velocity along the channels. `apply_blocks` is the
one function that applies them. Reference: gDDIM, arXiv 2206.05564, section 2; EDM, arXiv 2206.00364, table 1.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from denoisezoo.diffusion.basis import Basis, PixelBasis
from denoisezoo.diffusion.capabilities import Discrete, chain_length, nearest_time, state_shape
from denoisezoo.diffusion.coefficients import apply_blocks, inverse, map_blocks, product, transpose
from denoisezoo.diffusion.noise import Noise, standard_normal
from denoisezoo.errors import UserError
from denoisezoo.nn.transfer import to_device
from denoisezoo.recorded import Recorded
from denoisezoo.registry import Registry

PROCESSES: Registry[type[Process]] = Registry("process")


def check_finite(**arguments: Any) -> None:
    """Refuse arguments, numbers or lists of them, that are not finite; None is none.

    Raises:
        UserError: Naming the first.
    """
    for name, value in arguments.items():
        if value is not None and not np.isfinite(value).all():
            raise UserError(f"{name} is {value}", "give finite numbers")


class Process(Recorded, ABC):
    """A linear Gaussian forward process. Time t runs from `t_min` (almost clean) to `t_max` (prior); 0 is the image.

    This is all that most processes are. What some can besides, such as losing coefficients on the way or taking a
    condition into the state, they have from the classes of `denoisezoo.diffusion.capabilities`.

    Attributes:
        basis: What the coefficients of the state are.
        t_min: Smallest time that a network is trained and evaluated at.
        t_max: Time of the prior.
        resolution: Height and width of the images, for a process that treats coefficients apart; None serves any.
    """

    default_preconditioning: ClassVar[str]
    """Name of the preconditioning that networks of this process customarily have."""

    basis: Basis = PixelBasis()
    t_min: float
    t_max: float
    resolution: int | None = None

    @classmethod
    def for_images(cls, resolution: int, stages: int = 1) -> Process:
        """The process with its defaults, for square images of a size and a network that serves so many stages."""
        return cls()

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

    @property
    def has_maps(self) -> bool:
        """Whether coefficients are maps over height and width; else they are a few numbers for each image."""
        return self.resolution is not None

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
            t: Times (B,), on the CPU or where the states are.
        """
        A_t, R_t = self.marginal(times_for(self, u_0, t))
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
        eps = standard_normal(state_shape(self, shape, first), generator, device, dtype)
        start = torch.full((1,), first, device="cpu", dtype=torch.float64)
        return apply_blocks(self.noise(start), eps)

    @abstractmethod
    def time_label(self, t: Tensor) -> Tensor:
        """What networks are customarily told of the time t: c_noise (B,)."""

    def sample_times(self, uniform: Tensor) -> Tensor:
        """Uniform numbers in [0, 1) to training times uniform over [t_min, t_max]; same shape and dtype."""
        return self.t_min + (self.t_max - self.t_min) * uniform


class DiagonalProcess(Process):
    """A process whose state has one part: u_t = alpha(t) u_0 + sigma(t) eps, a number or a map over the coefficients.

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


class TimesOfPart(Discrete):
    """For a process around another, `x`: its clock and times are those of x. Comes before the process it mixes with.

    Attributes:
        x: The process within.
    """

    x: ScalarProcess

    @property
    def chain_length(self) -> int | None:
        """That of x."""
        return chain_length(self.x)

    def nearest_time(self, t: Tensor) -> Tensor:
        """That of x."""
        return nearest_time(self.x, t)

    def log_snr(self, t: Tensor) -> Tensor:
        """That of x."""
        return self.x.log_snr(t)

    def time_label(self, t: Tensor) -> Tensor:
        """That of x."""
        return self.x.time_label(t)

    def sample_times(self, uniform: Tensor) -> Tensor:
        """As x spreads them."""
        return self.x.sample_times(uniform)

    def grid(self, steps: int) -> Tensor:
        """That of x."""
        return self.x.grid(steps)


def times_for(process: Process, u: Tensor, t: Tensor) -> Tensor:
    """Times (B,) where a process computes coefficients of states `u`: those of several maps where the states are.

    Numbers are computed where the times come from, on the CPU as a rule: there that takes no launches, and what comes
    of them is copied, or goes along with the operators that need it.
    """
    return to_device(t, u.device) if process.has_maps and t.shape[0] > 1 else t
