"""Weights of DiCo, `DiCo-*.pt` and its training checkpoints (shallowdream204/DiCo; Ai et al. 2025, arXiv
2505.11196).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from denoisezoo.interop.foreign import FORMATS, Foreign, Weights
from denoisezoo.interop.key_map import KeyMap
from denoisezoo.interop.level_unet_map import LevelFormat, LevelNames, foreign_of, level_network, map_levels, taking
from denoisezoo.interop.transformer_map import Shapes, read_weights
from denoisezoo.interop.unet_map import build_on_meta

CURE = "give a state dictionary or training checkpoint of shallowdream204/DiCo"
NAMES = LevelNames(labels=tuple(f"y_embedder.embedding_table_{level}" for level in range(3)), final_conv=None)
LAYERS = {
    "conv_in": "conv1",
    "depthwise": "conv2",
    "attend": "ca.1",
    "conv_out": "conv3",
    "widen": "conv4",
    "narrow": "conv5",
}
"""Our layers of a block -> theirs."""


@FORMATS.register("dico")
@dataclass(frozen=True)
class DiCoWeights(LevelFormat):
    """See `LevelFormat`."""

    def read(self, path: Path, weights: Weights) -> Foreign:
        """See `Format.read`."""
        theirs = read_weights(path, weights, CURE)
        shapes = Shapes(path, theirs, CURE)
        network = level_network(shapes, NAMES, self.resolution, "conv3")
        network["expansion"] = shapes("latent.0.conv4.weight", 4)[0] // shapes("latent.0.conv4.weight", 4)[1]
        net = build_on_meta("dico_s", network)
        keys = KeyMap(net, theirs, path, CURE)
        map_levels(keys, net, NAMES, ["adaLN_modulation.1"], taking(keys, LAYERS))
        return foreign_of("dico_s", network, keys, path)
