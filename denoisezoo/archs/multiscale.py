"""Multi-scale denoisers: "Non-Uniform Diffusion Models", Batzolis, Stanczuk, Schonlieb, Etmann 2022, arXiv 2207.09786.

One network for each size of the noisy image: while only the coarse bands of a Haar pyramid hold any signal, the image
is small, and a small network does. The image's own size chooses the network; the diffusion process (`MultiScale`)
says when it changes, and takes the image out of its wavelet basis and back, so that stages are ordinary networks.
Any registered network can be a stage, slimmable ones and ODE blocks included, and any effort of theirs reaches it.

- `multiscale_128` and `multiscale_128_deep` are the paper's four U-Nets each, guided-diffusion's (here `adm`) with 3
  outputs; their stages, `adm_msdiff_128_d1` ... `a3`, are in the zoo by themselves, with their own costs.
- `vanilla_128` is the uniform baseline of the paper: one U-Net at full size.

MACs of an entry are those of its first stage, the full size; the trajectory of `profile --sampler` has each call's.
What differs from the published code: images are in [-1, 1] instead of [0, 1]; the output's meaning is the
preconditioning's, not always the score; labels, augmentation labels and a conditioning image, averaged to the size of
the stage, are passed on.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor, nn

from denoisezoo.archs.adm import FAMILY as ADM_FAMILY
from denoisezoo.archs.adm import ADMConfig
from denoisezoo.archs.backbone import Backbone, BackboneConfig, Effort
from denoisezoo.archs.ddpm import FAMILY as DDPM_FAMILY
from denoisezoo.archs.ddpm import DDPMConfig
from denoisezoo.archs.variants import Cost, Family, get_variant, replace_config
from denoisezoo.errors import UserError
from denoisezoo.nn.given import NOTHING, Given


@dataclass(frozen=True, kw_only=True)
class MultiscaleConfig(BackboneConfig):
    """Which network serves which size.

    Attributes:
        base: Registered networks of the stages, the full size first; one name stands for all stages. Each is built for
            its own size, with the channels, classes and conditions of this configuration.
        levels: Halvings of the image; one stage more than that.
        sizes: Fields of their own configurations that differ from the registered ones, for each stage; () for none.
    """

    base: tuple[str, ...] = ("ddpm_small32",)
    levels: int = 2
    sizes: tuple[dict[str, Any], ...] = ()

    @property
    def stages(self) -> tuple[BackboneConfig, ...]:
        """The configuration of each stage's network, the full size first."""
        names = self.base * (self.levels + 1) if len(self.base) == 1 else self.base
        return tuple(self._stage(name, level) for level, name in enumerate(names))

    def _stage(self, name: str, level: int) -> BackboneConfig:
        image = {field.name: getattr(self, field.name) for field in fields(BackboneConfig)}
        sizes = self.sizes[level] if self.sizes else {}
        return replace_config(get_variant(name).config, image | sizes | {"resolution": self.resolution >> level}, name)

    @property
    def efforts(self) -> tuple[Effort, ...]:
        """Those of the stages that have a choice, which must all have the same one."""
        choices = {stage.efforts for stage in self.stages if len(stage.efforts) > 1}
        return next(iter(choices)) if choices else (1.0,)

    def changed_since(self, format: int) -> str | None:
        """See `BackboneConfig.changed_since`: that of the first stage that has changed."""
        return next(filter(None, (stage.changed_since(format) for stage in self.stages)), None)

    def validate(self) -> None:
        """See `BackboneConfig.validate`."""
        super().validate()
        if self.levels < 0 or len(self.base) not in (1, self.levels + 1):
            raise UserError(
                f"{len(self.base)} base networks for {self.levels + 1} stages", "give one for all, or one for each"
            )
        self.require_halvings(self.levels)
        if len(self.sizes) not in (0, self.levels + 1):
            raise UserError(
                f"sizes for {len(self.sizes)} of {self.levels + 1} stages", "give them for each, or for none"
            )
        if any(get_variant(name).family is FAMILY for name in self.base):
            raise UserError("a stage of a multi-scale network is multi-scale itself", "name other networks")
        if scaling := [name for name in self.base if get_variant(name).config.spec.scale != 1]:
            raise UserError(f"{scaling[0]} changes the size of the image, and a stage keeps it", "name other networks")
        choices = {stage.efforts for stage in self.stages if len(stage.efforts) > 1}
        if len(choices) > 1:
            raise UserError(
                f"stages have different efforts, {' and '.join(map(str, sorted(choices)))}",
                "use networks with the same efforts, or with one only",
            )


