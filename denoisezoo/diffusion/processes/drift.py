"""A conditional forward process that drifts from the image to what was received, u_t = r ((1 - m) x + m y) + noise.

Same shape as conditional diffusion for speech enhancement (CDiffuSE: Lu et al. 2022, arXiv 2202.05256). A stand-in for
arXiv 2310.19460 and 2309.08568, whose process is not public.
"""

from __future__ import annotations

import torch
from torch import Tensor

from denoisezoo.diffusion.coefficients import over_images
from denoisezoo.diffusion.processes.joint import Joint
from denoisezoo.diffusion.processes.process import PROCESSES, ScalarProcess
from denoisezoo.diffusion.processes.scalar import uniform_grid
from denoisezoo.errors import UserError


class Receding(ScalarProcess):
    """What is left of a drifting image when its drift is taken off: w_t = r (1 - m) x + sqrt(delta) eps.

    m = m_max t, r = sqrt(abar) with m^2 = (1 - r^2) / r, and delta = 1 - r^2 - m^2 r^2 = m^2 r (1 - r) (CDiffuSE,
    section 3): had y - x unit variance, that of u_t given x would be 1 - r^2, as without a drift.

    Args:
        m_max: Share of y at the end, below 1.
        t_min: Smallest time.
    """

    default_preconditioning = "edm"

    def __init__(self, m_max: float = 0.999, t_min: float = 0.05) -> None:
        if not 0 < m_max < 1 or not 0 < t_min < 1:
            raise UserError(f"m_max {m_max} or t_min {t_min} is out of range", "give numbers above 0 and below 1")
        self.m_max, self.t_min, self.t_max = m_max, t_min, 1.0

    def share(self, t: Tensor) -> Tensor:
        """m, the share of y in the mean."""
        return self.m_max * t

    def shrinkage(self, t: Tensor) -> Tensor:
        """r, the positive root of r^2 + m^2 r = 1."""
        m2 = self.share(t) ** 2
        return 2 / (m2 + (m2**2 + 4).sqrt())

    def drift(self, t: Tensor) -> Tensor:
        """r m, the factor of y in u_t."""
        return self.shrinkage(t) * self.share(t)

    def alpha(self, t: Tensor) -> Tensor:
        """r (1 - m)."""
        return self.shrinkage(t) * (1 - self.share(t))

    def sigma(self, t: Tensor) -> Tensor:
        """sqrt(delta) = m r sqrt(1 - r) / sqrt(r) = m^2 r / sqrt(1 + r), by (1 - r)(1 + r) = m^2 r."""
        r = self.shrinkage(t)
        return self.share(t) ** 2 * r / (1 + r).sqrt()

    def derivatives(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """With r' = -2 m m' r / (2 r + m^2)."""
        m, r, m_dot = self.share(t), self.shrinkage(t), self.m_max
        r_dot = -2 * m * m_dot * r / (2 * r + m**2)
        sigma_dot = (2 * m * m_dot * r + m**2 * r_dot) / (1 + r).sqrt() - m**2 * r * r_dot / (2 * (1 + r) ** 1.5)
        return r_dot * (1 - m) - r * m_dot, sigma_dot

    def t_of_sigma(self, sigma: Tensor) -> Tensor:
        """The root of m^2 = sigma (1 - m) sqrt(1 + r), by bisection: sigma / alpha grows with m."""
        low, high = torch.zeros_like(sigma), torch.ones_like(sigma) / self.m_max
        for _ in range(60):
            t = (low + high) / 2
            m = self.share(t)
            above = m**2 > sigma * (1 - m) * (1 + self.shrinkage(t)).sqrt()
            low, high = torch.where(above, low, t), torch.where(above, t, high)
        return (low + high) / 2

    def time_label(self, t: Tensor) -> Tensor:
        """999 t."""
        return 999 * t

    def grid(self, steps: int) -> Tensor:
        """Uniform in t."""
        return uniform_grid(self.t_max, self.t_min, steps)


@PROCESSES.register("drift")
class Drift(Joint):
    """u_t = r ((1 - m) x + m y) + sqrt(delta) eps with m from 0 to nearly 1: an image that turns into its condition.

    Given y, the drift d = r m y is known, and what is left of u_t without it, w_t, is a scalar process of x
    (`Receding`). So the state holds w_t beside y, every sampler walks w, and networks are shown u_t beside y (`shown`).
    The prior of w, noise alone, is u_T ~ N(r m y, delta): sampling starts from y. With a = alpha_t / alpha_s and
    v = delta_t - a^2 delta_s,

        q(u_t | u_s, y)    = N(a (u_s - d_s) + d_t, v)
        q(u_s | u_t, x, y) = N(d_s + (a delta_s (u_t - d_t) + alpha_s v x) / delta_t, delta_s v / delta_t),

    which in w is DDPM's posterior, and in u CDiffuSE's.

    Args:
        channels: Channels of x.
        cond_channels: Channels of y; x drifts to the first ones.
        m_max: See `Receding`.
        t_min: Smallest time.
    """

    def __init__(self, channels: int = 3, cond_channels: int = 3, m_max: float = 0.999, t_min: float = 0.05) -> None:
        if cond_channels < channels:
            raise UserError(
                f"an image of {channels} channels cannot drift to a condition of {cond_channels}",
                f"give cond_channels of at least {channels}",
            )
        super().__init__(Receding(m_max, t_min), channels, cond_channels, sigma_max=0.0)

    def drift(self, y: Tensor, t: Tensor) -> Tensor:
        """r m y (B, C, H, W) of conditions (B, Cy, H, W) at times t (B,)."""
        assert isinstance(self.x, Receding)
        return over_images(self.x.drift(t), y) * y[:, : self.channels]

    def shown(self, u: Tensor, t: Tensor) -> Tensor:
        """u_t = w_t + r m y, and y."""
        w, y = u[:, : self.channels], u[:, self.channels :]
        return torch.cat([w + self.drift(y, t), y], dim=1)
