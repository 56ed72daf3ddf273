"""Weights of U-DiT, `U-DiT-*.pt` and its training checkpoints (YuchuanTian/U-DiT; Tian et al. 2024, arXiv 2405.02730).

The feed-forward layers are read in the form in which they train, which is the one that files hold.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from denoisezoo.interop.foreign import FORMATS, Foreign, Weights
from denoisezoo.interop.key_map import KeyMap
from denoisezoo.interop.level_unet_map import LevelFormat, LevelNames, foreign_of, level_network, map_levels, taking
from denoisezoo.interop.transformer_map import Shapes, read_weights
from denoisezoo.interop.unet_map import build_on_meta

CURE = "give a state dictionary or training checkpoint of YuchuanTian/U-DiT's U-DiT-S, -B or -L"
NAMES = LevelNames()
HALVES = range(2)
LAYERS = {
    "attention.{0}.depthwise": "attn{1}.downsampler.layer",
    "attention.{0}.qkv": "attn{1}.to_qkv",
    "attention.{0}.out": "attn{1}.to_out",
    "feed_forward.{0}.widen.0": "mlp{1}.project_in.0",
    "feed_forward.{0}.widen.1": "mlp{1}.project_in.1",
    "feed_forward.{0}.depthwise.0": "mlp{1}.dwconv.0",
    "feed_forward.{0}.depthwise.1": "mlp{1}.dwconv.1",
    "feed_forward.{0}.depthwise.2": "mlp{1}.dwconv.2",
    "feed_forward.{0}.narrow.0": "mlp{1}.project_out.0",
    "feed_forward.{0}.narrow.1": "mlp{1}.project_out.1",
}
"""Our layers of half a block, counted from 0 -> theirs, counted from 1."""


@FORMATS.register("udit")
@dataclass(frozen=True)
class UDiTWeights(LevelFormat):
    """See `LevelFormat`."""

    def read(self, path: Path, weights: Weights) -> Foreign:
        """See `Format.read`."""
        theirs = read_weights(path, weights, CURE)
        shapes = Shapes(path, theirs, CURE)
        network = level_network(shapes, NAMES, self.resolution, "attn1.to_out")
        width = shapes("latent.0.mlp1.project_in.0.weight", 4)[1]
        network |= {
            "num_heads": shapes("latent.0.attn1.logit_scale", 3)[0],
            "expansion": shapes("latent.0.mlp1.project_in.1.weight", 4)[0] // width,
        }
        net = build_on_meta("udit_s", network)
        keys = KeyMap(net, theirs, path, CURE)
        layers = taking(
            keys, {ours.format(i, i + 1): theirs.format(i, i + 1) for i in HALVES for ours, theirs in LAYERS.items()}
        )

        def block(ours: str, theirs: str) -> None:
            layers(ours, theirs)
            for i in HALVES:
                scale = f"{theirs}.attn{i + 1}.logit_scale"
                keys.copy(f"{ours}.attention.{i}.log_scale", scale, lambda x: x.flatten())

        map_levels(keys, net, NAMES, [f"adaLN_modulation{i + 1}.1" for i in HALVES], block)
        return foreign_of("udit_s", network, keys, path)
