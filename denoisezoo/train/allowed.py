"""Which configurations a file may bring: plain values, and classes where a class belongs.

jsonargparse imports whatever a class-typed value names, in every form that it can be written in: as text, as YAML
within text, as a mapping, under a dotted key. So the shape is checked before any of it is parsed. Classes of this
package are looked up by name among those that are there, wherever they lived when the file was written; those of other
packages are imported if their package is trusted, and refused before anything is imported if not.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import typing
from typing import Any, NoReturn

from denoisezoo.data import ImageData, Task
from denoisezoo.diffusion import CODECS, Codec, Objective, Preconditioning, Process, Times
from denoisezoo.errors import UserError
from denoisezoo.plugins import import_trusted

PACKAGE = "denoisezoo."
BASES = (Process, Preconditioning, Objective, Times, ImageData, Task, Codec)
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


def check_class(value: Any, base: type, where: str) -> dict[str, Any]:
    """Refuse a value that is not {class_path, init_args} of a class below `base`.

    Returns:
        The value, with the path that the class has today.

    Raises:
        UserError: It is something else, its arguments hold something that they must not, or the class is of a package
            that is not trusted.
    """
    if not isinstance(value, dict) or not isinstance(value.get("class_path"), str):
        _refuse(where, f"is no class with its arguments but {_short(value)}")
    found = _lookup(value["class_path"], base, where)
    if found is None:
        _refuse(where, f"asks for the class {_short(value['class_path'])}, which is no {base.__name__} of denoisezoo")
    if extra := set(value) - {"class_path", "init_args"}:
        _refuse(where, f"has the key {_short(min(map(str, extra)))}")
    arguments = check_arguments(value.get("init_args") or {}, found, where)
    return {"class_path": f"{found.__module__}.{found.__qualname__}", "init_args": arguments}


def check_arguments(values: Any, cls: type, where: str) -> dict[str, Any]:
    """Refuse arguments that a class does not have, or that hold something else than their types say.

    Returns:
        The arguments, with the paths that classes have today.

    Raises:
        UserError: There is such an argument.
    """
    if not isinstance(values, dict):
        _refuse(where, f"holds {_short(values)} where arguments belong")
    hints, checked = argument_types(cls), {}
    for key, value in values.items():
        if key not in hints:
            _refuse(where, f"has the key {_short(key)}")
        checked[key] = _check_value(value, hints[key], f"{where}.{key}")
    return checked


def _check_value(value: Any, hint: Any, where: str) -> Any:
    """Refuse a value of one argument."""
    types = types_within(hint)
    base = next((kind for kind in types if isinstance(kind, type) and issubclass(kind, BASES)), None)
    if value is None and type(None) in types:
        return None
    if base is not None and str in types and isinstance(value, str):
        return _check_name(value, where)
    if base is not None:
        return check_class(value, base, where)
    if config := next((kind for kind in types if isinstance(kind, type) and dataclasses.is_dataclass(kind)), None):
        return check_arguments(value, config, where)
    _check_plain(value, where, strict=Any in types)
    return value


NAME = re.compile(r"(\w+)(:[\w=,.+\-]*)?")
"""A name with options, and nothing that could be imported instead."""


def _check_name(value: str, where: str) -> str:
    """Refuse a name, with options, of no registered codec: it would be imported as a class."""
    found = NAME.fullmatch(value)
    if found is None or found[1] not in CODECS:
        _refuse(where, f"is {_short(value)}, which is no registered name")
    return value


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


def _lookup(path: str, base: type, where: str) -> type | None:
    """The class below `base` that a path names, None for none.

    Raises:
        UserError: It is of another package, which is not trusted.
    """
    module, _, name = path.rpartition(".")
    if not all(part.isidentifier() for part in path.split(".")) or not module:
        return None
    if not path.startswith(PACKAGE):
        found = getattr(import_trusted(module, f"the checkpoint's {where} is the class {path}"), name, None)
        return found if isinstance(found, type) and issubclass(found, base) else None
    return {cls.__name__: cls for cls in subclasses(base) if cls.__module__.startswith(PACKAGE)}.get(name)


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
