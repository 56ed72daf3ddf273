"""HDiT: "Scalable High-Resolution Pixel-Space Image Synthesis with Hourglass Diffusion Transformers", Crowson, Baumann,
Birch, Abraham, Kaplan, Shippole 2024, arXiv 2401.11605.

Levels of transformer layers, all but the lowest on the way down and again on the way up. Tokens are merged by twos on
the way down and split on the way up, where a learned share of the skip is taken. RMSNorm scaled by the conditioning
vector, without shifts and gates; GEGLU; cosine similarity with a learned scale for each head; rotary positions that
turn half of a head. Attention of the lowest level is global, that of others looks at a neighbourhood of 7x7 tokens. The
conditioning vector is that of a mapping network, its input the Fourier features of ln(sigma)/4, nine augmentation
labels and the class. Output layers of all branches begin at zero, as does the last layer, so that nothing comes out.

The paper's tables print a mapping width of 768 for FFHQ and ImageNet-256; the sizes that it publishes, and that stand
here, have 256. `attentions` names that of each level, the finest first: `global`, `neighborhood`, `window` (shifted
windows, the authors' fallback) or `none`.

What a neighbourhood costs: `gathered` copies the 49 keys and values of each token side by side and multiplies what the
neighbourhood needs, 2 N 49 width multiply-adds; that is what the registered costs say, and what the paper's figures
count. `masked` multiplies all pairs of tokens and masks what is not near, 2 N^2 width of them, in less memory traffic
where tokens are few. Both give the same numbers; a profile counts what runs, and `neighborhood_macs` what is needed.

What differs: pairs of features that a rotary table turns are neighbours here, which is a permutation of the rows of
queries and keys; numbers of a patch are in the order of `patchify`; labels of -1 are the last row of the table; without
augmentation labels there is no layer for them. On an index of 0 ... 999 in place of ln(sigma)/4 take `features:
sinusoidal`. The conditioning image, concatenated to the input, is ours.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denoisezoo.archs.backbone import Backbone, BackboneConfig, Effort
from denoisezoo.archs.unet import with_image
from denoisezoo.archs.variants import Cost, Family
from denoisezoo.archs.vit import check_grid
from denoisezoo.errors import UserError
from denoisezoo.nn.attention import (
    RMSNorm,
    Table,
    attend,
    head_angles,
    neighborhood_attention,
    neighborhood_macs,
    rotary_table,
    rotate,
    window_attention,
)
from denoisezoo.nn.blocks import kaiming, linear
from denoisezoo.nn.embeddings import Fourier, SecondTime, Sinusoidal, no_label
from denoisezoo.nn.given import NOTHING, Given
from denoisezoo.nn.transformer import GatedFeedForward, LabelTable, patchify, unpatchify

KINDS = ("global", "neighborhood", "window", "none")


@dataclass(frozen=True, kw_only=True)
class HDiTConfig(BackboneConfig):
    """Sizes of an HDiT.

    Attributes:
        patch: Pixels a side of a patch.
        depths: Layers of each level, the finest first; all but the last have as many again on the way up.
        widths: Channels of a token in each level, a multiple of `head_width`.
        attentions: What the tokens of each level look at: global, neighborhood, window or none.
        head_width: Channels of an attention head, a multiple of 16.
        kernel: Tokens a side of a neighbourhood, odd.
        window: Tokens a side of a window; in every second layer they are shifted by half.
        neighborhood: How neighbourhoods are computed.
        mapping_width: Channels of the conditioning vector.
        mapping_depth: Layers of the mapping network.
        dropout: Dropout of the attention and within the feed-forward layer.
        features: Features of c_noise: random Fourier ones for ln(sigma)/4, sinusoids for an index of 0 ... 999.
    """

    patch: int = 4
    depths: tuple[int, ...] = (2, 4)
    widths: tuple[int, ...] = (128, 256)
    attentions: tuple[str, ...] = ("global", "global")
    head_width: int = 64
    kernel: int = 7
    window: int = 8
    neighborhood: Literal["gathered", "masked"] = "gathered"
    mapping_width: int = 256
    mapping_depth: int = 2
    dropout: float = 0.0
    features: Literal["fourier", "sinusoidal"] = "fourier"

    @property
    def grids(self) -> tuple[int, ...]:
        """Tokens a side of each level."""
        return tuple(self.resolution // self.patch >> level for level in range(len(self.depths)))

    def validate(self) -> None:
        """See `BackboneConfig.validate`."""
        super().validate()
        levels = len(self.depths)
        if not levels or len(self.widths) != levels or len(self.attentions) != levels:
            raise UserError(
                f"there are {levels} depths, {len(self.widths)} widths and {len(self.attentions)} attentions",
                "give one of each for every level",
            )
        for name in ("patch", "mapping_depth", "head_width", "window"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}", "give a whole number of at least 1")
        if min(self.depths) < 1:
            raise UserError(f"depths is {self.depths}", "give at least 1 layer for each level")
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise UserError(f"kernel is {self.kernel}", "give an odd number, such as 7")
        if self.head_width % 16:
            raise UserError(f"head_width is {self.head_width}", "give a multiple of 16, such as 64")
        if self.mapping_width < 2 or self.mapping_width % 2:
            raise UserError(f"mapping_width is {self.mapping_width}", "give an even number")
        if not 0 <= self.dropout < 1:
            raise UserError(f"dropout is {self.dropout}", "give a number of at least 0 and below 1")
        self._check_levels()

    def _check_levels(self) -> None:
        """Refuse widths without whole heads, unknown kinds of attention, and grids that they do not fit."""
        factor = self.patch << len(self.depths) - 1
        if self.resolution % factor:
            good = max(factor, round(self.resolution / factor) * factor)
            raise UserError(
                f"patches of {self.patch} and {len(self.depths)} levels do not divide a resolution of "
                f"{self.resolution}",
                f"use a multiple of {factor}, such as {good}",
            )
        for width, kind, grid in zip(self.widths, self.attentions, self.grids, strict=True):
            if width < 1 or width % self.head_width:
                cure = "give multiples of it, or another head_width"
                raise UserError(f"heads of {self.head_width} do not divide a width of {width}", cure)
            if kind not in KINDS:
                raise UserError(f"attentions has {kind!r}", f"use {', '.join(KINDS)}")
            if kind == "neighborhood" and grid < self.kernel:
                cure = "make that level global, or the kernel smaller"
                raise UserError(f"a neighbourhood of {self.kernel} does not fit a grid of {grid} tokens", cure)
            if kind == "window" and grid % self.window:
                cure = "make that level global, or give another window"
                raise UserError(f"windows of {self.window} do not divide a grid of {grid} tokens", cure)


class ScaledNorm(nn.Module):
    """RMSNorm scaled by 1 + a linear map of the conditioning vector, which begins at zero (AdaRMSNorm)."""

    def __init__(self, width: int, mapping_width: int) -> None:
        super().__init__()
        self.scale = linear(mapping_width, width, kaiming, gain=0.0, bias=False)
        self.width = width

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """Normalise x (B, N, width) for c (B, mapping_width), in float32."""
        scale = 1 + self.scale(c)[:, None].float()
        return (F.rms_norm(x.float(), (self.width,), eps=1e-6) * scale).to(x.dtype)


class CosineAttention(nn.Module):
    """Self-attention by cosine similarity: (B, N, width) -> (B, N, width); zero at the start.

    Args:
        config: What a level looks at, and how.
        width: Channels of a token.
        kind: One of `KINDS`, but none.
        grid: Tokens a side.
        shifted: Whether windows are shifted by half.
    """

    def __init__(self, config: HDiTConfig, width: int, kind: str, grid: int, shifted: bool) -> None:
        super().__init__()
        self.kind, self.grid, self.dropout = kind, grid, config.dropout
        self.kernel, self.masked = config.kernel, config.neighborhood == "masked"
        self.window, self.shift = config.window, config.window // 2 if shifted else 0
        self.heads = width // config.head_width
        self.qkv = linear(width, 3 * width, kaiming, bias=False)
        self.scale = nn.Parameter(torch.full((self.heads,), 10.0))
        self.rotary = Table(rotary_table(head_angles(self.heads, config.head_width, grid)))
        self.out = linear(width, width, kaiming, gain=0.0, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Attend."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).unbind(2)
        length = self.scale.float().sqrt()[:, None]
        q, k = (rotate(F.normalize(part.float(), dim=-1) * length, self.rotary.values).to(v.dtype) for part in (q, k))
        if self.kind == "neighborhood":
            h = neighborhood_attention(q, k, v, self.grid, self.kernel, masked=self.masked, scale=1.0)
        elif self.kind == "window":
            h = window_attention(q, k, v, self.grid, self.window, self.shift, scale=1.0)
        else:
            h = attend(q, k, v, scale=1.0)
        return self.out(F.dropout(h, self.dropout, self.training))


class Layer(nn.Module):
    """Attention and GEGLU, each behind a scaled norm and added to its input: (B, N, width) -> (B, N, width)."""

    def __init__(self, config: HDiTConfig, width: int, kind: str, grid: int, shifted: bool) -> None:
        super().__init__()
        self.attention = None if kind == "none" else CosineAttention(config, width, kind, grid, shifted)
        self.norm1 = None if kind == "none" else ScaledNorm(width, config.mapping_width)
        self.norm2 = ScaledNorm(width, config.mapping_width)
        self.feed = geglu(width, config.dropout)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """Transform tokens for a conditioning vector c (B, mapping_width)."""
        if self.attention is not None and self.norm1 is not None:
            x = x + self.attention(self.norm1(x, c))
        return x + self.feed(self.norm2(x, c))


def geglu(width: int, dropout: float = 0.0) -> nn.Module:
    """A gated feed-forward layer of three times the width, zero at the start."""
    return GatedFeedForward(width, 3 * width, kaiming, activation=F.gelu, bias=False, dropout=dropout, down_gain=0.0)


class Mapping(nn.Module):
    """The conditioning vector (B, mapping_width) of noise level, augmentation label and class."""

    def __init__(self, config: HDiTConfig) -> None:
        super().__init__()
        width = config.mapping_width
        sinusoidal = Sinusoidal(width, endpoint=False, waves=(torch.cos, torch.sin))
        self.features = Fourier(width, std=1.0) if config.features == "fourier" else sinusoidal
        self.noise = linear(width, width, kaiming, bias=False)
        self.classes = LabelTable(config.num_classes, width) if config.num_classes else None
        self.augment_dim = config.augment_dim
        self.augment_features = Fourier(width, std=1.0, inputs=config.augment_dim) if config.augment_dim else None
        self.augment = linear(width, width, kaiming, bias=False) if config.augment_dim else None
        self.until = SecondTime(width) if config.second_time else None
        self.norms = nn.ModuleList(RMSNorm(width) for _ in range(config.mapping_depth + 2))
        self.layers = nn.ModuleList(geglu(width) for _ in range(config.mapping_depth))

    def forward(self, c_noise: Tensor, given: Given) -> Tensor:
        """Map c_noise (B,), and labels and augmentation labels; those that are not given are zeros."""
        c = self.noise(self.features(c_noise).to(self.noise.weight.dtype))
        if self.augment is not None and self.augment_features is not None:
            label = c.new_zeros(c.shape[0], self.augment_dim) if given.augment is None else given.augment
            c = c + self.augment(self.augment_features(label).to(c.dtype))
        if self.classes is not None:
            c = c + self.classes(no_label(c) if given.label is None else given.label)
        if self.until is not None:
            c = c + self.until(c_noise, given, c)
        c = self.norms[0](c)
        for norm, layer in zip(self.norms[1:-1], self.layers, strict=True):
            c = c + layer(norm(c))
        return self.norms[-1](c)


class Level(nn.ModuleList):
    """Layers that run one after the other on tokens of one size."""

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """Transform tokens (B, N, width) for a conditioning vector c (B, mapping_width)."""
        for layer in self:
            x = layer(x, c)
        return x


class HDiT(Backbone):
    """The network; c_noise is ln(sigma)/4, as EDM's preconditioning tells it."""

    config: HDiTConfig

    def __init__(self, config: HDiTConfig) -> None:
        super().__init__(config)
        top, widths, lowest = config.widths[0], config.widths, len(config.depths) - 1
        self.patch, self.factor = config.patch, config.patch << lowest
        self.stem = linear((config.in_channels + config.cond_channels) * config.patch**2, top, kaiming, bias=False)
        self.mapping = Mapping(config)
        self.down = nn.ModuleList(self._level(level, 0) for level in range(lowest))
        self.middle = self._level(lowest, 0)
        self.up = nn.ModuleList(self._level(level, config.depths[level]) for level in range(lowest))
        pairs = list(pairwise(widths))
        self.merges = nn.ModuleList(linear(4 * fine, coarse, kaiming, bias=False) for fine, coarse in pairs)
        self.splits = nn.ModuleList(linear(coarse, 4 * fine, kaiming, bias=False) for fine, coarse in pairs)
        self.shares = nn.Parameter(torch.full((lowest,), 0.5)) if lowest else None
        self.norm = RMSNorm(top)
        self.last = linear(top, config.out_channels * config.patch**2, kaiming, gain=0.0, bias=False)

    def _level(self, level: int, first: int) -> Level:
        """The layers of a level, the first of which has the number `first` in it."""
        config = self.config
        width, kind, grid = config.widths[level], config.attentions[level], config.grids[level]
        numbers = range(first, first + config.depths[level])
        return Level(Layer(config, width, kind, grid, shifted=number % 2 == 1) for number in numbers)

    def check_inputs(self, x: Tensor, given: Given) -> None:
        """See `Backbone.check_inputs`: there are positions for one size only."""
        super().check_inputs(x, given)
        check_grid(x, self.config.resolution)

    def forward(self, x: Tensor, c_noise: Tensor, given: Given = NOTHING, effort: Effort | None = None) -> Tensor:
        """See `Backbone.forward`."""
        self.check_effort(effort)
        c = self.mapping(c_noise, given)
        tokens, skips = self.stem(patchify(with_image(x, given), self.patch)), []
        for level, (layers, merge) in enumerate(zip(self.down, self.merges, strict=True)):
            tokens = layers(tokens, c)
            skips.append(tokens)
            grid = self.config.grids[level]
            tokens = merge(patchify(tokens.mT.unflatten(-1, (grid, grid)), 2))
        tokens = self.middle(tokens, c)
        for level in reversed(range(len(skips))):
            grid = self.config.grids[level]
            wider = unpatchify(self.splits[level](tokens), 2, (grid, grid)).flatten(2).mT
            assert self.shares is not None
            tokens = skips[level] + self.shares[level] * (wider - skips[level])
            tokens = self.up[level](tokens, c)
        return unpatchify(self.last(self.norm(tokens)), self.patch, (x.shape[2], x.shape[3]))

    def needed_macs(self, counted: int) -> int:
        """What a call that was counted at `counted` multiply-adds needs, were neighbourhoods computed alone."""
        config, spared = self.config, 0
        for level, kind in enumerate(config.attentions):
            if kind == "neighborhood" and config.neighborhood == "masked":
                layers = config.depths[level] * (2 if level < len(config.depths) - 1 else 1)
                tokens, width = config.grids[level] ** 2, config.widths[level]
                spared += layers * 2 * (tokens**2 * width) - layers * neighborhood_macs(tokens, width, config.kernel)
        return counted - spared


