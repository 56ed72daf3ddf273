"""The U-Net that DiCo, DiC, FCDM and U-DiT share: no patches, and noise and class embedded anew at every level.

A family chooses its block, the widths of its decoder, and how a skip enters: concatenated before a level and merged by
a 1x1 convolution, or concatenated before every k-th block of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from denoisezoo.archs.backbone import Backbone, BackboneConfig, Effort
from denoisezoo.archs.unet import with_image
from denoisezoo.errors import UserError
from denoisezoo.nn.adaln import AdaLNHead, PixelDown, PixelUp, level_embedding, zeros
from denoisezoo.nn.blocks import Conditioning, Init, Stage, conv, xavier
from denoisezoo.nn.given import NOTHING, Given


@dataclass(frozen=True, kw_only=True)
class LevelUNetConfig(BackboneConfig):
    """Sizes of the network; those of the image are ImageNet's latents at 256 pixels, with a learned variance.

    Attributes:
        channels: Base width C, even.
        multipliers: Width of each stage as a multiple of `channels`: encoder, middle, decoder; an odd number of them.
        depths: Blocks of each stage.
        noise_features: Sinusoidal features of c_noise, even.
        noise_scale: c_noise is multiplied by it first. The features tell numbers of the order of 1 to 1000 apart: 1
            serves time steps of 0 ... 999, some hundreds serve EDM's ln(sigma)/4.
    """

    in_channels: int = 4
    out_channels: int = 8
    resolution: int = 32
    num_classes: int = 1000
    channels: int = 128
    multipliers: tuple[int, ...] = (1, 2, 4, 2, 1)
    depths: tuple[int, ...] = (2, 4, 8, 4, 2)
    noise_features: int = 256
    noise_scale: float = 1.0

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each stage."""
        return tuple(m * self.channels for m in self.multipliers)

    @property
    def levels(self) -> int:
        """Sizes of feature maps."""
        return len(self.multipliers) // 2 + 1

    @property
    def conditions(self) -> tuple[int, ...]:
        """Which level's embedding each stage is told: the first of the encoder that is as wide."""
        return tuple(self.multipliers.index(m) for m in self.multipliers)

    def validate(self) -> None:
        """See `BackboneConfig.validate`."""
        super().validate()
        for name in ("channels", "noise_features"):
            if (value := getattr(self, name)) < 2 or value % 2:
                raise UserError(f"{name} is {value}", "give a positive even number")
        if len(self.multipliers) % 2 == 0 or min(self.multipliers) < 1:
            raise UserError(f"multipliers is {self.multipliers}", "give an odd number of positive whole numbers")
        if self.channels * self.multipliers[self.levels - 1] % 4 or any(w % 4 for w in self.widths[1 : self.levels]):
            raise UserError(
                f"channels is {self.channels}", "give one that makes all levels but the first multiples of 4"
            )
        if max(self.conditions) >= self.levels:
            raise UserError(f"multipliers is {self.multipliers}", "give the decoder widths that the encoder has, too")
        if len(self.depths) != len(self.multipliers) or min(self.depths) < 1:
            raise UserError(f"depths is {self.depths}", f"give {len(self.multipliers)} positive whole numbers")
        if self.noise_scale <= 0:
            raise UserError(f"noise_scale is {self.noise_scale}", "give a positive number")
        self.require_halvings(self.levels - 1)


SMALL32: dict[str, Any] = {"in_channels": 3, "out_channels": 3, "num_classes": 0, "noise_features": 64, "channels": 32}
DIGITS: dict[str, Any] = {"in_channels": 1, "out_channels": 1, "resolution": 16, "num_classes": 0, "noise_features": 64}
TINY: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "resolution": 8,
    "num_classes": 3,
    "cond_channels": 1,
    "augment_dim": 2,
    "noise_features": 8,
    "channels": 8,
}
"""What the small variants of all four families have in common."""


@dataclass(frozen=True)
class LevelUNetDesign:
    """What a family chooses.

    Attributes:
        block: Makes a block of a width that has so many channels of a skip concatenated to its input.
        skip_stride: Which blocks of an encoder level keep their output, the last and every k-th before it, for the
            first block of the decoder's level and every k-th after it. None: the last alone, merged before the level.
        final_conv: Whether one more convolution precedes the head.
        modulation: How the linear layers start that tell the blocks of noise and class.
    """

    block: Callable[[int, int], Stage]
    skip_stride: int | None = None
    final_conv: bool = True
    modulation: Init = zeros


