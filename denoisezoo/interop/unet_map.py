"""What the formats of U-Nets share: where a stage stands, and which of its layers is which."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from denoisezoo.archs import Backbone, create_backbone
from denoisezoo.archs.unet import UNet
from denoisezoo.interop.key_map import KeyMap, matrix
from denoisezoo.nn.blocks import ResidualBlock, SelfAttention


@dataclass(frozen=True)
class Position:
    """Where a stage stands.

    Attributes:
        part: "encoder", "middle" or "decoder".
        index: Its number in that part.
        level: How many times the image is halved where it works.
        block: Which residual block of its level, or of the middle, it is; None for one that changes the size.
        last: Whether it is the last residual block of its level.
    """

    part: str
    index: int
    level: int
    block: int | None
    last: bool = False

    @property
    def ours(self) -> str:
        """Our name of it."""
        return f"{self.part}.{self.index}"


def positions(levels: int, blocks: int) -> Iterator[Position]:
    """The stages of a U-Net in the order in which they run.

    Args:
        levels: How many sizes it has.
        blocks: Residual blocks of an encoder level; a decoder level has one more.
    """
    index = 0
    for level in range(levels):
        for block in (None, *range(blocks)) if level else range(blocks):
            yield Position("encoder", index, level, block, block == blocks - 1)
            index += 1
    yield from (Position("middle", i, levels - 1, i) for i in range(2))
    index = 0
    for level in reversed(range(levels)):
        for block in (None, *range(blocks + 1)) if level < levels - 1 else range(blocks + 1):
            yield Position("decoder", index, level, block, block == blocks)
            index += 1


Rows = Callable[[Tensor, int], Tensor]
"""Rows of a projection to queries, keys and values, (3C, ...), and heads -> in our order."""


def by_head_interleaved(rows: Tensor, heads: int) -> Tensor:
    """From EDM's order (head, channel, q k v) to ours (q k v, head, channel)."""
    return rows.unflatten(0, (heads, -1, 3)).movedim(2, 0).flatten(0, 2)


def by_head(rows: Tensor, heads: int) -> Tensor:
    """From the order (head, q k v, channel) of OpenAI's older attention to ours (q k v, head, channel)."""
    return rows.unflatten(0, (heads, 3, -1)).movedim(1, 0).flatten(0, 2)


def as_it_is(rows: Tensor, heads: int) -> Tensor:
    """Rows that are in our order."""
    return rows


@dataclass(frozen=True)
class Names:
    """What a format calls the layers of a stage, below the name of the block or of its attention.

    Attributes:
        block: Our layer of a residual block -> theirs.
        condition: Their projection of the embedding.
        attention: Our "norm" and "out" -> theirs; empty where the format takes attention itself.
        qkv: Their projection to queries, keys and values, or three of them.
        rows: The order of its rows.
        resampling: Their convolution of a stage that changes the size.
    """

    block: Mapping[str, str]
    condition: str
    attention: Mapping[str, str] = field(default_factory=dict)
    qkv: tuple[str, ...] = ("qkv",)
    rows: Rows = as_it_is
    resampling: str = "conv"


def map_stages(keys: KeyMap, net: UNet, places: Mapping[Position, tuple[str, str]], names: Names) -> None:
    """Take the weights of all stages.

    Args:
        keys: Where to.
        net: Our network.
        places: Each stage's name of its block, and of its attention.
        names: Those of the layers.
    """
    projections, rows = [], []
    for position, stage in zip(places, net.stages, strict=True):
        block, attention = places[position]
        if stage.c_width:
            projections.append(f"{block}.{names.condition}")
            rows.append(stage.c_width)
        if isinstance(stage, ResidualBlock):
            for ours, theirs in names.block.items():
                if getattr(stage, ours) is not None:
                    keys.layer(f"{position.ours}.{ours}", f"{block}.{theirs}")
            if stage.attention is not None and names.attention:
                map_attention(keys, f"{position.ours}.attention", stage.attention, attention, names)
        else:
            keys.layer(f"{position.ours}.conv", f"{block}.{names.resampling}".removesuffix("."))
    for part in ("weight", "bias"):
        keys.join(f"conditioning.{part}", [f"{name}.{part}" for name in projections], rows=rows)


def map_attention(keys: KeyMap, ours: str, stage: SelfAttention, theirs: str, names: Names) -> None:
    """Take the weights of an attention layer."""
    heads = stage.style.heads(stage.norm.num_channels)
    keys.layer(f"{ours}.norm", f"{theirs}.{names.attention['norm']}")
    keys.layer(f"{ours}.out", f"{theirs}.{names.attention['out']}", matrix)
    for part in ("weight", "bias"):
        parts = [f"{theirs}.{name}.{part}" for name in names.qkv]
        keys.join(f"{ours}.qkv.{part}", parts, lambda x: names.rows(matrix(x), heads))


def multiplier(width: int, channels: int) -> float:
    """The factor that makes `width` of `channels`, which are multiplied and cut to whole numbers."""
    factor = width / channels if channels else 0.0
    return factor if int(factor * channels) == width else math.nextafter(factor, math.inf)


def build_on_meta(name: str, network: Mapping[str, Any]) -> Backbone:
    """A network of the zoo without weights: its names and shapes.

    Raises:
        UserError: The configuration is impossible.
    """
    with torch.device("meta"):
        return create_backbone(name, **network)
