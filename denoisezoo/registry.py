"""A table of names, used for denoisers, samplers, processes, data sets and metrics alike."""

from __future__ import annotations

import fnmatch
import importlib
import pkgutil
import re
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Generic, TypeVar

from denoisezoo.errors import UserError, unknown
from denoisezoo.plugins import load_plugins

T = TypeVar("T")


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sort key that puts `x_64` before `x_128`."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name)]


class Registry(Mapping[str, T], Generic[T]):
    """Maps a name to one object; a second object under one name is an error, and so is a name not in it.

    Args:
        kind: What the entries are, as error messages call them ("sampler").
        see: The command that lists all of them, if there is one.
    """

    def __init__(self, kind: str, see: str | None = None) -> None:
        self.kind, self.see = kind, see
        self._items: dict[str, T] = {}
        self._origin: dict[str, str] = {}

    def add(self, name: str, item: T, origin: str = "?") -> T:
        """Register `item` as `name`. `origin` (a module) is named when the name is taken already.

        Raises:
            UserError: The name is registered already.
        """
        if name in self._items:
            raise UserError(
                f"{self.kind} {name!r} is registered twice, in {self._origin[name]} and in {origin}",
                "rename one of them",
            )
        self._items[name], self._origin[name] = item, origin
        return item

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator form of `add` for classes and functions."""

        def decorate(item: T) -> T:
            return self.add(name, item, getattr(item, "__module__", "?"))

        return decorate

    def names(self, pattern: str = "*") -> list[str]:
        """Names that match a shell pattern (case ignored), in natural order."""
        load_plugins()
        wanted = pattern.lower()
        return sorted((n for n in self._items if fnmatch.fnmatchcase(n.lower(), wanted)), key=natural_key)

    def __getitem__(self, name: str) -> T:
        if name not in self:
            raise unknown(self.kind, name, self._items, self.see)
        return self._items[name]

    def __contains__(self, name: Any) -> bool:
        if name not in self._items:
            load_plugins()
        return name in self._items

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __len__(self) -> int:
        load_plugins()
        return len(self._items)


def import_all(package: str, path: Iterable[str]) -> None:
    """Import every file of a package, so that each registers what it holds: an addition is one new file.

    Args:
        package: Dotted name of the package.
        path: Its `__path__`.
    """
    for module in pkgutil.iter_modules(path):
        importlib.import_module(f"{package}.{module.name}")


def parse_options(text: str, options: Mapping[str, Any], of: str) -> dict[str, Any]:
    """Values of options from text such as "eta=0.5,time_grid=edm".

    Args:
        text: What is written behind a name; may be empty.
        options: Option -> type.
        of: What has them, as errors call it.

    Raises:
        UserError: Unknown option, or a value of the wrong type; the nearest valid names are given.
    """
    values: dict[str, Any] = {}
    for item in filter(None, text.split(",")):
        key, _, value = item.partition("=")
        if key not in options:
            raise unknown(f"option of {of}", key, options)
        values[key] = _parse(value, options[key], f"{key} of {of}")
    return values


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
