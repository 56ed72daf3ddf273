"""A discriminator of images of several sizes: the opponent in adversarial training, not a denoiser itself.

As UDPM's code has it (arXiv 2305.16269; after "Tackling the Generative Learning Trilemma with Denoising Diffusion
GANs", Xiao et al. 2021, arXiv 2112.07804): a 1x1 convolution, residual blocks with time and class added, all but the
first at half the size of the one before, the standard deviation within groups of images as one more channel (arXiv
1710.10196), a 3x3 convolution, a sum over pixels. 18.95 M parameters for 32 pixels with ten classes, 23.86 M for 64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from denoisezoo.archs.backbone import ImageSpec
from denoisezoo.errors import UserError
from denoisezoo.nn.blocks import (
    BlockStyle,
    Conditioning,
    ResidualBlock,
    Shift,
    average_pool,
    conv,
    linear,
    silu,
    xavier,
)
from denoisezoo.nn.embeddings import BareEmbedding, Extras, Fourier, OneHot
from denoisezoo.nn.given import Given

GROUP = 4
"""Images whose standard deviation is compared."""


@dataclass(frozen=True)
class DiscriminatorConfig:
    """Sizes of a discriminator.

    Args:
        channels: Width of the first convolution, a multiple of 4; the embedding has twice that.
        widths: Width of each block; the last stands for all that follow. There are as many blocks as leave 4 pixels a
            side of a whole image.
        dropout: Dropout in each block.
    """

    channels: int = 192
    widths: tuple[int, ...] = (384, 512)
    dropout: float = 0.4

    def blocks(self, resolution: int) -> tuple[int, ...]:
        """Width of every block for images of a size."""
        count = max(1, int(math.log2(max(resolution, 4) / 4)) + 1)
        return tuple(self.widths[min(i, len(self.widths) - 1)] for i in range(count))

    def validate(self) -> None:
        """Refuse impossible sizes.

        Raises:
            UserError: Saying which.
        """
        if self.channels < 4 or self.channels % 4 or not self.widths or any(w < 4 or w % 4 for w in self.widths):
            raise UserError(
                f"channels {self.channels} or widths {list(self.widths)} of the discriminator is out of range",
                "give positive multiples of 4, at least one width",
            )
        if not 0 <= self.dropout < 1:
            raise UserError(f"dropout of the discriminator is {self.dropout}", "give a number from 0 to below 1")


PUBLISHED = DiscriminatorConfig()


class Discriminator(nn.Module):
    """Tells images from what a network made: a number for each, large for real ones.

    Args:
        config: Sizes.
        spec: The images, of `spec.out_channels`, at `spec.resolution` or halved, and their classes.
    """

    def __init__(self, config: DiscriminatorConfig, spec: ImageSpec) -> None:
        super().__init__()
        config.validate()
        style = BlockStyle(Shift(), xavier, dropout=config.dropout)
        widths = config.blocks(spec.resolution)
        self.stem = conv(spec.out_channels, config.channels, 1, xavier)
        self.blocks = nn.ModuleList(
            ResidualBlock(style, before, after, resample=average_pool if i else None)
            for i, (before, after) in enumerate(zip((config.channels, *widths), widths, strict=False))
        )
        embedded = 2 * config.channels
        classes = OneHot(spec.num_classes, embedded, xavier) if spec.num_classes else None
        self.embedding = BareEmbedding(Fourier(embedded), embedded, Extras(classes, None))
        self.conditioning = Conditioning(embedded, list(self.blocks), xavier)  # type: ignore[arg-type]
        self.conv = conv(widths[-1] + 1, widths[-1], 3, xavier)
        self.head = linear(widths[-1], 1, xavier)

    def forward(self, image: Tensor, c_noise: Tensor, label: Tensor | None = None) -> Tensor:
        """Judge.

        Args:
            image: (B, C, H, W), real or made.
            c_noise: What its noise level is called, (B,).
            label: Classes (B,).

        Returns:
            (B,); softplus(-D) is small for what looks real.
        """
        conditions = self.conditioning(self.embedding(c_noise.float(), Given(label=label)))
        h = self.stem(image)
        for block, c in zip(self.blocks, conditions, strict=True):
            h = block(h, c)
        h = silu(self.conv(torch.cat([h, spread_in_groups(h)], dim=1)))
        found: Tensor = self.head(h.sum((2, 3))).squeeze(1)
        return found


def spread_in_groups(h: Tensor) -> Tensor:
    """Standard deviation between the images of a group, the mean over channels and pixels, as (B, 1, H, W).

    Groups have as many images as divide the batch, at most `GROUP`.
    """
    B, _, H, W = h.shape
    group = next(n for n in range(min(GROUP, B), 0, -1) if B % n == 0)
    variance = h.unflatten(0, (group, -1)).var(0, unbiased=False)
    spread = (variance + 1e-8).sqrt().mean((1, 2, 3))
    return spread.repeat(group)[:, None, None, None].expand(B, 1, H, W)
