"""Weights of DDT, Lightning's checkpoints (MCG-NJU/DDT; Wang et al. 2025, arXiv 2504.05741), and of the Improved DiT
that it is compared with.

The tensors do not tell how many blocks are the encoder's, nor the size of images, for which nothing is stored, nor the
patch apart from the channels. Time runs from noise to data there, so that its velocity is ours times -1, and with it
the last layer, whose rows, and those of the patches, have the channel as the slowest of their places.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from denoisezoo.errors import UserError
from denoisezoo.interop.foreign import FORMATS, Foreign, Format, Weights, part
from denoisezoo.interop.key_map import KeyMap
from denoisezoo.interop.tensor_files import require_state
from denoisezoo.interop.torch_zip import read_checkpoint
from denoisezoo.interop.transformer_map import Shapes, facts_of_latents, gated_ratio
from denoisezoo.interop.unet_map import build_on_meta

CURE = "give a checkpoint of MCG-NJU/DDT, or the state dictionary of its network"
ENCODERS = {12: 8, 24: 20, 28: 22}
"""Blocks -> those of the encoder, in the sizes B, L and XL."""
SETS = {"ema": "ema_denoiser.", "raw": "denoiser."}
"""What names of each set of weights begin with."""
LAYERS = {
    "norm1": "norm1",
    "norm2": "norm2",
    "attention.qkv": "attn.qkv",
    "attention.out": "attn.proj",
    "attention.norms.0": "attn.q_norm",
    "attention.norms.1": "attn.k_norm",
    "feed.gate": "mlp.w1",
    "feed.up": "mlp.w3",
    "feed.down": "mlp.w2",
    "modulation": "adaLN_modulation.0",
}
"""Our layers of a block -> theirs."""


@FORMATS.register("ddt")
@dataclass(frozen=True)
class DDTWeights(Format):
    """Reads one network; a training checkpoint has both sets of weights.

    Attributes:
        num_encoder_blocks: Blocks of the encoder; those of the published sizes are known by their depth.
        resolution: Latents a side: 32 for images of 256 pixels.
        patch_size: Latents a side of a patch.
    """

    kept = ("ema", "raw")
    num_encoder_blocks: int | None = None
    resolution: int = 32
    patch_size: int = 2

    def read(self, path: Path, weights: Weights) -> Foreign:
        """See `Format.read`."""
        theirs = _weights(path, weights)
        network = self._network(Shapes(path, theirs, CURE))
        keys = KeyMap(build_on_meta("ddt_xl_2", network), theirs, path, CURE)
        patch, channels = network["patch"], network["out_channels"]

        def velocity(rows: Tensor) -> Tensor:
            """Rows (channel, patch, patch) of the last layer as minus those in the order (patch, patch, channel)."""
            return -rows.unflatten(0, (channels, patch * patch)).transpose(0, 1).flatten(0, 1)

        keys.layer("embedding.first", "t_embedder.mlp.0")
        keys.layer("embedding.second", "t_embedder.mlp.2")
        keys.layer("embedding.late.classes.table", "y_embedder.embedding_table")
        keys.layer("decoder_stem", "x_embedder.proj")
        encoder = network["encoder_depth"]
        if encoder:
            keys.layer("encoder_stem", "s_embedder.proj")
        for i in range(network["depth"]):
            ours = f"encoder.{i}" if i < encoder else f"decoder.{i - encoder}"
            for layer, name in LAYERS.items():
                keys.layer(f"{ours}.{layer}", f"blocks.{i}.{name}")
        keys.layer("last.modulation", "final_layer.adaLN_modulation.0")
        keys.layer("last.linear", "final_layer.linear", velocity)
        return Foreign(
            denoiser="ddt_xl_2",
            network=network,
            process=part("RectifiedFlow"),
            preconditioning=part("Velocity"),
            objective=part("Simple"),
            weights=keys.finish(),
            sampler="euler",
            steps=250,
            file=path,
            facts=facts_of_latents(channels),
        )

    def _network(self, shapes: Shapes) -> dict[str, Any]:
        """Our configuration, read off the shapes."""
        width, numbers = shapes("x_embedder.proj.weight", 2)
        channels, rest = divmod(numbers, self.patch_size**2)
        if rest or not channels:
            what = f"{shapes.path} has patches of {numbers} numbers, and none of {self.patch_size}x{self.patch_size}"
            raise UserError(what, f"give another patch, e.g. {self.name},patch_size=1:PATH")
        depth = shapes.count("blocks.{}.attn.qkv.weight")
        if not depth:
            shapes("blocks.0.attn.qkv.weight", 2)
        encoder = self.num_encoder_blocks or ENCODERS.get(depth)
        if "s_embedder.proj.weight" not in shapes.theirs:
            encoder = 0
        if encoder is None:
            what = f"{shapes.path} does not tell how many of its {depth} blocks are the encoder's"
            raise UserError(what, f"give it, e.g. {self.name},num_encoder_blocks={max(1, depth * 2 // 3)}:PATH")
        return {
            "resolution": self.resolution,
            "in_channels": channels,
            "out_channels": channels,
            "num_classes": shapes("y_embedder.embedding_table.weight", 2)[0] - 1,
            "augment_dim": 0,
            "cond_channels": 0,
            "patch": self.patch_size,
            "width": width,
            "depth": depth,
            "heads": max(1, width // shapes("blocks.0.attn.q_norm.weight", 1)[0]),
            "mlp_ratio": gated_ratio(width, shapes("blocks.0.mlp.w2.weight", 2)[1]),
            "features": "sinusoidal",
            "time_scale": 1.0,
            "rounding": "quotient",
            "released_time": True,
            "encoder_depth": encoder,
        }


def _weights(path: Path, weights: Weights) -> dict[str, Tensor]:
    """A network's tensors by name.

    Of a training checkpoint what trains alone is left aside, such as the projection to another network's features.
    """
    found = read_checkpoint(path)
    inside = found.get("state_dict") if isinstance(found, dict) else None
    state = require_state(found, path) if inside is None else require_state(inside, path, "'state_dict'")
    state = {name.replace("_orig_mod.", ""): value for name, value in state.items()}
    own = {key: value for key, value in state.items() if key.startswith(tuple(SETS.values()))}
    if not own:
        if weights == "raw":
            raise UserError(f"{path} holds the ema weights alone", "give `weights=ema`")
        return state
    prefix = SETS[weights]
    chosen = {key.removeprefix(prefix): value for key, value in own.items() if key.startswith(prefix)}
    if not chosen:
        raise UserError(f"{path} holds no {weights} weights: nothing is named {prefix}...", CURE)
    return chosen
