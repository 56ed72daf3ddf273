"""Standard normal noise: from one generator, or from one per image, so that an image does not depend on its batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from denoisezoo.nn.transfer import to_device


class SeedBlock:
    """One generator per image. Image i is the same whatever the batch size, the order, and the device (numbers are
    drawn on the CPU); NVlabs' EDM samples so.

    Args:
        seeds: One seed per image of the batch.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def normal(self, shape: Sequence[int]) -> Tensor:
        """(B, ...) float32 on the CPU, one draw for each image."""
        if shape[0] != len(self.generators):
            raise ValueError(f"{shape[0]} images and {len(self.generators)} seeds")
        return torch.stack([torch.randn(*shape[1:], generator=g) for g in self.generators])


class MixedBlock(SeedBlock):
    """Noise of some seeds with that of others mixed in: sqrt(1 - s^2) a + s b, which is standard normal again.

    All the noise of a walk is the latent of its image: the start, and every draw after it.

    Args:
        seeds: One per image.
        others: One per image, for what is mixed in.
        shares: s for each draw and image, (K, B) in [0, 1]; the last row holds for all that follow.

    Attributes:
        draws: How often noise was drawn.
    """

    def __init__(self, seeds: Sequence[int], others: Sequence[int], shares: Tensor) -> None:
        super().__init__(seeds)
        self.others, self.shares, self.draws = SeedBlock(others), shares, 0

    def normal(self, shape: Sequence[int]) -> Tensor:
        """See `SeedBlock`."""
        s = self.shares[min(self.draws, len(self.shares) - 1)].reshape(-1, *[1] * (len(shape) - 1))
        self.draws += 1
        return (1 - s**2).sqrt() * super().normal(shape) + s * self.others.normal(shape)


Noise = torch.Generator | SeedBlock | None
"""Where noise comes from; None is torch's global generator."""


def standard_normal(
    shape: Sequence[int], noise: Noise, device: torch.device | str | None = None, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Standard normal noise of a shape, drawn in float32 so that iterates of every dtype see the same numbers."""
    if isinstance(noise, SeedBlock):
        drawn = noise.normal(shape).to(dtype)
        return drawn if device is None else to_device(drawn, device)
    if device is None and noise is not None:
        device = noise.device
    return torch.randn(*shape, generator=noise, device=device, dtype=torch.float32).to(dtype)


def host_generator(generator: torch.Generator | None) -> torch.Generator | None:
    """A generator for numbers that the host decides by: itself on the CPU, else one of the CPU with the same seed."""
    if generator is None or generator.device.type == "cpu":
        return generator
    return torch.Generator().manual_seed(generator.initial_seed())


def normal_like(u: Tensor, noise: Noise) -> Tensor:
    """Standard normal noise like a state (B, C, H, W), in its dtype and on its device."""
    return standard_normal(u.shape, noise, u.device, u.dtype)
