"""ADM: "Diffusion Models Beat GANs on Image Synthesis", Dhariwal and Nichol 2021, arXiv 2105.05233.

Residual blocks that also do the resampling (average pooling and nearest neighbour), class and noise embeddings that
scale and shift after the norm, attention at 32x32, 16x16 and 8x8 with 64 channels per head, zero-initialised branches,
and a learned variance: the second half of the output channels. Layer for layer the network of the paper's own code; the
softmax runs in the fused attention kernel. Augmentation labels enter as in EDM's ADM (Karras et al. 2022, arXiv
2206.00364): a linear map of them, without bias, is added to the noise features before the first layer; classes are
added after the second. What differs: our small variants have fewer than 32 norm groups (EDM's rule, which at 128
channels and more is the same); a conditioning image is concatenated to the input.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch

from denoisezoo.archs.unet import Resampler, UNet, UNetConfig, UNetDesign
from denoisezoo.archs.variants import Cost, Family
from denoisezoo.nn.blocks import (
    BlockStyle,
    ConvDown,
    ConvUp,
    Resample,
    ResidualBlock,
    ScaleShift,
    Stage,
    average_pool,
    kaiming,
    linear,
    nearest,
)
from denoisezoo.nn.embeddings import ClassTable, Extras, NoiseEmbedding, SecondTime, Sinusoidal


@dataclass(frozen=True, kw_only=True)
class ADMConfig(UNetConfig):
    """Sizes of an ADM; see `UNetConfig`.

    Attributes:
        resampling: Whether residual blocks change the size, or convolutions, as in improved DDPM (Nichol and Dhariwal
            2021, arXiv 2102.09672).
        c_noise_scale: Factor on c_noise before its features; improved DDPM's chain of 4,000 steps has 1/4.
    """

    out_channels: int = 6
    attention: tuple[int, ...] = (32, 16, 8)
    head_channels: int = 64
    norm_groups: int | None = 32
    resampling: Literal["residual", "convolution"] = "residual"
    c_noise_scale: float = 1.0

    @property
    def stem_width(self) -> int:
        """Channels that the first convolution puts out."""
        return self.widths[0]

    def changed_since(self, format: int) -> str | None:
        """See `BackboneConfig.changed_since`."""
        if format < 2 and self.augment_dim:
            return "augmentation labels entered after the second layer of the embedding and now enter before the first"
        return super().changed_since(format)


class ADM(UNet):
    """The network; c_noise is the step index t in 0 ... 999."""

    def __init__(self, config: ADMConfig) -> None:
        width = 4 * config.channels
        waves = (torch.cos, torch.sin)
        features = Sinusoidal(
            config.channels, endpoint=False, waves=waves, scale=config.c_noise_scale, rounding=config.rounding
        )
        augment = (
            linear(config.augment_dim, config.channels, kaiming, gain=0.0, bias=False) if config.augment_dim else None
        )
        embedding = NoiseEmbedding(
            features,
            config.channels,
            width,
            kaiming,
            early=Extras(None, augment),
            late=Extras(ClassTable(config.num_classes, width) if config.num_classes else None, None),
            until=SecondTime(width) if config.second_time else None,
        )
        style = BlockStyle(
            ScaleShift(),
            kaiming,
            eps=1e-5,
            norm_groups=config.norm_groups,
            dropout=config.dropout,
            num_heads=config.num_heads,
            head_channels=config.head_channels,
        )

        def block(resample: Resample, channels: int) -> Stage:
            return ResidualBlock(style, channels, channels, resample=resample)

        down: Resampler = partial(block, average_pool)
        up: Resampler = partial(block, nearest)
        if config.resampling == "convolution":
            down, up = partial(ConvDown, init=kaiming, around=True), partial(ConvUp, init=kaiming)
        super().__init__(config, UNetDesign(style, down, up), embedding)


FAMILY = Family("adm", ADM, "Diffusion Models Beat GANs on Image Synthesis", "Dhariwal, Nichol", 2021, "2105.05233")

FAMILY.variant(
    "adm_imagenet64",
    ADMConfig(resolution=64, channels=192, multipliers=(1, 2, 3, 4), blocks=3, dropout=0.1, num_classes=1000),
    Cost(295_904_454, 109_678_018_560),
    tags=("reference",),
)
FAMILY.variant(
    "adm_imagenet256",
    ADMConfig(resolution=256, channels=256, multipliers=(1, 1, 2, 2, 4, 4), num_classes=1000),
    Cost(553_838_086, 1_119_832_768_512),
    tags=("reference",),
)
FAMILY.variant(
    "adm_imagenet512",
    ADMConfig(resolution=512, channels=256, multipliers=(0.5, 1, 1, 2, 2, 4, 4), num_classes=1000),
    Cost(558_997_638, 1_982_334_763_008),
    tags=("reference",),
)
FAMILY.variant(
    "adm_small32",
    ADMConfig(
        resolution=32,
        out_channels=3,
        channels=16,
        multipliers=(1, 2, 4, 8),
        blocks=1,
        attention=(8,),
        head_channels=32,
        norm_groups=None,
    ),
    Cost(2_890_291, 156_967_936),
    tags=("small",),
)
FAMILY.variant(
    "adm_digits",
    ADMConfig(
        in_channels=1,
        out_channels=1,
        resolution=16,
        channels=8,
        multipliers=(1, 2, 8),
        blocks=1,
        attention=(4,),
        head_channels=32,
        norm_groups=None,
    ),
    Cost(620_633, 16_716_032),
    tags=("small",),
)
FAMILY.variant(
    "adm_tiny",
    ADMConfig(
        resolution=8,
        channels=8,
        multipliers=(1, 2),
        blocks=1,
        attention=(4,),
        head_channels=8,
        norm_groups=None,
        dropout=0.1,
        num_classes=3,
        cond_channels=1,
        augment_dim=8,
    ),
    Cost(53_726, 1_241_408),
    tags=("tiny",),
)
