"""Weights of DiC, the training checkpoints of YuchuanTian/DiC (Tian et al. 2024, arXiv 2501.00603).

Which blocks give and take skips is read off the decoder's: those that take one have twice the channels coming in.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from denoisezoo.errors import UserError
from denoisezoo.interop.foreign import FORMATS, Foreign, Weights
from denoisezoo.interop.key_map import KeyMap
from denoisezoo.interop.level_unet_map import LevelFormat, LevelNames, foreign_of, level_network, map_levels, taking
from denoisezoo.interop.transformer_map import Shapes, read_weights
from denoisezoo.interop.unet_map import build_on_meta

CURE = "give a training checkpoint or state dictionary of YuchuanTian/DiC's DiC-S, -B, -XL or -H"
LAYERS = {name: f"conv.{name}" for name in ("norm0", "conv0", "norm1", "conv1", "skip")}
"""Our layers of a block -> theirs."""


@FORMATS.register("dic")
@dataclass(frozen=True)
class DiCWeights(LevelFormat):
    """See `LevelFormat`."""

    def read(self, path: Path, weights: Weights) -> Foreign:
        """See `Format.read`."""
        theirs = read_weights(path, weights, CURE)
        shapes = Shapes(path, theirs, CURE)
        names = _names(shapes)
        network = level_network(shapes, names, self.resolution, "conv.conv1")
        network["skip_stride"] = _skip_stride(shapes, names, network["depths"])
        net = build_on_meta("dic_s", network)
        keys = KeyMap(net, theirs, path, CURE)
        map_levels(keys, net, names, ["conv.affine.1"], taking(keys, LAYERS))
        return foreign_of("dic_s", network, keys, path)


def _names(shapes: Shapes) -> LevelNames:
    """Their names, of as many levels as there are."""
    levels = shapes.count("t_embedder_ls.{}.mlp.0.weight")
    if levels < 2:
        shapes("t_embedder_ls.1.mlp.0.weight", 2)
    sizes = range(levels - 1)
    return LevelNames(
        times=[f"t_embedder_ls.{level}.mlp" for level in range(levels)],
        labels=[f"y_embedder_ls.{level}.embedding_table" for level in range(levels)],
        stages=[*(f"enc_blocks.{i}" for i in sizes), "lat_blocks.0", *(f"dec_blocks.{i}" for i in sizes)],
        downs=[f"downs.{i}.body.0" for i in sizes],
        ups=[f"ups.{i}.body.0" for i in sizes],
        merges=(),
    )


def _skip_stride(shapes: Shapes, names: LevelNames, depths: list[int]) -> int:
    """Every which block of the decoder takes a skip; the most blocks of a level where only the first does.

    Raises:
        UserError: The first takes none.
    """
    found = max(depths)
    for stage, depth in list(zip(names.stages, depths, strict=True))[len(names.times) :]:
        taking_skips = [i for i in range(depth) if f"{stage}.{i}.conv.skip.weight" in shapes.theirs]
        if not taking_skips or taking_skips[0]:
            raise UserError(f"{shapes.path} has a decoder whose first block takes no skip: {stage}.0", CURE)
        if len(taking_skips) > 1:
            found = min(found, taking_skips[1])
    return found
