"""FCDM: "Reviving ConvNeXt for Efficient Convolutional Diffusion Models", Kwon, Bianchi, Wittke, Watine, Carrara, Ye,
Weber, Azevedo 2026, arXiv 2603.09408.

The block of ConvNeXt V2 made conditional (a 7x7 depthwise convolution, the condition, a wide pointwise layer with
global response normalisation, a gate) in a symmetric U-Net of three levels. Layer for layer the network of the paper's
code. What differs: a class is dropped once, by label -1, where the released training drops it at each level by itself
and so seldom at all three; a conditioning image is concatenated to the input, augmentation labels are added to every
level's condition, and both are ours; the small variants have 64 features of c_noise in the place of 256.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denoisezoo.archs.level_unet import DIGITS, SMALL32, TINY, LevelUNet, LevelUNetConfig, LevelUNetDesign
from denoisezoo.archs.variants import Cost, Family
from denoisezoo.errors import UserError
from denoisezoo.nn.adaln import channel_norm, modulate
from denoisezoo.nn.blocks import Stage, conv, xavier


@dataclass(frozen=True, kw_only=True)
class FCDMConfig(LevelUNetConfig):
    """Sizes of an FCDM; see `LevelUNetConfig`.

    Attributes:
        expansion: Width of the inner layer as a multiple of the block's.
        kernel: Side of the depthwise convolution, odd.
    """

    expansion: int = 3
    kernel: int = 7

    def validate(self) -> None:
        """See `BackboneConfig.validate`."""
        super().validate()
        if self.expansion < 1:
            raise UserError(f"expansion is {self.expansion}", "give a whole number of at least 1")
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise UserError(f"kernel is {self.kernel}", "give a positive odd number")


class ResponseNorm(nn.Module):
    """Global response normalisation (ConvNeXt V2, Woo et al. 2023, arXiv 2301.00808): (B, C, H, W) -> (B, C, H, W).

    A channel's norm over all pixels, as a share of the mean of all channels' norms, scales it; starts as the identity.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(channels, 1, 1))
        self.beta = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise. The squares are summed in float32: in half precision their sum overflows on large images."""
        G = torch.linalg.vector_norm(x, dim=(2, 3), keepdim=True, dtype=torch.float32)
        N = (G / (G.mean(1, keepdim=True) + 1e-6)).to(x.dtype)
        return torch.addcmul(self.beta, x, self.gamma * N + 1)


class FCDMBlock(Stage):
    """Depthwise convolution, modulated norm, an inner layer with response norm, and a gate."""

    c_parts = 3

    def __init__(self, channels: int, expansion: int, kernel: int) -> None:
        super().__init__()
        self.c_width = 3 * channels
        self.depthwise = conv(channels, channels, kernel, xavier, groups=channels)
        self.widen = conv(channels, expansion * channels, 1, xavier)
        self.response = ResponseNorm(expansion * channels)
        self.narrow = conv(expansion * channels, channels, 1, xavier)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """See `Stage`."""
        shift, scale, gate = c[:, :, None, None].chunk(3, dim=1)
        h = modulate(channel_norm(self.depthwise(x)), shift, scale)
        return torch.addcmul(x, gate, self.narrow(self.response(F.gelu(self.widen(h)))))


class FCDM(LevelUNet):
    """The network; c_noise is the step index t in 0 ... 999."""

    def __init__(self, config: FCDMConfig) -> None:
        def block(config: FCDMConfig, channels: int, skip: int) -> Stage:
            return FCDMBlock(channels, config.expansion, config.kernel)

        super().__init__(config, LevelUNetDesign(partial(block, config)))


FAMILY = Family(
    "fcdm",
    FCDM,
    "Reviving ConvNeXt for Efficient Convolutional Diffusion Models",
    "Kwon, Bianchi, Wittke, et al.",
    2026,
    "2603.09408",
)

FAMILY.variant("fcdm_s", FCDMConfig(), Cost(32_699_912, 3_073_392_640), tags=("reference",))
FAMILY.variant("fcdm_b", FCDMConfig(channels=256), Cost(127_675_400, 12_136_349_696), tags=("reference",))
FAMILY.variant("fcdm_l", FCDMConfig(channels=512), Cost(504_453_128, 48_230_957_056), tags=("reference",))
FAMILY.variant(
    "fcdm_xl", FCDMConfig(channels=512, depths=(3, 6, 12, 6, 3)), Cost(698_754_056, 64_530_022_400), tags=("reference",)
)
FAMILY.variant(
    "fcdm_small32",
    FCDMConfig(**SMALL32, depths=(1, 4, 11, 4, 1)),
    Cost(2_511_779, 209_439_744),
    tags=("small",),
)
FAMILY.variant(
    "fcdm_digits",
    FCDMConfig(**DIGITS, channels=20, depths=(1, 2, 4, 2, 1)),
    Cost(507_501, 13_546_320),
    tags=("small",),
)
FAMILY.variant(
    "fcdm_tiny",
    FCDMConfig(**TINY, depths=(1, 1, 1), multipliers=(1, 2, 1)),
    Cost(12_451, 307_760),
    tags=("tiny",),
)
