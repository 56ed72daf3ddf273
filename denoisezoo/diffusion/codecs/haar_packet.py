"""The full tree of Haar wavelet packets as latents: every band is halved again, not the approximation alone.

With it any backbone is a wavelet diffusion network on sub-bands of one size each, as WaveDiff stacks them (Phung et al.
2022, arXiv 2211.16152); at one level it is the codec `haar`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from denoisezoo.diffusion.codecs.codec import CODECS
from denoisezoo.diffusion.codecs.haar import Haar


@CODECS.register("haar_packet")
class HaarPacket(Haar):
    """Orthonormal and lossless: with L levels the 4^L bands of C channels each are the Walsh functions of their block.

    Band b holds at digit l of b to the base of 4, the last level's first, whether level l was averaged (0) or differed
    across (1), down (2) or both (3); its channels are b C to b C + C - 1.

    Args:
        levels: L, how often the size is halved.
    """

    def __init__(self, levels: int = 1) -> None:
        super().__init__(levels)
        self._one = Haar()

    def encode(self, image: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Latents (B, 4^L C, H / 2^L, W / 2^L), float."""
        for _ in range(self.levels):
            image = self._one.encode(image)
        return image

    def decode(self, z: Tensor) -> Tensor:
        """Images (B, C, H, W) of latents (B, 4^L C, H / 2^L, W / 2^L)."""
        for _ in range(self.levels):
            z = self._one.decode(z)
        return z
