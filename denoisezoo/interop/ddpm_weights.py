"""DDPM's weights (Ho et al. 2020, arXiv 2006.11239) as pesser/pytorch_diffusion converted them, `*.ckpt`.

ermongroup/ddim (arXiv 2010.02502) writes the same names into a list with the optimiser's state and, last, the average.
The size of the images is such that attention is at 16 pixels, as in all of these networks, unless it is given.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from denoisezoo.archs.unet import UNet
from denoisezoo.errors import UserError
from denoisezoo.interop.foreign import FORMATS, Foreign, Format, Weights, part
from denoisezoo.interop.key_map import KeyMap
from denoisezoo.interop.tensor_files import SAFE, read_safetensors, read_torch, require_state
from denoisezoo.interop.unet_map import Names, Position, build_on_meta, map_stages, multiplier, positions

CURE = "give a checkpoint of pytorch_diffusion, model-N.ckpt, or of ermongroup/ddim"
NAMES = Names(
    block={"norm0": "norm1", "conv0": "conv1", "norm1": "norm2", "conv1": "conv2", "skip": "nin_shortcut"},
    condition="temb_proj",
    attention={"norm": "norm", "out": "proj_out"},
    qkv=("q", "k", "v"),
)
ATTENDED = 16
"""Size of the images that these networks attend to."""


@FORMATS.register("ddpm")
@dataclass(frozen=True)
class DDPMWeights(Format):
    """Reads one network; a list of ermongroup/ddim has both sets of weights, other files one.

    Attributes:
        image_size: Height and width of the images.
        variance: Of the customary sampler: "large" for CIFAR-10, "small" for larger images unless given.
    """

    kept = ("ema", "raw")
    image_size: int | None = None
    variance: Literal["small", "large"] | None = None

    def read(self, path: Path, weights: Weights) -> Foreign:
        """See `Format.read`."""
        theirs = _weights(path, weights)
        network = _network(path, theirs, self.image_size)
        net = build_on_meta("ddpm_cifar10", network)
        assert isinstance(net, UNet), "the variant is a U-Net"
        keys = KeyMap(net, theirs, path, CURE)
        _map(keys, net, len(network["multipliers"]), network["blocks"])
        variance = self.variance or ("large" if network["resolution"] <= 32 else "small")
        return Foreign(
            denoiser="ddpm_cifar10",
            network=network,
            process=part("VPDiscrete"),
            preconditioning=part("Epsilon"),
            objective=part("Simple"),
            weights=keys.finish(),
            sampler=f"ddpm:variance={variance}",
            steps=1000,
            file=path,
        )


def _weights(path: Path, weights: Weights) -> dict[str, Tensor]:
    found: Any = read_safetensors(path) if path.suffix == SAFE else read_torch(path)
    if isinstance(found, list | tuple):
        averaged = found[-1] if len(found) == 5 else None  # model, optimiser, epoch, step, average
        found = found[0] if weights == "raw" or averaged is None else averaged
    elif weights == "raw":
        raise UserError(f"{path} holds the ema weights alone", "give `weights=ema`")
    return {name.removeprefix("module."): value for name, value in require_state(found, path).items()}


def _network(path: Path, theirs: Mapping[str, Tensor], image_size: int | None) -> dict[str, Any]:
    """Our configuration, read off the shapes."""

    def shape(name: str) -> tuple[int, ...]:
        if name not in theirs or theirs[name].ndim != 4:
            raise UserError(f"{path} is no network of this kind: {name} is missing or of another kind", CURE)
        return tuple(theirs[name].shape)

    channels, in_channels, *_ = shape("conv_in.weight")
    levels = _count(theirs, "down.{}.block.0.conv1.weight")
    blocks = _count(theirs, "down.0.block.{}.conv1.weight")
    attending = [level for level in range(levels) if f"down.{level}.attn.0.q.weight" in theirs]
    if not levels or not blocks:
        raise UserError(f"{path} is no network of this kind: down.0.block.0.conv1.weight is missing", CURE)
    resolution = image_size or ATTENDED << next(iter(attending), 1)
    widths = [shape(f"down.{level}.block.0.conv1.weight")[0] for level in range(levels)]
    return {
        "resolution": resolution,
        "in_channels": in_channels,
        "out_channels": shape("conv_out.weight")[0],
        "num_classes": 0,
        "augment_dim": 0,
        "cond_channels": 0,
        "channels": channels,
        "multipliers": [multiplier(width, channels) for width in widths],
        "blocks": blocks,
        "attention": [resolution >> level for level in attending],
        "dropout": 0.0,
        "num_heads": 0,
        "head_channels": 0,
        "norm_groups": 32,
        "attend_once": False,
    }


def _count(theirs: Mapping[str, Tensor], pattern: str) -> int:
    """How many tensors there are whose names have 0, 1, 2 ... at the pattern's place."""
    return next(n for n in range(len(theirs) + 1) if pattern.format(n) not in theirs)


def _map(keys: KeyMap, net: UNet, levels: int, blocks: int) -> None:
    """Take all weights."""
    keys.layer("embedding.first", "temb.dense.0")
    keys.layer("embedding.second", "temb.dense.1")
    keys.layer("stem", "conv_in")
    keys.layer("norm", "norm_out")
    keys.layer("head", "conv_out")

    def place(position: Position) -> tuple[str, str]:
        level, block = position.level, position.block
        if position.part == "middle":
            return f"mid.block_{position.index + 1}", "mid.attn_1"
        room = "down" if position.part == "encoder" else "up"
        if block is None:  # it ends the level before
            return (f"down.{level - 1}.downsample" if room == "down" else f"up.{level + 1}.upsample"), ""
        return f"{room}.{level}.block.{block}", f"{room}.{level}.attn.{block}"

    map_stages(keys, net, {p: place(p) for p in positions(levels, blocks)}, NAMES)
