"""What is to be changed of a recipe, as plain values, and as the words of a command line."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

from denoisezoo.errors import UserError


def packages_of(content: Any) -> Iterator[str]:
    """Packages of the classes that a recipe names. The caller has just trained with them, so that they are trusted."""
    if isinstance(content, list | tuple):
        for value in content:
            yield from packages_of(value)
    for key, value in content.items() if isinstance(content, Mapping) else ():
        if str(key).rpartition(".")[2] in ("class_path", "imports"):
            yield from (name.partition(".")[0] for name in ([value] if isinstance(value, str) else value))
        elif str(key).rpartition(".")[2] == "denoiser" and isinstance(value, str):
            yield from [value.partition(".")[0]] if "." in value else []
        else:
            yield from packages_of(value)


def as_words(changes: Mapping[str, Any], section: str = "") -> Iterator[str]:
    """Changes of a recipe as the options that the parser of recipes reads."""
    for name, value in changes.items():
        key = f"{section}{name}"
        if isinstance(value, Mapping) and value and "class_path" not in value:
            yield from as_words(value, f"{key}.")
        elif isinstance(value, str | os.PathLike):
            yield f"--{key}={os.fspath(value)}"
        else:
            yield f"--{key}={json.dumps(as_plain(value, key))}"


def as_plain(value: Any, key: str) -> Any:
    """A value as YAML and JSON hold it.

    Raises:
        UserError: It is none that they do.
    """
    if isinstance(value, Mapping):
        return {str(name): as_plain(inner, f"{key}.{name}") for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [as_plain(inner, key) for inner in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if value is None or isinstance(value, str | bool | int | float):
        return value
    cure = "give plain values; an object is {'class_path': name, 'init_args': {...}}"
    raise UserError(f"{key} is of type {type(value).__name__}, which no recipe holds", cure)
