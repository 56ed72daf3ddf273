"""Layers that the transformers share: patches, positions, labels, feed-forward layers, one block, the last layer.

Sources: DiT (Peebles and Xie 2022, arXiv 2212.09748), U-ViT (Bao et al. 2022, arXiv 2209.12152), LightningDiT (Yao and
Wang 2025, arXiv 2501.01423), DDT (Wang et al. 2025, arXiv 2504.05741), JiT (Li and He 2025, arXiv 2511.13720). Where
they differ, the difference is a field of `TransformerStyle`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denoisezoo.nn.attention import Attention, CrossAttention
from denoisezoo.nn.blocks import Init, linear
from denoisezoo.nn.given import Given


def xavier_uniform(weight: Tensor, bias: Tensor | None, gain: float) -> None:
    """Xavier-uniform weights and zero biases; gain 0 is exactly zero."""
    nn.init.xavier_uniform_(weight, gain=gain)
    if bias is not None:
        nn.init.zeros_(bias)


def normal(weight: Tensor, bias: Tensor | None, gain: float) -> None:
    """Weights N(0, 0.02^2) and zero biases."""
    nn.init.normal_(weight, std=0.02 * gain)
    if bias is not None:
        nn.init.zeros_(bias)


def patchify(x: Tensor, patch: int) -> Tensor:
    """Patches as tokens, row by row: (B, C, H, W) -> (B, H W / patch^2, C patch^2).

    Each is in the order (C, row, column). A linear layer on them is a convolution with kernel and stride `patch`, its
    weight flattened.
    """
    return F.pixel_unshuffle(x, patch).flatten(2).mT


def unpatchify(tokens: Tensor, patch: int, size: tuple[int, int]) -> Tensor:
    """Tokens (B, N, patch^2 C), each in the order (row, column, C), as images (B, C, H, W) of a size (H, W)."""
    H, W = size
    grid = tokens.unflatten(1, (H // patch, W // patch)).unflatten(-1, (patch, patch, -1))
    return grid.permute(0, 5, 1, 3, 2, 4).reshape(tokens.shape[0], -1, H, W)


def sincos_positions(width: int, rows: int, columns: int) -> Tensor:
    """DiT's positions of a grid of tokens: (rows columns, width).

    For row i and column j [sin(j w), cos(j w), sin(i w), cos(i w)], width / 4 frequencies w from 1 towards 1/10000.
    """
    frequencies = 10000.0 ** (-torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    i, j = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    parts = [wave(place.reshape(-1, 1) * frequencies) for place in (j, i) for wave in (torch.sin, torch.cos)]
    return torch.cat(parts, dim=1).float()


class LabelTable(nn.Module):
    """One learned vector per class, and one more for label -1, none: (B,) -> (B, width)."""

    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.table = nn.Embedding(num_classes + 1, width)
        nn.init.normal_(self.table.weight, std=0.02)

    def forward(self, label: Tensor) -> Tensor:
        """Look up."""
        return self.table(torch.where(label < 0, self.num_classes, label))


class TokenContext(nn.Module):
    """Context tokens at the network's width, behind a learned one that is always there: (B, 1 + L, width).

    So there is something to attend to without tokens, and where a mask hides all of them.
    """

    def __init__(self, token_dim: int, width: int, init: Init) -> None:
        super().__init__()
        self.project = linear(token_dim, width, init)
        self.none = nn.Parameter(0.02 * torch.randn(1, 1, width))

    def forward(self, given: Given, like: Tensor) -> tuple[Tensor, Tensor | None]:
        """The context for the batch of `like`, and which of it each image sees, (B, 1, 1, 1 + L), None for all."""
        none = self.none.expand(like.shape[0], -1, -1)
        if given.tokens is None:
            return none, None
        context = torch.cat([none, self.project(given.tokens)], dim=1)
        return context, None if given.tokens_mask is None else F.pad(given.tokens_mask, (1, 0), value=True)[
            :, None, None
        ]


class FeedForward(nn.Module):
    """Linear, activation, linear: (..., width) -> (..., width)."""

    def __init__(
        self, width: int, hidden: int, init: Init, *, activation: Callable[[Tensor], Tensor], dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.activation, self.dropout = activation, dropout
        self.up, self.down = linear(width, hidden, init), linear(hidden, width, init)

    def forward(self, x: Tensor) -> Tensor:
        """Map."""
        h = self.activation(self.up(x))
        return self.down(F.dropout(h, self.dropout, self.training) if self.dropout else h)


class GatedFeedForward(nn.Module):
    """A linear layer times the activation of another, and a linear layer: SwiGLU and GEGLU (Shazeer, arXiv 2002.05202).

    Args:
        width: Channels in and out.
        hidden: Channels between.
        init: Initialisation.
        activation: Of the gate.
        bias: Whether the layers have one.
        dropout: Dropout of what is between.
        down_gain: Initial gain of the last layer.
    """

    def __init__(
        self,
        width: int,
        hidden: int,
        init: Init,
        *,
        activation: Callable[[Tensor], Tensor] = F.silu,
        bias: bool = True,
        dropout: float = 0.0,
        down_gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.activation, self.dropout = activation, dropout
        self.gate, self.up = linear(width, hidden, init, bias=bias), linear(width, hidden, init, bias=bias)
        self.down = linear(hidden, width, init, gain=down_gain, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., width)."""
        h = self.activation(self.gate(x)) * self.up(x)
        return self.down(F.dropout(h, self.dropout, self.training) if self.dropout else h)


