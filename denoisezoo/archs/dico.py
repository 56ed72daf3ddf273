"""DiCo: "DiCo: Revitalizing ConvNets for Scalable and Efficient Diffusion Modeling", Ai, Fan, Hu, Yang, He, Huang 2025,
arXiv 2505.11196.

Depthwise convolutions and a compact channel attention in the place of self-attention, in a U-Net of three levels whose
last level is twice as wide as its first; adaLN-Zero at every block. Layer for layer the network of the paper's own
code. What differs: a class is dropped by giving label -1, so once for all levels (as there); a conditioning image is
concatenated to the input, augmentation labels are added to every level's condition, and both are ours; the small
variants have 64 features of c_noise in the place of 256, which at their width would be a fifth of the parameters.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from denoisezoo.archs.level_unet import DIGITS, SMALL32, TINY, LevelUNet, LevelUNetConfig, LevelUNetDesign
from denoisezoo.archs.variants import Cost, Family
from denoisezoo.errors import UserError
from denoisezoo.nn.adaln import channel_norm, modulate
from denoisezoo.nn.blocks import Stage, conv, xavier


@dataclass(frozen=True, kw_only=True)
class DiCoConfig(LevelUNetConfig):
    """Sizes of a DiCo; see `LevelUNetConfig`.

    Attributes:
        multipliers: As there; the paper's decoder is 2 C wide at both of its levels.
        expansion: Width of the feed-forward layer as a multiple of the block's.
    """

    multipliers: tuple[int, ...] = (1, 2, 4, 2, 2)
    depths: tuple[int, ...] = (5, 4, 4, 4, 4)
    expansion: int = 2

    def validate(self) -> None:
        """See `BackboneConfig.validate`."""
        super().validate()
        if self.expansion < 1:
            raise UserError(f"expansion is {self.expansion}", "give a whole number of at least 1")


class DiCoBlock(Stage):
    """Depthwise convolution with channel attention, then a feed-forward layer, each modulated and gated."""

    c_parts = 6

    def __init__(self, channels: int, expansion: int) -> None:
        super().__init__()
        self.c_width = 6 * channels
        self.conv_in = conv(channels, channels, 1, xavier)
        self.depthwise = conv(channels, channels, 3, xavier, groups=channels)
        self.attend = conv(channels, channels, 1, xavier)
        self.conv_out = conv(channels, channels, 1, xavier)
        self.widen = conv(channels, expansion * channels, 1, xavier)
        self.narrow = conv(expansion * channels, channels, 1, xavier)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """See `Stage`."""
        shift1, scale1, gate1, shift2, scale2, gate2 = c[:, :, None, None].chunk(6, dim=1)
        h = F.gelu(self.depthwise(self.conv_in(modulate(channel_norm(x), shift1, scale1))))
        h = h * torch.sigmoid(self.attend(h.mean((2, 3), keepdim=True)))
        x = torch.addcmul(x, gate1, self.conv_out(h))
        h = self.narrow(F.gelu(self.widen(modulate(channel_norm(x), shift2, scale2))))
        return torch.addcmul(x, gate2, h)


class DiCo(LevelUNet):
    """The network; c_noise is the step index t in 0 ... 999."""

    def __init__(self, config: DiCoConfig) -> None:
        def block(expansion: int, channels: int, skip: int) -> Stage:
            return DiCoBlock(channels, expansion)

        super().__init__(config, LevelUNetDesign(partial(block, config.expansion), final_conv=False))


FAMILY = Family(
    "dico",
    DiCo,
    "DiCo: Revitalizing ConvNets for Scalable and Efficient Diffusion Modeling",
    "Ai, Fan, Hu, Yang, He, Huang",
    2025,
    "2505.11196",
)

FAMILY.variant("dico_s", DiCoConfig(), Cost(33_137_672, 4_236_476_416), tags=("reference",))
FAMILY.variant("dico_b", DiCoConfig(channels=256), Cost(129_992_712, 16_855_793_664), tags=("reference",))
FAMILY.variant(
    "dico_l", DiCoConfig(channels=352, depths=(9, 8, 9, 8, 9)), Cost(463_897_992, 60_168_773_632), tags=("reference",)
)
FAMILY.variant(
    "dico_xl", DiCoConfig(channels=416, depths=(9, 9, 10, 9, 9)), Cost(701_151_368, 87_220_969_472), tags=("reference",)
)
FAMILY.variant(
    "dico_h",
    DiCoConfig(channels=416, depths=(14, 12, 10, 12, 14), expansion=4),
    Cost(1_037_408_328, 194_029_362_176),
    tags=("reference",),
)
FAMILY.variant(
    "dico_small32",
    DiCoConfig(**SMALL32, depths=(2, 2, 8, 2, 2)),
    Cost(2_533_763, 198_640_640),
    tags=("small",),
)
FAMILY.variant(
    "dico_digits",
    DiCoConfig(**DIGITS, channels=20, depths=(2, 2, 2, 2, 2)),
    Cost(490_641, 15_765_680),
    tags=("small",),
)
FAMILY.variant(
    "dico_tiny",
    DiCoConfig(**TINY, depths=(1, 1, 1), multipliers=(1, 2, 2)),
    Cost(15_515, 323_312),
    tags=("tiny",),
)
