"""Samplers, found by name; one file for each kind.

One of another package is a `Sampler` too, a frozen dataclass with `@SAMPLERS.register("name")`: once its module is
imported, by hand or as a plugin, it is created from text as those here are.
"""

from __future__ import annotations

import dataclasses
import typing
from typing import Any

from denoisezoo.diffusion.samplers.sampler import (
    SAMPLERS,
    Caller,
    GridSampler,
    History,
    Sampler,
    SampleResult,
    StepInfo,
    transfer,
)
from denoisezoo.errors import UserError, unknown
from denoisezoo.registry import import_all

__all__ = [
    "SAMPLERS",
    "Caller",
    "GridSampler",
    "History",
    "SampleResult",
    "Sampler",
    "StepInfo",
    "create_sampler",
    "transfer",
]

import_all(__name__, __path__)


def create_sampler(spec: str) -> Sampler:
    """A sampler from its name and options, "heun" or "ddim:eta=0.5,time_grid=edm".

    Raises:
        UserError: Unknown sampler or option, or a value of the wrong type; the nearest valid names are given.
    """
    name, _, text = spec.partition(":")
    cls = SAMPLERS[name]
    hints = typing.get_type_hints(cls)
    options = {option.name for option in dataclasses.fields(cls)}
    values: dict[str, Any] = {}
    for item in filter(None, text.split(",")):
        key, _, value = item.partition("=")
        if key not in options:
            raise unknown(f"option of sampler {name}", key, options)
        values[key] = _parse(value, hints[key], f"{key} of sampler {name}")
    return cls(**values)


def _parse(text: str, hint: Any, what: str) -> Any:
    """Option text as the type `hint`: bool, int, float, str, a literal, or one of these or None."""
    if type(None) in typing.get_args(hint):
        (hint,) = (part for part in typing.get_args(hint) if part is not type(None))
    if typing.get_origin(hint) is typing.Literal:
        if text not in typing.get_args(hint):
            raise unknown(what, text, typing.get_args(hint))
        return text
    if hint is bool:
        if text.lower() not in {"true", "false"}:
            raise UserError(f"{what} is {text!r}", "give true or false")
        return text.lower() == "true"
    if hint is str:
        return text
    try:
        return int(text) if hint is int else float(text)
    except ValueError:
        raise UserError(f"{what} is {text!r}", f"give a {'whole ' if hint is int else ''}number") from None
