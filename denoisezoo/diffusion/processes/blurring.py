"""Blurring diffusion: frequencies fade at different speeds under one noise level."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from denoisezoo.diffusion.basis import DCTBasis
from denoisezoo.diffusion.processes.lookup import Table
from denoisezoo.diffusion.processes.process import PROCESSES, DiagonalProcess, Process, check_finite
from denoisezoo.diffusion.processes.scalar import uniform_grid
from denoisezoo.diffusion.transforms import laplacian
from denoisezoo.errors import UserError


@PROCESSES.register("blurring")
class Blurring(DiagonalProcess):
    """Blurring diffusion (Hoogeboom and Salimans 2022, arXiv 2209.05557), diagonal in the DCT with isotropic noise.

    alpha_t = a_t D_t with D_t = (1 - d_min) exp(-Lambda sigma_B^2 / 2) + d_min and sigma_B = blur sin^2(pi t / 2), so
    that R_t = sigma_t I, and one step of generalised DDIM is DDIM in every frequency. a_t and sigma_t are those of the
    blurring paper, log-SNR -2 ln tan(...) from +10 to -10, or the cosine of gDDIM's code. With blur 0 it is plain
    variance-preserving diffusion.

    Args:
        blur: sigma_Bmax, the largest blur in pixels; 20 was best on CIFAR-10, 10 on LSUN.
        resolution: Height and width of the images.
        schedule: "logsnr" (blurring diffusion) or "cosine" (gDDIM).
        d_min: What is left of the fastest frequencies before the noise.
        t_min: Smallest time; gDDIM's code goes to 1e-5.
        t_max: Time of the prior; None is 1, or where sigma / alpha is 80 under the cosine (gDDIM).
    """

    default_preconditioning = "eps"
    basis = DCTBasis()

    def __init__(
        self,
        blur: float = 20.0,
        resolution: int = 32,
        schedule: Literal["logsnr", "cosine"] = "logsnr",
        d_min: float = 0.001,
        t_min: float = 1e-3,
        t_max: float | None = None,
    ) -> None:
        check_finite(blur=blur)
        if blur < 0 or not 0 < d_min <= 1:
            raise UserError(f"blur {blur} or d_min {d_min} is out of range", "give blur >= 0 and 0 < d_min <= 1")
        if t_max is None:
            t_max = 1.0 if schedule == "logsnr" else _COSINE_T_MAX
        if not 0 < t_min < t_max <= 1:
            raise UserError(f"t_min {t_min} and t_max {t_max} are not in order", "give 0 < t_min < t_max <= 1")
        self.blur, self.schedule, self.d_min, self.resolution = blur, schedule, d_min, resolution
        self.t_min, self.t_max = t_min, t_max
        self.laplacian = Table(laplacian(resolution))

    @classmethod
    def for_images(cls, resolution: int, stages: int = 1) -> Process:
        """See `Process.for_images`."""
        return cls(resolution=resolution)

    def _angle(self, t: Tensor) -> tuple[Tensor, float]:
        """phi with a_t = cos(phi) up to a factor and sigma_t = sin(phi), and dphi/dt."""
        if self.schedule == "logsnr":
            low, high = math.atan(math.exp(-5)), math.atan(math.exp(5))
            return t * (high - low) + low, high - low
        return math.pi / 2 * (t + 0.004) / 1.008, math.pi / 2 / 1.008

    def _image(self, t: Tensor) -> Tensor:
        return (t <= 0).reshape(-1, 1, 1, 1)

    def _fade(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """D_t and its derivative, maps (B, 1, N, N)."""
        t = t.reshape(-1, 1, 1, 1)
        sine, rate = torch.sin(math.pi / 2 * t), self.laplacian.like(t)
        decay = (1 - self.d_min) * torch.exp(-rate * (self.blur * sine**2) ** 2 / 2)
        # d/dt (sigma_B^2 / 2) = blur^2 d/dt sin^4 / 2 = pi blur^2 sin^3 cos.
        speed = math.pi * self.blur**2 * sine**3 * torch.cos(math.pi / 2 * t)
        return decay + self.d_min, -rate * speed * decay

    def alpha(self, t: Tensor) -> Tensor:
        """a_t D_t, a map (B, 1, N, N); 1 at t = 0."""
        a = torch.cos(self._angle(t)[0]).reshape(-1, 1, 1, 1)
        return torch.where(self._image(t), 1.0, a * self._fade(t)[0])

    def sigma(self, t: Tensor) -> Tensor:
        """sigma_t, the same at all frequencies, (B, 1, 1, 1); 0 at t = 0."""
        sigma = torch.sin(self._angle(t)[0]).reshape(-1, 1, 1, 1)
        return torch.where(self._image(t), 0.0, sigma)

    def derivatives(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """By the product rule."""
        phi, rate = self._angle(t)
        D, D_dot = self._fade(t)
        sine, cosine = (f(phi).reshape(-1, 1, 1, 1) for f in (torch.sin, torch.cos))
        return cosine * D_dot - rate * sine * D, rate * cosine

    def time_label(self, t: Tensor) -> Tensor:
        """999 t."""
        return 999 * t

    def grid(self, steps: int) -> Tensor:
        """Uniform in t; `time_grid=quadratic` is that of gDDIM's code."""
        return uniform_grid(self.t_max, self.t_min, steps)


_COSINE_T_MAX = 0.99597978926
"""Where the cosine's sigma / alpha is 80 (gDDIM's code: abar = abar_0 / ((80 + sqrt(1 - abar_0))^2 + abar_0))."""
