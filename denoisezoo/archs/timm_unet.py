"""A timm backbone as the encoder of a U-Net denoiser: any that gives feature maps, by its name in timm (Wightman 2019,
"PyTorch Image Models").

Nobody has published such a denoiser: this is engineering of our own, not the reproduction of a paper. The noisy image
and one constant channel, a learned map of noise level and class, enter the backbone, so that all its layers can know of
them. A norm without weights, scaled and shifted by the embedding (FiLM, Perez et al. 2017, arXiv 1709.07871), follows
every feature map that is skipped and is in every level of a plain decoder. Where the backbone has no feature at full
resolution, a 3x3 convolution of the image is skipped there. The last layer starts at zero.

Batch norms would mix noise levels, and differ between training and sampling: `norm` makes group norms of them or holds
their statistics, or else such a backbone is refused. `weights` names a file of pretrained weights in timm's own keys
(nothing is ever downloaded). docs/timm.md lists which families of timm work.
"""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denoisezoo.archs.backbone import Backbone, BackboneConfig, Effort, reads_weights
from denoisezoo.archs.unet import with_image
from denoisezoo.archs.variants import Cost, Family
from denoisezoo.errors import UserError, unknown
from denoisezoo.files import local_path
from denoisezoo.nn.adaln import level_embedding, zeros
from denoisezoo.nn.blocks import GroupNorm, conv, group_norm, linear, nearest, silu, xavier
from denoisezoo.nn.given import NOTHING, Given


@dataclass(frozen=True, kw_only=True)
class TimmUNetConfig(BackboneConfig):
    """Sizes of the network.

    Attributes:
        encoder: Name of the backbone in timm.
        patch_size: Of a backbone that takes one: 1 gives ConvNeXt a feature at full resolution. 0 leaves it as it is.
        features: Feature maps to use, the finest ones; 0 is all that are at least two pixels high.
        widths: Channels of the decoder at full resolution, at half of it, and so on; the last serves all below, too.
        norm: What becomes of batch norms: "own" leaves norms as they are and refuses these, "group" makes them group
            norms, "frozen" holds their statistics, as pretrained weights bring them.
        weights: File with pretrained weights of the encoder, .safetensors or of torch.save; none if empty.
        embedding: Width of the embedding of noise and class.
        noise_features: Sinusoidal features of c_noise, even.
        noise_scale: c_noise is multiplied by it first: 1 for steps of 0 ... 999, some hundreds for EDM's ln(sigma)/4.
    """

    encoder: str = "convnextv2_atto"
    patch_size: int = 0
    features: int = 0
    widths: tuple[int, ...] = (32, 64, 96, 128, 160, 192)
    norm: Literal["own", "group", "frozen"] = "own"
    weights: str = ""
    embedding: int = 128
    noise_features: int = 64
    noise_scale: float = 1.0

    def validate(self) -> None:
        """See `BackboneConfig.validate`."""
        super().validate()
        if not self.widths or min(self.widths) < 1:
            raise UserError(f"widths is {self.widths}", "give one positive number per level")
        if self.embedding < 1 or self.noise_features < 2 or self.noise_features % 2:
            raise UserError(
                f"embedding is {self.embedding} and noise_features {self.noise_features}",
                "give a positive and a positive even number",
            )
        for name in ("patch_size", "features"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} is {getattr(self, name)}", "give 0 to leave it open, or a positive number")
        if self.noise_scale <= 0:
            raise UserError(f"noise_scale is {self.noise_scale}", "give a positive number")