FAMILY = Family(
    "hdit",
    HDiT,
    "Scalable High-Resolution Pixel-Space Image Synthesis with Hourglass Diffusion Transformers",
    "Crowson, Baumann, Birch, Abraham, Kaplan, Shippole",
    2024,
    "2401.11605",
)

IMAGENET = HDiTConfig(resolution=256, num_classes=1000, augment_dim=9)
LEVELS = ("neighborhood", "neighborhood", "global")
SIZES = {"s": ((256, 512, 1024), 8), "m": ((320, 640, 1280), 12), "l": ((384, 768, 1536), 16)}
COSTS = {
    "s_4": Cost(138_694_322, 59_780_105_344),
    "s_8": Cost(133_885_857, 44_436_817_024),
    "s_16": Cost(116_388_224, 29_399_188_608),
    "m_4": Cost(301_836_142, 115_328_287_872),
    "m_8": Cost(294_432_921, 91_451_556_992),
    "m_16": Cost(266_990_320, 67_956_900_992),
    "l_4": Cost(557_416_522, 197_586_846_848),
    "l_8": Cost(546_861_489, 163_297_625_216),
    "l_16": Cost(507_245_696, 129_466_893_440),
}
for key, cost in COSTS.items():
    size, patch = key.split("_")
    widths, depth = SIZES[size]
    skipped = {"4": 0, "8": 1, "16": 2}[patch]  # larger patches leave out the finest levels
    config = replace(
        IMAGENET,
        patch=int(patch),
        depths=(2, 2, depth)[skipped:],
        widths=widths[skipped:],
        attentions=LEVELS[skipped:],
    )
    FAMILY.variant(f"hdit_{key}", config, cost, tags=("reference",))
FAMILY.variant(
    "hdit_small32",
    HDiTConfig(
        resolution=32, patch=2, depths=(1, 4), widths=(64, 192), head_width=32, mapping_width=128, mapping_depth=1
    ),
    Cost(2_516_957, 180_092_928),
    tags=("small",),
)
FAMILY.variant(
    "hdit_digits",
    HDiTConfig(
        in_channels=1,
        out_channels=1,
        resolution=16,
        patch=2,
        depths=(1, 2),
        widths=(64, 96),
        head_width=32,
        mapping_width=64,
        mapping_depth=1,
    ),
    Cost(477_963, 12_697_600),
    tags=("small",),
)
TINY = HDiTConfig(
    resolution=8,
    patch=2,
    depths=(1, 1),
    widths=(16, 32),
    attentions=("neighborhood", "global"),
    head_width=16,
    kernel=3,
    mapping_width=16,
    mapping_depth=1,
    num_classes=3,
    cond_channels=1,
    augment_dim=2,
)
FAMILY.variant("hdit_tiny", TINY, Cost(29_509, 198_416), tags=("tiny",))
