"""A family of your own: a small transformer that reads tokens, such as those of a text.

    import token_transformer, denoisezoo as dz

    denoiser = dz.create_denoiser("token_transformer_tiny")
    denoiser.sample(4, given=dz.Given(tokens=torch.randn(4, 5, 8)))

Installed as a package with the entry point `[denoisezoo.plugins] token_transformer = "token_transformer"`, it is found
by every command: `denoisezoo profile token_transformer_tiny --counts-only`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import denoisezoo as dz
from denoisezoo.diffusion import NOTHING


@dataclass(frozen=True, kw_only=True)
class TokenTransformerConfig(dz.BackboneConfig):
    """Sizes; see `BackboneConfig`.

    Attributes:
        width: Channels of a patch inside the network.
        patch: Pixels a side of a patch.
        depth: Blocks.
        heads: Heads of each attention.
        token_dim: Numbers in a context token.
        tokens: Context tokens that it is priced with; it takes any number.
    """

    in_channels: int = 1
    out_channels: int = 1
    resolution: int = 16
    width: int = 32
    patch: int = 4
    depth: int = 2
    heads: int = 2
    token_dim: int = 8
    tokens: int = 5

    @property
    def spec(self) -> dz.ImageSpec:
        """With the tokens that the image part does not know of."""
        return replace(super().spec, token_dim=self.token_dim, tokens=self.tokens)


class Attention(nn.Module):
    """Patches (B, N, width) that look at a context (B, L, width)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.kv, self.out = nn.Linear(width, width), nn.Linear(width, 2 * width), nn.Linear(width, width)

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        """`mask` (B, L), bool, says which tokens there are."""
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.q(x), *self.kv(context).chunk(2, dim=-1))
        )
        attended = F.scaled_dot_product_attention(q, k, v, None if mask is None else mask[:, None, None])
        return self.out(attended.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention among patches, attention to tokens, and a feed-forward layer, each with a residual."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.itself, self.tokens = Attention(width, heads), Attention(width, heads)
        self.feed = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None) -> Tensor:
        """(B, N, width)."""
        y = self.norms[0](x)
        x = x + self.itself(y, y)
        x = x + self.tokens(self.norms[1](x), context, mask)
        return x + self.feed(self.norms[2](x))


class TokenTransformer(dz.Backbone):
    """The network; without tokens it attends to a learned one that says so."""

    def __init__(self, config: TokenTransformerConfig) -> None:
        super().__init__(config)
        width, patches = config.width, (config.resolution // config.patch) ** 2
        self.factor = config.patch
        self.patches = nn.Conv2d(config.in_channels, width, config.patch, stride=config.patch)
        self.places = nn.Parameter(0.02 * torch.randn(patches, width))
        self.noise = nn.Sequential(nn.Linear(1, width), nn.SiLU(), nn.Linear(width, width))
        self.context, self.none = nn.Linear(config.token_dim, width), nn.Parameter(torch.zeros(1, 1, width))
        self.blocks = nn.ModuleList(Block(width, config.heads) for _ in range(config.depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, config.out_channels * config.patch**2)

    def forward(self, x: Tensor, c_noise: Tensor, given: dz.Given = NOTHING, effort: float | None = None) -> Tensor:
        """See `Backbone.forward`."""
        self.check_effort(effort)
        H, W = (n // self.factor for n in x.shape[-2:])
        level = self.noise(c_noise.to(x.dtype)[:, None])[:, None]
        u = self.patches(x).flatten(2).mT + self.places + level
        context = self.none.expand(len(x), -1, -1) if given.tokens is None else self.context(given.tokens)
        for block in self.blocks:
            u = block(u, context, given.tokens_mask)
        pixels = self.head(self.norm(u)).mT.unflatten(-1, (H, W))
        return F.pixel_shuffle(pixels, self.factor)


FAMILY = dz.Family("token_transformer", TokenTransformer, "A transformer that reads tokens", "You", 2026, "0000.00000")
FAMILY.variant("token_transformer_tiny", TokenTransformerConfig(), dz.Cost(28_752, 409_888), tags=("tiny",))
