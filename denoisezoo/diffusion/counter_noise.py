"""Noise by counter: a number is a function of its image's seed, the draw and its place, computed where it is wanted.

Philox4x32-10 (Salmon, Moraes, Dror, Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3", SC11) in whole numbers,
then the transform of Box and Muller (1958). Uniform numbers are the same on every device; normal ones differ by the
rounding of its logarithm and cosine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from denoisezoo.diffusion.noise import SeedBlock

M0, M1 = 0xD2511F53, 0xCD9E8D57
"""Multipliers of the two halves (table 2 there)."""
W0, W1 = 0x9E3779B9, 0xBB67AE85
"""What the key grows by from round to round."""
ROUNDS = 10
MASK = 0xFFFFFFFF


def philox(counter: Sequence[Tensor | int], key: Sequence[Tensor | int]) -> list[Tensor]:
    """Four random words, int64 with values below 2^32, of each counter of four words and key of two."""
    c0, c1, c2, c3 = (torch.as_tensor(word) for word in counter)
    k0, k1 = key
    for _ in range(ROUNDS):
        low, high = c0 * M0, c2 * M1  # 64 bits of product; the sign is one of them, and the masks see to it
        c0, c1, c2, c3 = (high >> 32 & MASK) ^ c1 ^ k0, high & MASK, (low >> 32 & MASK) ^ c3 ^ k1, low & MASK
        k0, k1 = k0 + W0 & MASK, k1 + W1 & MASK
    return [c0, c1, c2, c3]


class CounterBlock(SeedBlock):
    """Noise of each image from its own seed, drawn on a device: no generator for each image, and no copies to it.

    An image is the same whatever the batch size and the order, and on other devices up to rounding; it is another one
    than `SeedBlock` draws from the same seed.

    Args:
        seeds: One seed per image of the batch, below 2^64.
        device: Where numbers are drawn.

    Attributes:
        draws: How often noise was drawn.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device | str) -> None:
        self.generators = []
        # int64 has the bits of a larger seed as a negative number.
        signed = torch.tensor([(seed + 2**63) % 2**64 - 2**63 for seed in seeds], dtype=torch.int64)
        seed = signed.to(device)[:, None]
        self.key, self.draws = (seed & MASK, seed >> 32 & MASK), 0

    def normal(self, shape: Sequence[int]) -> Tensor:
        """(B, ...) float32 on the device, one draw for each image."""
        if shape[0] != len(self.key[0]):
            raise ValueError(f"{shape[0]} images and {len(self.key[0])} seeds")
        size = math.prod(shape[1:])
        place = torch.arange(-(-size // 4), device=self.key[0].device)[None]
        words = torch.stack(philox((place, 0, self.draws, 0), self.key), dim=-1)  # (B, size / 4, 4)
        self.draws += 1
        # 24 bits fill a float32; half a step above 0, where there is no logarithm.
        uniform = ((words >> 8).float() + 0.5) * 2.0**-24
        radius = (-2 * uniform[..., 0::2].log()).sqrt()
        angle = 2 * math.pi * uniform[..., 1::2]
        normals = torch.stack([radius * angle.cos(), radius * angle.sin()], dim=-1)
        return normals.flatten(1)[:, :size].reshape(tuple(shape))
