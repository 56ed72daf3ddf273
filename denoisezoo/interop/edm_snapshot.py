"""Snapshots of EDM and EDM2, `network-snapshot-*.pkl` (NVlabs/edm, Karras et al. 2022, arXiv 2206.00364).

SongUNet and DhariwalUNet under EDM's four preconditionings: its own, and those of VP, VE and improved DDPM. What EDM2
wrote is read by `edm2_snapshot`.

The file holds its configuration. VE networks there return minus the noise, so that our last layer is theirs times -1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from denoisezoo.archs.unet import UNet
from denoisezoo.errors import UserError, unknown
from denoisezoo.interop.edm2_snapshot import EDM2, read_edm2
from denoisezoo.interop.foreign import FORMATS, Foreign, Format, Weights, part
from denoisezoo.interop.key_map import KeyMap
from denoisezoo.interop.pickle_reader import Thing, read_pickle_file
from denoisezoo.interop.snapshot_parts import CURE, arguments_of, block_names, inner, tensors_of
from denoisezoo.interop.unet_map import Names, Position, build_on_meta, by_head_interleaved, map_stages

SHARED: dict[str, Any] = {
    "label_dim": 0,
    "augment_dim": 0,
    "channel_mult_emb": 4,
    "dropout": 0.1,
    "label_dropout": 0,
}
"""Arguments of both networks and their defaults."""
SONG: dict[str, Any] = SHARED | {
    "model_channels": 128,
    "channel_mult": [1, 2, 2, 2],
    "num_blocks": 4,
    "attn_resolutions": [16],
    "embedding_type": "positional",
    "channel_mult_noise": 1,
    "encoder_type": "standard",
    "decoder_type": "standard",
    "resample_filter": [1, 1],
}
DHARIWAL: dict[str, Any] = SHARED | {
    "model_channels": 192,
    "channel_mult": [1, 2, 3, 4],
    "num_blocks": 3,
    "attn_resolutions": [32, 16, 8],
}
DEFAULTS = {"SongUNet": SONG, "DhariwalUNet": DHARIWAL}
REQUIRED = ("img_resolution", "in_channels", "out_channels")
NAMES = Names(
    block={"norm0": "norm0", "conv0": "conv0", "norm1": "norm1", "conv1": "conv1", "skip": "skip"},
    condition="affine",
    attention={"norm": "norm2", "out": "proj"},
    rows=by_head_interleaved,
)


@FORMATS.register("edm")
@dataclass(frozen=True)
class EDMSnapshot(Format):
    """Reads the averaged network of a snapshot."""

    def read(self, path: Path, weights: Weights) -> Foreign:
        """See `Format.read`."""
        found = read_pickle_file(path)
        whole = found.get("ema") if isinstance(found, dict) else None
        if not isinstance(whole, Thing):
            raise UserError(f"{path} is no snapshot of EDM: it holds no network 'ema'", CURE)
        if whole.kind == EDM2:
            return read_edm2(path, found, whole)
        net, arguments = inner(path, whole, "model")
        if net.kind not in DEFAULTS:
            raise unknown(f"network in {path}:", net.kind, DEFAULTS)
        sizes = arguments_of(path, net.kind, arguments, DEFAULTS[net.kind], REQUIRED)
        if sizes["channel_mult_emb"] != 4:
            raise UserError(f"{path} has channel_mult_emb {sizes['channel_mult_emb']}", "only 4 is known here")
        denoiser, network = _song(path, sizes) if net.kind == "SongUNet" else _dhariwal(path, sizes)
        process, preconditioning, objective, sign = _training(path, whole)
        backbone = build_on_meta(denoiser, network)
        assert isinstance(backbone, UNet), "both variants are U-Nets"
        theirs = tensors_of(path, net)
        keys = KeyMap(backbone, theirs, path, "give a whole snapshot of this configuration")
        _map(keys, backbone, net.kind, sizes, sign)
        return Foreign(
            denoiser=denoiser,
            network=network,
            process=process,
            preconditioning=preconditioning,
            objective=objective,
            weights=keys.finish(),
            sampler="edm",
            steps=18 if sizes["img_resolution"] <= 32 else 40,
            file=path,
            facts={"network": net.kind, "preconditioning": whole.kind},
        )


def _shared(sizes: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "resolution": int(sizes["img_resolution"]),
        "in_channels": int(sizes["in_channels"]),
        "out_channels": int(sizes["out_channels"]),
        "num_classes": int(sizes["label_dim"]),
        "augment_dim": int(sizes["augment_dim"]),
        "cond_channels": 0,
        "channels": int(sizes["model_channels"]),
        "multipliers": [float(m) for m in sizes["channel_mult"]],
        "blocks": int(sizes["num_blocks"]),
        "attention": [int(size) for size in sizes["attn_resolutions"]],
        "dropout": float(sizes["dropout"]),
        "num_heads": 0,
        "norm_groups": None,
        "rounding": "power",
    }


def _song(path: Path, sizes: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """DDPM++ and NCSN++."""
    known = {
        "embedding_type": ("positional", "fourier"),
        "encoder_type": ("standard", "residual"),
        "decoder_type": ("standard",),
        "channel_mult_noise": (2,) if sizes["embedding_type"] == "fourier" else (1,),
    }
    for name, choices in known.items():
        if sizes[name] not in choices:
            raise UserError(
                f"{path} has {name} {sizes[name]!r:.40}", f"only {' and '.join(map(str, choices))} is known here"
            )
    fourier, taps = sizes["embedding_type"] == "fourier", [int(tap) for tap in sizes["resample_filter"]]
    return "ncsnpp_cifar10" if fourier else "ddpmpp_cifar10", _shared(sizes) | {
        "features": "fourier" if fourier else "sinusoidal",
        "taps": taps,
        "pyramid": sizes["encoder_type"] == "residual",
        "head_channels": 0,
    }


def _dhariwal(path: Path, sizes: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """ADM, whose attention has 64 channels for each head, and one head where there are fewer than 128."""
    shared = _shared(sizes)
    attending = {
        int(m * shared["channels"])
        for level, m in enumerate(shared["multipliers"])
        if shared["resolution"] >> level in shared["attention"] or level == len(shared["multipliers"]) - 1
    }
    single = all(64 <= width < 128 for width in attending)
    return "adm_imagenet64", shared | {"head_channels": 0 if single else 64}


def _training(path: Path, whole: Thing) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any], int]:
    """Process, preconditioning, objective, and the sign of the network's output."""
    state, epsilon, simple = whole.state, part("Epsilon"), part("Simple")
    try:
        if whole.kind == "EDMPrecond":
            scaled = part("EDMPreconditioning", sigma_data=float(state["sigma_data"]))
            return part("EDM"), scaled, part("EDMLoss"), 1
        if whole.kind == "VPPrecond":
            _require(path, state, M=1000)
            low, rise, first = (float(state[name]) for name in ("beta_min", "beta_d", "epsilon_t"))
            return part("VP", beta_min=low, beta_max=low + rise, t_train_min=first), epsilon, simple, 1
        if whole.kind == "VEPrecond":
            levels = {name: float(state[name]) for name in ("sigma_min", "sigma_max")}
            return part("VE", **levels), epsilon, simple, -1
        if whole.kind == "iDDPMPrecond":
            _require(path, state, M=1000, C_1=0.001, C_2=0.008)
            return part("VPDiscrete", schedule="cosine"), epsilon, simple, 1
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} does not say all of its {whole.kind} ({error})", CURE) from error
    raise unknown(f"preconditioning in {path}:", whole.kind, ["EDMPrecond", "VPPrecond", "VEPrecond", "iDDPMPrecond"])


