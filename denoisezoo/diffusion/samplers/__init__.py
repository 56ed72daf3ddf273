"""Samplers, found by name; one file for each kind.

One of another package is a `Sampler` too, a frozen dataclass with `@SAMPLERS.register("name")`: once its module is
imported, by hand or as a plugin, it is created from text as those here are.
"""

from __future__ import annotations

import dataclasses
import typing

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
from denoisezoo.registry import import_all, parse_options

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
    options = {option.name: hints[option.name] for option in dataclasses.fields(cls)}
    return cls(**parse_options(text, options, f"sampler {name}"))