class LayerNorm(nn.LayerNorm):
    """torch's, computed in float32 whatever comes in; the type stays."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (..., width)."""
        scale, shift = (None if part is None else part.float() for part in (self.weight, self.bias))
        return F.layer_norm(x.float(), self.normalized_shape, scale, shift, self.eps).to(x.dtype)


def layer_norm(width: int) -> nn.Module:
    """LayerNorm without scale and shift (DiT)."""
    return LayerNorm(width, eps=1e-6, elementwise_affine=False)


GELU = partial(F.gelu, approximate="tanh")


@dataclass(frozen=True)
class TransformerStyle:
    """What sets the blocks of one family apart from another's.

    Attributes:
        norm: Makes a norm of tokens of some width.
        init: Initialisation.
        activation: Of the feed-forward layer, or of its gate.
        gated: Whether that layer is gated, with two thirds of the hidden channels, so that it costs the same.
        qkv_bias: Whether queries, keys and values have a bias.
        qk_norm: Whether queries and keys are normalised.
        feed_bias: Whether gated feed-forward layers have biases.
        modulated: Whether the conditioning vector shifts, scales and gates both branches (adaLN).
        shift: Whether it shifts.
        zero: Whether that begins at zero, so that every block is the identity (adaLN-Zero).
    """

    norm: Callable[[int], nn.Module]
    init: Init = xavier_uniform
    activation: Callable[[Tensor], Tensor] = GELU
    gated: bool = False
    qkv_bias: bool = True
    qk_norm: bool = False
    feed_bias: bool = True
    modulated: bool = True
    shift: bool = True
    zero: bool = True

    def feed(self, width: int, ratio: float, dropout: float) -> nn.Module:
        """A feed-forward layer of `ratio` times the width."""
        hidden = int(ratio * width)
        if not self.gated:
            return FeedForward(width, hidden, self.init, activation=self.activation, dropout=dropout)
        hidden = int(2 / 3 * hidden)
        return GatedFeedForward(
            width, hidden, self.init, activation=self.activation, bias=self.feed_bias, dropout=dropout
        )


