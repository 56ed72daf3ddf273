"""Weights of LightningDiT, `lightningdit-*.pt` and its training checkpoints (hustvl/LightningDiT; Yao, Yang, Wang 2025,
arXiv 2501.01423), with RMSNorm, SwiGLU and rotary positions, as published.

Time runs from noise to data there, so that its velocity is ours times -1, and with it the last layer. Heads are read
off the rotary table. Latents are VA-VAE's, and their means and deviations lie in a file of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from denoisezoo.interop.foreign import FORMATS, Foreign, Format, Weights, part
from denoisezoo.interop.key_map import KeyMap
from denoisezoo.interop.transformer_map import Shapes, dit_network, gated_ratio, map_dit, map_gated, read_weights
from denoisezoo.interop.unet_map import build_on_meta
from denoisezoo.nn.attention import axial_angles

CURE = "give a state dictionary or training checkpoint of hustvl/LightningDiT with RMSNorm, SwiGLU and rotary positions"
TABLES = ("feat_rope.freqs_cos", "feat_rope.freqs_sin")


@FORMATS.register("lightningdit")
@dataclass(frozen=True)
class LightningDiTWeights(Format):
    """Reads one network; a training checkpoint has both sets of weights."""

    kept = ("ema", "raw")

    def read(self, path: Path, weights: Weights) -> Foreign:
        """See `Format.read`."""
        theirs = read_weights(path, weights, CURE)
        shapes = Shapes(path, theirs, CURE)
        network = self._network(shapes)
        keys = KeyMap(build_on_meta("lightningdit_xl_1", network), theirs, path, CURE)
        map_dit(keys, network, lambda rows: -rows)
        map_gated(keys, network, network["qk_norm"])
        _check_tables(keys, network)
        return Foreign(
            denoiser="lightningdit_xl_1",
            network=network,
            process=part("RectifiedFlow"),
            preconditioning=part("Velocity"),
            objective=part("Simple"),
            weights=keys.finish(),
            sampler="euler",
            steps=250,
            file=path,
            facts={} if network["in_channels"] in (1, 3) else {"latents": {"autoencoder": "VA-VAE"}},
        )

    def _network(self, shapes: Shapes) -> dict[str, Any]:
        """Our configuration, read off the shapes."""
        width = shapes("x_embedder.proj.weight", 4)[0]
        head = shapes(TABLES[0], 2)[1]
        hidden = shapes("blocks.0.mlp.w3.weight", 2)[1]
        network = dit_network(shapes, max(1, width // head), self.name, hidden="mlp.w12")
        network["mlp_ratio"] = gated_ratio(width, hidden)
        return network | {
            "released_time": True,
            "qk_norm": "blocks.0.attn.q_norm.weight" in shapes.theirs,
            "shift": shapes("blocks.0.adaLN_modulation.1.weight", 2)[0] == 6 * width,
        }


def _check_tables(keys: KeyMap, network: dict[str, Any]) -> None:
    """The rotary table in the file must be the one that ours has by itself."""
    grid = network["resolution"] // network["patch"]
    angles = axial_angles(network["width"] // network["heads"], grid, grid)[:, 0].repeat_interleave(2, dim=1)
    for name, expected in zip(TABLES, (angles.cos(), angles.sin()), strict=True):
        keys.drop(name)
        found = keys.theirs.get(name)
        if found is None:
            keys.complain(f"{name} is missing")
        elif not _close(found, expected):
            keys.complain(f"{name} is not the table of a {grid}x{grid} grid")


def _close(found: Tensor, expected: Tensor) -> bool:
    return found.shape == expected.shape and bool((found.double() - expected).abs().max() < 1e-3)