class Multiscale(Backbone):
    """One network for each size of the input; c_noise is handed on.

    Attributes:
        stages: The networks, the full size first.
    """

    def __init__(self, config: MultiscaleConfig) -> None:
        super().__init__(config)
        names = config.base * (config.levels + 1) if len(config.base) == 1 else config.base
        built = [get_variant(n).family.network(c) for n, c in zip(names, config.stages, strict=True)]
        self.stages = nn.ModuleList(built)

    @property
    def resolutions(self) -> tuple[int, ...]:
        """Sizes of the stages' images, largest first."""
        return tuple(self.spec.resolution >> level for level in range(len(self.stages)))

    def check_inputs(self, x: Tensor, given: Given) -> None:
        """The network of the stage looks itself."""

    def forward(self, x: Tensor, c_noise: Tensor, given: Given = NOTHING, effort: Effort | None = None) -> Tensor:
        """See `Backbone.forward`; x (B, C, H, W) may also have the size of any other stage."""
        effort, side = self.check_effort(effort), x.shape[-1]
        if side not in self.resolutions or x.shape[-2] != side:
            raise UserError(
                f"there is no stage for images of {x.shape[-2]}x{side}", f"give one of the sizes {self.resolutions}"
            )
        level = self.resolutions.index(side)
        stage: Any = self.stages[level]
        chosen = effort if len(stage.efforts) > 1 else None
        out: Tensor = stage(x, c_noise, given.averaged_to(x), chosen)
        return out


FAMILY = Family(
    "multiscale",
    Multiscale,
    "Non-Uniform Diffusion Models",
    "Batzolis, Stanczuk, Schonlieb, Etmann",
    2022,
    "2207.09786",
)


def _adm_128(
    name: str, resolution: int, multipliers: tuple[float, ...], attention: tuple[int, ...], cost: Cost, blocks: int = 2
) -> str:
    """Register one of the paper's U-Nets: attention at rates 8 and 16 of those levels that are reached."""
    config = ADMConfig(
        resolution=resolution, out_channels=3, channels=128, multipliers=multipliers, blocks=blocks, attention=attention
    )
    return ADM_FAMILY.variant(f"adm_msdiff_128_{name}", config, cost, tags=("stage",)).name


_EQUAL = (
    _adm_128("d1", 128, (0.5, 1, 1, 1.5, 2), (16, 8), Cost(31_286_915, 28_745_924_608)),
    _adm_128("d2", 64, (0.5, 1, 1.5, 2), (8,), Cost(27_012_995, 8_532_131_840)),
    _adm_128("d3", 32, (0.5, 1, 2), (), Cost(18_284_547, 2_374_959_104)),
    _adm_128("a3", 16, (1, 2), (), Cost(26_281_219, 2_321_809_408), blocks=4),
)
_DEEP = (
    _adm_128("deep_d1", 128, (1, 1, 2, 3, 4), (16, 8), Cost(103_876_739, 74_214_342_656)),
    _adm_128("deep_d2", 64, (1, 1, 2, 3), (8,), Cost(51_135_107, 17_758_355_456)),
    _adm_128("deep_d3", 32, (1, 1, 2), (), Cost(20_524_163, 3_979_018_240)),
    _adm_128("deep_a3", 16, (1, 2), (), Cost(16_993_283, 1_531_707_392)),
)

FAMILY.variant(
    "multiscale_128",
    MultiscaleConfig(resolution=128, base=_EQUAL, levels=3),
    Cost(102_865_676, 28_745_924_608),
    tags=("reference",),
)
FAMILY.variant(
    "multiscale_128_deep",
    MultiscaleConfig(resolution=128, base=_DEEP, levels=3),
    Cost(192_529_292, 74_214_342_656),
    tags=("reference",),
)
FAMILY.variant(
    "vanilla_128",
    MultiscaleConfig(resolution=128, base=("adm_msdiff_128_deep_d1",), levels=0),
    Cost(103_876_739, 74_214_342_656),
    tags=("reference",),
)


