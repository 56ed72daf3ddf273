"""The preconditioning of processes whose every step back doubles the size."""

from __future__ import annotations

import torch
from torch import Tensor

from denoisezoo.diffusion.capabilities import Halving
from denoisezoo.diffusion.coefficients import over_images
from denoisezoo.diffusion.linear_preconditioning import PRECONDITIONINGS, Preconditioning, diagonal_of
from denoisezoo.diffusion.processes.process import Process
from denoisezoo.errors import UserError


@PRECONDITIONINGS.register("next_scale")
class NextScale(Preconditioning):
    """F predicts H^(l-1) u_0 from u_l, at twice its size (UDPM, arXiv 2305.16269)."""

    enlarges = True

    def check(self, process: Process) -> None:
        """Processes whose steps back double the size only."""
        if not isinstance(process, Halving):
            raise UserError(
                f"preconditioning NextScale cannot serve {type(process).__name__}, whose steps keep the size",
                "use X0, or the process DownSampling",
            )

    def inputs(self, process: Process, u_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """u_l as it is, and the label of its level."""
        return u_t, process.time_label(t)

    def target(self, process: Process, u_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """The clean state at twice the size of the noisy one."""
        return u_0

    def prediction(self, process: Process, u_t: Tensor, t: Tensor, F_x: Tensor) -> tuple[Tensor, Tensor]:
        """F, (B, C, 2H, 2W), and the noise that belongs to the part of it that u_l has."""
        diagonal = diagonal_of(process)
        seen = F_x[..., : u_t.shape[-2], : u_t.shape[-1]]
        gap = u_t - over_images(diagonal.alpha(t), u_t) * seen
        return F_x, gap / over_images(diagonal.sigma(t), u_t)

    def c_out(self, process: Process, t: Tensor) -> Tensor:
        """1."""
        return torch.ones_like(t)
