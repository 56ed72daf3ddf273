"""What the formats of DiCo, DiC, FCDM and U-DiT share: the names of their U-Net's layers, and what shapes tell.

All four train in DiT's frame, on latents of Stable Diffusion's autoencoder: DDPM's chain, eps, and a learned variance.
They are convolutional, so that no tensor tells the size of their images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from denoisezoo.archs import Backbone
from denoisezoo.archs.level_unet import LevelUNetConfig
from denoisezoo.errors import UserError
from denoisezoo.interop.foreign import Foreign, Format, part
from denoisezoo.interop.key_map import KeyMap
from denoisezoo.interop.transformer_map import Shapes, facts_of_latents


@dataclass(frozen=True)
class LevelNames:
    """Another code's names of the layers of a `LevelUNet`, each in the order of ours.

    Attributes:
        times: Of each level's embedding of time, a sequence whose layers 0 and 2 are linear.
        labels: Of each level's table of classes.
        stages: Of each stage's list of blocks: encoder, middle, decoder.
        downs: Of the convolutions before a level of the encoder.
        ups: Of those before a level of the decoder.
        merges: Of the 1x1 convolutions behind those; none where skips enter blocks.
        stem: The first convolution.
        final_conv: The one before the head; None where there is none.
        head: The last convolution.
    """

    times: Sequence[str] = ("t_embedder_1.mlp", "t_embedder_2.mlp", "t_embedder_3.mlp")
    labels: Sequence[str] = tuple(f"y_embedder_{level}.embedding_table" for level in (1, 2, 3))
    stages: Sequence[str] = ("encoder_level_1", "encoder_level_2", "latent", "decoder_level_2", "decoder_level_1")
    downs: Sequence[str] = ("down1_2.body.0", "down2_3.body.0")
    ups: Sequence[str] = ("up3_2.body.0", "up2_1.body.0")
    merges: Sequence[str] = ("reduce_chan_level2", "reduce_chan_level1")
    stem: str = "x_embedder.proj"
    final_conv: str | None = "output"
    head: str = "final_layer.out_proj"


@dataclass(frozen=True)
class LevelFormat(Format):
    """Base of these formats: one network; a training checkpoint has both sets of weights.

    Attributes:
        resolution: Latents a side: 32 for images of 256 pixels.
    """

    kept = ("ema", "raw")
    resolution: int = 32


def level_network(shapes: Shapes, names: LevelNames, resolution: int, layer: str) -> dict[str, Any]:
    """Our configuration, except for what a family of its own adds.

    Args:
        shapes: Of its tensors.
        names: Their names.
        resolution: Latents a side.
        layer: A convolution in each block that puts out as many channels as the block.

    Raises:
        UserError: It is no such network.
    """
    channels, in_channels, _, _ = shapes(f"{names.stem}.weight", 4)
    widths = [shapes(f"{stage}.0.{layer}.weight", 4)[0] for stage in names.stages]
    levels = len(names.times)
    if len({*widths[:levels]}) < levels:  # ours knows by its width which level's embedding a stage is told
        what = f"{shapes.path} has levels of {', '.join(map(str, widths[:levels]))} channels"
        raise UserError(what, "only networks whose levels differ in width are known here")
    return {
        "resolution": resolution,
        "in_channels": in_channels,
        "out_channels": shapes(f"{names.head}.weight", 4)[0],
        "num_classes": shapes(f"{names.labels[0]}.weight", 2)[0] - 1,
        "augment_dim": 0,
        "cond_channels": 0,
        "channels": channels,
        "multipliers": [width // channels for width in widths],  # a width that is no multiple fits nowhere
        "depths": [shapes.count(f"{stage}.{{}}.{layer}.weight") for stage in names.stages],
        "noise_features": shapes(f"{names.times[0]}.0.weight", 2)[1],
        "noise_scale": 1.0,
    }


def map_levels(
    keys: KeyMap,
    net: Backbone,
    names: LevelNames,
    modulations: Sequence[str],
    block: Callable[[str, str], None],
) -> None:
    """Take all weights.

    Args:
        keys: Where to.
        net: Our network.
        names: Their names.
        modulations: The linear layers of a block that tell it of noise and class, in the order of ours.
        block: Takes the other weights of a block, of our name and of theirs.
    """
    config = net.config
    assert isinstance(config, LevelUNetConfig), "the variant is of that family"
    for level, (time, table) in enumerate(zip(names.times, names.labels, strict=True)):
        keys.layer(f"embeddings.{level}.first", f"{time}.0")
        keys.layer(f"embeddings.{level}.second", f"{time}.2")
        keys.layer(f"embeddings.{level}.late.classes.table", table)
    keys.layer("stem", names.stem)
    for ours, theirs in {"downs.{}.conv": names.downs, "ups.{}.conv": names.ups, "merges.{}": names.merges}.items():
        for i, name in enumerate(theirs):
            keys.layer(ours.format(i), name)
    if names.final_conv is not None:
        keys.layer("final_conv", names.final_conv)
    keys.layer("head.modulation", "final_layer.adaLN_modulation.1")
    keys.layer("head.conv", names.head)
    told: list[list[str]] = [[] for _ in range(config.levels)]
    for stage, theirs in enumerate(names.stages):
        ours = f"encoder.{stage}" if stage < config.levels else f"decoder.{stage - config.levels}"
        for i in range(config.depths[stage]):
            block(f"{ours}.{i}", f"{theirs}.{i}")
            told[config.conditions[stage]] += [f"{theirs}.{i}.{layer}" for layer in modulations]
    for level, layers in enumerate(told):
        for kind in ("weight", "bias"):
            keys.join(f"modulations.{level}.{kind}", [f"{layer}.{kind}" for layer in layers])


def taking(keys: KeyMap, layers: Mapping[str, str]) -> Callable[[str, str], None]:
    """What takes a block's layers, our name of each -> theirs."""

    def take(ours: str, theirs: str) -> None:
        for layer, name in layers.items():
            keys.layer(f"{ours}.{layer}", f"{theirs}.{name}")

    return take


def foreign_of(denoiser: str, network: dict[str, Any], keys: KeyMap, path: Path) -> Foreign:
    """What is read, under the process that all of them were trained under."""
    learned = network["out_channels"] == 2 * network["in_channels"]
    return Foreign(
        denoiser=denoiser,
        network=network,
        process=part("VPDiscrete"),
        preconditioning=part("Epsilon"),
        objective=part("Simple"),
        weights=keys.finish(),
        sampler="ddpm:variance=learned" if learned else "ddpm:variance=large",
        steps=250,
        file=path,
        facts=facts_of_latents(network["in_channels"]),
    )
