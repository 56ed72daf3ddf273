"""No noise at all, u_t = u_0: what an autoencoder is trained under, which is no denoiser but has the same trainer.

It has no name among the processes, since nothing can be sampled by it; recipes give its class.
"""

from __future__ import annotations

import torch
from torch import Tensor

from denoisezoo.diffusion.capabilities import WithoutNoise
from denoisezoo.diffusion.linear_preconditioning import Preconditioning
from denoisezoo.diffusion.processes.process import Process, ScalarProcess
from denoisezoo.errors import UserError


class Noiseless(WithoutNoise, ScalarProcess):
    """alpha = 1 and sigma = 0 at the only time that there is, 0."""

    t_min = t_max = 0.0

    def alpha(self, t: Tensor) -> Tensor:
        """1."""
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        """0."""
        return torch.zeros_like(t)

    def derivatives(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """0 and 0."""
        return torch.zeros_like(t), torch.zeros_like(t)

    def t_of_sigma(self, sigma: Tensor) -> Tensor:
        """0."""
        return torch.zeros_like(sigma)

    def time_label(self, t: Tensor) -> Tensor:
        """0."""
        return torch.zeros_like(t)

    def grid(self, steps: int) -> Tensor:
        """There is none: see `WithoutNoise`.

        Raises:
            UserError: Always.
        """
        raise UserError(f"{type(self).__name__} has no noise to walk through", "use another process")


class Unscaled(Preconditioning):
    """The network sees the image as it is, and answers with the image."""

    def check(self, process: Process) -> None:
        """Refuse processes that have noise.

        Raises:
            UserError: This one has.
        """
        if not isinstance(process, WithoutNoise):
            raise UserError(f"Unscaled cannot serve {type(process).__name__}, which has noise", "use Velocity, V or X0")

    def inputs(self, process: Process, u_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """u_t and zeros."""
        return u_t, process.time_label(t)

    def target(self, process: Process, u_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """u_0."""
        return u_0

    def prediction(self, process: Process, u_t: Tensor, t: Tensor, F_x: Tensor) -> tuple[Tensor, Tensor]:
        """F, and no noise."""
        return F_x, torch.zeros_like(F_x)

    def c_out(self, process: Process, t: Tensor) -> Tensor:
        """1."""
        return torch.ones_like(t)
