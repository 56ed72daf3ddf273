"""The baseline of The Missing U (arXiv 2310.20092): the U-Net of lucidrains/denoising-diffusion-pytorch 1.8.3, after
"Denoising Diffusion Probabilistic Models", Ho, Jain, Abbeel 2020, arXiv 2006.11239.

Two residual blocks per level (convolution, GroupNorm, scale and shift, SiLU, twice), linear attention (Shen et al.
2018, arXiv 1812.01243) after the second, full attention at the deepest level and in the middle, a skip from every block
and from the stem. Layer for layer the network of that code. What differs: its space-to-depth and 1x1 convolution are
written as the 2x2 convolution that they are; narrow variants have fewer than 8 norm groups; labels and the conditioning
image are ours.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denoisezoo.archs.backbone import Backbone, BackboneConfig, Effort
from denoisezoo.archs.missing_u import FAMILY
from denoisezoo.archs.unet import with_image
from denoisezoo.archs.variants import Cost
from denoisezoo.errors import UserError
from denoisezoo.nn.blocks import (
    Conditioning,
    RMSAttention,
    ScaleShift,
    Stage,
    conv,
    group_norm,
    kaiming,
    linear,
    nearest,
    rms_norm,
    silu,
)
from denoisezoo.nn.embeddings import ClassTable, Extras, NoiseEmbedding, SecondTime, Sinusoidal
from denoisezoo.nn.given import NOTHING, Given


@dataclass(frozen=True, kw_only=True)
class LucidUNetConfig(BackboneConfig):
    """Sizes.

    Attributes:
        channels: Base width, a multiple of 4.
        multipliers: Width below each level as a multiple of `channels`; the first level has the base width.
        heads: Attention heads.
        head_channels: Channels of a head, whatever the width of the level.
    """

    resolution: int = 64
    channels: int = 64
    multipliers: tuple[int, ...] = (1, 2, 4, 8)
    heads: int = 4
    head_channels: int = 32

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level, the full resolution first, and of the middle last."""
        return (self.channels, *(m * self.channels for m in self.multipliers))

    def validate(self) -> None:
        """See `BackboneConfig.validate`."""
        super().validate()
        if self.channels < 4 or self.channels % 4:
            raise UserError(f"channels is {self.channels}", "give a positive multiple of 4")
        if not self.multipliers or min(self.multipliers) < 1:
            raise UserError(f"multipliers is {self.multipliers}", "give one positive number per level")
        for name in ("heads", "head_channels"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}", "give a whole number of at least 1")
        self.require_halvings(len(self.multipliers) - 1)


class LinearAttention(nn.Module):
    """Attention that is linear in the number of pixels, softmax(Q) (softmax(K)^T V), and a norm: keeps (B, C, H, W)."""

    def __init__(self, channels: int, heads: int, head_channels: int) -> None:
        super().__init__()
        self.heads, self.head_channels = heads, head_channels
        self.scale, self.out_scale = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.ones(channels))
        self.qkv = linear(channels, 3 * heads * head_channels, kaiming, bias=False)
        self.out = linear(heads * head_channels, channels, kaiming)

    def forward(self, x: Tensor) -> Tensor:
        """Attend, and add x."""
        B, C, H, W = x.shape
        tokens = rms_norm(x.permute(0, 2, 3, 1).reshape(B, H * W, C), self.scale)
        qkv = self.qkv(tokens).view(B, H * W, 3, self.heads, self.head_channels)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        q = q.softmax(dim=3) * self.head_channels**-0.5
        context = k.softmax(dim=2).transpose(2, 3) @ v
        h = self.out((q @ context).transpose(1, 2).reshape(B, H * W, -1))
        return x + rms_norm(h, self.out_scale).view(B, H, W, C).permute(0, 3, 1, 2)


class LucidBlock(Stage):
    """Convolution, norm, scale and shift, SiLU, twice, with a skip; attention may follow."""

    def __init__(
        self, in_channels: int, width: int, attention: nn.Module | None = None, takes_skip: bool = False
    ) -> None:
        super().__init__()
        self.c_width, self.takes_skip = 2 * width, takes_skip
        self.conv0, self.norm0 = conv(in_channels, width, 3, kaiming), group_norm(width, 1e-5, most=8)
        self.conv1, self.norm1 = conv(width, width, 3, kaiming), group_norm(width, 1e-5, most=8)
        self.skip = conv(in_channels, width, 1, kaiming) if in_channels != width else None
        self.attention = attention

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """See `Stage`."""
        h = silu(ScaleShift()(self.norm0, self.conv0(x), c))
        h = silu(self.norm1(self.conv1(h)))
        y = h + (x if self.skip is None else self.skip(x))
        return y if self.attention is None else self.attention(y)


class Resample(Stage):
    """A convolution between two levels, after doubling the size if it goes up."""

    def __init__(self, layer: nn.Conv2d, doubles: bool = False) -> None:
        super().__init__()
        self.conv, self.doubles = layer, doubles

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """See `Stage`; c is empty."""
        return self.conv(nearest(x) if self.doubles else x)


