"""Networks by name: what a recipe or a checkpoint says of one, and back from that to the network."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from typing import Any

import torch

from denoisezoo.archs import Backbone, BackboneConfig, create_backbone, get_variant, list_denoisers
from denoisezoo.archs.variants import find_variant, replace_config
from denoisezoo.diffusion import Codec, NetworkDenoiser, Preconditioning, Process, create_codec
from denoisezoo.errors import UserError
from denoisezoo.plugins import import_named
from denoisezoo.recorded import UndescribableError, arguments_of, describe, path_of

BY_HAND = "by_hand"
"""Key of section `model` of a recipe: what no file can name of a denoiser that was built by hand."""


def build_network(name: str, arguments: dict[str, Any]) -> tuple[Backbone, str]:
    """A fresh network, and the name of its family.

    Args:
        name: A registered name, or the path of a `Backbone` class, module.Class.
        arguments: Fields of the registered network's configuration to change, or arguments of the class; those that the
            class takes as a dataclass are a mapping of its fields.

    Raises:
        UserError: There is no such network, or it does not take these arguments.
    """
    if "." not in name or name in list_denoisers():
        return create_backbone(name, **arguments), get_variant(name).family.name
    module, _, title = name.rpartition(".")
    cls = getattr(import_named(module, f"the network is {name}"), title, None)
    if not (isinstance(cls, type) and issubclass(cls, Backbone)):
        raise UserError(f"{name} is no class of networks", "give the path of a subclass of denoisezoo.Backbone")
    hints = typing.get_type_hints(cls.__init__)
    made = {key: _made(hints.get(key), value, f"{key} of {title}") for key, value in arguments.items()}
    try:
        inspect.signature(cls).bind(**made)
    except TypeError as error:
        raise UserError(f"{name}: {error}", "give model.network the arguments of the class") from error
    return cls(**made), title


def _made(hint: Any, value: Any, what: str) -> Any:
    """A plain value as an argument: of a dataclass where one is taken."""
    if not (isinstance(hint, type) and dataclasses.is_dataclass(hint) and isinstance(value, dict)):
        return value
    return replace_config(hint(), value, what) if issubclass(hint, BackboneConfig) else hint(**value)


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
    backbone = denoiser.backbone
    if found := find_variant(backbone):
        network = {"denoiser": found[0].name, "network": describe(found[1])}
    else:
        network = {"denoiser": path_of(type(backbone)), "network": arguments_of(backbone)}
        with torch.device("meta"):
            try:
                again, _ = build_network(network["denoiser"], network["network"])
            except Exception as error:  # whatever the class of somebody else makes of them
                raise UndescribableError(f"a {type(backbone).__name__}, which cannot be made twice,") from error
        if {k: v.shape for k, v in again.state_dict().items()} != {
            k: v.shape for k, v in backbone.state_dict().items()
        }:
            raise UndescribableError(f"a {type(backbone).__name__} that was changed after it was made")
    return network | {name: describe(getattr(denoiser, name)) for name in parts}


def title_of(denoiser: NetworkDenoiser) -> tuple[str, str]:
    """What results call a denoiser's network, and its family: the name of its class for one from elsewhere."""
    network = type(denoiser.backbone).__name__
    found = find_variant(denoiser.backbone)
    return (found[0].name, found[0].family.name) if found else (network, network)
