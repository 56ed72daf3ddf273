"""UDPM: "Upsampling Diffusion Probabilistic Models", Abu-Hussein, Giryes 2024, arXiv 2305.16269.

An NCSN++ that sees the image halved once or several times, and returns it at twice the size that it sees: 4 output
channels for each of the image's, rearranged by pixel shuffle. One network serves all levels of the process
(`DownSampling`); it is built for half the size of the image, and the levels that attend are those of that size, so that
smaller images are attended to at fewer pixels.

- `udpm_cifar10` (class-conditional) and `udpm_64` are the published networks.

MACs of an entry are those of its largest call, at half the size of the image; `profile --sampler udpm` has each call's.
What differs from the published code: a conditioning image, averaged to the size of the noisy image, is concatenated to
it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from denoisezoo.archs.backbone import Backbone, Effort, ImageSpec
from denoisezoo.archs.songunet import SongUNet, SongUNetConfig
from denoisezoo.archs.variants import Cost, Family
from denoisezoo.errors import UserError
from denoisezoo.nn.blocks import xavier
from denoisezoo.nn.given import NOTHING, Given

SCALE = 2


@dataclass(frozen=True, kw_only=True)
class UDPMConfig(SongUNetConfig):
    """Sizes; `resolution` is that of the image, `attention` counts pixels of the levels of half an image.

    Attributes:
        head_gain: Gain of the last convolution at first. 0, the published one, begins with one image for any noise,
            which a short adversarial training does not leave; 1 begins with a different image for each.
    """

    features: Any = "fourier"
    taps: tuple[int, ...] = (1, 3, 3, 1)
    pyramid: bool = True
    head_gain: float = 0.0

    @property
    def spec(self) -> ImageSpec:
        """See `BackboneConfig.spec`."""
        return replace(super().spec, scale=SCALE)

    @property
    def inner(self) -> SongUNetConfig:
        """The U-Net: half the size, four times the output channels."""
        values = {field.name: getattr(self, field.name) for field in fields(SongUNetConfig)}
        size = {"resolution": self.resolution // SCALE, "out_channels": SCALE**2 * self.out_channels}
        return SongUNetConfig(**values | size)

    def validate(self) -> None:
        """See `BackboneConfig.validate`."""
        super().validate()
        self.require_halvings(len(self.multipliers))
        if self.head_gain < 0:
            raise UserError(f"head_gain is {self.head_gain}", "give 0, or 1")


class UDPM(Backbone):
    """The network: (B, C, H, W) to (B, C, 2H, 2W)."""

    def __init__(self, config: UDPMConfig) -> None:
        super().__init__(config)
        self.unet = SongUNet(config.inner)
        if config.head_gain:
            xavier(self.unet.head.weight, self.unet.head.bias, config.head_gain)

    def check_inputs(self, x: Tensor, given: Given) -> None:
        """The network within looks itself."""

    def forward(self, x: Tensor, c_noise: Tensor, given: Given = NOTHING, effort: Effort | None = None) -> Tensor:
        """See `Backbone.forward`; x (B, C, H, W) may also be halved further."""
        factor = self.unet.factor
        if x.shape[2] % factor or x.shape[3] % factor:
            raise UserError(
                f"images of {x.shape[2]}x{x.shape[3]} are too small for this network, which divides them by {factor}",
                "give the process fewer levels, or the network fewer multipliers",
            )
        out = self.unet(x, c_noise, given.averaged_to(x), effort)
        return F.pixel_shuffle(out, SCALE)


FAMILY = Family("udpm", UDPM, "Upsampling Diffusion Probabilistic Models", "Abu-Hussein, Giryes", 2024, "2305.16269")

FAMILY.variant(
    "udpm_cifar10",
    UDPMConfig(resolution=32, multipliers=(2, 2, 2), attention=(8, 4), num_classes=10),
    Cost(57_737_484, 5_359_056_384),
    tags=("reference",),
)
FAMILY.variant(
    "udpm_64",
    UDPMConfig(resolution=64, multipliers=(1, 2, 2, 2), attention=(16, 8, 4)),
    Cost(65_405_964, 11_137_054_208),
    tags=("reference",),
)
FAMILY.variant(
    "udpm_small32",
    UDPMConfig(resolution=32, channels=36, multipliers=(1, 2, 3), blocks=1, attention=(8,)),
    Cost(2_494_200, 123_908_400),
    tags=("small",),
)
FAMILY.variant(
    "udpm_small64",
    UDPMConfig(resolution=64, channels=32, multipliers=(1, 2, 2, 3), blocks=1, attention=(8,)),
    Cost(2_520_044, 339_778_944),
    tags=("small",),
)
FAMILY.variant(
    "udpm_digits",
    UDPMConfig(in_channels=1, out_channels=1, resolution=16, channels=28, multipliers=(1, 2), blocks=1, attention=(4,)),
    Cost(578_120, 14_448_112),
    tags=("small",),
)
FAMILY.variant(
    "udpm_tiny",
    UDPMConfig(
        resolution=16,
        channels=8,
        multipliers=(1, 2),
        blocks=1,
        attention=(4,),
        dropout=0.1,
        num_classes=3,
        cond_channels=1,
        augment_dim=2,
    ),
    Cost(49_652, 1_301_200),
    tags=("tiny",),
)
