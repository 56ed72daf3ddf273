"""Networks by name, registered ones and classes: what a recipe or a checkpoint says, and back to the network."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from typing import Any

import torch

from denoisezoo.archs.backbone import Backbone, BackboneConfig
from denoisezoo.archs.variants import create_backbone, find_variant, get_variant, list_denoisers, replace_config
from denoisezoo.errors import UserError
from denoisezoo.plugins import import_named
from denoisezoo.recorded import UndescribableError, arguments_of, describe, path_of


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
        raise UserError(f"{name}: {error}", "give network the arguments of the class") from error
    return cls(**made), title


def _made(hint: Any, value: Any, what: str) -> Any:
    """A plain value as an argument: of a dataclass where one is taken."""
    if not (isinstance(hint, type) and dataclasses.is_dataclass(hint) and isinstance(value, dict)):
        return value
    return replace_config(hint(), value, what) if issubclass(hint, BackboneConfig) else hint(**value)


def describe_network(backbone: Backbone) -> dict[str, Any]:
    """What section `model` of a recipe says of a network: "denoiser" and "network", the arguments of `build_network`.

    Raises:
        UndescribableError: Another program could not make it again from that.
    """
    if found := find_variant(backbone):
        return {"denoiser": found[0].name, "network": describe(found[1])}
    name, arguments = path_of(type(backbone)), arguments_of(backbone)
    with torch.device("meta"):
        try:
            again, _ = build_network(name, arguments)
        except Exception as error:  # whatever the class of somebody else makes of them
            raise UndescribableError(f"a {type(backbone).__name__}, which cannot be made twice,") from error
    if {k: v.shape for k, v in again.state_dict().items()} != {k: v.shape for k, v in backbone.state_dict().items()}:
        raise UndescribableError(f"a {type(backbone).__name__} that was changed after it was made")
    return {"denoiser": name, "network": arguments}
