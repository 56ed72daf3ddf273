"""What the formats of DiT and its heirs share: the names of DiT's layers, and what their shapes tell.

Heads leave no trace in the tensors: those of the sizes that were published are known by their width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from denoisezoo.errors import UserError
from denoisezoo.interop.foreign import Weights
from denoisezoo.interop.key_map import Change, KeyMap, matrix
from denoisezoo.interop.tensor_files import require_state
from denoisezoo.interop.torch_zip import read_checkpoint

HEADS = {384: 6, 768: 12, 1024: 16, 1152: 16, 1280: 16}
"""Width -> heads of the sizes S, B, L, XL, and of JiT's H."""
STABLE_DIFFUSION = {"codec": "autoencoder_kl", "scale": [0.18215] * 4, "shift": [0.0] * 4}
"""Our codec for latents of Stable Diffusion's autoencoder, what they are multiplied by, and what is added."""


def facts_of_latents(channels: int) -> dict[str, Any]:
    """What the card of a DiT or SiT says of its latents: those of 4 channels are of Stable Diffusion's autoencoder."""
    return {"latents": {"autoencoder": "stabilityai/sd-vae-ft-ema", **STABLE_DIFFUSION}} if channels == 4 else {}


def read_weights(
    path: Path, weights: Weights, cure: str, *, average: str = "ema", prefix: str = "module."
) -> dict[str, Tensor]:
    """A network's tensors by name, from a state dictionary or from a training checkpoint with its average.

    Args:
        path: The file.
        weights: Which set of a training checkpoint; a state dictionary has one, whichever it is.
        cure: What else may be given, for the error.
        average: Key of a training checkpoint's average.
        prefix: What is taken off in front of names.

    Raises:
        UserError: It is missing, damaged, holds something else, or has no such weights.
    """
    found = read_checkpoint(path)
    trained = isinstance(found, dict) and isinstance(found.get("model"), dict)
    if not trained and weights == "raw":
        raise UserError(f"{path} holds the ema weights alone", "give `weights=ema`")
    key = average if weights == "ema" else "model"
    if trained and not isinstance(found.get(key), dict):
        raise UserError(f"{path} holds no {key!r}", cure)
    state = require_state(found[key], path, f"{key!r}") if trained else require_state(found, path)
    return {name.removeprefix(prefix): value for name, value in state.items()}


@dataclass(frozen=True)
class Shapes:
    """Shapes of another network's tensors, and what to say where one is missing.

    Attributes:
        path: Their file.
        theirs: The tensors by name.
        cure: What to give instead.
    """

    path: Path
    theirs: Mapping[str, Tensor]
    cure: str

    def __call__(self, name: str, dimensions: int) -> tuple[int, ...]:
        """The shape of a tensor.

        Raises:
            UserError: It is missing, or has another number of dimensions.
        """
        found = self.theirs.get(name)
        if found is None or found.ndim != dimensions:
            what = f"{self.path} is no network of this kind: {name} is missing or of another kind"
            raise UserError(what, self.cure)
        return tuple(found.shape)

    def count(self, pattern: str) -> int:
        """How many tensors there are whose names have 0, 1, 2 ... at the pattern's place."""
        return next(n for n in range(len(self.theirs) + 1) if pattern.format(n) not in self.theirs)

    def grid(self, tokens: int) -> int:
        """Tokens a side.

        Raises:
            UserError: They make no square.
        """
        side = math.isqrt(tokens)
        if side * side != tokens or not side:
            raise UserError(f"{self.path} has positions for {tokens} tokens, which make no square", self.cure)
        return side


def heads_of(path: Path, width: int, num_heads: int | None, format: str) -> int:
    """The heads that are given, or those of a published size.

    Raises:
        UserError: Neither.
    """
    found = num_heads or HEADS.get(width)
    if found is None:
        example = f"give them, e.g. {format},num_heads={max(1, width // 64)}:PATH"
        raise UserError(f"{path} does not tell the heads of its attention, and a width of {width} is new", example)
    return found


