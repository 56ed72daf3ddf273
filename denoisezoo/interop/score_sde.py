"""Checkpoints of score_sde_pytorch, `checkpoint_*.pth` (Song et al. 2021, arXiv 2011.13456).

NCSN++ and DDPM++ in continuous time. The file holds the weights, and their average as a list in the network's order.
NCSN++ is trained under the VE process on images in [0, 1], so that our noise levels are twice theirs, and returns minus
the noise; DDPM++ under the VP process. The filter [1, 3, 3, 1] of NCSN++, sums scaled by sqrt(1/2) and one head leave
no trace in the file: all published networks have them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from denoisezoo.archs.unet import UNet
from denoisezoo.errors import UserError
from denoisezoo.interop.foreign import FORMATS, Foreign, Format, Weights, part
from denoisezoo.interop.key_map import KeyMap
from denoisezoo.interop.tensor_files import read_torch, require_state
from denoisezoo.interop.unet_map import Names, build_on_meta, map_stages, multiplier, positions

CURE = "give a checkpoint_N.pth of NCSN++ or DDPM++ with BigGAN blocks, trained in continuous time"
NAMES = Names(
    block={"norm0": "GroupNorm_0", "conv0": "Conv_0", "norm1": "GroupNorm_1", "conv1": "Conv_1", "skip": "Conv_2"},
    condition="Dense_0",
)
ATTENDED = 16
"""Size of the images that published networks attend to."""


@FORMATS.register("score_sde")
@dataclass(frozen=True)
class ScoreSDE(Format):
    """Reads one network.

    Attributes:
        image_size: Height and width of the images; such that attention is at 16 pixels unless given.
        sigma_min: Smallest noise level of NCSN++, of images in [0, 1].
        sigma_max: Its largest: 50 for CIFAR-10, 90 for CelebA, 348 to 1,348 for larger images.
    """

    kept = ("ema", "raw")
    image_size: int | None = None
    sigma_min: float = 0.01
    sigma_max: float = 50.0

    def read(self, path: Path, weights: Weights) -> Foreign:
        """See `Format.read`."""
        parts = _Parts(path, _weights(path, weights))
        resolution = self.image_size or ATTENDED << parts.attended()
        fourier = parts.kinds[0] == "fourier"
        network = parts.network(resolution)
        name = "ncsnpp_cifar10" if fourier else "ddpmpp_cifar10"
        net = build_on_meta(name, network)
        assert isinstance(net, UNet), "both variants are U-Nets"
        ve = part("VE", sigma_min=2 * self.sigma_min, sigma_max=2 * self.sigma_max)
        return Foreign(
            denoiser=name,
            network=network,
            process=ve if fourier else part("VP"),
            preconditioning=part("Epsilon"),
            objective=part("Simple"),
            weights=parts.take(net),
            sampler="pc:snr=0.16" if fourier else "euler_maruyama",
            steps=1000,
            file=path,
        )


def _weights(path: Path, weights: Weights) -> dict[str, Tensor]:
    """Tensors by name, without the prefix of a parallel network, averaged or not."""
    found = read_torch(path)
    if not isinstance(found, dict) or "model" not in found:
        raise UserError(f"{path} is no checkpoint of score_sde: it holds no 'model'", CURE)
    model = {
        name.removeprefix("module."): value for name, value in require_state(found["model"], path, "'model'").items()
    }
    model.pop("sigmas", None)
    if weights == "raw":
        return model
    average = found.get("ema")
    values = average.get("shadow_params") if isinstance(average, dict) else None
    trained = [name for name in model if not name.endswith(".W") or model[name].ndim > 1]
    if not isinstance(values, list) or not all(isinstance(value, Tensor) for value in values):
        raise UserError(f"{path} holds no averaged weights", "give `weights=raw`")
    if len(values) != len(trained):
        raise UserError(
            f"{path} averages {len(values)} tensors, and its network has {len(trained)}", "give `weights=raw`"
        )
    return model | dict(zip(trained, values, strict=True))


class _Parts:
    """The numbered parts of a network, in the order in which they run, and what they are."""

    def __init__(self, path: Path, theirs: Mapping[str, Tensor]) -> None:
        self.path, self.theirs = path, theirs
        numbers = {
            int(p[1]) for name in theirs if (p := name.split("."))[0] == "all_modules" and p[1:2] and p[1].isdigit()
        }
        self.kinds = [self._kind(number) for number in range(max(numbers, default=-1) + 1)]
        self.first = self.kinds.index("conv") if "conv" in self.kinds else 0
        self.blocks = [i for i, kind in enumerate(self.kinds) if kind == "block"]
        resampling = [i for i in self.blocks if self._resamples(i)]
        self.levels = len(resampling) // 2 + 1
        self.per_level = sum(i < resampling[0] for i in self.blocks) if resampling else (len(self.blocks) - 3) // 2
        expected = self.levels * (2 * self.per_level + 1) + 2 * (self.levels - 1) + 2
        if self.first not in (2, 3) or self.per_level < 1 or len(self.blocks) != expected:
            raise UserError(f"{path} is no NCSN++ or DDPM++ that is known here", CURE)
        self.places = dict(zip(positions(self.levels, self.per_level), self.blocks, strict=True))

    def _keys(self, number: int) -> Iterator[str]:
        head = f"all_modules.{number}."
        return (name.removeprefix(head) for name in self.theirs if name.startswith(head))

    def _kind(self, number: int) -> str:
        keys = set(self._keys(number))
        if "Conv_0.weight" in keys and "Conv_1.weight" in keys:
            return "block"
        if "NIN_0.W" in keys:
            return "attention"
        if keys in ({"Conv2d_0.weight", "Conv2d_0.bias"}, {"W"}):
            return "fourier" if "W" in keys else "pyramid"
        if keys == {"weight", "bias"}:
            dimensions = self.theirs[f"all_modules.{number}.weight"].ndim
            return {1: "norm", 2: "linear", 4: "conv"}.get(dimensions, "other")
        return "other"

    def _resamples(self, number: int) -> bool:
        """Whether a block changes the size: it alone projects its skip though channels stay."""
        skip = self.theirs.get(f"all_modules.{number}.Conv_2.weight")
        return skip is not None and skip.ndim == 4 and skip.shape[0] == skip.shape[1]

    def _shape(self, name: str, dimensions: int) -> tuple[int, ...]:
        found = self.theirs.get(name)
        if found is None or found.ndim != dimensions:
            raise UserError(f"{self.path} is no NCSN++ or DDPM++: {name} is missing or of another kind", CURE)
        return tuple(found.shape)

    def _attends(self, number: int) -> bool:
        return self.kinds[number + 1 : number + 2] == ["attention"]

    def _levels_attending(self) -> list[int]:
        places = self.places.items()
        return [p.level for p, i in places if p.part == "encoder" and p.block == 0 and self._attends(i)]

    def attended(self) -> int:
        """How many times the image is halved where the network attends; 1 where only its middle does."""
        return next(iter(self._levels_attending()), 1)

    def network(self, resolution: int) -> dict[str, Any]:
        """Our configuration."""
        channels, in_channels, *_ = self._shape(f"all_modules.{self.first}.weight", 4)
        fourier = self.kinds[0] == "fourier"
        firsts = [i for p, i in self.places.items() if p.part == "encoder" and p.block == 0]
        widths = [self._shape(f"all_modules.{i}.Conv_0.weight", 4)[0] for i in firsts]
        pyramid = "pyramid" in self.kinds
        return {
            "resolution": resolution,
            "in_channels": in_channels,
            "out_channels": self._shape(f"all_modules.{len(self.kinds) - 1}.weight", 4)[0],
            "num_classes": 0,
            "augment_dim": 0,
            "cond_channels": 0,
            "channels": channels,
            "multipliers": [multiplier(width, channels) for width in widths],
            "blocks": self.per_level,
            "attention": [resolution >> level for level in self._levels_attending()],
            "dropout": 0.0,
            "num_heads": 0,
            "head_channels": 0,
            "norm_groups": None,
            "features": "fourier" if fourier else "sinusoidal",
            "turns_last": True,
            "taps": [1, 3, 3, 1] if pyramid else [1, 1],
            "pyramid": pyramid,
        }

    def take(self, net: UNet) -> dict[str, Tensor]:
        """Our weights."""
        fourier, last = self.kinds[0] == "fourier", len(self.kinds) - 1
        keys = KeyMap(net, self.theirs, self.path, CURE)
        if fourier:
            keys.copy("embedding.features.frequencies", "all_modules.0.W")
        keys.layer("embedding.first", f"all_modules.{self.first - 2}")
        keys.layer("embedding.second", f"all_modules.{self.first - 1}")
        keys.layer("stem", f"all_modules.{self.first}")
        keys.layer("norm", f"all_modules.{last - 1}")
        keys.layer("head", f"all_modules.{last}", (lambda x: -x) if fourier else None)
        named = {p: (f"all_modules.{i}", "") for p, i in self.places.items()}
        map_stages(keys, net, named, NAMES)
        for position, i in self.places.items():
            ours, theirs = position.ours, f"all_modules.{i + 1}"
            if f"{ours}.attention.out.weight" in keys.shapes:
                keys.layer(f"{ours}.attention.norm", f"{theirs}.GroupNorm_0")
                keys.copy(f"{ours}.attention.out.weight", f"{theirs}.NIN_3.W", lambda x: x.t())
                keys.copy(f"{ours}.attention.out.bias", f"{theirs}.NIN_3.b")
                keys.join(f"{ours}.attention.qkv.weight", [f"{theirs}.NIN_{n}.W" for n in range(3)], lambda x: x.t())
                keys.join(f"{ours}.attention.qkv.bias", [f"{theirs}.NIN_{n}.b" for n in range(3)])
            if f"pyramid.{position.index}.conv.weight" in keys.shapes and position.part == "encoder":
                keys.layer(f"pyramid.{position.index}.conv", f"{theirs}.Conv2d_0")
        keys.ours |= _filters(net)
        return keys.finish()


def _filters(net: UNet) -> dict[str, Tensor]:
    """The filters of a network on the meta device, which no file holds: those of its configuration."""
    taps = torch.tensor(net.config.taps, dtype=torch.float32)  # type: ignore[attr-defined]
    kernel = (taps.outer(taps) / taps.sum() ** 2)[None, None]
    return {name: kernel.clone() for name in net.state_dict() if name.endswith("kernel")}
