"""Weights of U-ViT, `*_uvit_*.pth` (baofff/U-ViT; Bao et al. 2022, arXiv 2209.12152).

Networks of pixels were trained under the VP process in continuous time, those of latents on Stable Diffusion's chain,
whose steps they count from 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from denoisezoo.archs import Backbone
from denoisezoo.interop.foreign import FORMATS, Foreign, Format, Weights, part
from denoisezoo.interop.key_map import KeyMap, matrix
from denoisezoo.interop.transformer_map import STABLE_DIFFUSION, Shapes, heads_of, read_weights
from denoisezoo.interop.unet_map import build_on_meta

CURE = "give a state dictionary of baofff/U-ViT's UViT, nnet_ema.pth"
HEADS = {512: 8, 768: 12, 1024: 16, 1152: 16}
"""Width -> heads of the published sizes."""
WITH_NULL = 1001
"""Rows of a label table of ImageNet that has one for no class."""
LAYERS = {
    "norm1": "norm1",
    "norm2": "norm2",
    "attention.qkv": "attn.qkv",
    "attention.out": "attn.proj",
    "feed.up": "mlp.fc1",
    "feed.down": "mlp.fc2",
}
"""Our layers of a block -> theirs."""


@FORMATS.register("uvit")
@dataclass(frozen=True)
class UViTWeights(Format):
    """Reads one network.

    Attributes:
        num_heads: Heads of an attention; those of the published sizes are known by their width.
        null_label: Whether the last row of the label table stands for no class; if there are 1,001 rows unless given.
        latents: Whether it is a network of latents; one with 4 channels is, unless given.
    """

    num_heads: int | None = None
    null_label: bool | None = None
    latents: bool | None = None

    def read(self, path: Path, weights: Weights) -> Foreign:
        """See `Format.read`."""
        theirs = read_weights(path, weights, CURE)
        network = self._network(Shapes(path, theirs, CURE))
        latents = network["in_channels"] == 4 if self.latents is None else self.latents
        network["time_offset"] = 1.0 if latents else 0.0
        net = build_on_meta("uvit_cifar10", network)
        keys = KeyMap(net, theirs, path, CURE)
        _map(keys, net, network["depth"] // 2)
        chain = part("VPDiscrete", schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
        fast = latents or network["num_classes"] > 0
        return Foreign(
            denoiser="uvit_cifar10",
            network=network,
            process=chain if latents else part("VP"),
            preconditioning=part("Epsilon"),
            objective=part("Simple"),
            weights=keys.finish(),
            sampler="dpmpp_2m" if fast else "euler_maruyama",
            steps=50 if fast else 1000,
            file=path,
            facts={"latents": {"autoencoder": "stable-diffusion", **STABLE_DIFFUSION}} if latents else {},
        )

    def _network(self, shapes: Shapes) -> dict[str, Any]:
        """Our configuration, read off the shapes."""
        width, in_channels, patch, _ = shapes("patch_embed.proj.weight", 4)
        half = shapes.count("in_blocks.{}.attn.qkv.weight")
        if not half:
            shapes("in_blocks.0.attn.qkv.weight", 2)
        labelled = "label_emb.weight" in shapes.theirs
        rows = shapes("label_emb.weight", 2)[0] if labelled else 0
        null = rows == WITH_NULL if self.null_label is None else self.null_label
        tokens = shapes("pos_embed", 3)[1] - (2 if labelled else 1)
        return {
            "resolution": shapes.grid(tokens) * patch,
            "in_channels": in_channels,
            "out_channels": shapes("decoder_pred.weight", 2)[0] // patch**2,
            "num_classes": rows - 1 if labelled and null else rows,
            "augment_dim": 0,
            "cond_channels": 0,
            "patch": patch,
            "width": width,
            "depth": 2 * half,
            "heads": heads_of(shapes.path, width, self.num_heads or HEADS.get(width), self.name),
            "mlp_ratio": shapes("in_blocks.0.mlp.fc1.weight", 2)[0] / width,
            "features": "sinusoidal",
            "time_scale": 1.0,
            "rounding": "quotient",
            "token_dim": 0,
            "tokens": 0,
            "conv": "final_layer.weight" in shapes.theirs,
            "null_label": null if labelled else True,
        }


def _map(keys: KeyMap, net: Backbone, half: int) -> None:
    """Take all weights."""
    keys.layer("stem", "patch_embed.proj", matrix)
    keys.copy("positions", "pos_embed", lambda x: x.flatten(0, -2))
    if "classes.table.weight" in keys.shapes:
        keys.copy("classes.table.weight", "label_emb.weight")
    blocks = {"middle.0": "mid_block"}
    for i in range(half):
        blocks |= {f"encoder.{i}": f"in_blocks.{i}", f"decoder.{i}": f"out_blocks.{i}"}
        keys.layer(f"joins.{i}", f"out_blocks.{i}.skip_linear")
    for ours, theirs in blocks.items():
        for layer, name in LAYERS.items():
            keys.layer(f"{ours}.{layer}", f"{theirs}.{name}")
    keys.layer("norm", "norm")
    keys.layer("last", "decoder_pred")
    if "conv.weight" in keys.shapes:
        keys.layer("conv", "final_layer")
