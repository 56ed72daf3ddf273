"""The vision transformer that DiT, SiT and their heirs share; a family chooses its blocks, positions and embedding."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from denoisezoo.archs.backbone import Backbone, BackboneConfig, Effort, ImageSpec
from denoisezoo.archs.unet import with_image
from denoisezoo.errors import UserError
from denoisezoo.nn.attention import Table, axial_angles, rotary_table
from denoisezoo.nn.blocks import linear
from denoisezoo.nn.embeddings import Extras, Fourier, NoiseEmbedding, Rounding, SecondTime, Sinusoidal
from denoisezoo.nn.given import NOTHING, Given
from denoisezoo.nn.transformer import (
    Block,
    LabelTable,
    LastLayer,
    TokenContext,
    TransformerStyle,
    normal,
    patchify,
    sincos_positions,
    unpatchify,
    xavier_uniform,
)

FEATURES = 256
"""Features of c_noise, in every size of these families."""


@dataclass(frozen=True, kw_only=True)
class TransformerConfig(BackboneConfig):
    """Sizes of a transformer.

    Attributes:
        patch: Pixels a side of a patch; it divides the resolution.
        width: Channels of a token, a multiple of 4.
        depth: Blocks.
        heads: Attention heads, which divide the width.
        mlp_ratio: Hidden channels of a feed-forward layer as a multiple of the width.
        features: Features of c_noise. Sinusoids, whose slowest has a period of 2 pi 10000, suit an index of 0 ... 999,
            as all processes but EDM's tell; on ln(sigma)/4 they are nearly one straight line. Random Fourier ones suit
            ln(sigma)/4, and are noise on an index.
        time_scale: What c_noise is multiplied by before it becomes features.
        rounding: How the frequencies of sinusoids are computed, which says what code the network agrees with in the
            last digit; see `denoisezoo.nn.embeddings.Rounding`.
    """

    patch: int = 2
    width: int = 384
    depth: int = 12
    heads: int = 6
    mlp_ratio: float = 4.0
    features: Literal["sinusoidal", "fourier"] = "sinusoidal"
    time_scale: float = 1.0
    rounding: Rounding = "rate"

    @property
    def grid(self) -> int:
        """Tokens a side."""
        return self.resolution // self.patch

    @property
    def rotary(self) -> bool:
        """Whether heads are turned by rotary tables, which need features in fours."""
        return False

    def validate(self) -> None:
        """See `BackboneConfig.validate`."""
        super().validate()
        for name in ("patch", "width", "depth", "heads"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}", "give a whole number of at least 1")
        self.check_patch()
        if self.width % 4:
            raise UserError(f"width is {self.width}", f"give a multiple of 4, such as {self.width // 4 * 4 + 4}")
        if self.width % self.heads:
            good = [n for n in range(1, self.width + 1) if self.width % n == 0]
            nearest = min(good, key=lambda n: abs(n - self.heads))
            raise UserError(f"{self.heads} heads do not divide a width of {self.width}", f"use {nearest}, for example")
        if self.rotary and self.width // self.heads % 4:
            cure = "give heads of a multiple of 4 channels, for the rotary positions"
            raise UserError(f"{self.heads} heads of a width of {self.width} have {self.width // self.heads}", cure)
        if self.mlp_ratio <= 0:
            raise UserError(f"mlp_ratio is {self.mlp_ratio}", "give a positive number")

    def check_patch(self) -> None:
        """Refuse a patch that does not divide the resolution."""
        if self.resolution % self.patch:
            good = max(self.patch, round(self.resolution / self.patch) * self.patch)
            raise UserError(
                f"a patch of {self.patch} does not divide a resolution of {self.resolution}",
                f"use a resolution of {good}, or another patch",
            )


@dataclass(frozen=True, kw_only=True)
class TokenConfig(TransformerConfig):
    """A transformer that may attend to a context; see `TransformerConfig`.

    Attributes:
        token_dim: Numbers in a context token; 0 for a network without a context.
        tokens: Context tokens that it is priced with; it takes any number.
    """

    token_dim: int = 0
    tokens: int = 0

    @property
    def spec(self) -> ImageSpec:
        """See `BackboneConfig.spec`."""
        return replace(super().spec, token_dim=self.token_dim, tokens=self.tokens)

    def validate(self) -> None:
        """See `BackboneConfig.validate`."""
        super().validate()
        for name in ("token_dim", "tokens"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} is {getattr(self, name)}", "give 0 for none, or a positive whole number")
        if (self.token_dim > 0) != (self.tokens > 0):
            raise UserError(
                f"token_dim is {self.token_dim} and tokens {self.tokens}",
                "give both, the length of a token and how many to price the network with, or neither",
            )


@dataclass(frozen=True, kw_only=True)
class FlowConfig(TransformerConfig):
    """A transformer of rectified flow; see `TransformerConfig`.

    Attributes:
        released_time: Whether the sinusoids are those of the released network, of t = 1 - c_noise / 999 in [0, 1], all
            of which are nearly one straight line, instead of c_noise in 0 ... 999.
    """

    released_time: bool = False

    def validate(self) -> None:
        """See `BackboneConfig.validate`."""
        super().validate()
        if self.released_time and (self.features != "sinusoidal" or self.time_scale != 1.0):
            raise UserError(
                "released_time is for sinusoids of the released scale", "leave features and time_scale out, or this"
            )


def noise_features(
    config: TransformerConfig, width: int = FEATURES, released_period: float = 10000.0, offset: float = 0.0
) -> nn.Module:
    """The family's features of c_noise: (B,) -> (B, width).

    Args:
        config: Which.
        width: How many.
        released_period: Inverse of the slowest frequency of a released flow network.
        offset: What sinusoids add to c_noise.
    """
    if config.features == "fourier":
        return Fourier(width, std=16.0 * config.time_scale)
    waves = (torch.cos, torch.sin)
    if isinstance(config, FlowConfig) and config.released_time:
        period, rounding = released_period, config.rounding
        return Sinusoidal(width, False, waves, period=period, scale=-1 / 999, offset=1.0, rounding=rounding)
    return Sinusoidal(width, False, waves, scale=config.time_scale, offset=offset, rounding=config.rounding)


def noise_embedding(config: TransformerConfig, released_period: float = 10000.0) -> NoiseEmbedding:
    """SiLU of the embedded c_noise, label and augmentation label: (B, width)."""
    classes = LabelTable(config.num_classes, config.width) if config.num_classes else None
    augment = linear(config.augment_dim, config.width, xavier_uniform, bias=False) if config.augment_dim else None
    features = noise_features(config, released_period=released_period)
    until = SecondTime(config.width) if config.second_time else None
    return NoiseEmbedding(features, FEATURES, config.width, normal, late=Extras(classes, augment), until=until)


class Transformer(Backbone):
    """Tokens of patches, a stack of blocks, and patches out again.

    Args:
        config: Sizes.
        style: The family's blocks.
        stem: Makes tokens of patches; None for one linear layer.
        positions: Whether DiT's frozen table of positions is added to the tokens.
        dropout: Dropout of each block; () for none.
    """

    config: TransformerConfig

    def __init__(
        self,
        config: TransformerConfig,
        style: TransformerStyle,
        *,
        stem: nn.Module | None = None,
        positions: bool = True,
        dropout: tuple[float, ...] = (),
    ) -> None:
        super().__init__(config)
        self.patch = self.factor = config.patch
        area, width = config.patch**2, config.width
        channels = config.in_channels + config.cond_channels
        self.stem = linear(channels * area, width, xavier_uniform) if stem is None else stem
        table = sincos_positions(width, config.grid, config.grid) if positions else None
        self.positions = None if table is None else nn.Parameter(table, requires_grad=False)
        angles = axial_angles(width // config.heads, config.grid, config.grid) if config.rotary else None
        self.rotary = None if angles is None else Table(rotary_table(angles))
        self.embedding = noise_embedding(config)
        token_dim = config.spec.token_dim
        self.context = TokenContext(token_dim, width, xavier_uniform) if token_dim else None
        rates = dropout or (0.0,) * config.depth
        self.blocks = nn.ModuleList(
            Block(style, width, config.heads, config.mlp_ratio, context=token_dim > 0, dropout=rate) for rate in rates
        )
        self.last = LastLayer(style.norm(width), width, config.out_channels * area)

    def check_inputs(self, x: Tensor, given: Given) -> None:
        """See `Backbone.check_inputs`: there are positions for one size only."""
        super().check_inputs(x, given)
        check_grid(x, self.config.resolution)

    def embed(self, x: Tensor, given: Given) -> Tensor:
        """Tokens (B, N, width) of a noisy image."""
        tokens: Tensor = self.stem(patchify(with_image(x, given), self.patch))
        return tokens if self.positions is None else tokens + self.positions

    def forward(self, x: Tensor, c_noise: Tensor, given: Given = NOTHING, effort: Effort | None = None) -> Tensor:
        """See `Backbone.forward`."""
        self.check_effort(effort)
        c = self.embedding(c_noise, given)
        context = None if self.context is None else self.context(given, x)
        tokens, rotary = self.embed(x, given), None if self.rotary is None else self.rotary.values
        for block in self.blocks:
            tokens = block(tokens, c, rotary, context)
        return unpatchify(self.last(tokens, c), self.patch, (x.shape[2], x.shape[3]))


def check_grid(x: Tensor, resolution: int) -> None:
    """Refuse images of another size than that which a table of positions is for.

    Raises:
        UserError: The size is another.
    """
    if x.shape[2] != resolution or x.shape[3] != resolution:
        raise UserError(
            f"input is {x.shape[2]}x{x.shape[3]}, and this network has positions for {resolution}x{resolution}",
            "give that size, or create it with another resolution",
        )
