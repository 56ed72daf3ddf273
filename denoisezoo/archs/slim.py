"""Slimmable networks: "Denoising Diffusion Step-aware Models" (DDSM), Yang, Chen, Wu, Wu, Xu, Liang, Wang, Zhang 2023,
arXiv 2310.03337. One set of weights serves several widths; a width is an effort, so that a plan can choose one for each
noise level. Any U-Net of the zoo becomes slimmable by naming it as the base.

- `slim_ddpm_cifar10` is the released supernet (EnVision-Research/DDSM): DDPM's CIFAR-10 network, its time embedding
  slimmed, too, but for the sinusoids; 32 groups in every norm, so that at width 0.25 a group is a single channel; one
  scale and shift per norm; and decoder blocks that multiply [decoder, skip] by the first columns of their weights, so
  that below full width a skip's channels meet the weights of others.
- `slim_ddpm_cifar10_aligned` is mended: the two are sliced apart, groups keep their channels, every width has norms of
  its own (Yu et al. 2018, arXiv 1812.08928). The small variants are made this way.
- `slim_missing_u_digits` can also choose the number of solver steps of its ODE blocks: effort = steps - 1 + width.

Efforts are ordered by cost. `extract` gives a plain network of one width, whose calls cost what its parameters suggest.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from denoisezoo.archs.backbone import Backbone, BackboneConfig, Effort, Extracted
from denoisezoo.archs.unet import with_image
from denoisezoo.archs.variants import Cost, Family, get_variant, replace_config
from denoisezoo.errors import UserError
from denoisezoo.nn.embeddings import ClassTable, Extras, NoiseEmbedding, SecondTime, no_label
from denoisezoo.nn.given import NOTHING, Given
from denoisezoo.nn.slimmable import (
    SlimClassTable,
    SlimConditioning,
    SlimConv2d,
    SlimLinear,
    Slimmable,
    Slimming,
    densify,
    replace_layers,
    slim,
)


@dataclass(frozen=True, kw_only=True)
class SlimConfig(BackboneConfig):
    """What is slimmed, and how; see `Slimming`.

    Attributes:
        base: Registry name of the network.
        channels: Base width of it at full width; 0 leaves its own.
        widths: Shares of the channels, increasing; the last is 1.
        steps: Solver steps of a base with ODE blocks, increasing; () for other bases.
        aligned: Whether the two tensors that a decoder block concatenates are sliced apart.
        groups: Norm groups of smaller widths: as many as at full width, or in proportion.
        norms: Whether widths share the scales and shifts of norms.
    """

    base: str = "ddpm_cifar10"
    channels: int = 0
    widths: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)
    steps: tuple[int, ...] = ()
    aligned: bool = True
    groups: Literal["fixed", "scaled"] = "scaled"
    norms: Literal["shared", "per_width"] = "per_width"

    @property
    def slimming(self) -> Slimming:
        """How weights are shared."""
        return Slimming(self.widths, self.aligned, self.groups, self.norms)

    @property
    def choices(self) -> dict[Effort, tuple[float, Effort]]:
        """Effort -> (width, effort of the base), cheapest first: convolutions cost steps x width^2."""
        pairs = [(width, steps) for steps in self.steps or (1,) for width in self.widths]
        return {n - 1 + w: (w, float(n)) for w, n in sorted(pairs, key=lambda pair: (pair[1] * pair[0] ** 2, pair[0]))}

    @property
    def efforts(self) -> tuple[Effort, ...]:
        """Widths; with several solver steps n, n - 1 + width."""
        return tuple(self.choices)

    def validate(self) -> None:
        """See `BackboneConfig.validate`."""
        super().validate()
        widths = self.widths
        if not widths or list(widths) != sorted(set(widths)) or widths[0] <= 0 or widths[-1] != 1:
            raise UserError(f"widths is {widths}", "give increasing shares that end at 1, e.g. (0.25, 0.5, 0.75, 1.0)")
        if list(self.steps) != sorted(set(self.steps)) or any(n < 1 for n in self.steps):
            raise UserError(f"steps is {self.steps}", "give increasing whole numbers of at least 1, e.g. (1, 2, 4)")
        get_variant(self.base)

    @property
    def base_config(self) -> BackboneConfig:
        """Sizes of the network at full width."""
        image = {name: getattr(self, name) for name in BackboneConfig.__dataclass_fields__}
        sizes = {"channels": self.channels} if self.channels else {}
        if isinstance(get_variant(self.base).config, SlimConfig):
            raise UserError(f"{self.base} is slimmable already", "name a plain network as the base")
        overrides = image | sizes | ({"steps": self.steps} if self.steps else {})
        return replace_config(get_variant(self.base).config, overrides, self.base)

    def changed_since(self, format: int) -> str | None:
        """See `BackboneConfig.changed_since`."""
        return self.base_config.changed_since(format)

    def build_base(self) -> Any:
        """The network at full width, not yet slimmable."""
        return get_variant(self.base).family.network(self.base_config)


class SlimExtras(Slimmable, Extras):
    """`Extras` at the width of the tensor that they are added to."""

    def __init__(self, extras: Extras) -> None:
        classes = SlimClassTable(extras.classes) if isinstance(extras.classes, ClassTable) else None
        augment = SlimLinear(extras.augment, fixed_in=True) if isinstance(extras.augment, nn.Linear) else None
        if extras.classes is not None and classes is None:
            raise UserError(f"{type(extras.classes).__name__} has no slimmable form", "choose another base")
        Extras.__init__(self, classes, augment)

    def dense(self, width: float) -> Extras:
        """See `Slimmable`."""
        parts: tuple[Any, ...] = (self.classes, self.augment)
        return Extras(*(None if part is None else part.dense(width) for part in parts))

    def forward(self, given: Given, like: Tensor) -> Tensor | float:
        """See `Extras`."""
        total: Tensor | float = 0.0
        if self.classes is not None:
            total = total + self.classes(no_label(like) if given.label is None else given.label, like.shape[1])
        if self.augment is not None and given.augment is not None:
            total = total + self.augment(given.augment, like.shape[1])
        return total


class SlimSecondTime(Slimmable, SecondTime):
    """`SecondTime` at the width of the embedding that it is added to."""

    def __init__(self, until: SecondTime) -> None:
        nn.Module.__init__(self)
        self.project: Any = SlimLinear(until.project, fixed_in=True)

    def dense(self, width: float) -> SecondTime:
        """See `Slimmable`."""
        project = self.project.dense(width)
        until = SecondTime(project.out_features)
        until.project = project
        return until

    def forward(self, c_noise: Tensor, given: Given, like: Tensor) -> Tensor | float:
        """See `SecondTime`."""
        if given.until is None:
            return 0.0
        added: Tensor = self.project(self.features(c_noise, given.until).to(like.dtype), like.shape[1])
        return added


def prepare_ends(net: Any) -> None:
    """Make those layers of a network slimmable that always get, or always give, all of their channels.

    Raises:
        UserError: A network that is no U-Net, does not begin with a convolution, or is blind to noise.
    """
    if not (hasattr(net, "stem") and hasattr(net, "embedding")):
        cure = "choose a plain U-Net; of a network that is made of several, slim each"
        raise UserError("it is no U-Net by itself", cure)
    if not isinstance(net.stem, nn.Conv2d) or not isinstance(net.embedding, NoiseEmbedding):
        raise UserError("its stem or its noise embedding has no slimmable form", "choose another base")
    if len(getattr(net, "pyramid", ())):
        raise UserError("its pyramid of the input has no slimmable form", "choose another base")
    net.stem = SlimConv2d(net.stem, fixed_in=True)
    net.conditioning = SlimConditioning(net.conditioning)
    embedding: Any = net.embedding
    embedding.first = SlimLinear(embedding.first, fixed_in=True)
    embedding.late = None if embedding.late is None else SlimExtras(embedding.late)
    embedding.until = None if embedding.until is None else SlimSecondTime(embedding.until)
    if embedding.early is not None:
        replace_layers(embedding.early, _full_linear)
    if isinstance(net.head, nn.Conv2d):
        net.head = SlimConv2d(net.head, fixed_out=True)
    replace_layers(net.head, lambda layer: SlimConv2d(layer, fixed_out=True) if isinstance(layer, nn.Conv2d) else None)


def _full_linear(layer: nn.Module) -> SlimLinear | None:
    return SlimLinear(layer, fixed_in=True, fixed_out=True) if isinstance(layer, nn.Linear) else None


class Slim(Backbone):
    """A slimmable network; the effort is its width, or its width and the solver steps of its ODE blocks."""

    def __init__(self, config: SlimConfig) -> None:
        super().__init__(config)
        net = config.build_base()
        try:
            prepare_ends(net)
            slim(net, config.slimming)
        except UserError as error:
            raise UserError(f"{config.base} cannot be slimmed: {error.what}", error.cure) from error
        self.choices = config.choices
        self.net, self.factor = net, net.factor

    def forward(self, x: Tensor, c_noise: Tensor, given: Given = NOTHING, effort: Effort | None = None) -> Tensor:
        """See `Backbone.forward`."""
        width, inner = self.choices[self.check_effort(effort)]
        net = self.net
        image = with_image(x, given)
        h = net.stem(image, out=round(net.stem.out_full * width))
        embedding = net.embedding(c_noise, given, out=round(net.embedding.width * width))
        y: Tensor = net.evaluate(h, embedding, image, c_noise, inner)
        return y

    def extract(self, effort: Effort) -> Backbone:
        """A plain network of the effort's width, with weights of its own; see `Backbone.extract`."""
        width, inner = self.choices[self.check_effort(effort)]
        net = copy.deepcopy(self.net)
        densify(net, width)
        return Extracted(net, self.spec, effort, inner)

    def num_params(self, effort: Effort | None = None) -> int:
        """See `Backbone.num_params`."""
        if effort is None:
            return super().num_params()
        with torch.device("meta"):
            net = copy.deepcopy(self).to("meta").extract(effort)
        return net.num_params()