def dit_network(
    shapes: Shapes, num_heads: int | None, format: str, *, hidden: str = "mlp.fc1", stem: str = "x_embedder.proj"
) -> dict[str, Any]:
    """Our configuration of a network with DiT's names, except for what a family of its own adds.

    Args:
        shapes: Of its tensors.
        num_heads: Heads; None for those of a published size.
        format: Name of the format, for the error.
        hidden: The first layer of its feed-forward layers.
        stem: The convolution that reads its patches.

    Raises:
        UserError: It is no such network.
    """
    _, in_channels, patch, _ = shapes(f"{stem}.weight", 4)
    _, tokens, width = shapes("pos_embed", 3)
    depth = shapes.count("blocks.{}.attn.qkv.weight")
    if not depth:
        shapes("blocks.0.attn.qkv.weight", 2)
    rows = shapes("y_embedder.embedding_table.weight", 2)[0]
    return {
        "resolution": shapes.grid(tokens) * patch,
        "in_channels": in_channels,
        "out_channels": shapes("final_layer.linear.weight", 2)[0] // patch**2,
        "num_classes": rows - 1,
        "augment_dim": 0,
        "cond_channels": 0,
        "patch": patch,
        "width": width,
        "depth": depth,
        "heads": heads_of(shapes.path, width, num_heads, format),
        "mlp_ratio": shapes(f"blocks.0.{hidden}.weight", 2)[0] / width,
        "features": "sinusoidal",
        "time_scale": 1.0,
        "rounding": "quotient",
    }


STEM = {"stem": "x_embedder.proj"}
"""Our layers that make tokens of patches -> theirs."""


def map_dit(
    keys: KeyMap, network: Mapping[str, Any], out: Change | None = None, *, stem: Mapping[str, str] = STEM
) -> None:
    """Take the weights of DiT's layers, but those of its feed-forward layers.

    Args:
        keys: Where to.
        network: Our configuration.
        out: What becomes of weight and bias of the last layer.
        stem: The layers that make tokens of patches; see `STEM`.
    """
    for ours, theirs in stem.items():
        keys.layer(ours, theirs, matrix)
    keys.copy("positions", "pos_embed", lambda x: x.flatten(0, -2))
    keys.layer("embedding.first", "t_embedder.mlp.0")
    keys.layer("embedding.second", "t_embedder.mlp.2")
    keys.layer("embedding.late.classes.table", "y_embedder.embedding_table")
    for i in range(network["depth"]):
        ours, theirs = f"blocks.{i}", f"blocks.{i}"
        keys.layer(f"{ours}.attention.qkv", f"{theirs}.attn.qkv")
        keys.layer(f"{ours}.attention.out", f"{theirs}.attn.proj")
        keys.layer(f"{ours}.modulation", f"{theirs}.adaLN_modulation.1")
    keys.layer("last.modulation", "final_layer.adaLN_modulation.1")
    keys.layer("last.linear", "final_layer.linear", out)


def map_feed_forward(keys: KeyMap, network: Mapping[str, Any]) -> None:
    """Take the weights of DiT's feed-forward layers."""
    for i in range(network["depth"]):
        keys.layer(f"blocks.{i}.feed.up", f"blocks.{i}.mlp.fc1")
        keys.layer(f"blocks.{i}.feed.down", f"blocks.{i}.mlp.fc2")


def map_gated(keys: KeyMap, network: Mapping[str, Any], qk_norm: bool) -> None:
    """Take what LightningDiT and JiT have in the place of DiT's norms and feed-forward layers."""
    for i in range(network["depth"]):
        block = f"blocks.{i}"  # of the same name in both
        keys.layer(f"{block}.norm1", f"{block}.norm1")
        keys.layer(f"{block}.norm2", f"{block}.norm2")
        for kind in ("weight", "bias"):  # the gate's rows, then those that it scales
            both = f"{block}.mlp.w12.{kind}"
            keys.copy(f"{block}.feed.gate.{kind}", both, lambda x: x.chunk(2)[0])
            keys.copy(f"{block}.feed.up.{kind}", both, lambda x: x.chunk(2)[1])
        keys.layer(f"{block}.feed.down", f"{block}.mlp.w3")
        if qk_norm:
            keys.layer(f"{block}.attention.norms.0", f"{block}.attn.q_norm")
            keys.layer(f"{block}.attention.norms.1", f"{block}.attn.k_norm")
    keys.layer("last.norm", "final_layer.norm_final")


def gated_ratio(width: int, hidden: int) -> float:
    """mlp_ratio of a gated feed-forward layer, which has two thirds of the ratio's channels, cut to a whole number."""
    return 4.0 if int(2 / 3 * int(4 * width)) == hidden else (hidden + 0.5) * 1.5 / width
