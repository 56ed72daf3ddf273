"""Attention among tokens and to a context, and the rotary tables that tell it where tokens are.

Rotary embeddings turn neighbouring features (2k, 2k + 1) of queries and keys by angles that depend on the position
(Su et al. 2021, RoFormer, arXiv 2104.09864). A table (N, heads or 1, R) holds cosine and sine of R / 2 angles in turn,
for N tokens and the first R features of a head; others stay as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denoisezoo.nn.blocks import Init, linear


class Table(nn.Module):
    """A constant table that moves with its network, stays in float32 and is not saved."""

    values: Tensor

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.register_buffer("values", values.float(), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Table:
        """Move to a device but stay in float32."""
        before = self.values
        super()._apply(fn, recurse)
        if self.values.dtype != before.dtype:
            self.values = before.to(self.values.device)
        return self


def rotary_table(angles: Tensor) -> Tensor:
    """The table of angles (N, heads or 1, R / 2)."""
    return torch.stack([angles.cos(), angles.sin()], dim=-1).flatten(-2).float()


def axial_angles(head_width: int, rows: int, columns: int) -> Tensor:
    """Angles (N, 1, head_width / 2) of LightningDiT and JiT (arXiv 2501.01423, 2511.13720).

    The first half of a head is turned by the row, the second by the column, frequencies 10000^(-2k / (head_width / 2)).
    """
    quarter = head_width // 4
    frequencies = 10000.0 ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
    i, j = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    return torch.cat([place.reshape(-1, 1) * frequencies for place in (i, j)], dim=1)[:, None]


def stretched_angles(head_width: int, rows: int, columns: int, length: float = 16.0) -> Tensor:
    """Angles (N, 1, head_width / 2) of DDT (arXiv 2504.05741): pairs by column and by row in turn, over 0 ... `length`.

    The positions of the first and the last token are 0 and `length` whatever the size is.
    """
    quarter = head_width // 4
    frequencies = 10000.0 ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
    i, j = (torch.linspace(0, length, n, dtype=torch.float64) for n in (rows, columns))
    y, x = torch.meshgrid(i, j, indexing="ij")
    angles = [place.reshape(-1, 1) * frequencies for place in (x, y)]
    return torch.stack(angles, dim=-1).flatten(1)[:, None]


def head_angles(heads: int, head_width: int, grid: int) -> Tensor:
    """Angles (N, heads, head_width / 4) of HDiT (arXiv 2401.11605): rows turn a quarter of a head, columns the next.

    Positions are the centres of the cells of [-1, 1]; head h has the frequencies pi 10^((m H + h) / (M H)), m < M, with
    H heads and M = head_width / 8.
    """
    M, H = head_width // 8, heads
    m, h = torch.meshgrid(torch.arange(M), torch.arange(H), indexing="ij")
    frequencies = (math.pi * 10.0 ** ((m * H + h).double() / (M * H))).T
    centers = (2 * torch.arange(grid, dtype=torch.float64) + 1) / grid - 1
    i, j = torch.meshgrid(centers, centers, indexing="ij")
    return torch.cat([place.reshape(-1, 1, 1) * frequencies for place in (i, j)], dim=-1)


def with_prefix(table: Tensor, count: int) -> Tensor:
    """A rotary table for `count` tokens more in front, which are not turned."""
    still = torch.zeros(count, *table.shape[1:], device=table.device)
    still[..., ::2] = 1.0  # (cos, sin) = (1, 0)
    return torch.cat([still, table])


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Turn features of x (B, N, heads, D) by a rotary table, in float32."""
    turned = x if table.shape[-1] == x.shape[-1] else x[..., : table.shape[-1]]
    pairs, factors = turned.float().unflatten(-1, (-1, 2)), table.unflatten(-1, (-1, 2))
    if torch.compiler.is_compiling():  # the compiler has no kernels for complex numbers, and fuses this
        (a, b), (cos, sin) = pairs.unbind(-1), factors.unbind(-1)
        pairs = torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1)
    else:  # a third of the time of that
        pairs = torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(factors))
    y = pairs.flatten(-2).to(x.dtype)
    return y if turned is x else torch.cat([y, x[..., y.shape[-1] :]], dim=-1)


class RMSNorm(nn.RMSNorm):
    """torch's, eps 1e-6, computed in float32 whatever comes in; the type stays."""

    def __init__(self, width: int, eps: float = 1e-6) -> None:
        super().__init__(width, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (..., width)."""
        y = F.rms_norm(x.float(), self.normalized_shape, None if self.weight is None else self.weight.float(), self.eps)
        return y.to(x.dtype)


class Attention(nn.Module):
    """Self-attention: (B, N, width) -> (B, N, width).

    Args:
        width: Channels of a token.
        heads: Heads, which divide the width.
        init: Initialisation.
        qkv_bias: Whether queries, keys and values have a bias.
        qk_norm: Whether queries and keys are normalised, each head by itself, with a learned scale (RMS).
        dropout: Dropout of what comes out.
    """

    def __init__(
        self, width: int, heads: int, init: Init, *, qkv_bias: bool = True, qk_norm: bool = False, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.qkv = linear(width, 3 * width, init, bias=qkv_bias)
        self.norms = nn.ModuleList(RMSNorm(width // heads) for _ in range(2)) if qk_norm else None
        self.out = linear(width, width, init)

    def forward(self, x: Tensor, rotary: Tensor | None = None) -> Tensor:
        """Attend; `rotary` is a table for the N tokens."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).unbind(2)
        if self.norms is not None:
            q, k = self.norms[0](q), self.norms[1](k)
        if rotary is not None:
            q, k = rotate(q, rotary), rotate(k, rotary)
        h = self.out(attend(q, k, v))
        return F.dropout(h, self.dropout, self.training) if self.dropout else h


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, scale: float | None = None) -> Tensor:
    """Attention of q (B, N, heads, D) to k and v (B, L, heads, D), heads side by side: (B, N, heads D).

    Args:
        q: Queries.
        k: Keys.
        v: Values.
        mask: Which keys each query sees, bool, broadcast over (B, heads, N, L).
        scale: Factor of the products; None is D^-1/2.
    """
    q, k, v = (part.transpose(1, 2) for part in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, mask, scale=scale).transpose(1, 2).flatten(2)


