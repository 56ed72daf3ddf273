"""The U-Net that DDPM, DDPM++, NCSN++ and ADM share; a family chooses its blocks, embedding and resampling."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from denoisezoo.archs.backbone import Backbone, BackboneConfig, Effort
from denoisezoo.errors import UserError
from denoisezoo.nn.blocks import BlockStyle, Conditioning, ResidualBlock, Stage, conv, group_norm, silu
from denoisezoo.nn.embeddings import NoiseEmbedding, Rounding
from denoisezoo.nn.given import NOTHING, Given


@dataclass(frozen=True, kw_only=True)
class UNetConfig(BackboneConfig):
    """Sizes of a U-Net.

    Attributes:
        channels: Base width, a multiple of 4.
        multipliers: Width of each level as a multiple of `channels`, the full resolution first.
        blocks: Residual blocks of an encoder level; a decoder level has one more.
        attention: Resolutions (pixels) that have self-attention, besides the middle.
        num_heads: Attention heads at every width; 0 leaves their number to `head_channels`.
        head_channels: Channels of an attention head at every width; 0 leaves them to `num_heads`. Both 0: one head.
        norm_groups: Groups of the group norms at every width; None has fewer in layers of less than 128 channels,
            min(32, C / 4), as EDM and score_sde's NCSN++ do.
        dropout: Dropout in each residual block.
        rounding: How the frequencies of sinusoids are computed, which says what code the network agrees with in the
            last digit; see `denoisezoo.nn.embeddings.Rounding`.
    """

    channels: int = 128
    multipliers: tuple[float, ...] = (1, 2, 2, 2)
    blocks: int = 2
    attention: tuple[int, ...] = (16,)
    num_heads: int = 0
    head_channels: int = 0
    norm_groups: int | None = None
    dropout: float = 0.0
    rounding: Rounding = "rate"

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level, the full resolution first."""
        return tuple(int(m * self.channels) for m in self.multipliers)

    @property
    def stem_width(self) -> int:
        """Channels that the first convolution puts out."""
        return self.channels

    def attends(self, level: int) -> bool:
        """Whether the residual blocks of a level (0 is the full resolution) have self-attention."""
        return self.resolution >> level in self.attention

    def changed_since(self, format: int) -> str | None:
        """See `BackboneConfig.changed_since`: before format 2 every network had the groups of `norm_groups` None."""
        if format < 2 and self.norm_groups is not None:
            for width in sorted({self.stem_width, *self.widths}):
                if (before := group_norm(width, 1e-6).num_groups) != self.norm_groups:
                    return f"norms of {width} channels had {before} groups and now have {self.norm_groups}"
        return super().changed_since(format)

    def validate(self) -> None:
        """See `BackboneConfig.validate`."""
        super().validate()
        if self.channels < 4 or self.channels % 4:
            raise UserError(f"channels is {self.channels}", "give a positive multiple of 4")
        if not self.multipliers or min(self.widths) < 1:
            raise UserError(f"multipliers is {self.multipliers}", "give one positive number per level")
        if self.blocks < 1:
            raise UserError(f"blocks is {self.blocks}", "give at least 1")
        if not 0 <= self.dropout < 1:
            raise UserError(f"dropout is {self.dropout}", "give a number of at least 0 and below 1")
        self.require_halvings(len(self.multipliers) - 1)
        self._check_heads()
        self._check_groups()

    def _check_heads(self) -> None:
        """Refuse heads that do not share out the channels of every layer that attends; the middle always does."""
        attending = {width for level, width in enumerate(self.widths) if self.attends(level)} | {self.widths[-1]}
        if self.num_heads and self.head_channels:
            raise UserError(
                f"num_heads is {self.num_heads} and head_channels {self.head_channels}, and one follows from the other",
                "give one of them, and 0 for the other",
            )
        for name in ("num_heads", "head_channels"):
            given = getattr(self, name)
            if given < 0:
                raise UserError(f"{name} is {given}", "give 0, or a whole number that divides the channels")
            if given and (uneven := [width for width in sorted(attending) if width % given]):
                raise UserError(f"{name} {given} does not divide a width of {uneven[0]}", "change it")

    def _check_groups(self) -> None:
        """Refuse groups that do not share out the channels of every layer."""
        if self.norm_groups is None:
            return
        cure = "give a whole number that divides every width, or null for fewer groups in narrow layers"
        if self.norm_groups < 1:
            raise UserError(f"norm_groups is {self.norm_groups}", cure)
        if uneven := [width for width in sorted({self.stem_width, *self.widths}) if width % self.norm_groups]:
            raise UserError(f"norm_groups {self.norm_groups} does not divide a width of {uneven[0]}", cure)


