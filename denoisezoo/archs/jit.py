"""JiT: "Back to Basics: Let Denoising Generative Models Denoise", Li and He 2025, arXiv 2511.13720.

Just image transformers: large patches of pixels through a bottleneck, LightningDiT's blocks with queries and keys
normalised, rotary positions beside the frozen table, and 32 class tokens in front of the patches from some block on;
those are not turned. Dropout in the middle half of the blocks only. That the paper's networks predict the image is no
part of the network: it is the preconditioning `X0`, and where patches have fewer numbers than tokens have channels, as
in our small variants, any other does as well (its table 2, JiT-B/4 at 64 pixels).

What differs: the released sinusoids see t in [0, 1], ours 0 ... 999 unless `released_time` is set; without classes the
class tokens are their learned positions; the rest is as in `dit`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denoisezoo.archs.backbone import Effort
from denoisezoo.archs.variants import Cost, Family
from denoisezoo.archs.vit import FlowConfig, Transformer
from denoisezoo.errors import UserError
from denoisezoo.nn.attention import RMSNorm, with_prefix
from denoisezoo.nn.blocks import linear
from denoisezoo.nn.embeddings import no_label
from denoisezoo.nn.given import NOTHING, Given
from denoisezoo.nn.transformer import LabelTable, TransformerStyle, unpatchify, xavier_uniform


@dataclass(frozen=True, kw_only=True)
class JiTConfig(FlowConfig):
    """Sizes of a JiT; see `TransformerConfig`.

    Attributes:
        bottleneck: Channels between the two linear layers that make tokens of patches.
        class_tokens: Class tokens.
        class_start: Block that is the first to see them, counted from 0.
        dropout: Dropout in the middle half of the blocks.
    """

    bottleneck: int = 128
    class_tokens: int = 32
    class_start: int = 4
    dropout: float = 0.0

    @property
    def rotary(self) -> bool:
        """See `TransformerConfig.rotary`."""
        return True

    @property
    def rates(self) -> tuple[float, ...]:
        """Dropout of each block."""
        quarter = self.depth // 4
        return tuple(self.dropout if quarter <= i < 3 * quarter else 0.0 for i in range(self.depth))

    def validate(self) -> None:
        """See `BackboneConfig.validate`."""
        super().validate()
        if self.bottleneck < 1:
            raise UserError(f"bottleneck is {self.bottleneck}", "give a whole number of at least 1")
        if self.class_tokens < 0:
            raise UserError(f"class_tokens is {self.class_tokens}", "give 0 for none, or a positive whole number")
        if not 0 <= self.class_start < self.depth:
            raise UserError(f"class_start is {self.class_start}", f"give 0 to {self.depth - 1}, one of the blocks")
        if not 0 <= self.dropout < 1:
            raise UserError(f"dropout is {self.dropout}", "give a number of at least 0 and below 1")


class JiT(Transformer):
    """The network; c_noise is 999 t of rectified flow, t = 0 at the data."""

    config: JiTConfig

    def __init__(self, config: JiTConfig) -> None:
        style = TransformerStyle(RMSNorm, gated=True, activation=F.silu, qk_norm=True)
        channels = (config.in_channels + config.cond_channels) * config.patch**2
        stem = nn.Sequential(
            linear(channels, config.bottleneck, xavier_uniform, bias=False),
            linear(config.bottleneck, config.width, xavier_uniform),
        )
        super().__init__(config, style, stem=stem, dropout=config.rates)
        places = 0.02 * torch.randn(config.class_tokens, config.width)
        self.class_places = nn.Parameter(places) if config.class_tokens else None

    def class_tokens(self, given: Given, like: Tensor) -> Tensor | None:
        """The class tokens (B, class_tokens, width) of a batch; None where there are none."""
        if self.class_places is None:
            return None
        places = self.class_places.expand(like.shape[0], -1, -1)
        late = self.embedding.late
        table = None if late is None else late.classes
        if not isinstance(table, LabelTable):
            return places
        return places + table(no_label(like) if given.label is None else given.label)[:, None]

    def forward(self, x: Tensor, c_noise: Tensor, given: Given = NOTHING, effort: Effort | None = None) -> Tensor:
        """See `Backbone.forward`."""
        self.check_effort(effort)
        assert self.rotary is not None
        c, rotary = self.embedding(c_noise, given), self.rotary.values
        tokens, classes = self.embed(x, given), self.class_tokens(given, x)
        for i, block in enumerate(self.blocks):
            if classes is not None and i == self.config.class_start:
                tokens, rotary = torch.cat([classes, tokens], dim=1), with_prefix(rotary, classes.shape[1])
            tokens = block(tokens, c, rotary)
        patches = self.last(tokens[:, self.config.class_tokens :], c)
        return unpatchify(patches, self.patch, (x.shape[2], x.shape[3]))


FAMILY = Family("jit", JiT, "Back to Basics: Let Denoising Generative Models Denoise", "Li, He", 2025, "2511.13720")

BASE = JiTConfig(resolution=256, patch=16, num_classes=1000, width=768, depth=12, heads=12)
LARGE = replace(BASE, width=1024, depth=24, heads=16, class_start=8)
HUGE = replace(BASE, width=1280, depth=32, heads=16, class_start=10, bottleneck=256, dropout=0.2)
FAMILY.variant("jit_b_16", BASE, Cost(131_320_320, 25_222_840_320), tags=("reference",))
FAMILY.variant("jit_l_16", LARGE, Cost(459_139_808, 87_944_331_264), tags=("reference",))
FAMILY.variant("jit_h_16", HUGE, Cost(952_842_048, 181_945_909_248), tags=("reference",))
TWICE: dict[str, Any] = {"resolution": 512, "patch": 32}
FAMILY.variant("jit_b_32", replace(BASE, **TWICE), Cost(133_387_008, 25_751_322_624), tags=("reference",))
FAMILY.variant("jit_l_32", replace(LARGE, **TWICE), Cost(461_796_320, 88_623_808_512), tags=("reference",))
FAMILY.variant("jit_h_32", replace(HUGE, **TWICE), Cost(956_383_296, 182_851_878_912), tags=("reference",))
SMALL = JiTConfig(resolution=32, patch=4, width=128, depth=8, heads=4, bottleneck=48, class_tokens=0)
FAMILY.variant("jit_small32", SMALL, Cost(2_483_072, 110_788_608), tags=("small",))
FAMILY.variant(
    "jit_digits",
    replace(SMALL, in_channels=1, out_channels=1, resolution=16, patch=2, width=64, depth=6, heads=2, bottleneck=16),
    Cost(483_516, 22_233_088),
    tags=("small",),
)
FAMILY.variant(
    "jit_tiny",
    JiTConfig(
        resolution=8,
        patch=4,
        width=32,
        depth=2,
        heads=2,
        bottleneck=8,
        class_tokens=2,
        class_start=1,
        num_classes=3,
        cond_channels=1,
        augment_dim=2,
    ),
    Cost(52_228, 158_720),
    tags=("tiny",),
)