def _small(
    name: str,
    resolution: int,
    channels: int,
    multipliers: tuple[float, ...],
    cost: Cost,
    image: int = 3,
    attention: tuple[int, ...] = (8,),
) -> str:
    """Register a small U-Net as a stage; its middle, the smallest size, attends in any case."""
    config = DDPMConfig(
        in_channels=image,
        out_channels=image,
        resolution=resolution,
        channels=channels,
        multipliers=multipliers,
        blocks=1,
        attention=attention,
        norm_groups=None,
    )
    return DDPM_FAMILY.variant(f"ddpm_msdiff_{name}", config, cost, tags=("stage",)).name


_DIGITS = (
    _small("digits_d1", 16, 8, (1, 2, 4), Cost(173_209, 5_984_768), image=1, attention=(4,)),
    _small("digits_d2", 8, 20, (1, 2), Cost(275_381, 6_360_960), image=1, attention=(4,)),
    _small("digits_a2", 4, 24, (1,), Cost(99_025, 1_258_752), image=1, attention=(4,)),
)
_SMALL_32 = (
    _small("small32_d1", 32, 16, (0.5, 1, 2, 4), Cost(658_915, 33_943_040)),
    _small("small32_d2", 16, 16, (0.5, 2, 5), Cost(892_659, 25_927_168)),
    _small("small32_a2", 8, 40, (1, 2), Cost(1_037_083, 26_186_240)),
)
_SMALL_64 = (
    _small("small64_d1", 64, 16, (0.5, 1, 1.5, 2, 4), Cost(720_883, 95_596_544)),
    _SMALL_32[0],
    _SMALL_32[1],
    _small("small64_a3", 8, 24, (1, 2), Cost(375_339, 9_705_984)),
)
_SMALL_128 = (  # at batch 1 narrow, large layers are what these cost: few channels at every size but the smallest
    _small("small128_d1", 128, 8, (1, 1, 1, 2, 4, 8), Cost(638_955, 151_750_656), attention=()),
    _small("small128_d2", 64, 8, (1, 1, 1, 2, 8), Cost(522_283, 43_113_472), attention=()),
    _small("small128_d3", 32, 8, (1, 1, 2, 9), Cost(636_091, 21_357_056), attention=()),
    _small("small128_a3", 16, 16, (1, 2, 4.25), Cost(698_319, 24_246_784), attention=()),
)

FAMILY.variant(
    "multiscale_digits",
    MultiscaleConfig(in_channels=1, out_channels=1, resolution=16, base=_DIGITS, levels=2),
    Cost(547_615, 5_984_768),
    tags=("small",),
)
FAMILY.variant(
    "multiscale_small32", MultiscaleConfig(resolution=32, base=_SMALL_32), Cost(2_588_657, 33_943_040), tags=("small",)
)
FAMILY.variant(
    "multiscale_small64",
    MultiscaleConfig(resolution=64, base=_SMALL_64, levels=3),
    Cost(2_647_796, 95_596_544),
    tags=("small",),
)
FAMILY.variant(
    "multiscale_small128",
    MultiscaleConfig(resolution=128, base=_SMALL_128, levels=3),
    Cost(2_495_648, 151_750_656),
    tags=("small",),
)
FAMILY.variant(
    "vanilla_small64", MultiscaleConfig(resolution=64, levels=0), Cost(2_688_179, 504_563_712), tags=("small",)
)
FAMILY.variant(
    "vanilla_small128", MultiscaleConfig(resolution=128, levels=0), Cost(2_489_267, 1_967_720_448), tags=("small",)
)
FAMILY.variant(
    "multiscale_tiny",
    MultiscaleConfig(
        resolution=8, base=("ddpm_tiny", "ddpm_tiny"), levels=1, num_classes=3, cond_channels=1, augment_dim=2
    ),
    Cost(88_534, 1_066_048),
    tags=("tiny",),
    expected_failures={"test_gradients": "an image has one size, and trains the network of that stage only"},
)
