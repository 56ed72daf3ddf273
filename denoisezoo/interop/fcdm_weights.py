"""Weights of FCDM, the training checkpoints of star-kwon/FCDM (Kwon et al. 2026, arXiv 2603.09408), which has a script
for flow matching, too: those networks put out no variance, and are refused.
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

CURE = "give a training checkpoint or state dictionary of star-kwon/FCDM, of its train_gen"
NAMES = LevelNames(
    downs=("down1_2.conv.0", "down2_3.conv.0"),
    ups=("up3_2.conv.0", "up2_1.conv.0"),
    merges=("reduce_chans_2", "reduce_chans_1"),
    stem="x_embedder",
    final_conv="output_layer",
    head="final_layer.conv",
)


@FORMATS.register("fcdm")
@dataclass(frozen=True)
class FCDMWeights(LevelFormat):
    """See `LevelFormat`."""

    def read(self, path: Path, weights: Weights) -> Foreign:
        """See `Format.read`."""
        theirs = read_weights(path, weights, CURE)
        shapes = Shapes(path, theirs, CURE)
        network = level_network(shapes, NAMES, self.resolution, "pwconv2")
        if network["out_channels"] == network["in_channels"]:
            raise UserError(f"{path} puts out no variance, as its flow-matching script trains, unknown here", CURE)
        wide, narrow, _, _ = shapes("latent.0.pwconv1.weight", 4)
        network |= {"expansion": wide // narrow, "kernel": shapes("latent.0.dwconv.weight", 4)[-1]}
        net = build_on_meta("fcdm_s", network)
        keys = KeyMap(net, theirs, path, CURE)
        layers = taking(keys, {"depthwise": "dwconv", "widen": "pwconv1", "narrow": "pwconv2"})

        def block(ours: str, theirs: str) -> None:
            layers(ours, theirs)
            for name in ("gamma", "beta"):
                keys.copy(f"{ours}.response.{name}", f"{theirs}.grn.{name}", lambda x: x.flatten(0, 1))

        map_levels(keys, net, NAMES, ["adaLN_modulation.1"], block)
        return foreign_of("fcdm_s", network, keys, path)