class Modulation(NamedTuple):
    """What the conditioning vector does to a branch, (B, 1 or N, width) each; None leaves it alone."""

    shift: Tensor | None = None
    scale: Tensor | None = None
    gate: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """x (1 + scale) + shift of the branch's normalised input x (B, N, width)."""
        if self.scale is None:
            return x
        return x * (1 + self.scale) if self.shift is None else torch.addcmul(self.shift, x, 1 + self.scale)

    def add(self, x: Tensor, h: Tensor) -> Tensor:
        """x + gate h, the residual sum with the branch's output h."""
        return x + h if self.gate is None else torch.addcmul(x, self.gate, h)


class Block(nn.Module):
    """Attention and a feed-forward layer, each behind a norm and added to its input: (B, N, width) -> (B, N, width).

    With adaLN (DiT, section 3.2): x + gate attention(norm(x) (1 + scale) + shift), and the same with the other layer.
    Between the two, where there is a context, x + attention(norm(x), context).

    Args:
        style: What the family chose.
        width: Channels of a token.
        heads: Attention heads.
        ratio: Hidden channels of the feed-forward layer as a multiple of the width.
        context: Whether it attends to a context.
        dropout: Dropout behind the attention and within the feed-forward layer.
    """

    def __init__(
        self,
        style: TransformerStyle,
        width: int,
        heads: int,
        ratio: float = 4.0,
        *,
        context: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.style = style
        self.norm1, self.norm2 = style.norm(width), style.norm(width)
        self.attention = Attention(
            width, heads, style.init, qkv_bias=style.qkv_bias, qk_norm=style.qk_norm, dropout=dropout
        )
        self.feed = style.feed(width, ratio, dropout)
        self.modulation: nn.Linear | None = None
        if style.modulated:
            parts = 6 if style.shift else 4
            self.modulation = linear(width, parts * width, style.init, gain=0.0 if style.zero else 1.0)
        self.cross = CrossAttention(width, heads, style.init) if context else None
        self.cross_norm = style.norm(width) if context else None

    def forward(
        self,
        x: Tensor,
        c: Tensor | None = None,
        rotary: Tensor | None = None,
        context: tuple[Tensor, Tensor | None] | None = None,
    ) -> Tensor:
        """Transform tokens.

        Args:
            x: Tokens (B, N, width).
            c: SiLU of the conditioning vector, (B, width) or, one for each token, (B, N, width); None without adaLN.
            rotary: A rotary table for the N tokens.
            context: A context (B, L, width) and its mask, as `TokenContext` gives them.
        """
        first, second = self._modulations(c)
        x = first.add(x, self.attention(first(self.norm1(x)), rotary))
        if self.cross is not None and self.cross_norm is not None and context is not None:
            x = x + self.cross(self.cross_norm(x), *context)
        return second.add(x, self.feed(second(self.norm2(x))))

    def _modulations(self, c: Tensor | None) -> tuple[Modulation, Modulation]:
        if self.modulation is None or c is None:
            return Modulation(), Modulation()
        parts = self.modulation(c if c.dim() == 3 else c[:, None])
        if self.style.shift:
            shift1, scale1, gate1, shift2, scale2, gate2 = parts.chunk(6, dim=-1)
            return Modulation(shift1, scale1, gate1), Modulation(shift2, scale2, gate2)
        scale1, gate1, scale2, gate2 = parts.chunk(4, dim=-1)
        return Modulation(None, scale1, gate1), Modulation(None, scale2, gate2)


class LastLayer(nn.Module):
    """Norm, shift and scale by the conditioning vector, linear; zero at the start: (B, N, width) -> (B, N, out)."""

    def __init__(self, norm: nn.Module, width: int, out: int) -> None:
        super().__init__()
        self.norm = norm
        self.modulation = linear(width, 2 * width, xavier_uniform, gain=0.0)
        self.linear = linear(width, out, xavier_uniform, gain=0.0)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """Map tokens with c, the SiLU of the conditioning vector, as `Block.forward` takes it."""
        shift, scale = self.modulation(c if c.dim() == 3 else c[:, None]).chunk(2, dim=-1)
        return self.linear(Modulation(shift, scale)(self.norm(x)))
