"""DiC: "DiC: Rethinking Conv3x3 Designs in Diffusion Models", Tian, Han, Wang, Liang, Xu, Chen 2024, arXiv 2501.00603.

Nothing but 3x3 convolutions, whose products Winograd's algorithm saves: group norms, the condition in the middle of a
block, and skips that only every third block gives and takes. Layer for layer the network of the paper's own code. What
differs: the gates start at zero, as the paper says; the released code means to and does not, which `gate` "released"
reproduces. A conditioning image is concatenated to the input, augmentation labels are added to every level's condition,
and both are ours; the small variants have 64 features of c_noise in the place of 256, and a skip at every other block.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from denoisezoo.archs.level_unet import DIGITS, SMALL32, TINY, LevelUNet, LevelUNetConfig, LevelUNetDesign
from denoisezoo.archs.variants import Cost, Family
from denoisezoo.errors import UserError
from denoisezoo.nn.adaln import zeros
from denoisezoo.nn.blocks import Stage, conv, group_norm, xavier


@dataclass(frozen=True, kw_only=True)
class DiCConfig(LevelUNetConfig):
    """Sizes of a DiC; see `LevelUNetConfig`.

    Attributes:
        skip_stride: Every which block gives and takes a skip.
        gate: How what a block adds is scaled at first: by "zero", so that it is the identity, or as "released", by a
            Xavier-uniform map of embeddings that happen to be small: 0.0007 on average, with a deviation of 0.008.
    """

    channels: int = 96
    depths: tuple[int, ...] = (6, 6, 5, 6, 6)
    skip_stride: int = 3
    gate: Literal["zero", "released"] = "zero"

    def validate(self) -> None:
        """See `BackboneConfig.validate`."""
        super().validate()
        if self.skip_stride < 1:
            raise UserError(f"skip_stride is {self.skip_stride}", "give a whole number of at least 1")
        skips = [-(-depth // self.skip_stride) for depth in self.depths]
        if skips != skips[::-1]:
            raise UserError(
                f"depths is {self.depths}, whose encoder gives other skips than its decoder takes",
                "give the two blocks of a level equal depths",
            )


class DiCBlock(Stage):
    """Two 3x3 convolutions after group norms, the condition between them, gated.

    Args:
        channels: Channels of the output.
        skip_channels: Channels of a skip that are concatenated to the input.
    """

    c_parts = 3

    def __init__(self, channels: int, skip_channels: int) -> None:
        super().__init__()
        self.c_width, self.takes_skip = 3 * channels, skip_channels > 0
        in_channels = channels + skip_channels
        self.norm0 = group_norm(in_channels, eps=1e-5)
        self.conv0 = conv(in_channels, channels, 3, xavier)
        self.norm1 = group_norm(channels, eps=1e-5)
        self.conv1 = conv(channels, channels, 3, xavier)
        self.skip = conv(in_channels, channels, 1, xavier) if skip_channels else None

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """See `Stage`."""
        gate, scale, shift = c[:, :, None, None].chunk(3, dim=1)
        h = self.norm1(self.conv0(F.gelu(self.norm0(x))))
        h = self.conv1(F.gelu(torch.addcmul(shift, h, 1 + scale)))
        return torch.addcmul(x if self.skip is None else self.skip(x), gate, h)


class DiC(LevelUNet):
    """The network; c_noise is the step index t in 0 ... 999."""

    def __init__(self, config: DiCConfig) -> None:
        modulation = {"zero": zeros, "released": xavier}[config.gate]
        super().__init__(config, LevelUNetDesign(DiCBlock, config.skip_stride, modulation=modulation))


FAMILY = Family(
    "dic",
    DiC,
    "DiC: Rethinking Conv3x3 Designs in Diffusion Models",
    "Tian, Han, Wang, Liang, Xu, Chen",
    2024,
    "2501.00603",
)

FAMILY.variant("dic_s", DiCConfig(), Cost(32_835_752, 5_865_925_632), tags=("reference",))
FAMILY.variant("dic_b", DiCConfig(channels=192), Cost(129_529_160, 23_442_124_800), tags=("reference",))
FAMILY.variant(
    "dic_xl", DiCConfig(channels=384, depths=(7, 7, 8, 7, 7)), Cost(702_266_120, 116_098_252_800), tags=("reference",)
)
FAMILY.variant(
    "dic_h",
    DiCConfig(channels=384, depths=(14, 14, 10, 14, 14)),
    Cost(1_034_516_744, 204_324_421_632),
    tags=("reference",),
)
FAMILY.variant(
    "dic_small32",
    DiCConfig(**SMALL32, depths=(2, 2, 4, 2, 2), skip_stride=2),
    Cost(2_312_099, 308_249_600),
    tags=("small",),
)
FAMILY.variant(
    "dic_digits",
    DiCConfig(**DIGITS, channels=16, depths=(2, 2, 3, 2, 2), skip_stride=2),
    Cost(497_105, 18_095_872),
    tags=("small",),
)
FAMILY.variant(
    "dic_tiny",
    DiCConfig(**TINY, depths=(2, 1, 2), multipliers=(1, 2, 1), skip_stride=2),
    Cost(18_755, 577_200),
    tags=("tiny",),
)
