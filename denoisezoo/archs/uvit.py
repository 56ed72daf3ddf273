"""U-ViT: "All are Worth Words: A ViT Backbone for Diffusion Models", Bao, Nie, Xue, Cao, Li, Su, Zhu 2022, arXiv
2209.12152.

Noise level, class and patches are tokens alike, with learned positions; nothing is modulated. Blocks of the first half
leave their outputs to those of the second, which join them by a linear layer; a 3x3 convolution at the end, but in
the H sizes. The noise token is the sinusoids themselves. Nothing begins at zero, as in the authors' code.

A label of -1 is a row of the table in the latent sizes, and zeros in those of ImageNet at 64 pixels, which the paper
samples without guidance and which have no such row (`null_label=False`).

What differs: augmentation labels are added to the noise token, and a conditioning image is concatenated to the input.
Blocks attend to context tokens between their two layers, by a cross-attention that begins at zero; one learned token is
always among them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denoisezoo.archs.backbone import Backbone, Effort
from denoisezoo.archs.unet import with_image
from denoisezoo.archs.variants import Cost, Family
from denoisezoo.archs.vit import TokenConfig, check_grid, noise_features
from denoisezoo.errors import UserError
from denoisezoo.nn.blocks import conv, kaiming, linear
from denoisezoo.nn.embeddings import ClassTable, SecondTime, no_label
from denoisezoo.nn.given import NOTHING, Given
from denoisezoo.nn.transformer import (
    Block,
    LabelTable,
    LayerNorm,
    TokenContext,
    TransformerStyle,
    normal,
    patchify,
    unpatchify,
)


@dataclass(frozen=True, kw_only=True)
class UViTConfig(TokenConfig):
    """Sizes of a U-ViT; see `TransformerConfig`. Its depth is even, and there is one more block in the middle.

    Attributes:
        conv: Whether a convolution follows the last layer.
        null_label: Whether the label table has a row for -1, which is zeros otherwise.
        time_offset: What is added to c_noise before it becomes sinusoids: 1 for networks that count the steps of a
            chain from 1, as the released ones of latents do.
    """

    conv: bool = True
    null_label: bool = True
    time_offset: float = 0.0

    def validate(self) -> None:
        """See `BackboneConfig.validate`."""
        super().validate()
        if self.depth % 2:
            raise UserError(f"depth is {self.depth}", "give an even number: half of the blocks on either side")


class UViT(Backbone):
    """The network; c_noise is 999 t, t = 0 at the data."""

    config: UViTConfig

    def __init__(self, config: UViTConfig) -> None:
        super().__init__(config)
        self.patch = self.factor = config.patch
        area, width = config.patch**2, config.width
        style = TransformerStyle(LayerNorm, init=normal, activation=F.gelu, qkv_bias=False, modulated=False)
        token_dim = config.token_dim
        self.stem = linear((config.in_channels + config.cond_channels) * area, width, kaiming)
        self.features = noise_features(config, width, offset=config.time_offset)
        self.augment = linear(config.augment_dim, width, normal, bias=False) if config.augment_dim else None
        self.until = SecondTime(width) if config.second_time else None
        table = LabelTable if config.null_label else ClassTable
        self.classes = table(config.num_classes, width) if config.num_classes else None
        self.extras = 2 if config.num_classes else 1
        self.positions = nn.Parameter(0.02 * torch.randn(self.extras + config.grid**2, width))
        self.context = TokenContext(token_dim, width, normal) if token_dim else None

        def blocks(count: int) -> nn.ModuleList:
            return nn.ModuleList(
                Block(style, width, config.heads, config.mlp_ratio, context=token_dim > 0) for _ in range(count)
            )

        self.encoder, self.middle, self.decoder = blocks(config.depth // 2), blocks(1), blocks(config.depth // 2)
        self.joins = nn.ModuleList(linear(2 * width, width, normal) for _ in self.decoder)
        self.norm = LayerNorm(width)
        self.last = linear(width, config.out_channels * area, normal)
        self.conv = conv(config.out_channels, config.out_channels, 3, kaiming) if config.conv else None

    def check_inputs(self, x: Tensor, given: Given) -> None:
        """See `Backbone.check_inputs`: there are positions for one size only."""
        super().check_inputs(x, given)
        check_grid(x, self.config.resolution)

    def embed(self, x: Tensor, c_noise: Tensor, given: Given) -> Tensor:
        """Class, noise and patches as tokens (B, T, width)."""
        noise = self.features(c_noise).to(self.positions.dtype)
        if self.augment is not None and given.augment is not None:
            noise = noise + self.augment(given.augment)
        if self.until is not None:
            noise = noise + self.until(c_noise, given, noise)
        tokens = [noise[:, None], self.stem(patchify(with_image(x, given), self.patch))]
        if self.classes is not None:
            tokens.insert(0, self.classes(no_label(x) if given.label is None else given.label)[:, None])
        return torch.cat(tokens, dim=1) + self.positions

    def forward(self, x: Tensor, c_noise: Tensor, given: Given = NOTHING, effort: Effort | None = None) -> Tensor:
        """See `Backbone.forward`."""
        self.check_effort(effort)
        context = None if self.context is None else self.context(given, x)
        tokens, skips = self.embed(x, c_noise, given), []
        for block in self.encoder:
            tokens = block(tokens, context=context)
            skips.append(tokens)
        tokens = self.middle[0](tokens, context=context)
        for join, block in zip(self.joins, self.decoder, strict=True):
            tokens = block(join(torch.cat([tokens, skips.pop()], dim=-1)), context=context)
        # The class and noise tokens go through the last layer as well, in the authors' code and in its counts.
        patches = self.last(self.norm(tokens))[:, self.extras :]
        y = unpatchify(patches, self.patch, (x.shape[2], x.shape[3]))
        return y if self.conv is None else self.conv(y)


FAMILY = Family(
    "uvit",
    UViT,
    "All are Worth Words: A ViT Backbone for Diffusion Models",
    "Bao, Nie, Xue, Cao, Li, Su, Zhu",
    2022,
    "2209.12152",
)

CIFAR10 = UViTConfig(resolution=32, patch=2, width=512, depth=12, heads=8)
LARGE_64 = UViTConfig(resolution=64, patch=4, num_classes=1000, null_label=False, width=1024, depth=20, heads=16)
LARGE = replace(LARGE_64, null_label=True, in_channels=4, out_channels=4, resolution=32, patch=2)
FAMILY.variant("uvit_cifar10", CIFAR10, Cost(44_255_328, 12_200_808_448), tags=("reference",))
FAMILY.variant(
    "uvit_celeba64", replace(CIFAR10, resolution=64, patch=4), Cost(44_292_228, 12_210_512_896), tags=("reference",)
)
FAMILY.variant(
    "uvit_m_imagenet64",
    replace(LARGE_64, width=768, depth=16, heads=12),
    Cost(130_940_292, 35_235_809_280),
    tags=("reference",),
)
FAMILY.variant("uvit_l_imagenet64", LARGE_64, Cost(286_827_652, 76_473_249_792), tags=("reference",))
FAMILY.variant("uvit_l_2", LARGE, Cost(286_763_172, 76_456_222_720), tags=("reference",))
FAMILY.variant(
    "uvit_h_2",
    replace(LARGE, width=1152, depth=28, conv=False),
    Cost(500_832_016, 133_196_719_104),
    tags=("reference",),
)
SMALL = UViTConfig(resolution=32, patch=4, width=160, depth=6, heads=4)
FAMILY.variant("uvit_small32", SMALL, Cost(2_342_052, 160_297_664), tags=("small",))
FAMILY.variant(
    "uvit_digits",
    replace(SMALL, in_channels=1, out_channels=1, resolution=16, patch=2, width=80, depth=4, heads=2),
    Cost(419_854, 30_047_584),
    tags=("small",),
)
FAMILY.variant(
    "uvit_tiny",
    UViTConfig(
        resolution=8,
        patch=4,
        width=32,
        depth=2,
        heads=2,
        num_classes=3,
        cond_channels=1,
        augment_dim=2,
        token_dim=5,
        tokens=3,
    ),
    Cost(57_188, 329_568),
    tags=("tiny",),
)
