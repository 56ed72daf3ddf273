"""Preconditioning: how a raw network F becomes an estimate of u_0, D = c_skip u_t + c_out F(c_in u_t; c_noise).

EDM, arXiv 2206.00364, equation 7, here for u_t = alpha u_0 + sigma eps with any alpha. Each class states the target
that F is trained to match; the objective weighs errors of F.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from denoisezoo.diffusion.process import Process, ScalarProcess
from denoisezoo.errors import UserError
from denoisezoo.registry import Registry

PRECONDITIONINGS: Registry[type[Preconditioning]] = Registry("preconditioning")


def over_images(coefficient: Tensor, like: Tensor) -> Tensor:
    """A coefficient per sample (B,) shaped to broadcast over images (B, C, H, W), in the dtype of `like`."""
    return coefficient.to(like.dtype).reshape(-1, *[1] * (like.ndim - 1))


class Preconditioning(ABC):
    """Relates the network's input and output to states of a process."""

    def check(self, process: Process) -> None:
        """Refuse a process that this preconditioning cannot serve."""
        if not isinstance(process, ScalarProcess):
            raise UserError(
                f"preconditioning {type(self).__name__} needs one noise level for all coefficients, "
                f"which {type(process).__name__} has not",
                "choose another preconditioning",
            )

    @abstractmethod
    def inputs(self, process: Process, u_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """The network's image input c_in u_t (B, C, H, W) and noise input c_noise (B,)."""

    @abstractmethod
    def target(self, process: Process, u_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """What F should return for u_t = A_t u_0 + R_t eps, (B, C, H, W)."""

    @abstractmethod
    def prediction(self, process: Process, u_t: Tensor, t: Tensor, F_x: Tensor) -> tuple[Tensor, Tensor]:
        """Estimates of u_0 and eps from the network's output, each (B, C, H, W)."""

    @abstractmethod
    def c_out(self, process: Process, t: Tensor) -> Tensor:
        """Factor (B,) by which an error of F becomes an error of u_0 (its absolute value)."""
