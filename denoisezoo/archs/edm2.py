"""EDM2: "Analyzing and Improving the Training Dynamics of Diffusion Models", Karras, Aittala, Lehtinen, Hellsten, Aila,
Laine 2023, arXiv 2312.02696 (configuration G).

A U-Net whose layers keep the mean square of activations, without group norms and biases: weights are normalised at
every call, and the stored ones after every optimiser step; pixel norm opens the encoder's blocks; cosine attention;
a channel of ones beside the image. One gain of the output and one in each block are learned and begin at 0, so an
untrained network puts out exactly 0. `uncertainty` is u(sigma) of the paper's loss, which is counted among the
parameters, as the authors do; it is frozen until an objective trains it, and no call of the network needs it.

What differs: factors of magnitude-preserving SiLU and sums are part of the following weights, pooling and repetition
take the place of the box filter as a depthwise convolution, and the blocks' layers of the embedding are one product:
all give the same numbers. Query, key and value lie behind each other. Weights are normalised after a step, not in the
forward pass before the next: so a step may call the network several times, and averages hold normalised weights.
A conditioning image is concatenated to the input; a linear layer's map of the augmentation labels is added to that of
the noise features, without factors, so that none is zero.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denoisezoo.archs.backbone import Backbone, BackboneConfig, Effort
from denoisezoo.archs.variants import Cost, Family
from denoisezoo.errors import UserError
from denoisezoo.nn.blocks import Resample, average_pool, nearest, silu
from denoisezoo.nn.embeddings import SecondTime, no_label
from denoisezoo.nn.given import NOTHING, Given
from denoisezoo.nn.magnitude import (
    SILU_RMS,
    MPConv,
    MPFourier,
    MPLinear,
    Uncertainty,
    mp_cat,
    mp_sum,
    mp_weights,
    normalize,
    normalize_weights,
)

BRANCH = 0.3
"""t of the sums with residual and attention branches."""
LABEL = 0.5
"""t of the sum of noise and class embedding."""
LIMIT = 256.0
"""Size of the activations that a block may put out, for float16."""


@dataclass(frozen=True, kw_only=True)
class EDM2Config(BackboneConfig):
    """Sizes of an EDM2.

    Attributes:
        channels: Base width.
        multipliers: Width of each level as a multiple of `channels`, the full resolution first.
        blocks: Blocks of an encoder level; a decoder level has one more.
        attention: Resolutions (pixels) that have self-attention, besides the middle.
        head_channels: Channels of an attention head at every width.
        dropout: Dropout in each block.
        uncertainty: Fourier features of u(sigma); 0 leaves it out.
    """

    in_channels: int = 4
    out_channels: int = 4
    resolution: int = 64
    num_classes: int = 1000
    channels: int = 192
    multipliers: tuple[float, ...] = (1, 2, 3, 4)
    blocks: int = 3
    attention: tuple[int, ...] = (16, 8)
    head_channels: int = 64
    dropout: float = 0.0
    uncertainty: int = 128

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level, the full resolution first."""
        return tuple(int(m * self.channels) for m in self.multipliers)

    def attends(self, level: int) -> bool:
        """Whether the blocks of a level (0 is the full resolution) have self-attention."""
        return self.resolution >> level in self.attention

    def validate(self) -> None:
        """See `BackboneConfig.validate`."""
        super().validate()
        if self.channels < 1:
            raise UserError(f"channels is {self.channels}", "give a positive whole number")
        if not self.multipliers or min(self.widths) < 1:
            raise UserError(f"multipliers is {self.multipliers}", "give one positive number per level")
        if self.blocks < 1:
            raise UserError(f"blocks is {self.blocks}", "give at least 1")
        if not 0 <= self.dropout < 1:
            raise UserError(f"dropout is {self.dropout}", "give a number of at least 0 and below 1")
        if self.uncertainty < 0:
            raise UserError(f"uncertainty is {self.uncertainty}", "give 0 for none, or a number of features, as 128")
        self.require_halvings(len(self.multipliers) - 1)
        if self.head_channels < 1:
            raise UserError(f"head_channels is {self.head_channels}", "give a whole number that divides the widths")
        attending = {width for level, width in enumerate(self.widths) if self.attends(level)} | {self.widths[-1]}
        if uneven := [width for width in sorted(attending) if width % self.head_channels]:
            raise UserError(f"head_channels {self.head_channels} does not divide a width of {uneven[0]}", "change it")


