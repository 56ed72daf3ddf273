"""Checkpoints of DDSM's slimmable supernet, `ckpt_*.pt` (Yang et al. 2023, arXiv 2310.03337).

Those of w86763777/pytorch-ddpm, whose network is not slimmable, are the same: `ddsm,widths=1:PATH`. Sines and cosines
of the noise level alternate there, so that columns of the first layer of the embedding change places.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from denoisezoo.archs.unet import UNet
from denoisezoo.errors import UserError
from denoisezoo.interop.foreign import FORMATS, Foreign, Format, Weights, part
from denoisezoo.interop.key_map import KeyMap
from denoisezoo.interop.tensor_files import read_torch, require_state
from denoisezoo.interop.unet_map import Names, Position, build_on_meta, map_stages, positions

CURE = "give a ckpt_N.pt of DDSM on CIFAR-10: four levels, two blocks, attention at the second level"
BASE, SLIM = "ddpm_cifar10_port", "slim_ddpm_cifar10"
LEVELS, BLOCKS = 4, 2
TABLE, FIRST, SECOND = (f"time_embedding.timembedding.{n}" for n in (0, 1, 3))
NAMES = Names(
    block={"norm0": "block1.0", "conv0": "block1.2", "norm1": "block2.0", "conv1": "block2.3", "skip": "shortcut"},
    condition="temb_proj.1",
    attention={"norm": "group_norm", "out": "proj"},
    qkv=("proj_q", "proj_k", "proj_v"),
    resampling="main",
)
ROOMS = {"encoder": "downblocks", "middle": "middleblocks", "decoder": "upblocks"}


@FORMATS.register("ddsm")
@dataclass(frozen=True)
class DDSMSupernet(Format):
    """Reads the averaged or the trained network.

    Attributes:
        widths: Shares of the channels that it was trained at, joined by "+"; "1" for a network that is not slimmable.
    """

    kept = ("ema", "raw")
    widths: str = "0.25+0.5+0.75+1"

    def read(self, path: Path, weights: Weights) -> Foreign:
        """See `Format.read`."""
        widths = self._widths()
        key = "ema_model" if weights == "ema" else "net_model"
        found = read_torch(path)
        if not isinstance(found, dict) or key not in found:
            raise UserError(f"{path} is no checkpoint of DDSM: it holds no {key!r}", CURE)
        state = require_state(found[key], path, f"{key!r}")
        theirs = {name.removeprefix("module."): value for name, value in state.items()}
        stem = theirs.get("head.weight")
        if stem is None or stem.ndim != 4:
            raise UserError(f"{path} is no network of this kind: head.weight is missing or of another kind", CURE)
        channels = stem.shape[0]
        net = build_on_meta(BASE, {"channels": channels})
        assert isinstance(net, UNet), "the variant is a U-Net"
        keys = KeyMap(net, theirs, path, CURE)
        _map(keys, net, channels)
        taken = keys.finish()
        slim = {"base": BASE, "channels": channels, "widths": widths}
        plain = widths == [1.0]
        return Foreign(
            denoiser=BASE if plain else SLIM,
            network={"channels": channels} if plain else slim,
            process=part("VPDiscrete"),
            preconditioning=part("Epsilon"),
            objective=part("Simple"),
            weights=taken if plain else {f"net.{name}": value for name, value in taken.items()},
            sampler="ddpm:variance=large",
            steps=1000,
            file=path,
        )

    def _widths(self) -> list[float]:
        try:
            widths = [float(text) for text in self.widths.split("+")]
        except ValueError:
            raise UserError(f"widths is {self.widths!r}", "give shares joined by +, such as 0.25+0.5+0.75+1") from None
        return widths


def _map(keys: KeyMap, net: UNet, channels: int) -> None:
    """Take all weights; the table of sinusoids must be the one that our features compute."""
    keys.layer("embedding.first", FIRST, _sines_first)
    keys.layer("embedding.second", SECOND)
    keys.layer("stem", "head")
    keys.layer("norm", "tail.0")
    keys.layer("head", "tail.2")
    table = f"{TABLE}.weight"
    keys.drop(table)
    if table not in keys.theirs:
        keys.complain(f"{table} is missing")
    elif not _is_sinusoids(keys.theirs[table], channels):
        keys.complain(f"{table} is not the table of sinusoids")

    def place(position: Position) -> tuple[str, str]:
        block = f"{ROOMS[position.part]}.{position.index}"
        return block, f"{block}.attn"

    places: Mapping[Position, tuple[str, str]] = {p: place(p) for p in positions(LEVELS, BLOCKS)}
    map_stages(keys, net, places, NAMES)


def _sines_first(weight: Tensor) -> Tensor:
    """Columns for sine, cosine, sine ... as those for all sines, then all cosines; a bias as it is."""
    return weight if weight.ndim < 2 else torch.cat([weight[:, ::2], weight[:, 1::2]], dim=1)


def _is_sinusoids(table: Tensor, width: int) -> bool:
    if table.ndim != 2 or table.shape[1] != width:
        return False
    frequencies: Any = 10000 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    angles = torch.arange(len(table), dtype=torch.float64)[:, None] * frequencies
    expected = torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)
    return bool((table.double() - expected).abs().max() < 1e-3)
