"""Which configurations a file may bring: plain values, and classes of this package where a class belongs.

jsonargparse imports whatever a class-typed value names, in every form that it can be written in: as text, as YAML
within text, as a mapping, under a dotted key. So the shape is checked before any of it is parsed, and names are looked
up among classes that are already there; nothing is imported on behalf of a file.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
import typing
from typing import Any, NoReturn

from denoisezoo.diffusion import Objective, Preconditioning, Process, Times
from denoisezoo.errors import UserError
from denoisezoo.train.data import ImageData, Task

PACKAGE = "denoisezoo."
BASES = (Process, Preconditioning, Objective, Times, ImageData, Task)
"""What a configuration chooses by class."""
WORD = re.compile(r"[\w./+\- ]*")
"""Text where any value is taken, which must not be YAML of something else."""


def subclasses(base: type) -> list[type]:
    """A class and all that derive from it."""
    found: list[type] = [base]
    child: type
    for child in base.__subclasses__():
        found += subclasses(child)
    return found


def check_class(value: Any, base: type, where: str) -> None:
    """Refuse a value that is not {class_path, init_args} of a class of this package below `base`.

    Raises:
        UserError: It is something else, or its arguments hold something that they must not.
    """
    if not isinstance(value, dict) or not isinstance(value.get("class_path"), str):
        _refuse(where, f"is no class with its arguments but {_short(value)}")
    found = _lookup(value["class_path"], base)
    if found is None:
        _refuse(where, f"asks for the class {_short(value['class_path'])}, which is no {base.__name__} of denoisezoo")
    if extra := set(value) - {"class_path", "init_args"}:
        _refuse(where, f"has the key {_short(min(map(str, extra)))}")
    check_arguments(value.get("init_args") or {}, found, where)


def check_arguments(values: Any, cls: type, where: str) -> None:
    """Refuse arguments that a class does not have, or that hold something else than their types say.

    Raises:
        UserError: There is such an argument.
    """
    if not isinstance(values, dict):
        _refuse(where, f"holds {_short(values)} where arguments belong")
    hints = argument_types(cls)
    for key, value in values.items():
        if key not in hints:
            _refuse(where, f"has the key {_short(key)}")
        _check_value(value, hints[key], f"{where}.{key}")


def _check_value(value: Any, hint: Any, where: str) -> None:
    """Refuse a value of one argument."""
    types = types_within(hint)
    base = next((kind for kind in types if isinstance(kind, type) and issubclass(kind, BASES)), None)
    if value is None and type(None) in types:
        return
    if base is not None:
        check_class(value, base, where)
    elif config := next((kind for kind in types if isinstance(kind, type) and dataclasses.is_dataclass(kind)), None):
        check_arguments(value, config, where)
    else:
        _check_plain(value, where, strict=Any in types)


def _check_plain(value: Any, where: str, strict: bool) -> None:
    """Refuse what is more than a plain value; `strict` where text would be read as YAML of any kind."""
    if isinstance(value, dict):
        for key, inside in value.items():
            if not isinstance(key, str) or not key.isidentifier() or key == "class_path":
                _refuse(where, f"has the key {_short(key)}")
            _check_plain(inside, f"{where}.{key}", strict)
    elif isinstance(value, list | tuple):
        for inside in value:
            _check_plain(inside, where, strict)
    elif not isinstance(value, str | int | float | None) or (
        strict and isinstance(value, str) and not WORD.fullmatch(value)
    ):
        _refuse(where, f"is {_short(value)}")


def _lookup(path: str, base: type) -> type | None:
    """The class below `base` that a path names, among those that are loaded."""
    module, _, name = path.rpartition(".")
    if not path.startswith(PACKAGE) or module not in sys.modules:
        return None
    found = vars(sys.modules[module]).get(name)
    known = [cls for cls in subclasses(base) if cls.__module__.startswith(PACKAGE)]
    return found if isinstance(found, type) and any(found is cls for cls in known) else None


def argument_types(cls: type) -> dict[str, Any]:
    """Argument -> type, those that go on to base classes included."""
    found: dict[str, Any] = {}
    for kind in cls.__mro__:
        if "__init__" in vars(kind):
            signature = inspect.signature(kind.__init__).parameters.values()  # type: ignore[misc]
            hints = typing.get_type_hints(kind.__init__)  # type: ignore[misc]
            named = [p.name for p in signature if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL) and p.name != "self"]
            found = {name: hints.get(name, Any) for name in named} | found
            if not any(p.kind is p.VAR_KEYWORD for p in signature):
                break
    return found


def types_within(hint: Any) -> set[Any]:
    """A type and all that it is made of."""
    inside = [kind for kind in typing.get_args(hint) if typing.get_origin(hint) is not typing.Literal]
    return {hint}.union(*(types_within(kind) for kind in inside))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _refuse(where: str, what: str) -> NoReturn:
    cure = "use the version of denoisezoo that wrote it, or train it again"
    raise UserError(f"the checkpoint's {where} {what}", cure)
