"""What the noise of a walk means: images between two latents, and images of which one draw of noise is another.

For UDPM the draws are its levels, the coarsest first; a deterministic sampler has one, its start.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from denoisezoo.diffusion import NOTHING, Denoiser, Given, MixedBlock, Sampler
from denoisezoo.diffusion.capabilities import unconditioned
from denoisezoo.diffusion.samplers.sampler import EffortPlan
from denoisezoo.errors import UserError

OTHERS = 2**31
"""Added to the seed of an image for the noise that takes the place of its own."""
MOST_DRAWS = 16


@dataclass(frozen=True)
class Walker:
    """Everything that a walk needs but its noise.

    Attributes:
        denoiser: In evaluation mode, on `device`.
        sampler: The sampler.
        image_shape: (C, H, W) of the images, decoded.
        steps: Its steps.
        given: What images are told, (M, ...), one for each image in turns.
        plan: Effort at each noise level.
        device: Where to sample.
    """

    denoiser: Denoiser
    sampler: Sampler
    image_shape: tuple[int, int, int]
    steps: int
    given: Given = NOTHING
    plan: EffortPlan | None = None
    device: torch.device | str = "cpu"

    def __call__(self, noise: MixedBlock, places: Sequence[int]) -> Tensor:
        """Images (B, C, H, W) float32 on the CPU; each has the label and the condition of its place."""
        process = self.denoiser.process if self.given.image is None else unconditioned(self.denoiser.process)
        shape = (len(noise.generators), *self.denoiser.codec.latent_shape(*self.image_shape))
        u_T = self.sampler.prior(process, shape, self.steps, noise, device=self.device, dtype=torch.float32)
        turns = [None if x is None else x[[place % len(x) for place in places]].to(self.device) for x in self.given]
        result = self.sampler(
            self.denoiser, u_T, steps=self.steps, plan=self.plan, given=Given(*turns), generator=noise
        )
        return result.images.float().cpu()


def interpolate(walk: Walker, seeds: Sequence[int], num: int) -> Tensor:
    """Images on the way between the latents of each two seeds.

    All noise is turned from one seed's to the other's: cos(angle) a + sin(angle) b, of equal steps in the angle.

    Args:
        walk: How to sample.
        seeds: An even number of seeds; the first and the second, the third and the fourth, ... are a pair.
        num: Images of a pair, ends included.

    Returns:
        (pairs, num, C, H, W); the class and the condition of a pair are those of its first seed.
    """
    shares = torch.linspace(0, math.pi / 2, num, dtype=torch.float64).sin().float()[None]
    rows = []
    for i in range(0, len(seeds) - 1, 2):
        noise = MixedBlock([seeds[i]] * num, [seeds[i + 1]] * num, shares)
        rows.append(walk(noise, [i] * num))
    return torch.stack(rows)


def perturb(walk: Walker, seeds: Sequence[int], share: float) -> Tensor:
    """Images as they are, and with each draw of their noise perturbed alone: sqrt(1 - s^2) a + s b.

    Args:
        walk: How to sample.
        seeds: One for each image.
        share: s, above 0; 1 replaces the noise.

    Returns:
        (draws + 1, images, C, H, W): the images first, then with the start perturbed, then the draw after it, ...

    Raises:
        UserError: The sampler draws noise more than `MOST_DRAWS` times.
    """
    n, places = len(seeds), range(len(seeds))
    others = [seed + OTHERS for seed in seeds]
    plain = MixedBlock(seeds, others, torch.zeros(1, n))
    rows = [walk(plain, places)]
    if plain.draws > MOST_DRAWS:
        raise UserError(
            f"the sampler draws noise {plain.draws} times, and a picture has room for {MOST_DRAWS}",
            "use fewer steps, or a deterministic sampler",
        )
    for draw in range(plain.draws):
        shares = torch.zeros(plain.draws + 1, n)
        shares[draw] = share
        rows.append(walk(MixedBlock(seeds, others, shares), places))
    return torch.stack(rows)
