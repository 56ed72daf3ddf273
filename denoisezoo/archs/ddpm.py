"""DDPM's U-Net: "Denoising Diffusion Probabilistic Models", Ho, Jain, Abbeel 2020, arXiv 2006.11239.

Two residual blocks per level, single-head attention at 16x16, strided convolution down, nearest neighbour and
convolution up, additive sinusoidal time embedding. Layer for layer the network of the paper. What differs: our small
variants have fewer than 32 norm groups; class and augmentation labels, added to the time embedding, are ours, and so is
the conditioning image, concatenated to the input.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch

from denoisezoo.archs.unet import UNet, UNetConfig, UNetDesign
from denoisezoo.archs.variants import Cost, Family
from denoisezoo.errors import UserError
from denoisezoo.nn.blocks import BlockStyle, ConvDown, ConvUp, Shift, linear, xavier
from denoisezoo.nn.embeddings import ClassTable, Extras, NoiseEmbedding, SecondTime, Sinusoidal


@dataclass(frozen=True, kw_only=True)
class DDPMConfig(UNetConfig):
    """Sizes of a DDPM U-Net; see `UNetConfig`.

    Attributes:
        attend_once: Whether a decoder level attends in its last block only, as in the code of Song et al. 2021 (arXiv
            2011.13456) and its heirs, or in every block.
        norm_eps: Epsilon of the group norms; diffusers' default is 1e-5.
        cosines_first: Whether the noise features begin with the cosines, as improved DDPM's and diffusers' default do.
        endpoint: Whether the last frequency of the noise features is 1/10000 itself, or one step short of it, likewise.
        pad_around: Whether strided convolutions have zeros all around, likewise, or at the right and bottom only.
    """

    norm_groups: int | None = 32
    attend_once: bool = False
    norm_eps: float = 1e-6
    cosines_first: bool = False
    endpoint: bool = True
    pad_around: bool = False

    def validate(self) -> None:
        """See `BackboneConfig.validate`."""
        super().validate()
        if not 0 < self.norm_eps < 1:
            raise UserError(f"norm_eps is {self.norm_eps}", "give a small positive number, such as 1e-6")


class DDPM(UNet):
    """The network; c_noise is the paper's step index t in 0 ... 999."""

    def __init__(self, config: DDPMConfig) -> None:
        width = 4 * config.channels
        late = Extras(
            ClassTable(config.num_classes, width) if config.num_classes else None,
            linear(config.augment_dim, width, xavier, bias=False) if config.augment_dim else None,
        )
        waves = (torch.cos, torch.sin) if config.cosines_first else (torch.sin, torch.cos)
        features = Sinusoidal(config.channels, config.endpoint, waves, rounding=config.rounding)
        embedding = NoiseEmbedding(
            features, config.channels, width, xavier, late=late, until=SecondTime(width) if config.second_time else None
        )
        style = BlockStyle(
            Shift(),
            xavier,
            eps=config.norm_eps,
            norm_groups=config.norm_groups,
            dropout=config.dropout,
            num_heads=config.num_heads,
            head_channels=config.head_channels,
        )
        down, up = partial(ConvDown, init=xavier, around=config.pad_around), partial(ConvUp, init=xavier)
        design = UNetDesign(style, down, up, attend_once=config.attend_once)
        super().__init__(config, design, embedding)


FAMILY = Family("ddpm", DDPM, "Denoising Diffusion Probabilistic Models", "Ho, Jain, Abbeel", 2020, "2006.11239")

FAMILY.variant(
    "ddpm_cifar10", DDPMConfig(resolution=32, dropout=0.1), Cost(35_746_307, 6_221_856_768), tags=("reference",)
)
FAMILY.variant(  # w86763777/pytorch-ddpm, a port with other epsilons, features and padding, which DDSM slims
    "ddpm_cifar10_port",
    DDPMConfig(resolution=32, dropout=0.1, norm_eps=1e-5, endpoint=False, pad_around=True),
    Cost(35_746_307, 6_221_856_768),
    tags=("reference",),
)
FAMILY.variant(
    "ddpm_celeba64",
    DDPMConfig(resolution=64, multipliers=(1, 2, 2, 2, 4), dropout=0.1),
    Cost(78_700_803, 24_050_663_424),
    tags=("reference",),
)
FAMILY.variant(
    "ddpm_256",
    DDPMConfig(resolution=256, multipliers=(1, 1, 2, 2, 4, 4)),
    Cost(113_673_219, 248_513_757_184),
    tags=("reference",),
)
FAMILY.variant(
    "ddpm_fast_256",  # Fast-DDPM, arXiv 2405.14802: grey images, the condition beside them
    DDPMConfig(in_channels=1, cond_channels=1, out_channels=1, resolution=256, multipliers=(1, 1, 2, 2, 4, 4)),
    Cost(113_669_761, 248_287_264_768),
    tags=("reference",),
)
PAIR_160 = DDPMConfig(  # arXiv 2111.13606: image and condition in, and out again; super-resolution of faces
    in_channels=6,
    out_channels=6,
    resolution=160,
    channels=96,
    multipliers=(1, 1, 2, 2, 3, 3),
    attention=(20, 10, 5),
    dropout=0.1,
    attend_once=True,
)
PAIR_64 = replace(PAIR_160, resolution=64, channels=128, multipliers=(1, 1, 2, 2), attention=(16, 8))  # edges to shoes
FAMILY.variant("ddpm_pair_160", PAIR_160, Cost(43_481_862, 53_558_002_944), tags=("reference",))
FAMILY.variant(
    "ddpm_pair_160_clean", replace(PAIR_160, out_channels=3), Cost(43_479_267, 53_491_647_744), tags=("reference",)
)
FAMILY.variant("ddpm_pair_64", PAIR_64, Cost(28_752_902, 15_087_370_240), tags=("reference",))
FAMILY.variant(
    "ddpm_pair_64_clean", replace(PAIR_64, out_channels=3), Cost(28_749_443, 15_073_214_464), tags=("reference",)
)
FAMILY.variant(
    "ddpm_small32",
    DDPMConfig(resolution=32, channels=16, multipliers=(1, 2, 4, 8), blocks=1, attention=(8,), norm_groups=None),
    Cost(2_539_571, 126_781_440),
    tags=("small",),
)
FAMILY.variant(
    "ddpm_digits",
    DDPMConfig(
        in_channels=1,
        out_channels=1,
        resolution=16,
        channels=8,
        multipliers=(1, 2, 8),
        blocks=1,
        attention=(4,),
        norm_groups=None,
    ),
    Cost(558_265, 13_673_984),
    tags=("small",),
)
FAMILY.variant(
    "ddpm_tiny",
    DDPMConfig(
        resolution=8,
        channels=8,
        multipliers=(1, 2),
        blocks=1,
        attention=(4,),
        norm_groups=None,
        dropout=0.1,
        num_classes=3,
        cond_channels=1,
        augment_dim=2,
    ),
    Cost(45_491, 1_066_048),
    tags=("tiny",),
)
