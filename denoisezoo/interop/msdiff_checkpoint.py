"""Checkpoints of MSDiff, Lightning's `*.ckpt` (Batzolis et al. 2022, arXiv 2207.09786; GBATZOLIS/MSDiff).

One network of guided-diffusion for each size of the image, or one for all of it (its baseline), in the older order of
heads. They return the score itself, of images in [0, 1]. Averages lie in the state of a callback. Objects of
ml_collections, arguments of the training program, are in the file, too, and nothing of them is needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from denoisezoo.errors import UserError
from denoisezoo.interop.foreign import FORMATS, Foreign, Format, Weights, part
from denoisezoo.interop.openai_unet import FIRST, Sizes, network_of, read_sizes, take_weights
from denoisezoo.interop.tensor_files import require_state
from denoisezoo.interop.torch_zip import read_checkpoint

CURE = "give a checkpoint of GBATZOLIS/MSDiff, *.ckpt, whole"
ROOM = "score_model"
BASE = "adm_msdiff_128_d1"
"""The registered network that each stage is a size of."""
HAAR = "haar_transform.weight"
"""A tensor of the wavelet transform, which is fixed."""


@dataclass(frozen=True)
class _Stage:
    """The network of one size.

    Attributes:
        name: What it is called in the file.
        theirs: Its tensors by name.
        sizes: What their shapes tell.
    """

    name: str
    theirs: Mapping[str, Tensor]
    sizes: Sizes


@FORMATS.register("msdiff")
@dataclass(frozen=True)
class MSDiffCheckpoint(Format):
    """Reads the networks of all sizes, or the one of the uniform baseline.

    Attributes:
        image_size: Height and width of the images.
        num_head_channels: Channels of an attention head.
    """

    kept = ("ema", "raw")
    image_size: int = 128
    num_head_channels: int = 64

    def read(self, path: Path, weights: Weights) -> Foreign:
        """See `Format.read`."""
        stages = _stages(path, _weights(path, weights))
        networks = [self._network(path, stage, level) for level, stage in enumerate(stages)]
        taken = [
            take_weights(path, stage.theirs, BASE, network, stage.sizes, new_order=False, of=stage.name)
            for stage, network in zip(stages, networks, strict=True)
        ]
        several = len(stages) > 1
        image = {name: networks[0][name] for name in ("in_channels", "out_channels", "resolution")}
        image |= {"num_classes": 0, "augment_dim": 0, "cond_channels": 0}
        sizes = [{k: v for k, v in network.items() if k not in image} for network in networks]
        levels = len(stages) - 1
        return Foreign(
            denoiser="multiscale_128" if several else BASE,
            network=image | {"base": [BASE], "levels": levels, "sizes": sizes} if several else networks[0],
            process=part("MultiScale", resolution=self.image_size, levels=levels) if several else part("VP"),
            preconditioning=part("Score"),
            objective=part("Simple"),
            weights={
                f"stages.{level}.{name}" if several else name: value
                for level, tensors in enumerate(taken)
                for name, value in tensors.items()
            },
            sampler="euler_maruyama",
            steps=256,
            file=path,
            codec="affine",
            facts={"stages": [stage.name for stage in stages]},
        )

    def _network(self, path: Path, stage: _Stage, level: int) -> dict[str, Any]:
        """Our configuration of one stage."""
        size = self.image_size >> level
        if size << level != self.image_size or not size:
            raise UserError(f"images of {self.image_size} pixels cannot be halved {level} times", "give `image_size`")
        network = network_of(stage.sizes, path, size, num_heads=0, head_channels=self.num_head_channels)[1]
        if not stage.sizes.scale_shift or stage.sizes.num_classes:
            raise UserError(f"{stage.name} in {path} is no network of MSDiff", CURE)
        return network


def _weights(path: Path, weights: Weights) -> dict[str, Tensor]:
    """Tensors by name, below `ROOM`."""
    found = read_checkpoint(path)
    if not isinstance(found, dict) or not isinstance(found.get("state_dict"), dict):
        raise UserError(f"{path} is no checkpoint of Lightning: it holds no 'state_dict'", CURE)
    state: Any = found["state_dict"]
    if weights == "ema":
        callbacks = found.get("callbacks")
        states = callbacks.values() if isinstance(callbacks, dict) else ()
        averages = [value.get("ema_state_dict") for value in states if isinstance(value, dict)]
        state = next((average for average in averages if average), None)
        if state is None:
            raise UserError(f"{path} holds no averaged weights", "give `weights=raw`")
    tensors = require_state(state, path, "'ema_state_dict'" if weights == "ema" else "'state_dict'")
    if others := [name for name in tensors if not name.startswith(f"{ROOM}.")]:
        raise UserError(f"{path} is no checkpoint of MSDiff: {others[0]:.80} is unknown", CURE)
    return {name.removeprefix(f"{ROOM}."): value for name, value in tensors.items()}


def _stages(path: Path, tensors: Mapping[str, Tensor]) -> list[_Stage]:
    """The networks, that of the full size first."""
    if FIRST in tensors:
        theirs = {name: value for name, value in tensors.items() if name != HAAR}
        return [_Stage(ROOM, theirs, read_sizes(theirs, path))]
    rooms: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        room, _, rest = name.partition(".")
        if rest != HAAR:
            rooms.setdefault(room, {})[rest] = value
    details = sum(room.startswith("d") for room in rooms)
    wanted = [*(f"d{k + 1}" for k in range(details)), f"a{max(1, details)}"]
    if missing := [room for room in wanted if room not in rooms]:
        raise UserError(f"{path} is no checkpoint of MSDiff: {ROOM}.{missing[0]} is missing", CURE)
    if unknown := [room for room in rooms if room not in wanted]:
        raise UserError(f"{path} is no checkpoint of MSDiff: {ROOM}.{unknown[0]:.40} is unknown", CURE)
    return [_Stage(f"{ROOM}.{room}", rooms[room], read_sizes(rooms[room], path)) for room in wanted]
