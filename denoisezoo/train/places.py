"""Where the data of a run lie: a path that was relative in training stays so, to the run, and not to who asks."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

from denoisezoo.data.webdataset import expand_braces

PLACES = ("path", "test_path", "root")
"""Arguments of data sets that say where the data lie, and nothing of what they are."""
FREE = (*PLACES, "cache", "download")
"""Arguments that may differ where a run goes on with the same data."""


def origin_of(folder: Path) -> str | None:
    """The working directory as seen from a run folder, which holds when both are moved; None across drives."""
    try:
        return os.path.relpath(Path.cwd(), folder.resolve())
    except ValueError:
        return None


def located(data: dict[str, Any], folder: Path, origin: str | None) -> dict[str, Any]:
    """The `data` section of a recipe with relative paths as they were meant, where something still is there.

    Args:
        data: The section.
        folder: The run folder.
        origin: Where training was started, from there; None where that is not known.
    """
    if origin is None:
        return data
    home, data = (folder.resolve() / origin).resolve(), copy.deepcopy(data)
    for arguments in levels(data):
        for key in PLACES:
            found = arguments.get(key)
            if isinstance(found, str) and home != Path.cwd() and is_there(home / found):
                arguments[key] = str(home / found)
    return data


def is_there(path: Path) -> bool:
    """Whether something is at a path, or at the first that a pattern such as NAME-{000..010}.tar stands for."""
    return Path(next(iter(expand_braces(str(path))), path)).exists()


def without_places(data: dict[str, Any]) -> dict[str, Any]:
    """The `data` section of a recipe without what says where the data lie."""
    data = copy.deepcopy(data)
    for arguments in levels(data):
        for key in FREE:
            arguments.pop(key, None)
    return data


def levels(data: dict[str, Any]) -> list[dict[str, Any]]:
    """The arguments of a data set, and of the one within, as of `Paired`."""
    found = []
    level: Any = data
    while isinstance(level, dict) and isinstance(level.get("init_args"), dict):
        found.append(level["init_args"])
        level = level["init_args"].get("data")
    return found or [{}]
