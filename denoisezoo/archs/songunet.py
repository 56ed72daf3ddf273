"""DDPM++ and NCSN++ as in "Elucidating the Design Space of Diffusion-Based Generative Models", Karras, Aittala, Aila,
Laine 2022, arXiv 2206.00364 (section 5 and appendix F). Both come from "Score-Based Generative Modeling through
Stochastic Differential Equations", Song et al. 2020, arXiv 2011.13456.

Four residual blocks per level that also do the resampling, every residual sum scaled by sqrt(1/2), attention in the
last decoder block of a level only, labels added to the noise features. DDPM++: sinusoidal features, box filter.
NCSN++: random Fourier features, [1, 3, 3, 1] filter, and the image itself filtered down along the encoder.

What differs: the box filter of DDPM++ is pooling and repetition instead of depthwise convolutions, which gives the same
numbers for 1,310,720 fewer multiply-adds in `ddpmpp_cifar10`; a conditioning image is concatenated to the input.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denoisezoo.archs.unet import UNet, UNetConfig, UNetDesign
from denoisezoo.archs.variants import Cost, Family
from denoisezoo.errors import UserError
from denoisezoo.nn.blocks import (
    BlockStyle,
    Resample,
    ResidualBlock,
    Shift,
    Stage,
    average_pool,
    conv,
    linear,
    nearest,
    xavier,
)
from denoisezoo.nn.embeddings import Extras, Fourier, NoiseEmbedding, OneHot, SecondTime, Sinusoidal


class Filter(nn.Module):
    """A separable low-pass filter as a depthwise convolution.

    Args:
        taps: The one-dimensional filter, of even length and any sum.
    """

    kernel: Tensor

    def __init__(self, taps: tuple[int, ...]) -> None:
        super().__init__()
        f = torch.tensor(taps, dtype=torch.float32)
        self.register_buffer("kernel", (f.outer(f) / f.sum() ** 2)[None, None])
        self.padding = (len(taps) - 1) // 2

    def down(self, x: Tensor, padding: int | None = None) -> Tensor:
        """Filter and keep every second pixel: (B, C, H, W) -> (B, C, H/2, W/2) at the default padding."""
        kernel = self.kernel.expand(x.shape[1], -1, -1, -1)
        return F.conv2d(x, kernel, None, 2, self.padding if padding is None else padding, groups=x.shape[1])

    def up(self, x: Tensor) -> Tensor:
        """Insert zeros and filter: (B, C, H, W) -> (B, C, 2H, 2W), the mean unchanged."""
        kernel = 4 * self.kernel.expand(x.shape[1], -1, -1, -1)
        return F.conv_transpose2d(x, kernel, None, 2, self.padding, groups=x.shape[1])


class FilterDown(Filter):
    """`Filter.down` as a module."""

    def forward(self, x: Tensor) -> Tensor:
        """See `Filter.down`."""
        return self.down(x)


class FilterUp(Filter):
    """`Filter.up` as a module."""

    def forward(self, x: Tensor) -> Tensor:
        """See `Filter.up`."""
        return self.up(x)


class Pyramid(Filter):
    """One step of NCSN++'s input pyramid: 3x3 convolution, then the filter: (B, C, H, W) -> (B, C', H/2, W/2)."""

    def __init__(self, taps: tuple[int, ...], in_channels: int, out_channels: int) -> None:
        super().__init__(taps)
        self.conv = conv(in_channels, out_channels, 3, xavier)
        # The convolution runs first, at the higher resolution, on a border wide enough that the filter needs none.
        self.conv.padding = (1 + self.padding, 1 + self.padding)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve, filter, halve."""
        return self.down(self.conv(x), padding=0)


@dataclass(frozen=True, kw_only=True)
class SongUNetConfig(UNetConfig):
    """Sizes of a DDPM++ or NCSN++.

    Attributes:
        features: Noise features: sinusoidal ones of width `channels`, or random Fourier ones of twice that.
        taps: Low-pass filter of the resampling; (1, 1) is the box.
        pyramid: Whether the filtered image is added along the encoder.
        turns_last: Whether random Fourier features are those of score_sde's code to the last digit, or of EDM's.
    """

    blocks: int = 4
    features: Literal["sinusoidal", "fourier"] = "sinusoidal"
    taps: tuple[int, ...] = (1, 1)
    pyramid: bool = False
    turns_last: bool = False

    def validate(self) -> None:
        """See `BackboneConfig.validate`."""
        super().validate()
        if not self.taps or len(self.taps) % 2 or sum(self.taps) == 0:
            raise UserError(f"taps is {self.taps}", "give an even number of filter taps with a sum other than 0")


