"""What tells data from others, so that a run knows its own again."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import zip_longest
from typing import Any

Identity = Mapping[str, Any]
"""`sha256`, `class_names`, `num_train`, `num_test`: see `ImageData.identity`."""


def difference(before: Identity, now: Identity) -> str | None:
    """How data differ from what they were, the most telling way first; None where they are the same.

    What `before` does not say, as in a checkpoint of an earlier version, is not compared.
    """
    pairs = zip_longest(before.get("class_names", ()), now["class_names"])
    for label, (was, is_) in enumerate(pairs if "class_names" in before else ()):
        if was != is_:
            return f"class {label} was {_name(was)} and is {_name(is_)}"
    for key, what in (("num_train", "training"), ("num_test", "held-out")):
        if before.get(key, now[key]) != now[key]:
            return f"there were {before[key]} {what} images and are {now[key]}"
    return "their contents or names differ" if before.get("sha256", now["sha256"]) != now["sha256"] else None


def _name(name: str | None) -> str:
    return "none" if name is None else repr(name)
