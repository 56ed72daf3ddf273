"""Weights of SiT, `SiT-XL-2-*.pt` and its training checkpoints (willisma/SiT; Ma et al. 2024, arXiv 2401.08740).

Time runs from noise to data there, so that its velocity is ours times -1, and with it the last layer. The second half
of the output channels, which its own code throws away, is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

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

CURE = "give a state dictionary or training checkpoint of willisma/SiT"


@FORMATS.register("sit")
@dataclass(frozen=True)
class SiTWeights(Format):
    """Reads a network that predicts the velocity of a linear path, as published; a training checkpoint has both sets.

    Attributes:
        num_heads: Heads of an attention; those of the published sizes are known by their width.
    """

    kept = ("ema", "raw")
    num_heads: int | None = None

    def read(self, path: Path, weights: Weights) -> Foreign:
        """See `Format.read`."""
        theirs = read_weights(path, weights, CURE)
        network = dit_network(Shapes(path, theirs, CURE), self.num_heads, self.name)
        channels, outputs = network["in_channels"], network["out_channels"]
        network |= {"released_time": True, "out_channels": channels if outputs == 2 * channels else outputs}

        def velocity(rows: Tensor) -> Tensor:
            """Rows (patch, patch, channel) of the last layer: minus those of the channels that are used."""
            return -rows.unflatten(0, (-1, outputs))[:, : network["out_channels"]].flatten(0, 1)

        keys = KeyMap(build_on_meta("sit_xl_2", network), theirs, path, CURE)
        map_dit(keys, network, velocity)
        map_feed_forward(keys, network)
        return Foreign(
            denoiser="sit_xl_2",
            network=network,
            process=part("RectifiedFlow"),
            preconditioning=part("Velocity"),
            objective=part("Simple"),
            weights=keys.finish(),
            sampler="heun",
            steps=125,
            file=path,
            facts=facts_of_latents(channels),
        )
