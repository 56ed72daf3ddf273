"""A run with one thing changed: what decodes its latents, the options of its task, the place of its data."""

from __future__ import annotations

import copy
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from denoisezoo.data.image_sets import kind_of
from denoisezoo.diffusion import Codec, NetworkDenoiser, create_codec
from denoisezoo.errors import UserError, unknown
from denoisezoo.recorded import describe
from denoisezoo.runs.imported_codec import require_codec
from denoisezoo.train.places import PLACES, levels

if TYPE_CHECKING:
    from denoisezoo.runs.run import Run

NEAR = 1e-3
"""How far latents may differ, in standard deviations of them: the rounding of another order of sums."""


def with_codec(run: Run, spec: str | Codec) -> Run:
    """The run with another decoder.

    Args:
        run: A run on latents.
        spec: A codec of the same latents, or its name with options, "autoencoder:path=RUN": one that encodes images as
            the run's own does, such as one whose decoder was distilled from it.

    Raises:
        UserError: The run is one of pixels, the codec's latents are others, or see `create_codec`.
    """
    denoiser, own = run.denoiser, run.denoiser.codec
    if own.identity:
        raise UserError(f"`codec` is given, and {run.name} denoises pixels", "leave it out")
    codec = spec if isinstance(spec, Codec) else create_codec(spec)
    images = torch.rand(2, *denoiser.image_shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    expected, found = own.to_latents(images), codec.to_latents(images)
    if found.shape != expected.shape or (found - expected).abs().max() > NEAR * expected.std():
        raise UserError(
            f"codec {codec.title} makes other latents than those that {run.name} was trained on, of {own.title}",
            "give one with the same encoder and the same std, such as a decoder that was distilled from it",
        )
    made = NetworkDenoiser(denoiser.backbone, denoiser.process, denoiser.preconditioning, codec).eval()
    config = {**run.config, "model": {**run.config["model"], "codec": describe(codec)}} if run.config else {}
    return replace(run, denoiser=made, config=config)


def with_task(run: Run, options: dict[str, Any]) -> Run:
    """The run on a variety of its task, such as another noise level than it was trained on.

    Args:
        run: A conditional run.
        options: Arguments of the task to change.

    Raises:
        UserError: The run has no task, or the task no such argument.
    """
    config = copy.deepcopy(run.config)
    task = config["data"].get("init_args", {}).get("task")
    if task is None:
        raise UserError(f"{run.name} was trained without a task", "leave `task` out")
    known = task.setdefault("init_args", {})
    for key in options:
        if key not in known:
            raise unknown("option of the task", key, known)
    known |= options
    return replace(run, config=config)


def with_places(run: Run, places: dict[str, str], resize: bool | None = None) -> Run:
    """The run with its data elsewhere.

    Args:
        run: The run.
        places: `PLACES` to change; relative to the working directory.
        resize: Whether their images are cut and resized to the run's resolution; None for what its recipe says.

    Raises:
        UserError: The data of the run have no such argument.
    """
    config = copy.deepcopy(run.config)
    if not config["data"]:
        config["data"] = _data_at(run, places)
    *_, innermost = levels(config["data"])
    for key, place in places.items():
        if key not in innermost:
            known = [f"`data.{name}`" for name in PLACES if name in innermost]
            cure = f"give {' or '.join(known)}" if known else f"leave `data.{key}` out"
            raise UserError(f"the data of {run.name} have no {key}", cure)
        innermost[key] = os.path.abspath(place)
    if resize is not None:
        if "resize" not in innermost:
            raise UserError(f"the data of {run.name} have no resize", "leave `data.resize` out")
        innermost["resize"] = resize
    return replace(run, config=config)


def _data_at(run: Run, places: dict[str, str]) -> dict[str, Any]:
    """The `data` section for a run that names none: CIFAR-10 below a root, else the images at a path."""
    require_codec(run)
    channels, resolution, _ = run.image_shape
    if "root" in places:
        return {"class_path": "denoisezoo.data.Cifar10", "init_args": {"root": places["root"]}}
    if "path" not in places:
        raise UserError(
            f"{run.name} has no recipe that names its data", "give its place: `data.path`, or `data.root` for CIFAR-10"
        )
    kind = kind_of(places["path"])
    arguments = {
        "path": places["path"],
        "test_path": None,
        "resolution": resolution,
        "resize": False,
        "channels": channels,
        "batch_size": 1,
    }
    return {"class_path": f"{kind.__module__}.{kind.__qualname__}", "init_args": arguments}
