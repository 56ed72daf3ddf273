"""Codecs, found by name; one file for each.

One of another package is a `Codec` too, with `@CODECS.register("name")`: once its module is imported, by hand or as a
plugin, it is created from text as those here are.
"""

from __future__ import annotations

import inspect
import typing
from typing import Any

from denoisezoo.diffusion.codecs.codec import CODECS, Codec, Pixels, without_weights
from denoisezoo.errors import UserError
from denoisezoo.registry import import_all, parse_options

__all__ = ["CODECS", "Codec", "Pixels", "create_codec", "without_weights"]

import_all(__name__, __path__)


def create_codec(spec: str | Codec | None, **defaults: Any) -> Codec:
    """A codec from its name and options, "haar" or "haar:levels=2"; none is pixels, and one that is there stays.

    Args:
        spec: Its name and options.
        **defaults: Arguments of a named one that its options do not give.

    Raises:
        UserError: Unknown codec or option, or a value of the wrong type; the nearest valid names are given.
    """
    if isinstance(spec, Codec):
        return spec
    name, _, text = ("pixels" if spec is None else spec).partition(":")
    if not name.isidentifier():
        cure = f"give a name, {', '.join(CODECS)}, or a class of a module that can be imported"
        raise UserError(f"codec is {spec!r:.60}", cure)
    cls = CODECS[name]
    hints = typing.get_type_hints(cls.__init__)
    options = {key: hints.get(key, str) for key in inspect.signature(cls).parameters}
    return cls(**defaults | parse_options(text, options, f"codec {name}"))
