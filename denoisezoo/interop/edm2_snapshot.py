"""Snapshots of EDM2, `edm2-*.pkl` (NVlabs/edm2, Karras et al. 2023, arXiv 2312.02696), which format `edm` reads.

The file holds its configuration, and all tensors in float16: its own code computes with them in float32, too. Noise
features there have 2 pi in their frequencies and phases. Networks of latents see those of an autoencoder, scaled and
shifted channel by channel; both are in the file, and end up in the card.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from denoisezoo.archs import Backbone
from denoisezoo.errors import UserError
from denoisezoo.interop.foreign import Foreign, part
from denoisezoo.interop.key_map import KeyMap, matrix
from denoisezoo.interop.pickle_reader import Thing
from denoisezoo.interop.snapshot_parts import CURE, arguments_of, block_names, inner, tensors_of
from denoisezoo.interop.unet_map import build_on_meta, by_head_interleaved

EDM2 = "Precond"
"""What EDM2 calls its preconditioned network."""
REQUIRED = ("img_resolution", "img_channels", "label_dim")
FIXED: dict[str, Any] = {
    "label_balance": 0.5,
    "concat_balance": 0.5,
    "res_balance": 0.3,
    "attn_balance": 0.3,
    "clip_act": 256,
    "resample_filter": [1, 1],
}
"""Arguments of which our network knows one value."""
DEFAULTS: dict[str, Any] = FIXED | {
    "model_channels": 192,
    "channel_mult": [1, 2, 3, 4],
    "channel_mult_noise": None,
    "channel_mult_emb": None,
    "num_blocks": 3,
    "attn_resolutions": [16, 8],
    "channels_per_head": 64,
    "dropout": 0,
}


def read_edm2(path: Path, found: Mapping[str, Any], whole: Thing) -> Foreign:
    """What a snapshot of EDM2 holds.

    Args:
        path: The file.
        found: All of its content.
        whole: The preconditioned network in it.

    Raises:
        UserError: It holds what our network does not.
    """
    net, given = inner(path, whole, "unet")
    sizes = arguments_of(path, f"EDM2 {net.kind:.40}", given, DEFAULTS, REQUIRED)
    _check(path, sizes)
    theirs = tensors_of(path, whole)
    features = theirs.get("logvar_fourier.freqs")
    network = _network(sizes) | {"uncertainty": 0 if features is None else features.numel()}
    backbone = build_on_meta("edm2_xs", network)
    keys = KeyMap(backbone, theirs, path, "give a whole snapshot of this configuration")
    _map(keys, backbone, sizes)
    sigma_data = whole.state.get("sigma_data")
    if not isinstance(sigma_data, int | float):
        raise UserError(f"{path} does not say the sigma_data of its network", CURE)
    encoder = found.get("encoder")
    return Foreign(
        denoiser="edm2_xs",
        network=network,
        process=part("EDM"),
        preconditioning=part("EDMPreconditioning", sigma_data=float(sigma_data)),
        objective=part("EDMLoss"),
        weights=keys.finish(),
        sampler="edm",
        steps=32,
        file=path,
        facts={"network": "EDM2", "preconditioning": whole.kind} | _latents(encoder),
    )


def _check(path: Path, sizes: Mapping[str, Any]) -> None:
    """Refuse what our network does not do."""
    mults = sizes["channel_mult"]
    known = {name: [value] for name, value in FIXED.items()}
    known |= {"channel_mult_noise": [None, mults[0]], "channel_mult_emb": [None, max(mults)]}
    for name, values in known.items():
        found = list(sizes[name]) if isinstance(sizes[name], list | tuple) else sizes[name]
        if found not in values:
            raise UserError(f"{path} has {name} {found}", f"only {values[-1]} is known here")


def _network(sizes: Mapping[str, Any]) -> dict[str, Any]:
    """Our configuration."""
    channels = int(sizes["img_channels"])
    return {
        "resolution": int(sizes["img_resolution"]),
        "in_channels": channels,
        "out_channels": channels,
        "num_classes": int(sizes["label_dim"]),
        "augment_dim": 0,
        "cond_channels": 0,
        "channels": int(sizes["model_channels"]),
        "multipliers": [float(m) for m in sizes["channel_mult"]],
        "blocks": int(sizes["num_blocks"]),
        "attention": [int(size) for size in sizes["attn_resolutions"]],
        "head_channels": int(sizes["channels_per_head"]),
        "dropout": float(sizes["dropout"]),
    }


def _map(keys: KeyMap, net: Backbone, sizes: Mapping[str, Any]) -> None:
    """Take all weights."""
    size, per_head = int(sizes["img_resolution"]), int(sizes["channels_per_head"])
    keys.copy("embedding.features.frequencies", "unet.emb_fourier.freqs", _turns)
    keys.copy("embedding.features.phases", "unet.emb_fourier.phases", _turns)
    keys.copy("embedding.noise.weight", "unet.emb_noise.weight")
    if sizes["label_dim"]:
        keys.copy("embedding.label.weight", "unet.emb_label.weight")
    keys.copy("stem.weight", f"unet.enc.{size}x{size}_conv.weight")
    keys.copy("head.weight", "unet.out_conv.weight")
    keys.copy("gain", "unet.out_gain", _one)
    if "uncertainty.linear.weight" in keys.shapes:
        keys.copy("uncertainty.features.frequencies", "logvar_fourier.freqs", _turns)
        keys.copy("uncertainty.features.phases", "logvar_fourier.phases", _turns)
        keys.copy("uncertainty.linear.weight", "logvar_linear.weight")
    names = block_names(size, len(sizes["channel_mult"]), int(sizes["num_blocks"]))
    blocks = {position.ours: f"unet.{block}" for position, block in names.items()}
    for ours, theirs in blocks.items():
        keys.copy(f"{ours}.gain", f"{theirs}.emb_gain", _one)
        for layer, name in {"conv0": "conv_res0", "conv1": "conv_res1", "skip": "conv_skip"}.items():
            keys.layer(f"{ours}.{layer}", f"{theirs}.{name}")
        if f"{ours}.attention.qkv.weight" in keys.shapes:
            heads = keys.shapes[f"{ours}.attention.out.weight"][0] // per_head
            keys.copy(f"{ours}.attention.qkv.weight", f"{theirs}.attn_qkv.weight", partial(_qkv, heads=heads))
            keys.layer(f"{ours}.attention.out", f"{theirs}.attn_proj", matrix)
    keys.join("modulation.weight", [f"{block}.emb_linear.weight" for block in blocks.values()])


def _turns(angle: Tensor) -> Tensor:
    """Frequencies and phases without their factor 2 pi."""
    return (angle.double() / (2 * math.pi)).float()


def _qkv(weight: Tensor, heads: int) -> Tensor:
    """Rows of a 1x1 convolution, as those of our linear layer."""
    return by_head_interleaved(matrix(weight), heads)


def _one(gain: Tensor) -> Tensor:
    """A number (), as the (1,) of ours."""
    return gain.reshape(1)


def _latents(encoder: Any) -> dict[str, Any]:
    """Which autoencoder, our codec for it, and what its latents are multiplied by and what is added."""
    if not isinstance(encoder, Thing) or "scale" not in encoder.state or "bias" not in encoder.state:
        return {}
    scale, bias = (getattr(encoder.state[name], "value", None) for name in ("scale", "bias"))
    if scale is None or bias is None:
        return {}
    name = encoder.state.get("vae_name")
    latents = {
        "autoencoder": name if isinstance(name, str) else "unknown",
        "codec": "autoencoder_kl",
        "scale": [float(x) for x in scale.flatten()],
        "shift": [float(x) for x in bias.flatten()],
    }
    return {"latents": latents}