class CrossAttention(nn.Module):
    """Attention of tokens (B, N, width) to a context (B, L, width); zero at the start."""

    def __init__(self, width: int, heads: int, init: Init) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.kv = linear(width, width, init), linear(width, 2 * width, init)
        self.out = nn.Linear(width, width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend; `mask` (B, 1, 1, L) says which tokens there are."""
        q = self.q(x).unflatten(-1, (self.heads, -1))
        k, v = self.kv(context).unflatten(-1, (2, self.heads, -1)).unbind(2)
        return self.out(attend(q, k, v, mask))


def neighbors(length: int, kernel: int, device: torch.device | None = None) -> Tensor:
    """Places (length, kernel) that each place of a line looks at: those around it, moved inside at the ends."""
    first = (torch.arange(length, device=device) - kernel // 2).clamp(0, length - kernel)
    return first[:, None] + torch.arange(kernel, device=device)


def neighborhood_attention(
    q: Tensor, k: Tensor, v: Tensor, grid: int, kernel: int, *, masked: bool = False, scale: float | None = None
) -> Tensor:
    """Attention of each token of a square grid to the kernel x kernel tokens around it: (B, N, heads D).

    Hassani et al. 2022, arXiv 2204.07143: at the border the neighbourhood is moved inside, so that it keeps its size.

    Args:
        q: Queries (B, N, heads, D), row by row.
        k: Keys, likewise.
        v: Values, likewise.
        grid: Tokens a side.
        kernel: Tokens a side of a neighbourhood.
        masked: Multiply all pairs of tokens and mask those that are not near, N^2 of them, instead of copying the keys
            and values of each neighbourhood side by side, N kernel^2.
        scale: Factor of the products; None is D^-1/2.
    """
    places = neighbors(grid, kernel, q.device)
    if masked:
        near = (places[:, :, None] == torch.arange(grid, device=q.device)).any(dim=1)
        return attend(q, k, v, (near[:, None, :, None] & near[None, :, None, :]).flatten(2).flatten(0, 1), scale)

    def gathered(x: Tensor) -> Tensor:
        square = x.unflatten(1, (grid, grid))[:, places[:, None, :, None], places[None, :, None, :]]
        return square.flatten(3, 4).flatten(0, 2)

    h = attend(q.flatten(0, 1)[:, None], gathered(k), gathered(v), scale=scale)
    return h.view(q.shape[0], grid * grid, -1)


def neighborhood_macs(tokens: int, width: int, kernel: int) -> int:
    """Multiply-adds that neighbourhood attention needs, for one image."""
    return 2 * tokens * kernel**2 * width


def window_attention(
    q: Tensor, k: Tensor, v: Tensor, grid: int, window: int, shift: int, *, scale: float | None = None
) -> Tensor:
    """Attention within window x window tokens of a square grid, shifted to lower right: (B, N, heads D).

    Liu et al. 2021, arXiv 2103.14030: windows go round the border, and what it parts does not see each other.

    Args:
        q: Queries (B, N, heads, D), row by row.
        k: Keys, likewise.
        v: Values, likewise.
        grid: Tokens a side, a multiple of `window`.
        window: Tokens a side of a window.
        shift: Tokens by which the windows' borders are moved, below `window`.
        scale: Factor of the products; None is D^-1/2.
    """
    count = grid // window

    def windows(x: Tensor) -> Tensor:
        square = torch.roll(x.unflatten(1, (grid, grid)), (shift, shift), (1, 2))
        parts = square.unflatten(2, (count, window)).unflatten(1, (count, window)).transpose(2, 3)
        return parts.flatten(3, 4).flatten(0, 2)

    mask = None
    if shift:  # which tokens came round, by rows and by columns
        line = torch.arange(grid, device=q.device) < shift
        kinds = (2 * line[:, None] + line).view(count, window, count, window).transpose(1, 2).flatten(2).flatten(0, 1)
        mask = (kinds[:, :, None] == kinds[:, None, :])[:, None].repeat(q.shape[0], 1, 1, 1)
    h = attend(windows(q), windows(k), windows(v), mask, scale)
    square = h.view(len(q), count, count, window, window, -1).transpose(2, 3).reshape(len(q), grid, grid, -1)
    return torch.roll(square, (-shift, -shift), (1, 2)).flatten(1, 2)
