"""Continuous U-Net: "The Missing U for Efficient Diffusion Models", Calvo-Ordonez, Cheng, Huang, Zhang, Yang,
Schonlieb, Aviles-Rivero 2023, arXiv 2310.20092. Each level of a U-Net is one ODE block: a convolutional vector field,
integrated over [0, 1] with a few evaluations of the same weights. The numbers are those of the released code,
Sergio20f/cDDPM, whose solver is torchdiffeq's rk4 in one step of size 1: four evaluations per block.

- `missing_u_64` is the released network. It is blind to the noise level: its blocks were built without the embedding,
  and the InstanceNorm in its stem erases brightness and contrast of the noisy image, too. The frozen table of sinusoids
  (256,000 of its 8,811,875 parameters) is never read. MACs count all stages and the attention products.
- `missing_u_64_time` has the scale and shift by the noise level that the released code leaves out. Its sinusoids are
  the table's rows at any real c_noise, with the released frequencies, the slowest third of them all but constant.
- `missing_u_64_second_order` is what the text describes and the code is not: x'' = F(x, x', tau), as z = [x, v] with
  x' = v, GroupNorm, a learned initial velocity, attention with a residual, no activation that forbids negative
  velocities, no norm on the noisy image. Which network the paper's tables belong to is unknown.
- `missing_u_64_discrete` is the control: as many evaluations as `missing_u_64_time`, each with weights of its own.

`missing_u_fast_64` (also `_digits`, `_small32`) is ours, for CPUs, and differs from the paper in these ways:

- The field has one norm and one activation (norm, scale and shift, 3x3, SiLU, 3x3): at 64x64 the passes over memory
  cost as much as the convolutions. Its last convolution starts at zero, so that every block starts as the identity, and
  there is no "+ z", which by itself multiplies the state by 2.7 in each block.
- One evaluation per block, an Euler step: at equal MACs, width bought more than evaluations did. On digits (25,600
  images, one seed) widths (8, 20, 48, 104) with two steps reach fd_pixels 1.30, widths (14, 28, 56, 112) with one 0.98.
  The field does not depend on solver time, so that more steps, or another solver, still mean the same equation.
- Strided 2x2 convolutions down; up, 1x1 convolutions before the resampling, where they cost a quarter, added to a 1x1
  convolution of the skip: no concatenation.
- Conditioning by an MLP and one matrix product for all blocks; attention with a residual at 8x8 and 4x4 only.

The solver is the field `solver` of the configuration; `archs.ode.with_solver` changes it under the same weights. What
differs from the released code throughout: average pooling for its bilinear halving and a GroupNorm of one channel per
group for InstanceNorm, both the same numbers; labels and a conditioning image are ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denoisezoo.archs.continuous_unet import ContinuousDesign, ContinuousUNet, ContinuousUNetConfig
from denoisezoo.archs.variants import Cost, Family
from denoisezoo.errors import UserError
from denoisezoo.nn.blocks import average_pool, conv, group_norm, kaiming, linear, nearest, silu
from denoisezoo.nn.embeddings import BareEmbedding, ClassTable, Extras, NoiseEmbedding, SecondTime, Sinusoidal
from denoisezoo.nn.ode_block import ApproximatorStyle, FirstOrder, Growing, SecondOrder


@dataclass(frozen=True, kw_only=True)
class MissingUConfig(ContinuousUNetConfig):
    """Sizes, design and solver; see `ContinuousUNetConfig`.

    Attributes:
        design: Which fields, stem, resampling and head; see the module's docstring.
        conditioning: How the noise level enters: not at all, sinusoids straight into the blocks, or through an MLP.
        embedding: Width of the noise embedding, even.
        table: Rows of the released code's frozen table of sinusoids, which is counted but never read; 0 for none.
    """

    design: Literal["released", "second_order", "fast"] = "released"
    conditioning: Literal["none", "sinusoid", "mlp"] = "none"
    embedding: int = 256
    table: int = 0

    def validate(self) -> None:
        """See `BackboneConfig.validate`."""
        super().validate()
        if self.conditioning == "none" and (self.num_classes or self.augment_dim):
            raise UserError("a network without conditioning takes no labels", "set conditioning=mlp")
        if self.conditioning == "none" and self.second_time:
            raise UserError("a network that is blind to the noise level takes no second time", "set conditioning=mlp")
        if self.embedding < 4 or self.embedding % 2:
            raise UserError(f"embedding is {self.embedding}", "give an even number of at least 4")
        if self.table < 0:
            raise UserError(f"table is {self.table}", "give 0 for none, or 1000 as in the released code")


class ReleasedSinusoids(nn.Module):
    """Rows of the released table at any real c_noise: (B,) -> (B, width), sines and cosines in turn.

    Its frequencies are 10000^(-4k / width): the code means 2k / width, but k is the channel there, which counts by 2.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, c_noise: Tensor) -> Tensor:
        """Embed, in float32."""
        k = torch.arange(self.width // 2, dtype=torch.float32, device=c_noise.device)
        angle = c_noise.float()[:, None] * 10000 ** (-4 * k / self.width)
        return torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1)