class CosineAttention(nn.Module):
    """Self-attention over pixels with query, key and value of unit mean square, and a sum: keeps (B, C, H, W)."""

    def __init__(self, channels: int, head_channels: int) -> None:
        super().__init__()
        self.heads = channels // head_channels
        self.qkv, self.out = MPLinear(channels, 3 * channels), MPLinear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Attend."""
        B, C, H, W = x.shape
        tokens = x.permute(0, 2, 3, 1).reshape(B, H * W, C)
        qkv = normalize(self.qkv(tokens).view(B, H * W, 3, self.heads, -1), -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        h = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(B, H * W, C)
        w_x, w_h = mp_weights(BRANCH)
        return torch.add(self.out(h, w_h).view(B, H, W, C).permute(0, 3, 1, 2), x, alpha=w_x)


class EDM2Block(nn.Module):
    """Resampling, two convolutions with the embedding between them, a sum, attention (configuration G).

    Args:
        in_channels: Channels of the input, a concatenated skip included.
        out_channels: Channels of the output.
        config: Dropout and head channels.
        decoder: Whether it is without pixel norm, and projects its input behind the branch instead of before it.
        resample: Changes the size of the input.
        attention: Whether self-attention follows.
        takes_skip: Whether an output of the encoder is concatenated to its input.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        config: EDM2Config,
        *,
        decoder: bool = False,
        resample: Resample | None = None,
        attention: bool = False,
        takes_skip: bool = False,
    ) -> None:
        super().__init__()
        self.width, self.dropout = out_channels, config.dropout
        self.decoder, self.resample, self.takes_skip = decoder, resample, takes_skip
        self.skip = MPConv(in_channels, out_channels, 1) if in_channels != out_channels else None
        self.conv0 = MPConv(in_channels if decoder else out_channels, out_channels, 3)
        self.gain = nn.Parameter(torch.zeros(1))
        self.conv1 = MPConv(out_channels, out_channels, 3)
        self.attention = CosineAttention(out_channels, config.head_channels) if attention else None

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """Map x (B, C, H, W) with its part c (B, out_channels) of the embedding."""
        if self.resample is not None:
            x = self.resample(x)
        if not self.decoder:
            x = normalize(x if self.skip is None else self.skip(x), 1)
        h = self.conv0(F.silu(x), 1 / SILU_RMS)
        h = silu(h * (c * self.gain + 1)[:, :, None, None])
        w_x, w_h = mp_weights(BRANCH)
        h = self.conv1(F.dropout(h, self.dropout, self.training), w_h / SILU_RMS)
        x = self.skip(x, w_x) + h if self.decoder and self.skip is not None else torch.add(h, x, alpha=w_x)
        return (x if self.attention is None else self.attention(x)).clamp(-LIMIT, LIMIT)


class EDM2Embedding(nn.Module):
    """Fourier features of c_noise, class and augmentation labels, a layer for each, SiLU: (B, width).

    The SiLU is not divided by its root mean square: the layer that follows is to do it.
    """

    def __init__(self, config: EDM2Config, width: int) -> None:
        super().__init__()
        features = config.widths[0]
        self.num_classes = config.num_classes
        self.features, self.noise = MPFourier(features), MPLinear(features, width)
        self.label = MPLinear(config.num_classes, width) if config.num_classes else None
        self.augment = MPLinear(config.augment_dim, width) if config.augment_dim else None
        self.until = SecondTime(width) if config.second_time else None

    def forward(self, c_noise: Tensor, given: Given) -> Tensor:
        """Embed c_noise (B,), and labels; label -1 is the zero vector, and scales the noise's part alike."""
        e = self.noise(self.features(c_noise).to(self.noise.weight.dtype))
        if self.augment is not None and given.augment is not None:
            e = e + self.augment(given.augment)
        if self.until is not None:
            e = e + self.until(c_noise, given, e)
        if self.label is not None:
            label = no_label(e) if given.label is None else given.label
            one_hot = (label[:, None] == torch.arange(self.num_classes, device=e.device)).to(e.dtype)
            e = mp_sum(e, self.label(one_hot * math.sqrt(self.num_classes)), LABEL)
        return F.silu(e)


class EDM2(Backbone):
    """The network; c_noise is ln(sigma)/4 under EDM's preconditioning.

    Attributes:
        uncertainty: u(sigma), (B,) c_noise -> (B,), for the objective that trains it; None where there is none.
    """

    def __init__(self, config: EDM2Config) -> None:
        super().__init__(config)
        self.factor = 2 ** (len(config.multipliers) - 1)
        top, bottom, width = config.widths[0], config.widths[-1], max(config.widths)
        self.embedding = EDM2Embedding(config, width)
        self.stem = MPConv(config.in_channels + config.cond_channels + 1, top, 3)
        encoder, skips = _encoder(config)
        self.encoder = nn.ModuleList(encoder)
        self.middle = nn.ModuleList(
            EDM2Block(bottom, bottom, config, decoder=True, attention=attends) for attends in (True, False)
        )
        self.decoder = nn.ModuleList(_decoder(config, skips))
        self.widths = [block.width for block in (*encoder, *self.middle, *self.decoder)]
        self.modulation = MPLinear(width, sum(self.widths))
        self.head = MPConv(top, config.out_channels, 3)
        self.gain = nn.Parameter(torch.zeros(1))
        self.uncertainty = Uncertainty(config.uncertainty).requires_grad_(False) if config.uncertainty else None

    def forward(self, x: Tensor, c_noise: Tensor, given: Given = NOTHING, effort: Effort | None = None) -> Tensor:
        """See `Backbone.forward`."""
        self.check_effort(effort)
        embedding = self.modulation(self.embedding(c_noise, given), 1 / SILU_RMS)
        parts = iter(embedding.split(self.widths, dim=1))
        ones = torch.ones_like(x[:, :1])
        h = self.stem(torch.cat([x, ones] if given.image is None else [x, given.image, ones], dim=1))
        skips = [h]
        for block in self.encoder:
            h = block(h, next(parts))
            skips.append(h)
        for block in self.middle:
            h = block(h, next(parts))
        for block in self.decoder:
            h = block(mp_cat(h, skips.pop()) if block.takes_skip else h, next(parts))
        return self.head(h, self.gain)

    def after_step(self) -> None:
        """Forced weight normalisation; see `Backbone.after_step`."""
        normalize_weights(self)


