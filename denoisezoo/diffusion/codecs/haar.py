"""Haar wavelets as latents: half the size and four times the channels, without any loss.

With it any backbone is a wavelet diffusion network: like WaveDiff (Phung et al. 2022, arXiv 2211.16152) it diffuses the
sub-bands stacked along the channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from denoisezoo.diffusion.codecs.codec import CODECS, Codec, Shape
from denoisezoo.diffusion.transforms import haar, inverse_haar
from denoisezoo.errors import UserError


@CODECS.register("haar")
class Haar(Codec):
    """The Haar pyramid, its bands stacked along the channels: orthonormal, so that white noise stays white.

    The approximation comes first, then the details, the coarsest first, each as horizontal, vertical and diagonal; a
    finer band is folded into as many channels as it has more pixels. With L levels, C channels become 4^L C, and
    the approximation of an image in [-1, 1] lies in [-2^L, 2^L].

    Args:
        levels: L, how often the size is halved.
    """

    lossless = True

    def __init__(self, levels: int = 1) -> None:
        super().__init__()
        if levels < 1:
            raise UserError(f"levels is {levels}", "give a whole number of at least 1, or the codec pixels")
        self.levels = levels

    def encode(self, image: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Latents (B, 4^L C, H / 2^L, W / 2^L), float."""
        mosaic = haar(image, self.levels)
        bands = [mosaic[..., : image.shape[-2] >> self.levels, : image.shape[-1] >> self.levels]]
        for level in range(self.levels, 0, -1):
            h, w = image.shape[-2] >> level, image.shape[-1] >> level
            details = mosaic[..., :h, w : 2 * w], mosaic[..., h : 2 * h, :w], mosaic[..., h : 2 * h, w : 2 * w]
            bands += [F.pixel_unshuffle(band, 2 ** (self.levels - level)) for band in details]
        return torch.cat(bands, dim=1)

    def decode(self, z: Tensor) -> Tensor:
        """Images (B, C, H, W) of latents (B, 4^L C, H / 2^L, W / 2^L)."""
        C = self.image_shape(*z.shape[1:])[0]
        mosaic, rest = z[:, :C], z[:, C:]
        for level in range(self.levels, 0, -1):
            factor = 2 ** (self.levels - level)
            details, rest = rest[:, : 3 * C * factor**2], rest[:, 3 * C * factor**2 :]
            across, down, both = (F.pixel_shuffle(band, factor) for band in details.chunk(3, dim=1))
            mosaic = torch.cat([torch.cat([mosaic, across], dim=-1), torch.cat([down, both], dim=-1)], dim=-2)
        return inverse_haar(mosaic, self.levels)

    def latent_shape(self, C: int, H: int, W: int) -> Shape:
        """(4^L C, H / 2^L, W / 2^L).

        Raises:
            UserError: A size that is no multiple of 2^L.
        """
        factor = 2**self.levels
        if H % factor or W % factor:
            raise UserError(
                f"codec {self.title} cannot halve images of {H}x{W} {self.levels} times",
                f"use multiples of {factor}, or fewer levels",
            )
        return C * factor**2, H // factor, W // factor

    def image_shape(self, C: int, H: int, W: int) -> Shape:
        """(C / 4^L, 2^L H, 2^L W).

        Raises:
            UserError: Channels that are no multiple of 4^L.
        """
        factor = 2**self.levels
        if C % factor**2:
            raise UserError(
                f"codec {self.title} has no latents of {C} channels",
                f"give the network a multiple of {factor**2}",
            )
        return C // factor**2, H * factor, W * factor

    @property
    def title(self) -> str:
        """Its name, with the levels if they are several."""
        return super().title + (f":levels={self.levels}" if self.levels > 1 else "")
