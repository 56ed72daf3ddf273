"""What a foreign checkpoint is to us, and how one is named: FORMAT:PATH, or FORMAT,OPTION=VALUE,...:PATH."""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
import typing
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from torch import Tensor

from denoisezoo.errors import UserError, unknown
from denoisezoo.files import SCHEME, sha256
from denoisezoo.registry import Registry

ADDRESS = re.compile(r"(?P<name>[A-Za-z]\w+)(?P<options>(?:,[^,:=/\\]*=?[^,:/\\]*)*):(?P<path>.+)", re.DOTALL)
"""A name of at least two letters, as one is a drive, its options, and all that follows the first colon."""
Weights = Literal["ema", "raw"]


def part(name: str, **arguments: Any) -> dict[str, Any]:
    """A class of `denoisezoo.diffusion` with its arguments, as recipes have it."""
    return {"class_path": f"denoisezoo.diffusion.{name}", "init_args": arguments}


@dataclass(frozen=True, kw_only=True)
class Foreign:
    """What a foreign checkpoint holds, in our terms.

    Attributes:
        denoiser: The network of the zoo that it is a size of.
        network: Fields of that network's configuration, so that no size depends on the variant's own.
        process: The process that it was trained under; see `part`.
        preconditioning: How its input and output relate to states.
        objective: What it was trained by.
        weights: Tensors of our network by name.
        sampler: The sampler that its authors use, with its options.
        steps: Its steps.
        file: What was read: the file of the weights.
        codec: What it diffuses in place of pixels, as text; None for pixels.
        facts: More that is known of it, in plain values.
    """

    denoiser: str
    network: dict[str, Any]
    process: dict[str, Any]
    preconditioning: dict[str, Any]
    objective: dict[str, Any]
    weights: dict[str, Tensor] = field(repr=False)
    sampler: str
    steps: int
    file: Path
    codec: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    def recipe(self, format: Format) -> dict[str, Any]:
        """The resolved recipe of a run with this network, which names no data.

        Args:
            format: What it was read with.
        """
        codec = {} if self.codec is None else {"codec": self.codec}
        return {
            "model": {
                "denoiser": self.denoiser,
                "network": self.network,
                "process": self.process,
                "preconditioning": self.preconditioning,
                "objective": self.objective,
                **codec,
            },
            "data": {},
            "sampling": {"sampler": self.sampler, "steps": self.steps},
            "source": {
                "format": format.name,
                "options": format.stated(),
                "file": self.file.name,
                "sha256": sha256(self.file),
                **self.facts,
            },
        }


@dataclass(frozen=True)
class Format(ABC):
    """Reads one format.

    One of its own is a frozen dataclass with `@FORMATS.register("name")`; its fields are what a file does not tell,
    given as options in front of the path.
    """

    name: ClassVar[str] = ""
    """What it is registered as."""
    kept: ClassVar[tuple[str, ...]] = ("ema",)
    """Which weights a file holds; one set, whichever it is, is called "ema"."""

    @abstractmethod
    def read(self, path: Path, weights: Weights) -> Foreign:
        """Read a checkpoint.

        Args:
            path: File or folder.
            weights: Averaged weights, or the optimiser's; one of `kept`.

        Raises:
            UserError: It is missing, damaged, of another format, holds what our network does not, or would run code.
        """

    def stated(self) -> dict[str, Any]:
        """The options that differ from their defaults."""
        return {f.name: value for f in dataclasses.fields(self) if (value := getattr(self, f.name)) != f.default}

    def load(self, path: Path, weights: str) -> Foreign:
        """`read`, after the choice of weights is checked.

        Raises:
            UserError: See `read`, or the format has no such weights.
        """
        if weights not in self.kept:
            raise UserError(f"{path} holds the {self.kept[0]} weights alone", f"give `weights={self.kept[0]}`")
        try:
            return self.read(path, typing.cast(Weights, weights))
        except UserError:
            raise
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            # Whatever the content of a file makes of its reader, it is the file's fault.
            reason = (str(error) or type(error).__name__).splitlines()[0]
            what = f"{path} is damaged, or of another layout than format {self.name} knows ({reason:.80})"
            raise UserError(what, "give a file of this format") from error


class _Formats(Registry[type[Format]]):
    """Formats by name; a class learns the name that it is registered under."""

    def add(self, name: str, item: type[Format], origin: str = "?") -> type[Format]:
        """See `Registry.add`."""
        super().add(name, item, origin)
        item.name = name
        return item


FORMATS = _Formats("format")


def find_address(path: str | os.PathLike[str]) -> tuple[Format, Path] | None:
    """The format and the path that FORMAT:PATH names; None for what is a plain path, or a URL.

    Args:
        path: Anything that a user gives as a run. A file that exists is a path, whatever its name.

    Raises:
        UserError: An unknown format or option, or a value of the wrong type.
    """
    text = os.fspath(path)
    found = ADDRESS.fullmatch(text)
    if found is None or os.path.lexists(text):
        return None
    name = found["name"]
    if name not in FORMATS:
        if SCHEME.match(text) and not difflib.get_close_matches(name.lower(), FORMATS, cutoff=0.6):
            return None
        raise unknown("format", name, FORMATS, FORMATS.see)
    return _with_options(FORMATS[name], [item for item in found["options"].split(",") if item]), Path(found["path"])


def _with_options(cls: type[Format], items: list[str]) -> Format:
    hints = typing.get_type_hints(cls)
    known = [option.name for option in dataclasses.fields(cls)]
    values: dict[str, Any] = {}
    for item in items:
        key, sign, text = item.partition("=")
        if key not in known:
            raise unknown(f"option of format {cls.name}", key, known)
        values[key] = _value(text if sign else "", hints[key], f"{key} of format {cls.name}")
    return cls(**values)


def _value(text: str, hint: Any, what: str) -> Any:
    """Option text as a literal, a whole number, a number or text, or one of these or None."""
    if type(None) in typing.get_args(hint):
        (hint,) = (part for part in typing.get_args(hint) if part is not type(None))
    if typing.get_origin(hint) is Literal:
        if text not in typing.get_args(hint):
            raise unknown(what, text, typing.get_args(hint))
        return text
    if hint is bool:
        if text not in {"true", "false"}:
            raise UserError(f"{what} is {text!r}", "give true or false")
        return text == "true"
    try:
        value = hint(text)
    except ValueError:
        raise UserError(f"{what} is {text!r}", f"give a {'whole ' if hint is int else ''}number") from None
    if hint is not str and not value > 0:
        raise UserError(f"{what} is {text}", "give a positive number")
    return value
