"""Objects that know what they were made of, so that a file can name them and another program make them again."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import os
from collections.abc import Mapping
from typing import Any, Self


class Recorded:
    """Base of classes that a recipe may name: each object keeps the arguments that it was called with.

    Attributes:
        made_of: Argument -> value, as it was given.
    """

    made_of: Mapping[str, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Note the arguments, whatever `__init__` makes of them."""
        self = super().__new__(cls)
        with contextlib.suppress(TypeError):  # of wrong arguments `__init__` tells; a copy is given none
            bound = inspect.signature(cls.__init__).bind(self, *args, **kwargs)
            object.__setattr__(self, "made_of", dict(list(bound.arguments.items())[1:]))
        return self


class UndescribableError(Exception):
    """An object that no file can name; its text says which."""


def describe(value: Any) -> Any:
    """A value as recipes and checkpoints hold it: plain, objects as {"class_path": ..., "init_args": {...}}.

    Raises:
        UndescribableError: There is something in it that another program could not make again.
    """
    if isinstance(value, Recorded):
        return {"class_path": path_of(type(value)), "init_args": arguments_of(value)}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: describe(getattr(value, field.name)) for field in dataclasses.fields(value) if field.init}
    if isinstance(value, Mapping):
        return {str(key): describe(inside) for key, inside in value.items()}
    if isinstance(value, list | tuple):
        return [describe(inside) for inside in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise UndescribableError(f"a {type(value).__name__}")


def arguments_of(value: Recorded) -> dict[str, Any]:
    """The arguments of an object, described; see `describe`."""
    found: dict[str, Any] = {}
    for name, parameter in inspect.signature(type(value).__init__).parameters.items():
        if parameter.kind is parameter.VAR_POSITIONAL and value.made_of.get(name):
            raise UndescribableError(f"a {type(value).__name__} of things without names")
        if parameter.kind is parameter.VAR_KEYWORD:
            found |= describe(value.made_of.get(name, {}))
        elif name in value.made_of and parameter.kind is not parameter.VAR_POSITIONAL:
            found[name] = describe(value.made_of[name])
    return found


def path_of(cls: type) -> str:
    """Where a class is to be found, module.Class.

    Raises:
        UndescribableError: It lives in a program or a function, where no other program finds it.
    """
    if cls.__module__ == "__main__" or "." in cls.__qualname__:
        raise UndescribableError(f"the class {cls.__qualname__}, which is in no module of its own,")
    return f"{cls.__module__}.{cls.__qualname__}"
