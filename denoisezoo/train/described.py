"""Denoisers by name: what a recipe or a checkpoint says of one, and back from that to the denoiser."""

from __future__ import annotations

import inspect
from typing import Any

from denoisezoo.archs.named import build_network, describe_network
from denoisezoo.archs.variants import find_variant
from denoisezoo.diffusion import Codec, NetworkDenoiser, Preconditioning, Process, create_codec
from denoisezoo.recorded import UndescribableError, describe

BY_HAND = "by_hand"
"""Key of section `model` of a recipe: what no file can name of a denoiser that was built by hand."""


def build_denoiser(
    denoiser: str,
    process: Process,
    preconditioning: Preconditioning,
    network: dict[str, Any] | None = None,
    codec: Codec | str | None = None,
) -> tuple[NetworkDenoiser, str]:
    """The denoiser that section `model` of a recipe describes, and the name of its network's family.

    The arguments are those of `train.module.DiffusionModule` which are not of training.

    Raises:
        UserError: There is no such network or codec, or they do not go together.
    """
    backbone, family = build_network(denoiser, network or {})
    return NetworkDenoiser(backbone, process, preconditioning, create_codec(codec)), family


def with_codec(config: dict[str, Any], codec: Codec) -> dict[str, Any]:
    """A recipe that holds all that its codec is made of, where that came from a file, which may be gone later."""
    if not codec.from_file or "codec" not in config["model"]:
        return config
    return {**config, "model": {**config["model"], "codec": describe(codec)}}


def describe_denoiser(denoiser: NetworkDenoiser) -> dict[str, Any]:
    """What section `model` of a recipe says of a denoiser: its network, process, preconditioning, ...

    Raises:
        UndescribableError: Another program could not make it again from that.
    """
    if type(denoiser) is not NetworkDenoiser:
        raise UndescribableError(f"a {type(denoiser).__name__}")
    parts = [
        name for name in inspect.signature(NetworkDenoiser.__init__).parameters if name not in ("self", "backbone")
    ]
    network = describe_network(denoiser.backbone)
    return network | {name: describe(getattr(denoiser, name)) for name in parts}


def title_of(denoiser: NetworkDenoiser) -> tuple[str, str]:
    """What results call a denoiser's network, and its family: the name of its class for one from elsewhere."""
    network = type(denoiser.backbone).__name__
    found = find_variant(denoiser.backbone)
    return (found[0].name, found[0].family.name) if found else (network, network)