def _require(path: Path, state: Mapping[str, Any], **values: float) -> None:
    for name, value in values.items():
        if state[name] != value:
            raise UserError(f"{path} has {name} {float(state[name]):g}", f"only {value:g} is known here")


def _map(keys: KeyMap, net: UNet, kind: str, sizes: Mapping[str, Any], sign: int) -> None:
    """Take all weights."""
    size, song = int(sizes["img_resolution"]), kind == "SongUNet"
    keys.layer("embedding.first", "map_layer0")
    keys.layer("embedding.second", "map_layer1")
    if sizes["label_dim"] and song:
        keys.layer("embedding.early.classes.project", "map_label")
    elif sizes["label_dim"]:
        keys.copy("embedding.late.classes.table.weight", "map_label.weight", torch.t)
    if sizes["augment_dim"]:
        keys.layer("embedding.early.augment", "map_augment")
    if "embedding.features.frequencies" in keys.shapes:
        keys.copy("embedding.features.frequencies", "map_noise.freqs")
    keys.layer("stem", f"enc.{size}x{size}_conv")
    norm, head = (f"dec.{size}x{size}_aux_norm", f"dec.{size}x{size}_aux_conv") if song else ("out_norm", "out_conv")
    keys.layer("norm", norm)
    keys.layer("head", head, lambda weight: sign * weight)

    names = block_names(size, len(sizes["channel_mult"]), int(sizes["num_blocks"]))
    places = {position: (name, name) for position, name in names.items()}
    map_stages(keys, net, places, NAMES)
    _map_filters(keys, net, places, [float(tap) for tap in sizes.get("resample_filter", [1, 1])])
    for position, (block, _) in places.items():
        if position.part == "encoder" and position.block is None and f"pyramid.{position.index}.kernel" in keys.shapes:
            aux = block.replace("_down", "_aux_residual")
            keys.layer(f"pyramid.{position.index}.conv", aux)
            keys.copy(f"pyramid.{position.index}.kernel", f"{aux}.resample_filter")


def _map_filters(keys: KeyMap, net: UNet, places: Mapping[Position, tuple[str, str]], taps: list[float]) -> None:
    """Take the filters of the resampling; ours has none where it is the box, and then theirs must be that."""
    f = torch.tensor(taps)
    expected = (f.outer(f) / f.sum() ** 2)[None, None]
    for position, (block, _) in places.items():
        if position.block is not None:
            continue
        for name in (f"{block}.conv0.resample_filter", f"{block}.skip.resample_filter"):
            kernel = f"{position.ours}.resample.kernel"
            if kernel in keys.shapes:
                keys.copy(kernel, name)
            else:
                keys.drop(name)
            if name not in keys.theirs:
                keys.complain(f"{name} is missing")
            elif not _equal(keys.theirs[name], expected):
                keys.complain(f"{name} is not the filter of {taps}")


def _equal(found: Tensor, expected: Tensor) -> bool:
    return found.shape == expected.shape and bool((found.float() - expected).abs().max() < 1e-6)
