"""Images in another range: networks of score_sde's kin see [0, 1] in place of [-1, 1] (Song et al. 2021, arXiv
2011.13456, appendix C), which under most processes is another signal-to-noise ratio.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from denoisezoo.diffusion.codecs.codec import CODECS, Codec, Shape
from denoisezoo.errors import UserError


@CODECS.register("affine")
class Affine(Codec):
    """z = scale image + shift; of images in [-1, 1], those in [0, 1] unless given otherwise.

    Args:
        scale: What images are multiplied by; not 0.
        shift: What is added.
    """

    lossless = True

    def __init__(self, scale: float = 0.5, shift: float = 0.5) -> None:
        super().__init__()
        if not math.isfinite(scale) or not math.isfinite(shift) or not scale:
            raise UserError(f"scale is {scale} and shift {shift}", "give a scale other than 0, and finite numbers")
        self.scale, self.shift = scale, shift

    def encode(self, image: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """scale image + shift."""
        return self.scale * image + self.shift

    def decode(self, z: Tensor) -> Tensor:
        """(z - shift) / scale."""
        return (z - self.shift) / self.scale

    def latent_shape(self, C: int, H: int, W: int) -> Shape:
        """The same."""
        return C, H, W

    def image_shape(self, C: int, H: int, W: int) -> Shape:
        """The same."""
        return C, H, W

    def clamp(self, z: Tensor, most: float) -> Tensor:
        """See `Codec.clamp`; where averages are `most` times the image's, so are the ends of its range."""
        ends = most * (self.shift - abs(self.scale)), most * (self.shift + abs(self.scale))
        return z.clamp(*ends)

    @property
    def title(self) -> str:
        """Its name, with its numbers if they are others."""
        others = (self.scale, self.shift) != (0.5, 0.5)
        return super().title + (f":scale={self.scale:g},shift={self.shift:g}" if others else "")
