"""The U-Net of OpenAI's guided-diffusion and improved-diffusion, which others have taken over: sizes and names.

Sizes are read off the shapes. Heads, the order of their rows and the size of the images leave no trace in the tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from denoisezoo.archs.unet import UNet
from denoisezoo.errors import UserError
from denoisezoo.interop.key_map import KeyMap
from denoisezoo.interop.unet_map import (
    Names,
    Position,
    Rows,
    as_it_is,
    build_on_meta,
    by_head,
    map_stages,
    multiplier,
    positions,
)

FIRST = "time_embed.0.weight"
BLOCK = {
    "norm0": "in_layers.0",
    "conv0": "in_layers.2",
    "norm1": "out_layers.0",
    "conv1": "out_layers.3",
    "skip": "skip_connection",
}
CURE = "give a state dictionary of guided-diffusion's UNetModel"


@dataclass(frozen=True)
class Sizes:
    """What the shapes tell.

    Attributes:
        channels: Base width.
        widths: Channels of each level, the full resolution first.
        blocks: Residual blocks of an encoder level.
        attends: Whether each level attends.
        in_channels: Channels that go in.
        out_channels: Channels that come out.
        num_classes: Class labels, 0 for none.
        resampling: What changes the size.
        scale_shift: Whether the embedding scales and shifts, or is added.
    """

    channels: int
    widths: tuple[int, ...]
    blocks: int
    attends: tuple[bool, ...]
    in_channels: int
    out_channels: int
    num_classes: int
    resampling: Literal["residual", "convolution"]
    scale_shift: bool

    @property
    def multipliers(self) -> tuple[float, ...]:
        """Widths as multiples of the base width."""
        return tuple(multiplier(width, self.channels) for width in self.widths)

    @property
    def image_channels(self) -> int:
        """Channels of an image: 1 or 3, the network puts out as many or, with a learned variance, twice that."""
        return self.out_channels // 2 if self.out_channels in (2, 6) else self.out_channels


def read_sizes(theirs: Mapping[str, Tensor], path: Path) -> Sizes:
    """Sizes of a network.

    Args:
        theirs: Its tensors by name.
        path: Their file.

    Raises:
        UserError: It is no such network.
    """
    shapes = {name: tuple(value.shape) for name, value in theirs.items()}

    def shape(name: str, dimensions: int) -> tuple[int, ...]:
        if name not in shapes:
            raise UserError(f"{path} is no network of this kind: {name} is missing", CURE)
        if len(shapes[name]) != dimensions:
            raise UserError(f"{path} is no network of this kind: {name} has {len(shapes[name])} dimensions", CURE)
        return shapes[name]

    _, channels = shape(FIRST, 2)
    stages = [name for name in shapes if name.startswith("output_blocks.") and name.endswith(".0.in_layers.2.weight")]
    ups = sorted(int(name.split(".")[1]) for name in shapes if _is_up(name))
    levels = len(set(ups)) + 1
    blocks = (ups[0] if ups else len(stages) - 1) or 1
    firsts = [1 + level * (blocks + 1) for level in range(levels)]
    down = f"input_blocks.{blocks + 1}.0"
    first = "input_blocks.1.0"
    rows = shape(f"{first}.emb_layers.1.weight", 2)[0]
    return Sizes(
        channels=channels,
        widths=tuple(shape(f"input_blocks.{n}.0.in_layers.2.weight", 4)[0] for n in firsts),
        blocks=blocks,
        attends=tuple(f"input_blocks.{n}.1.qkv.weight" in shapes for n in firsts),
        in_channels=shape("input_blocks.0.0.weight", 4)[1],
        out_channels=shape("out.2.weight", 4)[0],
        num_classes=shape("label_emb.weight", 2)[0] if "label_emb.weight" in shapes else 0,
        resampling="convolution" if levels > 1 and f"{down}.in_layers.2.weight" not in shapes else "residual",
        scale_shift=rows == 2 * shape(f"{first}.in_layers.2.weight", 4)[0],
    )


def _is_up(name: str) -> bool:
    """Whether a tensor is the convolution of a stage that doubles the size: the last part of a level."""
    parts = name.split(".")
    inner = ".".join(parts[3:])
    return (
        parts[0] == "output_blocks" and parts[2:3] in (["1"], ["2"]) and inner in {"in_layers.2.weight", "conv.weight"}
    )


def network_of(sizes: Sizes, path: Path, resolution: int, **more: Any) -> tuple[str, dict[str, Any]]:
    """The variant of the zoo with these sizes, and its configuration.

    Args:
        sizes: What the shapes tell.
        path: Their file.
        resolution: Height and width of the images.
        **more: What they do not tell: heads, and the factor on c_noise.

    Raises:
        UserError: The zoo has no such network.
    """
    network: dict[str, Any] = {
        "resolution": resolution,
        "in_channels": sizes.image_channels,
        "out_channels": sizes.out_channels,
        "cond_channels": max(0, sizes.in_channels - sizes.image_channels),
        "num_classes": sizes.num_classes,
        "augment_dim": 0,
        "channels": sizes.channels,
        "multipliers": list(sizes.multipliers),
        "blocks": sizes.blocks,
        "attention": [resolution >> level for level, attends in enumerate(sizes.attends) if attends],
        "dropout": 0.0,
        "norm_groups": 32,
        "rounding": "quotient",
        **more,
    }
    if sizes.scale_shift:
        return "adm_imagenet64", network | {"resampling": sizes.resampling}
    if sizes.resampling == "residual" and len(sizes.widths) > 1:
        cure = "only with use_scale_shift_norm, or without resblock_updown, it is known here"
        raise UserError(f"{path} adds its embedding, and residual blocks change the size", cure)
    if network.pop("c_noise_scale", 1.0) != 1.0:
        raise UserError(f"{path} adds its embedding, and its labels are rescaled", "only without one it is known here")
    as_improved = {"norm_eps": 1e-5, "cosines_first": True, "endpoint": False, "pad_around": True, "attend_once": False}
    return "ddpm_cifar10", network | as_improved


def take_weights(
    path: Path,
    theirs: Mapping[str, Tensor],
    denoiser: str,
    network: Mapping[str, Any],
    sizes: Sizes,
    new_order: bool,
    of: str | None = None,
) -> dict[str, Tensor]:
    """Our weights.

    Args:
        path: Their file.
        theirs: Their tensors by name.
        denoiser: Our variant.
        network: Its configuration.
        sizes: What `read_sizes` found.
        new_order: Whether rows of an attention are in guided-diffusion's newer order.
        of: Which of several networks in that file it is, for the error.

    Raises:
        UserError: Some do not fit.
    """
    net = build_on_meta(denoiser, network)
    assert isinstance(net, UNet), "both variants are U-Nets"
    keys = KeyMap(net, theirs, path, CURE, of)
    keys.layer("embedding.first", "time_embed.0")
    keys.layer("embedding.second", "time_embed.2")
    if sizes.num_classes:
        keys.layer("embedding.late.classes.table", "label_emb")
    keys.layer("stem", "input_blocks.0.0")
    keys.layer("norm", "out.0")
    keys.layer("head", "out.2")
    levels = len(sizes.widths)

    def place(position: Position) -> tuple[str, str]:
        if position.part == "middle":
            return f"middle_block.{2 * position.index}", "middle_block.1"
        if position.part == "encoder":
            room = f"input_blocks.{position.index + 1}"
            strided = position.block is None and sizes.resampling == "convolution"
            return f"{room}.0" + (".op" if strided else ""), f"{room}.1"
        # Counted without the stages that double the size: those end a level's last block.
        number = position.index - (levels - 1 - position.level)
        if position.block is not None:
            return f"output_blocks.{number}.0", f"output_blocks.{number}.1"
        last = 2 if sizes.attends[position.level + 1] else 1
        return f"output_blocks.{number}.{last}" + (".conv" if sizes.resampling == "convolution" else ""), ""

    rows: Rows = as_it_is if new_order else by_head
    names = Names(BLOCK, "emb_layers.1", {"norm": "norm", "out": "proj_out"}, rows=rows, resampling="")
    map_stages(keys, net, {p: place(p) for p in positions(levels, sizes.blocks)}, names)
    return keys.finish()
