"""Weights of DiT, `DiT-XL-2-*.pt` and its training checkpoints (facebookresearch/DiT; Peebles and Xie 2022, arXiv
2212.09748).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from denoisezoo.interop.foreign import FORMATS, Foreign, Format, Weights, part
from denoisezoo.interop.key_map import KeyMap
from denoisezoo.interop.transformer_map import (
    Shapes,
    dit_network,
    facts_of_latents,
    map_dit,
    map_feed_forward,
    read_weights,
)
from denoisezoo.interop.unet_map import build_on_meta

CURE = "give a state dictionary or training checkpoint of facebookresearch/DiT"


@FORMATS.register("dit")
@dataclass(frozen=True)
class DiTWeights(Format):
    """Reads one network; a training checkpoint has both sets of weights.

    Attributes:
        num_heads: Heads of an attention; those of the published sizes are known by their width.
    """

    kept = ("ema", "raw")
    num_heads: int | None = None

    def read(self, path: Path, weights: Weights) -> Foreign:
        """See `Format.read`."""
        theirs = read_weights(path, weights, CURE)
        network = dit_network(Shapes(path, theirs, CURE), self.num_heads, self.name)
        network |= {"token_dim": 0, "tokens": 0}
        keys = KeyMap(build_on_meta("dit_xl_2", network), theirs, path, CURE)
        map_dit(keys, network)
        map_feed_forward(keys, network)
        learned = network["out_channels"] == 2 * network["in_channels"]
        return Foreign(
            denoiser="dit_xl_2",
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
