"""Bases: how the state of a process relates to the image. Orthonormal, so that white noise is white in all of them.

Coefficients keep the shape of an image in every basis. Networks are shown pixels, whatever the process is diagonal in:
`to_pixels` and `from_pixels` stand around each of their calls, `encode` and `decode` around a whole walk.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from denoisezoo.diffusion.transforms import dct, haar, inverse_dct, inverse_haar
from denoisezoo.errors import UserError

Clamp = Callable[[Tensor, float], Tensor]
"""Clips images to [-most, most]; see `Codec.clamp`."""


def clamped(image: Tensor, most: float) -> Tensor:
    """Pixels clipped to [-most, most]."""
    return image.clamp(-most, most)


class Basis(ABC):
    """An orthonormal basis of image-shaped states."""

    k: ClassVar[int] = 1
    """Parts of the state, each as large as the image: coefficients of its process are k x k blocks."""

    @abstractmethod
    def to_pixels(self, u: Tensor) -> Tensor:
        """A state (B, k*C, H, W), whole or of a stage, in the space that networks see; inverse of `from_pixels`."""

    @abstractmethod
    def from_pixels(self, x: Tensor) -> Tensor:
        """What a network puts out (B, k*C or C, H, W) in the basis of the state."""

    def encode(self, image: Tensor) -> Tensor:
        """Image (B, C, H, W) in [-1, 1] to the clean state u_0 (B, k*C, H, W)."""
        return self.from_pixels(image)

    def decode(self, state: Tensor) -> Tensor:
        """Inverse of `encode`."""
        return self.to_pixels(state)

    def draw(self, image: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """A clean state to train on: `encode`, and what is random of it where something is."""
        return self.encode(image)

    def clip(self, u_0: Tensor, clamp: Clamp = clamped) -> Tensor:
        """The clean state of the image clipped to [-1, 1]; `clamp` does so where it is not the pixels that it is."""
        return self.encode(clamp(self.decode(u_0), 1))

    def state_channels(self, channels: int) -> int:
        """Channels of the state for images of some channels."""
        return self.k * channels

    def image_channels(self, channels: int) -> int:
        """Channels of the image for a state of some channels.

        Raises:
            UserError: No state has so many.
        """
        if channels % self.k:
            raise UserError(
                f"a state of {self.k} parts cannot have {channels} channels", f"give a multiple of {self.k}"
            )
        return channels // self.k


class PixelBasis(Basis):
    """The pixels themselves."""

    def to_pixels(self, u: Tensor) -> Tensor:
        """As it is."""
        return u

    def from_pixels(self, x: Tensor) -> Tensor:
        """As it is."""
        return x


class DCTBasis(Basis):
    """Frequencies of the DCT-II, the constant top left."""

    def to_pixels(self, u: Tensor) -> Tensor:
        """Inverse DCT."""
        return inverse_dct(u)

    def from_pixels(self, x: Tensor) -> Tensor:
        """DCT."""
        return dct(x)


class HaarBasis(Basis):
    """The mosaic of a Haar pyramid, the approximation top left.

    Args:
        levels: Halvings of the pyramid in a whole state.
        resolution: Height and width of a whole state: smaller ones have fewer levels left. None where all are whole.
    """

    def __init__(self, levels: int, resolution: int | None = None) -> None:
        self.levels, self.resolution = levels, resolution

    def _left(self, side: int) -> int:
        """Levels of the pyramid in a state of a size."""
        return self.levels - (0 if self.resolution is None else round(math.log2(self.resolution / side)))

    def to_pixels(self, u: Tensor) -> Tensor:
        """Inverse Haar of the levels that the state has left."""
        return inverse_haar(u, self._left(u.shape[-1]))

    def from_pixels(self, x: Tensor) -> Tensor:
        """Haar of the levels that an image of this size has."""
        return haar(x, self._left(x.shape[-1]))


class PositionAndVelocity(PixelBasis):
    """(x, v) stacked along the channels: the image, and a velocity that begins at 0 or is drawn. Networks see both.

    Args:
        velocity_std: Standard deviation of the velocities that `draw` gives; 0 for none.
    """

    k = 2

    def __init__(self, velocity_std: float = 0.0) -> None:
        self.velocity_std = velocity_std

    def encode(self, image: Tensor) -> Tensor:
        """(x, 0): (B, 2C, H, W)."""
        return torch.cat([image, torch.zeros_like(image)], dim=1)

    def decode(self, state: Tensor) -> Tensor:
        """The position."""
        return state.unflatten(1, (2, -1))[:, 0]

    def draw(self, image: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """(x, 0), or (x, v) with a drawn velocity."""
        if not self.velocity_std:
            return self.encode(image)
        v = torch.empty_like(image).normal_(std=self.velocity_std, generator=generator)
        return torch.cat([image, v], dim=1)

    def clip(self, u_0: Tensor, clamp: Clamp = clamped) -> Tensor:
        """Position clipped, velocity as it is."""
        x, v = u_0.chunk(2, dim=1)
        return torch.cat([clamp(x, 1), v], dim=1)