def _encoder(config: EDM2Config) -> tuple[list[EDM2Block], list[int]]:
    """The encoder's blocks, and the channels that the stem and every block put out."""
    blocks: list[EDM2Block] = []
    skips = [config.widths[0]]
    for level, width in enumerate(config.widths):
        if level:
            blocks.append(EDM2Block(skips[-1], skips[-1], config, resample=average_pool))
            skips.append(skips[-1])
        for _ in range(config.blocks):
            blocks.append(EDM2Block(skips[-1], width, config, attention=config.attends(level)))
            skips.append(width)
    return blocks, skips


def _decoder(config: EDM2Config, skips: list[int]) -> list[EDM2Block]:
    """The decoder's blocks; each but those that enlarge takes one of `skips` (emptied here), the last first."""
    blocks: list[EDM2Block] = []
    channels, lowest = config.widths[-1], len(config.widths) - 1
    for level, width in reversed(list(enumerate(config.widths))):
        if level < lowest:
            blocks.append(EDM2Block(channels, channels, config, decoder=True, resample=nearest))
        for _ in range(config.blocks + 1):
            attends = config.attends(level)
            blocks.append(
                EDM2Block(channels + skips.pop(), width, config, decoder=True, attention=attends, takes_skip=True)
            )
            channels = width
    return blocks


FAMILY = Family(
    "edm2",
    EDM2,
    "Analyzing and Improving the Training Dynamics of Diffusion Models",
    "Karras, Aittala, Lehtinen, Hellsten, Aila, Laine",
    2023,
    "2312.02696",
)
XS = EDM2Config(channels=128)
XXS = replace(XS, channels=64)
S = replace(XS, channels=192)
M = replace(XS, channels=256, dropout=0.1)
L = replace(M, channels=320)
XL = replace(M, channels=384)
XXL = replace(M, channels=448)
SMALL: dict[str, Any] = {"num_classes": 0, "blocks": 1}
SMALL32: dict[str, Any] = SMALL | {
    "in_channels": 3,
    "out_channels": 3,
    "resolution": 32,
    "channels": 16,
    "multipliers": (1, 2, 4, 7),
    "attention": (8,),
    "head_channels": 16,
}
DIGITS: dict[str, Any] = SMALL | {
    "in_channels": 1,
    "out_channels": 1,
    "resolution": 16,
    "channels": 16,
    "multipliers": (1, 2, 3),
    "attention": (4,),
    "head_channels": 16,
}
TINY: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "resolution": 8,
    "channels": 8,
    "multipliers": (1, 2),
    "blocks": 1,
    "attention": (4,),
    "head_channels": 8,
    "dropout": 0.1,
    "num_classes": 3,
    "cond_channels": 1,
    "augment_dim": 2,
}

FAMILY.variant("edm2_xxs", XXS, Cost(31_309_029, 11_345_029_120), tags=("reference",))
FAMILY.variant("edm2_xs", XS, Cost(124_713_253, 44_951_261_184), tags=("reference",))
FAMILY.variant("edm2_s", S, Cost(280_212_837, 100_818_696_192), tags=("reference",))
FAMILY.variant("edm2_m", M, Cost(497_807_781, 178_947_334_144), tags=("reference",))
FAMILY.variant("edm2_l", L, Cost(777_498_085, 279_337_175_040), tags=("reference",))
FAMILY.variant("edm2_xl", XL, Cost(1_119_283_749, 401_988_218_880), tags=("reference",))
FAMILY.variant("edm2_xxl", XXL, Cost(1_523_164_773, 546_900_465_664), tags=("reference",))
FAMILY.variant("edm2_small32", EDM2Config(**SMALL32), Cost(2_440_581, 148_839_168), tags=("small",))
FAMILY.variant("edm2_digits", EDM2Config(**DIGITS), Cost(497_984, 23_466_752), tags=("small",))
FAMILY.variant("edm2_tiny", EDM2Config(**TINY), Cost(45_851, 1_243_344), tags=("tiny",))
