"""What preconditionings are: how a raw network F becomes a denoiser.

Most are one line: the network is trained to return F = p u_0 + q eps. With u_t = alpha u_0 + sigma eps this pair of
equations is solved for u_0 and eps:

    u_0 = (q u_t - sigma F) / det,    eps = (alpha F - p u_t) / det,    det = alpha q - sigma p,

which is D = c_skip u_t + c_out F(c_in u_t; c_noise) of EDM (arXiv 2206.00364, equation 7) with c_skip = q / det and
c_out = -sigma / det, for any alpha, and without a division by alpha or sigma that the target does not force. All of
these are numbers, or maps where coefficients have noise levels of their own; `eps` also serves blocks, where they are
matrices.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from denoisezoo.diffusion.coefficients import aligned, cropped_to, over_images
from denoisezoo.diffusion.processes.process import DiagonalProcess, Process
from denoisezoo.errors import UserError
from denoisezoo.recorded import Recorded
from denoisezoo.registry import Registry

PRECONDITIONINGS: Registry[type[Preconditioning]] = Registry("preconditioning")


def with_channels(F_x: Tensor, channels: int) -> Tensor:
    """A network's output (B, C, H, W) with zeros for the last parts of the state, where it says nothing of them."""
    return F_x if F_x.shape[1] >= channels else F.pad(F_x, (0, 0, 0, 0, 0, channels - F_x.shape[1]))


class Preconditioning(Recorded, ABC):
    """Relates the network's input and output to states of a process."""

    enlarges: ClassVar[bool] = False
    """Whether the network answers at twice the size of the state."""
    of_image: ClassVar[bool] = False
    """Whether it answers in the channels of the image, where the state has several parts."""

    def check(self, process: Process) -> None:
        """Refuse a process that this preconditioning cannot serve."""
        if not isinstance(process, DiagonalProcess):
            raise UserError(
                f"preconditioning {type(self).__name__} cannot serve {type(process).__name__}, whose state has "
                f"{process.basis.k} parts",
                "use Epsilon, which serves every process",
            )

    @abstractmethod
    def inputs(self, process: Process, u_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """The network's image input c_in u_t (B, C, H, W) and noise input c_noise (B,)."""

    @abstractmethod
    def target(self, process: Process, u_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """What F should return for u_t = A_t u_0 + R_t eps, in the basis of the state, (B, C, H, W)."""

    @abstractmethod
    def prediction(self, process: Process, u_t: Tensor, t: Tensor, F_x: Tensor) -> tuple[Tensor, Tensor]:
        """Estimates of u_0 and eps from the network's output, each (B, C, H, W)."""

    @abstractmethod
    def c_out(self, process: Process, t: Tensor) -> Tensor:
        """Factor by which an error of F becomes an error of u_0 (its absolute value): (B,), or a map."""


class LinearPreconditioning(Preconditioning):
    """Base of the preconditionings of diagonal processes: F = p u_0 + q eps."""

    @abstractmethod
    def mix(self, process: DiagonalProcess, t: Tensor) -> tuple[Tensor, Tensor]:
        """The weights p and q of u_0 and eps in the target, each (B,) or a map."""

    def c_in(self, process: DiagonalProcess, t: Tensor) -> Tensor | None:
        """Scale (B,) of the network's input; None leaves u_t as it is."""
        return None

    def c_noise(self, process: DiagonalProcess, t: Tensor) -> Tensor:
        """The network's noise input (B,)."""
        return process.time_label(t)

    def inputs(self, process: Process, u_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """c_in u_t and c_noise."""
        diagonal = diagonal_of(process)
        c_in = self.c_in(diagonal, t)
        return u_t if c_in is None else over_images(c_in, u_t) * u_t, self.c_noise(diagonal, t)

    def target(self, process: Process, u_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """p u_0 + q eps."""
        p, q = self.mix(diagonal_of(process), t)
        return over_images(p, u_0) * u_0 + over_images(q, eps) * eps

    def prediction(self, process: Process, u_t: Tensor, t: Tensor, F_x: Tensor) -> tuple[Tensor, Tensor]:
        """The two equations of the module's docstring."""
        diagonal = diagonal_of(process)
        found = aligned(*diagonal.alpha_sigma(t), *self.mix(diagonal, t))
        alpha, sigma, p, q = (cropped_to(u_t, coefficient) for coefficient in found)
        det = alpha * q - sigma * p
        F_x = with_channels(F_x, u_t.shape[1])
        u_0 = over_images(q / det, u_t) * u_t - over_images(sigma / det, u_t) * F_x
        eps = over_images(alpha / det, u_t) * F_x - over_images(p / det, u_t) * u_t
        return u_0, eps

    def c_out(self, process: Process, t: Tensor) -> Tensor:
        """|sigma / det|."""
        diagonal = diagonal_of(process)
        alpha, sigma, p, q = aligned(*diagonal.alpha_sigma(t), *self.mix(diagonal, t))
        return (sigma / (alpha * q - sigma * p)).abs()


def diagonal_of(process: Process) -> DiagonalProcess:
    """The process, which a preconditioning's `check` has found to be diagonal."""
    assert isinstance(process, DiagonalProcess), "NetworkDenoiser checks this when it is built"
    return process
