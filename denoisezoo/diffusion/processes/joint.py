"""Conditional score estimators as one process over (x, y), an image and its condition, with a speed for each part.

Batzolis et al. 2021, "Conditional Image Generation with Score-Based Diffusion Models", arXiv 2111.13606; with
non-uniform speeds also arXiv 2207.09786. What they call by five names is one process by configuration:

    CDE      sigma_max 0: y stays clean             the network puts out x's part alone
    CDiffE   sigma_max none: y at the speed of x    the network puts out both parts
    CMDE     sigma_max below that of x              both parts, or x's alone (y_t as mere input noise)
    VS-CMDE  falls_to, falls_in: sigma_max falls during training
    noise augmentation: augmented > 0, at a level of its own that the network is told (Ho et al. 2021, arXiv 2106.15282)

Sampling, y is given: see `denoisezoo.Given`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from denoisezoo.diffusion.basis import PixelBasis
from denoisezoo.diffusion.capabilities import ConditionInState, Evolving
from denoisezoo.diffusion.coefficients import over_images
from denoisezoo.diffusion.noise import Noise, normal_like
from denoisezoo.diffusion.processes.geometric import GeometricVE
from denoisezoo.diffusion.processes.process import PROCESSES, DiagonalProcess, ScalarProcess, TimesOfPart
from denoisezoo.errors import UserError
from denoisezoo.nn.transfer import to_device


class Beside(PixelBasis):
    """The pixels of an image and, beside them along the channels, those of its condition.

    Args:
        channels: Of the image.
        cond_channels: Of the condition.
    """

    def __init__(self, channels: int, cond_channels: int) -> None:
        self.channels, self.cond_channels = channels, cond_channels

    def state_channels(self, channels: int) -> int:
        """Those of x and y."""
        return channels + self.cond_channels

    def image_channels(self, channels: int) -> int:
        """Those of x.

        Raises:
            UserError: The state has others than x and y together.
        """
        both = self.channels + self.cond_channels
        if channels != both:
            raise UserError(
                f"the state has {self.channels} + {self.cond_channels} channels, and the network takes {channels}",
                f"set network.in_channels to {both}",
            )
        return self.channels


@PROCESSES.register("joint")
class Joint(TimesOfPart, ConditionInState, Evolving, DiagonalProcess):
    """(x, y) stacked along the channels: x under a scalar process, y under the same one by a clock of its own.

    With s the noise relative to the image, ln s_y(t) is linear in ln s_x(t): from `sigma_min` where x begins to
    `sigma_max` where x ends, which for `GeometricVE` is sigma_y(t) = sigma_min (sigma_max/sigma_min)^t.

    Args:
        x: Process of the image.
        channels: Channels of x.
        cond_channels: Channels of y.
        sigma_max: Noise of y at the end; none is that of x, 0 keeps y clean.
        sigma_min: Noise of y at the beginning; none is that of x.
        falls_to: What `sigma_max` falls to during training (VS-CMDE); none keeps it.
        falls_in: Optimiser steps until then; it goes on falling, as 1/sigma_max grows linearly for ever.
        augmented: Training adds noise of a standard deviation uniform up to this to a clean y, and tells the network
            which, in one more channel.
        augment_at: The same in sampling.

    Raises:
        UserError: Levels out of order or out of range, or an x whose noise is infinite in the end.
    """

    default_preconditioning = "edm"
    x: ScalarProcess

    def __init__(
        self,
        x: ScalarProcess | None = None,
        channels: int = 3,
        cond_channels: int = 3,
        sigma_max: float | None = None,
        sigma_min: float | None = None,
        falls_to: float | None = None,
        falls_in: int = 0,
        augmented: float = 0.0,
        augment_at: float = 0.0,
    ) -> None:
        self.x = x or GeometricVE()
        if min(channels, cond_channels) < 1:
            raise UserError(f"channels {channels} or cond_channels {cond_channels} is below 1", "give whole numbers")
        self.t_min, self.t_max = self.x.t_min, self.x.t_max
        ends = torch.tensor([self.t_min, self.t_max], dtype=torch.float64, device="cpu")
        low, high = self.x.edm_sigma(ends).tolist()
        if not math.isfinite(high):
            raise UserError(
                f"{type(self.x).__name__} ends without any signal, which a slower y cannot follow",
                "use VP, VE, GeometricVE, EDM or VPDiscrete",
            )
        self.low, self.high = low, high
        self.sigma_min = low if sigma_min is None else sigma_min
        self.first = self.sigma_max = high if sigma_max is None else sigma_max
        self.falls_to, self.falls_in = falls_to, falls_in
        self.augmented, self.augment_at = augmented, augment_at
        self.channels, self.given_channels = channels, cond_channels
        self.cond_channels = cond_channels + (augmented > 0)
        self.basis = Beside(channels, self.cond_channels)
        self._check()

    def _check(self) -> None:
        if self.sigma_min <= 0 or self.sigma_max < 0 or 0 < self.sigma_max < self.sigma_min:
            raise UserError(
                f"sigma_max {self.sigma_max} and sigma_min {self.sigma_min} of the condition are not in order",
                "give 0 < sigma_min <= sigma_max, or sigma_max 0 for a clean condition",
            )
        if self.falls_to is not None and not (self.sigma_min <= self.falls_to <= self.first and self.falls_in > 0):
            raise UserError(
                f"falls_to {self.falls_to} in {self.falls_in} steps cannot be",
                f"give falls_in above 0, and falls_to from {self.sigma_min:g} to {self.first:g}",
            )
        if self.augmented < 0 or not 0 <= self.augment_at <= self.augmented or (self.augmented and self.sigma_max):
            raise UserError(
                f"augmented {self.augmented}, augment_at {self.augment_at} and sigma_max {self.sigma_max} do not fit",
                "give 0 <= augment_at <= augmented, and sigma_max 0",
            )

    @property
    def changing(self) -> tuple[float, ...]:
        """The largest noise of y."""
        return (self.sigma_max,)

    def advance(self, step: int) -> None:
        """sigma_max(n) = M y_T y_0 / (n (y_0 - y_T) + M y_T) (the code of arXiv 2111.13606), not below sigma_min."""
        if self.falls_to is not None:
            y_0, y_T, M = self.first, self.falls_to, self.falls_in
            self.sigma_max = max(self.sigma_min, M * y_T * y_0 / (step * (y_0 - y_T) + M * y_T))

    # The state

    def check_outputs(self, channels: int) -> None:
        """x alone, or x and y where y has noise to predict.

        Raises:
            UserError: Other channels.
        """
        both = self.channels + self.cond_channels
        if channels != self.channels and not (self.sigma_max and channels == both):
            what = "a clean condition has no noise to predict" if channels == both else f"x and y have {both} channels"
            raise UserError(
                f"the network puts out {channels} channels, and {what}",
                f"set network.out_channels to {self.channels}",
            )

    def join(self, image: Tensor, cond: Tensor | None, generator: torch.Generator | None = None) -> Tensor:
        """(x, y), y with its random noise and level where it is augmented.

        Raises:
            UserError: There is no condition, or it has other channels or another size.
        """
        if cond is None:
            raise UserError("the data give no condition", "use Paired with a task")
        if cond.shape[-2:] != image.shape[-2:]:
            size = "x".join(map(str, cond.shape[-2:]))
            raise UserError(f"the condition is {size}", f"give it the image's size, {image.shape[-2]} pixels")
        level = torch.rand(cond.shape[0], generator=generator, device=cond.device) if self.augmented else None
        return torch.cat([image, self._augment(cond, level, generator)], dim=1)

    def begin(self, cond: Tensor, noise: Noise = None) -> Tensor:
        """The clean y of sampling (B, Cy, H, W).

        Raises:
            UserError: Wrong channels.
        """
        level = torch.full((cond.shape[0],), self.augment_at / self.augmented) if self.augmented else None
        return self._augment(cond, level, noise)

    def _augment(self, cond: Tensor, level: Tensor | None, noise: Noise) -> Tensor:
        if cond.shape[1] != self.given_channels:
            raise UserError(f"the condition has {cond.shape[1]} channels", f"give {self.given_channels}")
        if level is None:
            return cond
        share = to_device(level.to(cond.dtype), cond.device).reshape(-1, 1, 1, 1)
        return torch.cat([cond + self.augmented * share * normal_like(cond, noise), share.expand_as(cond[:, :1])], 1)

    def diffuse(self, y: Tensor, t: Tensor, noise: Noise = None) -> Tensor:
        """A fresh y_t ~ p(y_t | y) at times t (B,) for y (B, Cy, H, W)."""
        if not self.sigma_max:
            return y
        alpha, sigma = (over_images(part, y) for part in self._of_y(t))
        return alpha * y + sigma * normal_like(y, noise)

    # Coefficients

    @property
    def slope(self) -> float:
        """d ln s_y / d ln s_x."""
        return math.log(self.sigma_max / self.sigma_min) / math.log(self.high / self.low)

    def clock(self, t: Tensor) -> Tensor:
        """The time (B,) at which x has the noise that y has at t (B,)."""
        log_s = (self.x.edm_sigma(t) / self.low).clamp(min=torch.finfo(t.dtype).tiny).log()
        return self.x.t_of_sigma(self.sigma_min * torch.exp(self.slope * log_s))

    def _of_y(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """alpha and sigma (B,) of y; at time 0 y is clean, as x is."""
        if not self.sigma_max:
            return torch.ones_like(t), torch.zeros_like(t)
        tau = self.clock(t)
        return torch.where(t > 0, self.x.alpha(tau), 1.0), torch.where(t > 0, self.x.sigma(tau), 0.0)

    def _map(self, of_x: Tensor, of_y: Tensor) -> Tensor:
        parts = [of_x[:, None].expand(-1, self.channels), of_y[:, None].expand(-1, self.cond_channels)]
        return torch.cat(parts, dim=1)[..., None, None]

    def alpha(self, t: Tensor) -> Tensor:
        """(B, C + Cy, 1, 1)."""
        return self._map(self.x.alpha(t), self._of_y(t)[0])

    def sigma(self, t: Tensor) -> Tensor:
        """(B, C + Cy, 1, 1)."""
        return self._map(self.x.sigma(t), self._of_y(t)[1])

    def derivatives(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Those of x, and for y those of x at tau = clock(t) times d tau/dt = slope r(t)/r(tau), r = d ln s_x/dt."""
        of_x = self.x.derivatives(t)
        if not self.sigma_max:
            still = torch.zeros_like(t)
            return self._map(of_x[0], still), self._map(of_x[1], still)
        tau = self.clock(t)
        of_y = self.x.derivatives(tau)
        rate = self.slope * self._rate(t, of_x) / self._rate(tau, of_y)
        return self._map(of_x[0], of_y[0] * rate), self._map(of_x[1], of_y[1] * rate)

    def _rate(self, t: Tensor, derivatives: tuple[Tensor, Tensor]) -> Tensor:
        """d ln(sigma/alpha) / dt of x."""
        return derivatives[1] / self.x.sigma(t) - derivatives[0] / self.x.alpha(t)