class LevelUNet(Backbone):
    """The network; c_noise is the step index t in 0 ... 999.

    Args:
        config: Sizes.
        design: The family's choices.
    """

    def __init__(self, config: LevelUNetConfig, design: LevelUNetDesign) -> None:
        super().__init__(config)
        widths, levels = config.widths, config.levels
        self.noise_scale, self.conditions = config.noise_scale, config.conditions
        self.skip_stride, self.factor = design.skip_stride, 2 ** (levels - 1)
        self.embeddings = nn.ModuleList(
            level_embedding(config.noise_features, width, config.num_classes, config.augment_dim, config.second_time)
            for width in widths[:levels]
        )
        self.stem = conv(config.in_channels + config.cond_channels, widths[0], 3, _flat_xavier)
        self.encoder = nn.ModuleList(
            nn.ModuleList(design.block(width, 0) for _ in range(depth))
            for width, depth in zip(widths[:levels], config.depths[:levels], strict=True)
        )
        self.downs = nn.ModuleList(PixelDown(a, b) for a, b in pairwise(widths[:levels]))
        self.ups, self.merges, self.decoder = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        below = widths[levels - 1]
        for stage in range(levels, len(widths)):
            width, skip = widths[stage], widths[len(widths) - 1 - stage]
            # Where a 1x1 convolution merges, what comes up is as wide as the skip; else as wide as the blocks.
            self.ups.append(PixelUp(below, skip if design.skip_stride is None else width))
            if design.skip_stride is None:
                self.merges.append(conv(2 * skip, width, 1, xavier))
            self.decoder.append(
                nn.ModuleList(
                    design.block(width, skip if design.skip_stride and i % design.skip_stride == 0 else 0)
                    for i in range(config.depths[stage])
                )
            )
            below = width
        self.final_conv = conv(below, below, 3, xavier) if design.final_conv else None
        self.head = AdaLNHead(below, config.out_channels)
        self.modulations = nn.ModuleList(
            Conditioning(width, self.blocks_of(level), design.modulation) for level, width in enumerate(widths[:levels])
        )

    def blocks_of(self, level: int) -> list[Any]:
        """The blocks that are told a level's embedding, in the order in which they run."""
        stages = zip([*self.encoder, *self.decoder], self.conditions, strict=True)
        return [block for blocks, condition in stages if condition == level for block in blocks]

    def forward(self, x: Tensor, c_noise: Tensor, given: Given = NOTHING, effort: Effort | None = None) -> Tensor:
        """See `Backbone.forward`."""
        self.check_effort(effort)
        return self.evaluate(x, given, *self.embed(c_noise, given))

    def embed(self, c_noise: Tensor, given: Given) -> tuple[list[Tensor], list[tuple[Tensor, ...]]]:
        """The embedding of each level, and of it what each of the level's blocks is told."""
        scaled = given.times(self.noise_scale)
        embeddings = [embed(self.noise_scale * c_noise, scaled) for embed in self.embeddings]
        return embeddings, [project(e) for project, e in zip(self.modulations, embeddings, strict=True)]

    def evaluate(self, x: Tensor, given: Given, embeddings: Sequence[Tensor], told: Sequence[Iterable[Any]]) -> Tensor:
        """All that follows the embeddings of each level; `told` has what each block is told, by level."""
        turns = [iter(conditions) for conditions in told]
        stages = iter(self.conditions)
        h, skips = self.stem(with_image(x, given)), []
        encoder: list[Any] = list(self.encoder)
        decoder: list[Any] = list(self.decoder)
        for level, blocks in enumerate(encoder):
            if level:
                h = self.downs[level - 1](h)
            conditions = turns[next(stages)]
            for left, block in zip(reversed(range(len(blocks))), blocks, strict=True):
                h = block(h, next(conditions))
                if level < len(self.downs) and left % (self.skip_stride or len(blocks)) == 0:
                    skips.append(h)
        for level, blocks in enumerate(decoder):
            h = self.ups[level](h)
            if self.skip_stride is None:
                h = self.merges[level](torch.cat([h, skips.pop()], dim=1))
            conditions = turns[next(stages)]
            for block in blocks:
                h = block(torch.cat([h, skips.pop()], dim=1) if block.takes_skip else h, next(conditions))
        if self.final_conv is not None:
            h = self.final_conv(h)
        return self.head(h, embeddings[self.conditions[-1]])


def _flat_xavier(weight: Tensor, bias: Tensor | None, gain: float) -> None:
    """Xavier-uniform over the weight as a matrix (out, in * 9), zero bias, as patch embeddings start."""
    xavier(weight.flatten(1), bias, gain)
