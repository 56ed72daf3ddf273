"""Drawing images from a denoiser in batches, each image from its own seed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from denoisezoo.diffusion.capabilities import unconditioned
from denoisezoo.diffusion.counter_noise import CounterBlock
from denoisezoo.diffusion.denoiser import Denoiser
from denoisezoo.diffusion.noise import SeedBlock
from denoisezoo.diffusion.samplers.sampler import EffortPlan, Sampler
from denoisezoo.errors import UserError
from denoisezoo.nn.given import NOTHING, Given
from denoisezoo.pictures import image_grid, png_bytes, save_png

NoiseSource = Literal["cpu", "device"]
"""Where the noise of samples is drawn: by the CPU's generators, or by counters where the samples are."""


@dataclass(frozen=True)
class Samples:
    """Images and what they took; a notebook shows them.

    Attributes:
        images: (N, C, H, W) float32 on the CPU, not clipped.
        labels: Class of each (N,) int64; None where they were given none.
        nfe: Denoiser calls for each image; the mean, rounded, where an adaptive sampler made more for some batches.
        seconds: Wall time of sampling all of them.
    """

    images: Tensor
    labels: Tensor | None
    nfe: int
    seconds: float

    def __len__(self) -> int:
        return len(self.images)

    def picture(self, num: int = 64, columns: int | None = None) -> np.ndarray:
        """The first `num` side by side, uint8 (height, width, 3)."""
        return image_grid(self.images[:num], columns)

    def save(self, path: str | os.PathLike[str], num: int = 64) -> None:
        """Write the first `num` side by side as a PNG.

        Raises:
            UserError: The file cannot be written.
        """
        save_png(self.picture(num), path)

    def _repr_png_(self) -> bytes:
        return png_bytes(self.picture())


def generate(
    denoiser: Denoiser,
    sampler: Sampler,
    num: int,
    image_shape: tuple[int, int, int],
    *,
    steps: int,
    first_seed: int = 0,
    batch_size: int = 256,
    given: Given = NOTHING,
    image_index: Tensor | None = None,
    plan: EffortPlan | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    noise: NoiseSource = "cpu",
    progress: Callable[[int], None] | None = None,
) -> Samples:
    """Draw `num` images; image i has seed `first_seed` + i, whatever the batch size.

    Args:
        denoiser: In evaluation mode, on `device`.
        sampler: The sampler.
        num: Images to draw.
        image_shape: (C, H, W) of the images, decoded.
        steps: Sampler steps.
        first_seed: Seed of the first image.
        batch_size: Images at a time.
        given: What each image is told, (num, ...); of conditioning images there may be fewer, taken in turns. They are
            images, not latents.
        image_index: Which conditioning image each image takes (num,); the i-th the i-th unless given.
        plan: Effort at each noise level.
        device: Where to sample.
        dtype: Of the iterates; the network keeps its own.
        noise: "cpu" draws the same numbers for every device; "device" draws others, by counters on the device, and
            nothing waits for the CPU's.
        progress: Called with the number of images done after each batch.

    Raises:
        UserError: Nothing to draw.
    """
    _check(num, batch_size)
    process = denoiser.process if given.image is None else unconditioned(denoiser.process)
    latent_shape = denoiser.codec.latent_shape(*image_shape)
    batches, calls, start = [], 0, time.perf_counter()
    for low in range(0, num, batch_size):
        high = min(low + batch_size, num)
        size = batch_size if low and one_size(device) else high - low
        place = torch.arange(low, low + size).clamp(max=num - 1)
        seeds = (place + first_seed).tolist()
        block = SeedBlock(seeds) if noise == "cpu" else CounterBlock(seeds, device)
        u_T = sampler.prior(process, (size, *latent_shape), steps, block, device=device, dtype=dtype)
        told = given._replace(image=None).take(slice(low, high) if size == high - low else place)
        if given.image is not None:
            told = told._replace(image=given.image[place if image_index is None else image_index[place]])
        result = sampler(denoiser, u_T, steps=steps, plan=plan, given=told.to(device), generator=block)
        batches.append(result.images[: high - low].float().cpu())
        calls += result.nfe * (high - low)
        if progress is not None:
            progress(high)
    return Samples(torch.cat(batches), given.label, round(calls / num), time.perf_counter() - start)


def one_size(device: torch.device | str) -> bool:
    """Whether a last, smaller batch is filled up by its last image: compiled programs have one batch size."""
    return torch.device(device).type == "cuda"


def _check(num: int, batch_size: int) -> None:
    if num < 1 or batch_size < 1:
        raise UserError(f"num {num} or batch_size {batch_size} is below 1", "give whole numbers of at least 1")
