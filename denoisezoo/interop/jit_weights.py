"""Weights of JiT, `checkpoint-last.pth` (LTH14/JiT; Li and He 2025, arXiv 2511.13720): networks of pixels that predict
the image.

A file holds the optimiser's weights and two averages. The block from which class tokens are there leaves no trace in
the tensors, and neither does the noise's deviation, 2 at 512 pixels. Time runs from noise to data there, which the
features of time alone see.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from denoisezoo.errors import UserError
from denoisezoo.interop.foreign import FORMATS, Foreign, Format, Weights, part
from denoisezoo.interop.key_map import KeyMap
from denoisezoo.interop.transformer_map import Shapes, dit_network, gated_ratio, map_dit, map_gated, read_weights
from denoisezoo.interop.unet_map import build_on_meta

CURE = "give a state dictionary or training checkpoint of LTH14/JiT"
STARTS = {12: 4, 24: 8, 32: 10}
"""Blocks -> the first of them that sees class tokens, in the sizes B, L and H."""
NOISE = {512: 2.0}
"""Pixels a side -> deviation of the noise where it is not 1."""


@FORMATS.register("jit")
@dataclass(frozen=True)
class JiTWeights(Format):
    """Reads one network.

    Attributes:
        num_heads: Heads of an attention; those of the published sizes are known by their width.
        in_context_start: First block that sees class tokens; that of the published sizes is known by their depth.
        noise_scale: Standard deviation of the noise; 2 for 512 pixels and 1 for others unless given.
        average: Which of a training checkpoint's two averages; its own code samples by the first.
    """

    kept = ("ema", "raw")
    num_heads: int | None = None
    in_context_start: int | None = None
    noise_scale: float | None = None
    average: Literal["1", "2"] = "1"

    def read(self, path: Path, weights: Weights) -> Foreign:
        """See `Format.read`."""
        theirs = read_weights(path, weights, CURE, average=f"model_ema{self.average}", prefix="net.")
        network = self._network(Shapes(path, theirs, CURE))
        keys = KeyMap(build_on_meta("jit_b_16", network), theirs, path, CURE)
        map_dit(keys, network, stem={"stem.0": "x_embedder.proj1", "stem.1": "x_embedder.proj2"})
        map_gated(keys, network, qk_norm=True)
        if network["class_tokens"]:
            keys.copy("class_places", "in_context_posemb", lambda x: x.flatten(0, -2))
        noise_scale = self.noise_scale or NOISE.get(network["resolution"], 1.0)
        return Foreign(
            denoiser="jit_b_16",
            network=network,
            process=part("RectifiedFlow", **({} if noise_scale == 1 else {"noise_scale": noise_scale})),
            preconditioning=part("X0"),
            objective=part("Simple"),
            weights=keys.finish(),
            sampler="heun",
            steps=50,
            file=path,
        )

    def _network(self, shapes: Shapes) -> dict[str, Any]:
        """Our configuration, read off the shapes."""
        network = dit_network(shapes, self.num_heads, self.name, hidden="mlp.w12", stem="x_embedder.proj1")
        tokens = shapes("in_context_posemb", 3)[1] if "in_context_posemb" in shapes.theirs else 0
        start = self.in_context_start if tokens else None
        if tokens and start is None and (start := STARTS.get(network["depth"])) is None:
            what = f"{shapes.path} does not tell which of its {network['depth']} blocks sees class tokens first"
            raise UserError(what, f"give it, e.g. {self.name},in_context_start=4:PATH")
        return network | {
            "mlp_ratio": gated_ratio(network["width"], shapes("blocks.0.mlp.w3.weight", 2)[1]),
            "released_time": True,
            "bottleneck": shapes("x_embedder.proj1.weight", 4)[0],
            "class_tokens": tokens,
            "class_start": start or 0,
            "dropout": 0.0,
        }