class LucidUNet(Backbone):
    """The network; c_noise is the step index t in 0 ... 999."""

    def __init__(self, config: LucidUNetConfig) -> None:
        super().__init__(config)
        widths = config.widths
        self.factor = 2 ** (len(config.multipliers) - 1)
        self.stem = conv(config.in_channels + config.cond_channels, config.channels, 7, kaiming)
        self.encoder = nn.ModuleList(stage for level in _levels(config) for stage in _encoder_level(config, level))
        full = RMSAttention(widths[-1], config.heads, config.head_channels)
        self.middle = nn.ModuleList([LucidBlock(widths[-1], widths[-1], full), LucidBlock(widths[-1], widths[-1])])
        decoder = [stage for level in reversed(_levels(config)) for stage in _decoder_level(config, level)]
        # The last block joins the stem's output.
        self.decoder = nn.ModuleList([*decoder, LucidBlock(2 * config.channels, config.channels, takes_skip=True)])
        self.head = conv(config.channels, config.out_channels, 1, kaiming)
        self.embedding = _embedding(config)
        self.conditioning = Conditioning(self.embedding.width, self.stages, kaiming)

    @property
    def stages(self) -> list[Stage]:
        """All stages in the order in which they run."""
        return [*self.encoder, *self.middle, *self.decoder]

    def forward(self, x: Tensor, c_noise: Tensor, given: Given = NOTHING, effort: Effort | None = None) -> Tensor:
        """See `Backbone.forward`."""
        self.check_effort(effort)
        conditions = iter(self.conditioning(self.embedding(c_noise, given)))
        h = self.stem(with_image(x, given))
        skips = [h]
        for stage in self.encoder:
            h = stage(h, next(conditions))
            if isinstance(stage, LucidBlock):
                skips.append(h)
        for stage in self.middle:
            h = stage(h, next(conditions))
        for stage in self.decoder:
            h = stage(torch.cat([h, skips.pop()], dim=1) if stage.takes_skip else h, next(conditions))
        return self.head(h)


def _levels(config: LucidUNetConfig) -> range:
    return range(len(config.multipliers))


def _encoder_level(config: LucidUNetConfig, level: int) -> list[Stage]:
    """Two blocks, the second with attention, and the way down; the deepest level keeps its size."""
    width, below = config.widths[level : level + 2]
    down = conv(width, below, 3, kaiming) if level == _levels(config)[-1] else conv(width, below, 2, kaiming, stride=2)
    return [LucidBlock(width, width), LucidBlock(width, width, _attention(config, level, width)), Resample(down)]


def _decoder_level(config: LucidUNetConfig, level: int) -> list[Stage]:
    """Two blocks that take the skips of the encoder level, as wide as the level below it, and the way up."""
    above, width = config.widths[level : level + 2]
    block = partial(LucidBlock, width + above, width, takes_skip=True)
    return [block(), block(_attention(config, level, width)), Resample(conv(width, above, 3, kaiming), level > 0)]


def _attention(config: LucidUNetConfig, level: int, width: int) -> nn.Module:
    make = RMSAttention if level == _levels(config)[-1] else LinearAttention
    return make(width, config.heads, config.head_channels)


def _embedding(config: LucidUNetConfig) -> NoiseEmbedding:
    width = 4 * config.channels
    late = Extras(
        ClassTable(config.num_classes, width) if config.num_classes else None,
        linear(config.augment_dim, width, kaiming, bias=False) if config.augment_dim else None,
    )
    features = Sinusoidal(config.channels)
    until = SecondTime(width) if config.second_time else None
    return NoiseEmbedding(features, config.channels, width, kaiming, late=late, until=until, activation=F.gelu)


BASELINE = replace(FAMILY, network=LucidUNet)
"""The same family, so that the paper's comparison is listed in one place."""

BASELINE.variant("lucid_unet_64", LucidUNetConfig(), Cost(35_710_339, 7_296_565_248), tags=("reference",))
BASELINE.variant(
    "lucid_unet_small32",
    LucidUNetConfig(resolution=32, channels=32, head_channels=16),
    Cost(8_940_227, 458_797_056),
    tags=("small",),
)
BASELINE.variant(
    "lucid_unet_digits",
    LucidUNetConfig(in_channels=1, out_channels=1, resolution=16, channels=16, head_channels=8),
    Cost(2_239_777, 28_669_952),
    tags=("small",),
)
BASELINE.variant(
    "lucid_unet_tiny",
    LucidUNetConfig(
        resolution=8,
        channels=8,
        multipliers=(1, 2),
        heads=2,
        head_channels=8,
        num_classes=3,
        cond_channels=1,
        augment_dim=2,
    ),
    Cost(50_371, 1_292_608),
    tags=("tiny",),
)