class SongUNet(UNet):
    """The network; c_noise is ln(sigma)/4 under EDM's preconditioning."""

    def __init__(self, config: SongUNetConfig) -> None:
        style = BlockStyle(
            Shift(),
            xavier,
            norm_groups=config.norm_groups,
            dropout=config.dropout,
            num_heads=config.num_heads,
            head_channels=config.head_channels,
            qkv_gain=math.sqrt(0.2),
            sum_scale=math.sqrt(0.5),
            project_resampled=True,
        )

        def block(resampler: Callable[[], Resample], channels: int) -> Stage:
            return ResidualBlock(style, channels, channels, resample=resampler())

        down, up = (partial(block, resampler) for resampler in _resamplers(config.taps))
        super().__init__(config, UNetDesign(style, down, up, attend_once=True), _embedding(config))
        self.pyramid = nn.ModuleDict(_pyramid(config, self.encoder) if config.pyramid else {})

    def encode(self, h: Tensor, conditions: Iterator[Tensor], image: Tensor) -> list[Tensor]:
        """See `UNet.encode`; the pyramid starts from the image and goes on from its own sums."""
        skips = [h]
        aux = image
        for index, stage in enumerate(self.encoder):
            h = stage(skips[-1], next(conditions))
            if str(index) in self.pyramid:
                h = aux = self.style.add(h, self.pyramid[str(index)](aux))
            skips.append(h)
        return skips


def _resamplers(taps: tuple[int, ...]) -> list[Callable[[], Resample]]:
    """Makers of the down- and of the upsampling; the box filter needs no convolution."""
    if taps == (1, 1):
        return [lambda: average_pool, lambda: nearest]
    return [partial(FilterDown, taps), partial(FilterUp, taps)]


def _pyramid(config: SongUNetConfig, encoder: Iterable[nn.Module]) -> dict[str, nn.Module]:
    """The pyramid's steps, each under the index of the encoder stage that halves the size with it."""
    steps: dict[str, nn.Module] = {}
    channels = config.in_channels + config.cond_channels
    for index, stage in enumerate(encoder):
        if isinstance(stage, ResidualBlock) and stage.resample is not None:
            width = stage.conv1.out_channels
            steps[str(index)] = Pyramid(config.taps, channels, width)
            channels = width
    return steps


def _embedding(config: SongUNetConfig) -> NoiseEmbedding:
    features: nn.Module
    if config.features == "fourier":
        width = 2 * config.channels
        features = Fourier(width, turns_last=config.turns_last)
    else:
        width = config.channels
        features = Sinusoidal(width, rounding=config.rounding)
    early = Extras(
        OneHot(config.num_classes, width, xavier) if config.num_classes else None,
        linear(config.augment_dim, width, xavier, bias=False) if config.augment_dim else None,
    )
    until = SecondTime(4 * config.channels) if config.second_time else None
    return NoiseEmbedding(features, width, 4 * config.channels, xavier, early=early, until=until)


FAMILY = Family(
    "songunet",
    SongUNet,
    "Elucidating the Design Space of Diffusion-Based Generative Models",
    "Karras, Aittala, Aila, Laine",
    2022,
    "2206.00364",
)
DDPMPP = SongUNetConfig()
NCSNPP = SongUNetConfig(features="fourier", taps=(1, 3, 3, 1), pyramid=True)

CIFAR10: dict[str, Any] = {"resolution": 32, "multipliers": (2, 2, 2), "dropout": 0.13, "augment_dim": 9}
IMAGES_64: dict[str, Any] = {"resolution": 64, "multipliers": (1, 2, 2, 2), "dropout": 0.05, "augment_dim": 9}
SMALL32: dict[str, Any] = {
    "resolution": 32,
    "channels": 16,
    "multipliers": (1, 2, 4, 8),
    "blocks": 1,
    "attention": (8,),
}
DIGITS: dict[str, Any] = {
    "in_channels": 1,
    "out_channels": 1,
    "resolution": 16,
    "channels": 8,
    "multipliers": (1, 2, 8),
    "blocks": 1,
    "attention": (4,),
}
TINY: dict[str, Any] = {
    "resolution": 8,
    "channels": 8,
    "multipliers": (1, 2),
    "blocks": 1,
    "attention": (4,),
    "dropout": 0.1,
    "num_classes": 3,
    "cond_channels": 1,
    "augment_dim": 2,
}

FAMILY.variant("ddpmpp_cifar10", replace(DDPMPP, **CIFAR10), Cost(55_733_891, 21_190_214_784), tags=("reference",))
FAMILY.variant("ncsnpp_cifar10", replace(NCSNPP, **CIFAR10), Cost(56_397_827, 21_395_928_320), tags=("reference",))
FAMILY.variant("ddpmpp_64", replace(DDPMPP, **IMAGES_64), Cost(61_805_571, 41_861_448_832), tags=("reference",))
FAMILY.variant("ncsnpp_64", replace(NCSNPP, **IMAGES_64), Cost(62_761_091, 42_429_824_768), tags=("reference",))
FAMILY.variant("ddpmpp_small32", replace(DDPMPP, **SMALL32), Cost(2_815_459, 158_653_440), tags=("small",))
FAMILY.variant("ncsnpp_small32", replace(NCSNPP, **SMALL32), Cost(2_840_067, 163_292_864), tags=("small",))
FAMILY.variant("ddpmpp_digits", replace(DDPMPP, **DIGITS), Cost(592_273, 16_741_120), tags=("small",))
FAMILY.variant("ncsnpp_digits", replace(NCSNPP, **DIGITS), Cost(593_777, 16_982_304), tags=("small",))
FAMILY.variant("ddpmpp_tiny", replace(DDPMPP, **TINY), Cost(48_395, 1_216_296), tags=("tiny",))
FAMILY.variant("ncsnpp_tiny", replace(NCSNPP, **TINY), Cost(48_995, 1_259_728), tags=("tiny",))