class InstanceNorm(nn.GroupNorm):
    """InstanceNorm without affine, as a GroupNorm, which keeps channels_last.

    What it norms are outputs of softplus, of more mean than deviation, and torch's kernel for channels_last on CPUs
    takes the variance as a difference of squares: the mean goes first, or rounding errors would be many times larger.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, C, H, W)."""
        return super().forward(x - x.mean((2, 3), keepdim=True))


group_norm_8 = partial(group_norm, eps=1e-5, most=8)


class ReleasedStem(nn.Module):
    """The released "initial velocity": norm, 3x3, softplus, norm, 1x1, softplus. Its output is the whole state."""

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()
        self.norm0, self.norm1 = InstanceNorm(in_channels), InstanceNorm(width // 2)
        self.conv0 = conv(in_channels, width // 2, 3, kaiming)
        self.conv1 = conv(width // 2, width, 1, kaiming)

    def forward(self, image: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, width, H, W)."""
        h = F.softplus(self.conv0(self.norm0(image)))
        return F.softplus(self.conv1(self.norm1(h)))


class PositionAndVelocity(nn.Module):
    """z(0) = [x, v]: x a convolution of the image, v = g(x) with a learned g, the initial velocity."""

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()
        half = width // 2
        self.position = conv(in_channels, half, 3, kaiming)
        self.norm0, self.norm1 = group_norm_8(half), group_norm_8(half)
        self.conv0, self.conv1 = conv(half, half, 3, kaiming), conv(half, half, 1, kaiming)

    def forward(self, image: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, width, H, W)."""
        x = self.position(image)
        v = self.conv1(self.norm1(silu(self.conv0(self.norm0(x)))))
        return torch.cat([x, v], dim=1)


class ConvPoolDown(nn.Module):
    """1x1 convolution, activation, average: (B, C, H, W) -> (B, width, H/2, W/2)."""

    def __init__(self, channels: int, width: int, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.activation = conv(channels, width, 1, kaiming), activation

    def forward(self, x: Tensor) -> Tensor:
        """Project, then halve."""
        return average_pool(self.activation(self.conv(x)))


class ConcatUp(nn.Module):
    """Bilinear doubling, concatenation, 1x1 convolution, activation: (B, C, H, W) -> (B, width, 2H, 2W)."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.conv = conv(channels + width, width, 1, kaiming)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Double x and join it with skip (B, width, 2H, 2W)."""
        return F.softplus(self.conv(torch.cat([bilinear(x), skip], dim=1)))


class SumUp(nn.Module):
    """A linear map of the concatenation, with the part of x computed before it is doubled, at a quarter of the cost."""

    def __init__(self, channels: int, width: int, doubled: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.skip, self.doubled = conv(channels, width, 1, kaiming), conv(width, width, 1, kaiming), doubled

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """See `ConcatUp.forward`."""
        return self.skip(skip) + self.doubled(self.conv(x))


class StridedDown(nn.Conv2d):
    """2x2 convolution with stride 2: (B, C, H, W) -> (B, width, H/2, W/2)."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__(channels, width, 2, stride=2)
        kaiming(self.weight, self.bias, 1.0)


class NormHead(nn.Module):
    """Norm, SiLU and a 3x3 convolution that starts at zero: (B, width, H, W) -> (B, out_channels, H, W)."""

    def __init__(self, width: int, out_channels: int) -> None:
        super().__init__()
        self.norm = group_norm(width, 1e-5)
        self.conv = conv(width, out_channels, 3, kaiming, gain=0.0)

    def forward(self, x: Tensor) -> Tensor:
        """Map the last state."""
        return self.conv(silu(self.norm(x)))


def bilinear(x: Tensor) -> Tensor:
    """Double the size by bilinear interpolation."""
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


DESIGNS: dict[str, ContinuousDesign] = {
    "released": ContinuousDesign(
        Growing,
        ApproximatorStyle(InstanceNorm, F.softplus, closes=True, last_gain=1.0),
        stem=ReleasedStem,
        down=partial(ConvPoolDown, activation=F.softplus),
        up=ConcatUp,
        head=partial(conv, kernel=1, init=kaiming),
        replaces=True,
    ),
    "second_order": ContinuousDesign(
        SecondOrder,
        ApproximatorStyle(group_norm_8, silu),
        stem=PositionAndVelocity,
        down=partial(ConvPoolDown, activation=nn.Identity()),
        up=partial(SumUp, doubled=bilinear),
        head=NormHead,
    ),
    "fast": ContinuousDesign(
        FirstOrder,
        ApproximatorStyle(partial(group_norm, eps=1e-5), silu, norms=1),
        stem=partial(conv, kernel=3, init=kaiming),
        down=StridedDown,
        up=partial(SumUp, doubled=nearest),
        head=NormHead,
    ),
}


class MissingU(ContinuousUNet):
    """The network; c_noise is the step index t in 0 ... 999."""

    def __init__(self, config: MissingUConfig) -> None:
        config.validate()
        super().__init__(config, DESIGNS[config.design], _embedding(config))
        # The released code owns the table whether it uses it or not.
        rows = ReleasedSinusoids(config.embedding)(torch.arange(config.table)) if config.table else None
        self.table = None if rows is None else nn.Parameter(rows, requires_grad=False)


def _embedding(config: MissingUConfig) -> BareEmbedding | NoiseEmbedding | None:
    """How the noise level enters."""
    if config.conditioning == "none":
        return None
    width = config.embedding
    late = Extras(
        ClassTable(config.num_classes, width) if config.num_classes else None,
        linear(config.augment_dim, width, kaiming, bias=False) if config.augment_dim else None,
    )
    until = SecondTime(width) if config.second_time else None
    if config.conditioning == "sinusoid":
        return BareEmbedding(ReleasedSinusoids(width), width, late, until)
    return NoiseEmbedding(Sinusoidal(width), width, width, kaiming, late=late, until=until)


FAMILY = Family(
    "missing_u",
    MissingU,
    "The Missing U for Efficient Diffusion Models",
    "Calvo-Ordonez, Cheng, Huang, et al.",
    2023,
    "2310.20092",
)

RELEASED = MissingUConfig()
TIME = replace(RELEASED, conditioning="sinusoid")
DISCRETE = replace(TIME, tied=False, solver="euler", steps=(4,))
SECOND_ORDER = replace(RELEASED, design="second_order", conditioning="mlp", solver="midpoint", steps=(1, 2), timed=True)
FAST = MissingUConfig(
    design="fast",
    conditioning="mlp",
    widths=(48, 96, 192, 288, 304),
    attention=(8, 4),
    solver="euler",
)

IMAGES_64: dict[str, Any] = {"table": 1000}
SMALL32: dict[str, Any] = {
    "resolution": 32,
    "widths": (16, 32, 64, 128, 256),
    "attention": (4,),
    "head_channels": 16,
    "embedding": 128,
}
DIGITS: dict[str, Any] = {
    "in_channels": 1,
    "out_channels": 1,
    "resolution": 16,
    "widths": (8, 16, 48, 128),
    "attention": (4,),
    "head_channels": 8,
    "embedding": 64,
}
TINY: dict[str, Any] = {
    "resolution": 8,
    "widths": (8, 16, 24),
    "attention": (4,),
    "heads": 2,
    "head_channels": 8,
    "embedding": 16,
}
LABELS: dict[str, Any] = {"num_classes": 3, "cond_channels": 1, "augment_dim": 2}

BRIGHTNESS = "the stem's InstanceNorm erases what is added to all pixels of a channel"
BLIND = {"test_depends_on[c_noise]": "the released network is blind to the noise level"}
ERASED = {"test_depends_on[x]": BRIGHTNESS, "test_depends_on[image]": BRIGHTNESS}

REFERENCE, SMALL, TEST = ("reference",), ("small",), ("tiny",)
FAMILY.variant("missing_u_64", replace(RELEASED, **IMAGES_64), Cost(8_811_875, 2_824_929_280), tags=REFERENCE)
FAMILY.variant("missing_u_small32", replace(RELEASED, **SMALL32), Cost(2_140_467, 176_627_712), tags=SMALL)
FAMILY.variant("missing_u_digits", replace(RELEASED, **DIGITS), Cost(419_457, 15_424_512), tags=SMALL)
FAMILY.variant(
    "missing_u_tiny",
    replace(RELEASED, **TINY, cond_channels=1),
    Cost(25_767, 1_444_352),
    tags=TEST,
    expected_failures=BLIND | ERASED,
)

FAMILY.variant("missing_u_64_time", replace(TIME, **IMAGES_64), Cost(9_568_483, 2_825_682_944), tags=REFERENCE)
FAMILY.variant("missing_u_time_small32", replace(TIME, **SMALL32), Cost(2_330_355, 176_816_128), tags=SMALL)
FAMILY.variant("missing_u_time_digits", replace(TIME, **DIGITS), Cost(454_817, 15_459_328), tags=SMALL)
FAMILY.variant(
    "missing_u_time_tiny", replace(TIME, **TINY, **LABELS), Cost(28_295, 1_446_688), tags=TEST, expected_failures=ERASED
)

FAMILY.variant(
    "missing_u_64_second_order",
    SECOND_ORDER,
    Cost(7_492_579, 1_113_489_408),
    Cost(7_492_579, 2_132_705_280),
    tags=REFERENCE,
)
FAMILY.variant(
    "missing_u_second_order_small32",
    replace(SECOND_ORDER, **SMALL32),
    Cost(1_877_875, 70_025_216),
    Cost(1_877_875, 133_726_208),
    tags=SMALL,
)
FAMILY.variant(
    "missing_u_second_order_digits",
    replace(SECOND_ORDER, **DIGITS),
    Cost(367_585, 6_165_504),
    Cost(367_585, 11_695_104),
    tags=SMALL,
)
FAMILY.variant(
    "missing_u_second_order_tiny",
    replace(SECOND_ORDER, **TINY, **LABELS),
    Cost(24_139, 615_968),
    Cost(24_139, 1_120_544),
    tags=TEST,
)

FAMILY.variant("missing_u_64_discrete", replace(DISCRETE, **IMAGES_64), Cost(35_403_235, 2_827_943_936), tags=REFERENCE)
FAMILY.variant("missing_u_discrete_small32", replace(DISCRETE, **SMALL32), Cost(8_793_459, 177_381_376), tags=SMALL)
FAMILY.variant("missing_u_discrete_digits", replace(DISCRETE, **DIGITS), Cost(1_730_657, 15_563_776), tags=SMALL)
FAMILY.variant(
    "missing_u_discrete_tiny",
    replace(DISCRETE, **TINY, **LABELS),
    Cost(101_735, 1_453_600),
    tags=TEST,
    expected_failures=ERASED,
)

FAMILY.variant("missing_u_fast_64", FAST, Cost(8_744_771, 1_377_509_376))
FAMILY.variant(
    "missing_u_fast_small32",
    replace(FAST, **SMALL32 | {"widths": (24, 48, 96, 144, 152), "attention": (8, 4)}),
    Cost(2_200_627, 90_900_480),
    tags=SMALL,
)
FAMILY.variant(
    "missing_u_fast_digits",
    replace(FAST, **DIGITS | {"widths": (14, 28, 52, 112), "attention": (4, 2)}),
    Cost(477_735, 6_990_592),
    tags=SMALL,
)
FAMILY.variant("missing_u_fast_tiny", replace(FAST, **TINY, **LABELS), Cost(30_859, 446_752), tags=TEST)