FAMILY = Family(
    "slim",
    Slim,
    "Denoising Diffusion Step-aware Models",
    "Yang, Chen, Wu, Wu, Xu, Liang, Wang, Zhang",
    2023,
    "2310.03337",
)

DDSM = SlimConfig(resolution=32, aligned=False, groups="fixed", norms="shared")
LABELS: dict[str, Any] = {"num_classes": 3, "cond_channels": 1, "augment_dim": 2}
GREY: dict[str, Any] = {"in_channels": 1, "out_channels": 1, "resolution": 16}
CIFAR10 = (
    Cost(2_258_051, 421_687_296),
    Cost(8_968_451, 1_599_225_856),
    Cost(20_131_203, 3_532_615_680),
    Cost(35_746_307, 6_221_856_768),
)

FAMILY.variant("slim_ddpm_cifar10", DDSM, *CIFAR10, tags=("reference",))
FAMILY.variant("slim_ddpm_cifar10_aligned", SlimConfig(resolution=32), *CIFAR10)
FAMILY.variant(
    "slim_ddpm_small32",
    SlimConfig(base="ddpm_small32", resolution=32),
    Cost(161_087, 8_397_120),
    Cost(638_043, 32_326_400),
    Cost(1_430_871, 71_787_840),
    Cost(2_539_571, 126_781_440),
    tags=("small",),
)
FAMILY.variant(
    "slim_ddpm_digits",
    SlimConfig(base="ddpm_digits", channels=16, widths=(0.5, 0.75, 1.0), **GREY),
    Cost(558_521, 13_674_240),
    Cost(1_252_453, 30_640_704),
    Cost(2_222_833, 54_360_064),
    tags=("small",),
)
FAMILY.variant(
    "slim_missing_u_digits",
    SlimConfig(base="missing_u_fast_digits", widths=(0.5, 1.0), steps=(1, 2, 4), **GREY),
    Cost(121_217, 1_773_248),
    Cost(121_217, 3_291_584),
    Cost(121_217, 6_328_256),
    Cost(477_735, 6_990_592),
    Cost(477_735, 13_063_936),
    Cost(477_735, 25_210_624),
    tags=("small",),
)
FAMILY.variant(
    "slim_tiny",
    SlimConfig(base="ddpm_tiny", resolution=8, widths=(0.5, 1.0), **LABELS),
    Cost(11_947, 282_848),
    Cost(45_491, 1_066_048),
    tags=("tiny",),
)
FAMILY.variant(
    "slim_tiny_reference",
    SlimConfig(
        base="ddpm_tiny", resolution=8, widths=(0.5, 1.0), aligned=False, groups="fixed", norms="shared", **LABELS
    ),
    Cost(11_947, 282_848),
    Cost(45_491, 1_066_048),
    tags=("tiny", "test"),
)
FAMILY.variant(
    "slim_missing_u_tiny",
    SlimConfig(base="missing_u_fast_tiny", resolution=8, widths=(0.5, 1.0), steps=(1, 2), **LABELS),
    Cost(8_087, 123_920),
    Cost(8_087, 208_016),
    Cost(30_859, 446_752),
    Cost(30_859, 783_136),
    tags=("tiny", "test"),
)