Resampler = Callable[[int], Stage]
"""Makes the stage between two levels for a number of channels, which it keeps."""


@dataclass(frozen=True)
class UNetDesign:
    """What a family chooses.

    Attributes:
        style: Its residual blocks.
        down: Makes the stage that opens an encoder level below the first.
        up: Makes the stage that opens a decoder level above the lowest.
        attend_once: Whether a decoder level attends in its last block only, or in every block.
    """

    style: BlockStyle
    down: Resampler
    up: Resampler
    attend_once: bool = False


class UNet(Backbone):
    """Encoder, middle and decoder with a skip from every encoder stage.

    Args:
        config: Sizes.
        design: The family's choices.
        embedding: (c_noise, given) -> (B, E).
    """

    def __init__(self, config: UNetConfig, design: UNetDesign, embedding: NoiseEmbedding) -> None:
        super().__init__(config)
        self.style, self.factor = design.style, 2 ** (len(config.multipliers) - 1)
        self.embedding = embedding
        top, bottom = config.widths[0], config.widths[-1]
        self.stem = conv(config.in_channels + config.cond_channels, config.stem_width, 3, self.style.init)
        encoder, skips = _encoder(config, design)
        self.encoder = nn.ModuleList(encoder)
        self.middle = nn.ModuleList(ResidualBlock(self.style, bottom, bottom, attention=a) for a in (True, False))
        self.decoder = nn.ModuleList(_decoder(config, design, skips))
        self.norm = self.style.norm(top)
        self.head = conv(top, config.out_channels, 3, self.style.init, gain=0.0)
        self.conditioning = Conditioning(embedding.width, self.stages, self.style.init)

    @property
    def stages(self) -> list[Stage]:
        """All stages in the order in which they run."""
        return [*self.encoder, *self.middle, *self.decoder]

    def forward(self, x: Tensor, c_noise: Tensor, given: Given = NOTHING, effort: Effort | None = None) -> Tensor:
        """See `Backbone.forward`."""
        effort = self.check_effort(effort)
        image = with_image(x, given)
        return self.evaluate(self.stem(image), self.embedding(c_noise, given), image, c_noise, effort)

    def evaluate(self, h: Tensor, embedding: Tensor, image: Tensor, c_noise: Tensor, effort: Effort) -> Tensor:
        """All that follows the stem's output h (B, C, H, W) for an image and the embedding (B, E) of its noise."""
        conditions = iter(self.conditioning(embedding))
        skips = self.encode(h, conditions, image)
        h = skips[-1]
        for stage in self.middle:
            h = stage(h, next(conditions))
        for stage in self.decoder:
            h = stage(torch.cat([h, skips.pop()], dim=1) if stage.takes_skip else h, next(conditions))
        return self.head(silu(self.norm(h)))

    def encode(self, h: Tensor, conditions: Iterator[Tensor], image: Tensor) -> list[Tensor]:
        """Outputs of the stem, which is h, and of every encoder stage, first to last."""
        skips = [h]
        for stage in self.encoder:
            skips.append(stage(skips[-1], next(conditions)))
        return skips


def with_image(x: Tensor, given: Given) -> Tensor:
    """The noisy image, and the conditioning image behind its channels where there is one: (B, C + Cc, H, W)."""
    return x if given.image is None else torch.cat([x, given.image], dim=1)


def _encoder(config: UNetConfig, design: UNetDesign) -> tuple[list[Stage], list[int]]:
    """The encoder's stages, and the channels that the stem and every stage put out."""
    stages: list[Stage] = []
    skips = [config.stem_width]
    for level, width in enumerate(config.widths):
        if level:
            stages.append(design.down(skips[-1]))
            skips.append(skips[-1])
        for _ in range(config.blocks):
            stages.append(ResidualBlock(design.style, skips[-1], width, attention=config.attends(level)))
            skips.append(width)
    return stages, skips


def _decoder(config: UNetConfig, design: UNetDesign, skips: list[int]) -> list[Stage]:
    """The decoder's stages; each residual block takes one of `skips` (emptied here), the last first."""
    stages: list[Stage] = []
    channels, lowest = config.widths[-1], len(config.widths) - 1
    for level, width in reversed(list(enumerate(config.widths))):
        if level < lowest:
            stages.append(design.up(channels))
        for block in range(config.blocks + 1):
            attention = config.attends(level) and (block == config.blocks or not design.attend_once)
            skip = skips.pop()
            block_in, channels = channels + skip, width
            stages.append(ResidualBlock(design.style, block_in, width, attention=attention, skip_channels=skip))
    return stages