class Encoder(nn.Module):
    """Feature maps of a timm backbone, finest first.

    Attributes:
        channels: Channels of each.
        reductions: How many times smaller than the image each is.
    """

    def __init__(self, config: TimmUNetConfig) -> None:
        super().__init__()
        import timm

        if not timm.is_model(config.encoder):
            raise unknown("timm encoder", config.encoder, timm.list_models())
        self.name, self.resolution = config.encoder, config.resolution
        options: dict[str, Any] = {"in_chans": config.in_channels + config.cond_channels + 1}
        if config.patch_size:
            options["patch_size"] = config.patch_size
        net = self._create(options | _weights(config))
        maps, reductions = self._shapes(net, options["in_chans"])
        coarsest = max(1, config.resolution // 2)
        usable = sum(reduction <= coarsest for reduction in reductions)
        if config.features > len(reductions) or not usable:
            raise UserError(
                f"{self.name} has feature maps 1/{' 1/'.join(map(str, reductions))} as high as an image of "
                f"{config.resolution} pixels, of which features {config.features} cannot be taken",
                "give fewer features, a patch_size, or larger images",
            )
        if (count := config.features or usable) < len(reductions):
            net = self._create(options | {"out_indices": tuple(range(count))} | _weights(config))
            maps, reductions = self._shapes(net, options["in_chans"])
        self.net = net
        if _convert_norms(net, config):
            self._check(net, options["in_chans"])
        self.reductions = reductions
        self.channels = [shape[1 if layout == "NCHW" else 3] for shape, layout in maps]
        self.layouts = [layout for _, layout in maps]

    def _check(self, net: nn.Module, in_chans: int) -> None:
        """Refuse a backbone that goes on without its batch norms badly: some look into them."""
        try:
            self._shapes(net, in_chans)
        except Exception as error:
            raise UserError(
                f"timm's {self.name} does not run without its batch norms ({_line(error)})",
                "choose another encoder (docs/timm.md lists which work)",
            ) from error

    def _create(self, options: dict[str, Any]) -> nn.Module:
        """The backbone; one that is of a fixed size is built for this one."""
        import timm

        failure: Exception | None = None
        sizes: tuple[dict[str, Any], ...] = ({}, {"img_size": self.resolution})
        for size in sizes:
            try:
                net = timm.create_model(self.name, features_only=True, **options, **size)
                self._shapes(net, options["in_chans"])
            except UserError:
                raise
            except Exception as error:  # whatever a backbone raises that cannot be built so, or take such an image
                failure = failure or error
            else:
                return net
        raise UserError(
            f"timm's {self.name} gives no features of images of {self.resolution} pixels ({_line(failure)})",
            "choose another encoder (docs/timm.md lists which work), or other images",
        )

    def _shapes(self, net: nn.Module, in_chans: int) -> tuple[list[tuple[torch.Size, str]], list[int]]:
        """Shape and layout of each feature map, and its reduction, found without computing."""
        shadow = copy.deepcopy(net).to("meta").eval()
        with torch.no_grad():
            maps = shadow(torch.empty(1, in_chans, self.resolution, self.resolution, device="meta"))
        found, reductions = [], []
        info: Any = net.feature_info
        for feature, channels, reported in zip(maps, info.channels(), info.reduction(), strict=True):
            layout = "NCHW" if feature.shape[1] == channels and feature.shape[2] == feature.shape[3] else "NHWC"
            side = feature.shape[2] if layout == "NCHW" else feature.shape[1]
            reduction = self.resolution // side
            if reduction * side != self.resolution or reduction & (reduction - 1) or reduction != reported:
                raise UserError(
                    f"timm's {self.name} makes maps of {side} pixels (1/{reported}) from images of {self.resolution}",
                    "use a size that it halves evenly, or another encoder",
                )
            found.append((feature.shape, layout))
            reductions.append(reduction)
        if reductions != sorted(reductions):
            raise UserError(f"timm's {self.name} does not give finer maps first", "choose another encoder")
        return found, reductions

    def forward(self, x: Tensor) -> list[Tensor]:
        """Feature maps (B, C, H, W) of x."""
        maps = self.net(x)
        return [
            feature if layout == "NCHW" else feature.permute(0, 3, 1, 2)
            for feature, layout in zip(maps, self.layouts, strict=True)
        ]


def _weights(config: TimmUNetConfig) -> dict[str, Any]:
    """What makes timm read a file, and no other: nothing where weights are about to be replaced."""
    if not config.weights or not reads_weights():
        return {"pretrained": False}
    path = local_path(config.weights)
    if not path.is_file():
        raise UserError(f"weights {path} is no file", f"give a file of timm's {config.encoder}, or an empty text")
    return {"pretrained": True, "pretrained_cfg_overlay": {"file": str(path), "hf_hub_id": None, "url": ""}}


def _line(error: Exception | None) -> str:
    """The first line of an error, with its kind."""
    text = re.sub(r"\s+", " ", str(error))
    return f"{type(error).__name__}: {text[:120]}"


def _convert_norms(net: nn.Module, config: TimmUNetConfig) -> bool:
    """Do away with norms over the batch, or refuse them; whether there were any."""
    batch_norms = [name for name, module in net.named_modules() if _is_batch_norm(module)]
    if not batch_norms:
        return False
    what = f"timm's {config.encoder} has {len(batch_norms)} batch norms, which mix noise levels"
    if config.norm == "own":
        raise UserError(what, "give norm group, or with pretrained weights norm frozen, or choose another encoder")
    for name in batch_norms:
        parent, _, child = name.rpartition(".")
        home, old = net.get_submodule(parent), net.get_submodule(name)
        if not isinstance(old, nn.BatchNorm2d):
            raise UserError(f"{what}, as a {type(old).__name__}", "choose another encoder")
        new = _frozen(old) if config.norm == "frozen" else _grouped(old)
        setattr(
            home, child, nn.Sequential(new, *(getattr(old, part) for part in ("drop", "act") if hasattr(old, part)))
        )
    return True


def _is_batch_norm(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.batchnorm._BatchNorm) or type(module).__name__.startswith("EvoNorm2dB")


def _grouped(old: nn.BatchNorm2d) -> nn.Module:
    """A group norm with the batch norm's scale and shift."""
    new = group_norm(old.num_features, old.eps)
    if old.affine:
        with torch.no_grad():
            new.weight.copy_(old.weight)
            new.bias.copy_(old.bias)
    return new.to(old.weight.device if old.affine else None)


class FrozenNorm(nn.Module):
    """A batch norm by the statistics that it has, which nothing updates; scale and shift go on being trained."""

    mean: Tensor
    var: Tensor

    def __init__(self, old: nn.BatchNorm2d) -> None:
        super().__init__()
        self.eps = old.eps
        self.weight, self.bias = old.weight, old.bias
        self.register_buffer("mean", old.running_mean)
        self.register_buffer("var", old.running_var)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, C, H, W)."""
        return F.batch_norm(x, self.mean, self.var, self.weight, self.bias, training=False, eps=self.eps)


def _frozen(old: nn.BatchNorm2d) -> nn.Module:
    if old.running_mean is None:
        raise UserError("a batch norm of this encoder keeps no statistics", "give norm group")
    return FrozenNorm(old)


class FiLM(nn.Module):
    """A norm without weights, scaled and shifted by the embedding: (B, C, H, W), (B, E) -> (B, C, H, W)."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.norm = GroupNorm(group_norm(channels, 1e-5).num_groups, channels, eps=1e-5, affine=False)
        self.modulation = linear(width, 2 * channels, zeros)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Normalise and modulate."""
        a, b = self.modulation(embedding)[:, :, None, None].chunk(2, dim=1)
        return torch.addcmul(b, self.norm(x), 1 + a)


class DecoderLevel(nn.Module):
    """3x3 convolution, FiLM, SiLU, 3x3 convolution: (B, C, H, W), (B, E) -> (B, C', H, W)."""

    def __init__(self, in_channels: int, out_channels: int, width: int) -> None:
        super().__init__()
        self.conv0 = conv(in_channels, out_channels, 3, xavier)
        self.film = FiLM(out_channels, width)
        self.conv1 = conv(out_channels, out_channels, 3, xavier)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Convolve twice."""
        return self.conv1(silu(self.film(self.conv0(x), embedding)))


class TimmUNet(Backbone):
    """The network; c_noise is the step index t in 0 ... 999."""

    def __init__(self, config: TimmUNetConfig) -> None:
        super().__init__(config)
        width = config.embedding
        self.noise_scale = config.noise_scale
        self.embedding = level_embedding(
            config.noise_features, width, config.num_classes, config.augment_dim, config.second_time
        )
        # Starts at zero: pretrained features are those of the image alone at first.
        self.constant = linear(width, 1, zeros)
        self.encoder = Encoder(config)
        self.factor = self.encoder.reductions[-1]
        skips: dict[int, list[int]] = {}
        for reduction, channels in zip(self.encoder.reductions, self.encoder.channels, strict=True):
            skips.setdefault(reduction, []).append(channels)
        self.films = nn.ModuleList(FiLM(channels, width) for channels in self.encoder.channels)
        self.stem = None if 1 in skips else conv(config.in_channels + config.cond_channels, config.widths[0], 3, xavier)
        if self.stem is not None:
            skips[1] = [config.widths[0]]
        self.scales = [2**i for i in range(self.factor.bit_length())][::-1]
        self.decoder, above = nn.ModuleList(), 0
        for scale in self.scales:
            out = config.widths[min(scale.bit_length(), len(config.widths)) - 1]
            self.decoder.append(DecoderLevel(above + sum(skips.get(scale, [])), out, width))
            above = out
        self.head = conv(above, config.out_channels, 3, zeros)

    def forward(self, x: Tensor, c_noise: Tensor, given: Given = NOTHING, effort: Effort | None = None) -> Tensor:
        """See `Backbone.forward`."""
        self.check_effort(effort)
        image = with_image(x, given)
        embedding = self.embedding(self.noise_scale * c_noise, given.times(self.noise_scale))
        constant = self.constant(embedding)[:, :, None, None].expand(-1, -1, *x.shape[-2:])
        maps = self.encoder(torch.cat([image, constant.to(image.dtype)], dim=1))
        skips: dict[int, list[Tensor]] = {scale: [] for scale in self.scales}
        for film, reduction, feature in zip(self.films, self.encoder.reductions, maps, strict=True):
            skips[reduction].append(film(feature, embedding))
        if self.stem is not None:
            skips[1].append(self.stem(image))
        h = x[:, :0, :: self.factor, :: self.factor]  # nothing lies below
        for scale, level in zip(self.scales, self.decoder, strict=True):
            h = level(torch.cat([nearest(h) if scale < self.factor else h, *skips[scale]], dim=1), embedding)
        return self.head(silu(h))


FAMILY = Family("timm_unet", TimmUNet, "PyTorch Image Models", "Wightman", 2019, "")

FAMILY.variant("timm_unet_convnextv2_atto", TimmUNetConfig(patch_size=1), Cost(4_674_108, 282_947_712))
FAMILY.variant("timm_unet_edgenext_xx_small", TimmUNetConfig(encoder="edgenext_xx_small"), Cost(1_795_692, 88_034_000))
FAMILY.variant(
    "timm_unet_efficientnet_lite0",
    TimmUNetConfig(encoder="tf_efficientnet_lite0", norm="group"),
    Cost(4_282_244, 94_492_000),
)
FAMILY.variant("timm_unet_pvt_v2_b0", TimmUNetConfig(encoder="pvt_v2_b0"), Cost(2_875_492, 94_736_000))
FAMILY.variant("timm_unet_resnet18", TimmUNetConfig(encoder="resnet18", norm="group"), Cost(4_562_532, 128_241_792))
FAMILY.variant("timm_unet_vgg11", TimmUNetConfig(encoder="vgg11"), Cost(12_267_428, 289_575_040))
FAMILY.variant(
    "timm_unet_small32",
    TimmUNetConfig(encoder="convnext_zepto_rms", patch_size=1, widths=(32, 64, 96, 96)),
    Cost(2_868_036, 191_578_240),
    tags=("small",),
)
FAMILY.variant(
    "timm_unet_digits",
    TimmUNetConfig(
        encoder="test_convnext",
        patch_size=1,
        in_channels=1,
        out_channels=1,
        resolution=16,
        widths=(16, 48, 56, 64),
        embedding=64,
    ),
    Cost(490_378, 13_447_744),
    tags=("small",),
)
FAMILY.variant(
    "timm_unet_tiny",
    TimmUNetConfig(
        encoder="test_convnext",
        patch_size=1,
        features=2,
        widths=(8, 16),
        embedding=16,
        noise_features=8,
        resolution=8,
        num_classes=3,
        cond_channels=1,
        augment_dim=2,
    ),
    Cost(43_324, 1_087_920),
    tags=("tiny",),
)
