"""DDT: "DDT: Decoupled Diffusion Transformer", Wang, Tian, Huang, Wang 2025, arXiv 2504.05741.

One list of blocks whose first ones are an encoder: they see the noise level and the class, and make a state s. The
others, the decoder, see the noisy image anew and are shifted, scaled and gated by SiLU(t + s), token by token. That
costs 6 N D^2 multiply-adds in each of them where DiT's cost 6 D^2: at equal parameters DDT is dearer than the network
that it is compared with, by 17 % (B) and 11 % (XL); the paper's tables match parameters. `encoder_depth=0` is that
network, its Improved DiT. Rotary positions over 0 ... 16 at every size and no others, RMSNorm, SwiGLU, queries and keys
normalised. Shifts, scales and gates of the blocks begin as torch's linear layers do, not at zero; only the last layer
does.

What differs: the released sinusoids see t in [0, 1] at frequencies from 1 to 1/10, which leaves them nearly one
straight line; ours see 0 ... 999 at those of DiT unless `released_time` is set. The last layer's rows are in DiT's
order, channels fastest. Augmentation labels and the conditioning image are ours, as in `dit`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch.nn.functional as F
from torch import Tensor, nn

from denoisezoo.archs.backbone import Backbone, Effort
from denoisezoo.archs.unet import with_image
from denoisezoo.archs.variants import Cost, Family
from denoisezoo.archs.vit import FlowConfig, check_grid, noise_embedding
from denoisezoo.errors import UserError
from denoisezoo.nn.attention import RMSNorm, Table, rotary_table, stretched_angles
from denoisezoo.nn.blocks import kaiming, linear
from denoisezoo.nn.given import NOTHING, Given
from denoisezoo.nn.transformer import (
    Block,
    LastLayer,
    TransformerStyle,
    layer_norm,
    patchify,
    unpatchify,
    xavier_uniform,
)


@dataclass(frozen=True, kw_only=True)
class DDTConfig(FlowConfig):
    """Sizes of a DDT; see `TransformerConfig`. Its depth is that of encoder and decoder together.

    Attributes:
        encoder_depth: Blocks of the encoder; 0 for none, with a decoder that sees noise level and class itself.
    """

    encoder_depth: int = 8

    @property
    def rotary(self) -> bool:
        """See `TransformerConfig.rotary`."""
        return True

    def validate(self) -> None:
        """See `BackboneConfig.validate`."""
        super().validate()
        if not 0 <= self.encoder_depth < self.depth:
            cure = f"give 0 to {self.depth - 1}, so that there is a decoder"
            raise UserError(f"encoder_depth is {self.encoder_depth} of {self.depth} blocks", cure)


class DDT(Backbone):
    """The network; c_noise is 999 t of rectified flow, t = 0 at the data."""

    config: DDTConfig

    def __init__(self, config: DDTConfig) -> None:
        super().__init__(config)
        self.patch = self.factor = config.patch
        area, width = config.patch**2, config.width
        channels = (config.in_channels + config.cond_channels) * area
        style = TransformerStyle(
            RMSNorm,
            init=kaiming,
            gated=True,
            activation=F.silu,
            qkv_bias=False,
            qk_norm=True,
            feed_bias=False,
            zero=False,
        )
        blocks = [Block(style, width, config.heads, config.mlp_ratio) for _ in range(config.depth)]
        self.embedding = noise_embedding(config, released_period=10.0)
        self.rotary = Table(rotary_table(stretched_angles(width // config.heads, config.grid, config.grid)))
        self.encoder_stem = linear(channels, width, xavier_uniform) if config.encoder_depth else None
        self.encoder = nn.ModuleList(blocks[: config.encoder_depth])
        self.decoder_stem = linear(channels, width, xavier_uniform)
        self.decoder = nn.ModuleList(blocks[config.encoder_depth :])
        self.last = LastLayer(layer_norm(width), width, config.out_channels * area)

    def check_inputs(self, x: Tensor, given: Given) -> None:
        """See `Backbone.check_inputs`: there are positions for one size only."""
        super().check_inputs(x, given)
        check_grid(x, self.config.resolution)

    def forward(self, x: Tensor, c_noise: Tensor, given: Given = NOTHING, effort: Effort | None = None) -> Tensor:
        """See `Backbone.forward`."""
        self.check_effort(effort)
        return self.decode(x, self.encode(x, c_noise, given), given)

    def encode(self, x: Tensor, c_noise: Tensor, given: Given = NOTHING) -> Tensor:
        """What the decoder is told: (B, N, width), or (B, width) without an encoder."""
        t, late = self.embedding.noise(c_noise, given), self.embedding.late
        c = F.silu(t if late is None else t + late(given, t))
        if self.encoder_stem is None:
            return c
        s = self.encoder_stem(patchify(with_image(x, given), self.patch))
        for block in self.encoder:
            s = block(s, c, self.rotary.values)
        return F.silu(t[:, None] + s)

    def decode(self, x: Tensor, z: Tensor, given: Given = NOTHING) -> Tensor:
        """The network's output (B, out_channels, H, W) for a noisy image and what `encode` gave."""
        tokens = self.decoder_stem(patchify(with_image(x, given), self.patch))
        for block in self.decoder:
            tokens = block(tokens, z, self.rotary.values)
        return unpatchify(self.last(tokens, z), self.patch, (x.shape[2], x.shape[3]))


FAMILY = Family("ddt", DDT, "DDT: Decoupled Diffusion Transformer", "Wang, Tian, Huang, Wang", 2025, "2504.05741")

BASE = DDTConfig(in_channels=4, out_channels=4, num_classes=1000, width=768, depth=12, heads=12)
LARGE = replace(BASE, width=1024, depth=24, heads=16, encoder_depth=20)
EXTRA_LARGE = replace(BASE, width=1152, depth=28, heads=16, encoder_depth=22)
FAMILY.variant("ddt_b_2", BASE, Cost(130_262_800, 26_915_635_200), tags=("reference",))
FAMILY.variant("ddt_l_2", LARGE, Cost(457_648_144, 87_637_098_496), tags=("reference",))
FAMILY.variant("ddt_xl_2", EXTRA_LARGE, Cost(674_646_352, 131_481_059_328), tags=("reference",))
SMALL = DDTConfig(resolution=32, patch=4, width=128, depth=8, heads=4, encoder_depth=6)
FAMILY.variant("ddt_small32", SMALL, Cost(2_469_168, 125_485_056), tags=("small",))
FAMILY.variant(
    "ddt_digits",
    replace(SMALL, in_channels=1, out_channels=1, resolution=16, patch=2, width=64, depth=6, heads=2, encoder_depth=4),
    Cost(475_268, 25_808_896),
    tags=("small",),
)
FAMILY.variant(
    "ddt_tiny",
    DDTConfig(
        resolution=8,
        patch=4,
        width=32,
        depth=2,
        heads=2,
        encoder_depth=1,
        num_classes=3,
        cond_channels=1,
        augment_dim=2,
    ),
    Cost(54_768, 170_816),
    tags=("tiny",),
)
