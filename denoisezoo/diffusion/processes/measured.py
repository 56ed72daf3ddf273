"""An unconditional denoiser for a measurement y = x + s n of known noise: it starts at the level that the noise has.

u_t = alpha x + sigma eps and y are two looks at x with independent Gaussian noise, and all that they tell of it is in
their mean weighed by precision: x plus noise of variance s_c^2 = 1 / (alpha^2 / sigma^2 + 1 / s^2). So

    E[x given u_t, y] = E[x given alpha_c x + sigma_c eps] at the time t_c whose relative noise is s_c,

which any unconditional denoiser answers. Where a walk begins u_t tells nothing, and the denoiser is called on
alpha_c y at noise level s; from there on the states v at t_c have the law of the reverse process that starts there:
given y and x, mean x + (s_c/s)^2 (y - x) and variance s_c^2 (1 - (s_c/s)^2). No training sees the channel.
"""

from __future__ import annotations

from torch import Tensor

from denoisezoo.diffusion.capabilities import ConditionIsMeasurement, nearest_time
from denoisezoo.diffusion.processes.process import PROCESSES, ScalarProcess, TimesOfPart
from denoisezoo.diffusion.processes.scalar import EDM
from denoisezoo.errors import UserError
from denoisezoo.nn.transfer import to_device


@PROCESSES.register("measured")
class Measured(TimesOfPart, ConditionIsMeasurement, ScalarProcess):
    """A scalar process whose networks know no condition, and are sampled given a measurement (`Matched`).

    The condition is y beside ln s in one more channel, the same for all pixels of an image.

    Args:
        x: The process.
        channels: Channels of x.
    """

    default_preconditioning = "edm"
    x: ScalarProcess

    def __init__(self, x: ScalarProcess | None = None, channels: int = 3) -> None:
        if channels < 1:
            raise UserError(f"channels is {channels}", "give a whole number of at least 1")
        self.x, self.channels = x or EDM(), channels
        self.t_min, self.t_max = self.x.t_min, self.x.t_max
        self.given_channels = channels + 1

    def combine(self, u_t: Tensor, t: Tensor, cond: Tensor) -> tuple[Tensor, Tensor]:
        """What u_t and a measurement tell of x together.

        Args:
            u_t: States (B, C, H, W).
            t: Their times (B,).
            cond: y and ln s, (B, C + 1, H, W).

        Returns:
            The state v (B, C, H, W) of the process, and its times t_c (B,).
        """
        t = to_device(t, cond.device)  # the level of the measurement is there, too
        y, s = cond[:, : self.channels].to(u_t), cond[:, self.channels, 0, 0].to(t).exp()
        alpha, sigma = self.x.alpha(t), self.x.sigma(t)
        of_u, of_y = alpha / sigma**2, 1 / s**2
        variance = 1 / (alpha * of_u + of_y)
        t_c = nearest_time(self.x, self.x.t_of_sigma(variance.sqrt())).clamp(self.t_min, self.t_max)
        scale = self.x.alpha(t_c) * variance
        return _over(scale * of_u, u_t) * u_t + _over(scale * of_y, u_t) * y, t_c

    def check_condition(self, cond: Tensor) -> None:
        """Refuse conditions (B, Cy, H, W) that are no measurement with one noise level for each image.

        Raises:
            UserError: Saying why.
        """
        if cond.shape[1] != self.given_channels:
            raise UserError(f"the condition has {cond.shape[1]} channels", f"give {self.given_channels}")
        level = cond[:, self.channels].flatten(1)
        if bool((level != level[:, :1]).any()):
            raise UserError(
                "the noise of a measurement differs within an image", "use a channel with one block, or another process"
            )

    # All else is that of x.

    def alpha(self, t: Tensor) -> Tensor:
        """That of x."""
        return self.x.alpha(t)

    def sigma(self, t: Tensor) -> Tensor:
        """That of x."""
        return self.x.sigma(t)

    def derivatives(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Those of x."""
        return self.x.derivatives(t)

    def t_of_sigma(self, sigma: Tensor) -> Tensor:
        """That of x."""
        return self.x.t_of_sigma(sigma)

    def round_sigma(self, sigma: Tensor) -> Tensor:
        """That of x."""
        return self.x.round_sigma(sigma)


def _over(coefficient: Tensor, like: Tensor) -> Tensor:
    return coefficient.to(like).reshape(-1, 1, 1, 1)
