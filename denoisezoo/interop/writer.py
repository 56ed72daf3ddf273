"""What writes a network for other code: a class for each format, found by discovery."""

from __future__ import annotations

import importlib
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

from denoisezoo.archs import Effort
from denoisezoo.diffusion import NetworkDenoiser
from denoisezoo.errors import UserError
from denoisezoo.extras import how_to_install
from denoisezoo.plans import Plan
from denoisezoo.registry import Registry


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is written.

    Attributes:
        name: Of the network.
        denoiser: With its weights, which stay as they are.
        about: What is known of it, in plain values: version, format, weights, recipe, card, data.
        part: "network", F alone, or "denoiser", D with preconditioning and c_noise inside; None where a format holds
            all of it in any case.
        plan: How much of the network to use at each noise level; None for all of it.
        sampling: The sampler and the steps that are customary for these weights; empty where none are.
    """

    name: str
    denoiser: NetworkDenoiser = field(repr=False)
    about: Mapping[str, Any] = field(repr=False)
    part: str | None = None
    plan: Plan | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)

    @property
    def efforts(self) -> tuple[Effort, ...]:
        """Those that are written, cheapest first: the plan's, or the full one."""
        known = self.denoiser.efforts
        return known[-1:] if self.plan is None else tuple(e for e in known if e in self.plan.efforts)

    def stem(self, effort: Effort, *more: str) -> str:
        """Name of a file without its suffix; the effort is part of it where a plan chooses."""
        parts = [self.name, self.part, None if self.plan is None else f"effort{effort:g}", *more]
        return re.sub(r"[^\w.-]", "_", "_".join(filter(None, parts)))


@dataclass(frozen=True, kw_only=True)
class Written:
    """One file, or one folder, that was written.

    Attributes:
        path: Relative to the folder of the export.
        effort: Of the network in it; None where it holds all.
        side: Height and width in pixels of the images that it takes; None where it takes any.
        times: First and last time of the process's stage that it serves; None where there is one stage.
        difference: By how much its outputs were found to differ from the network's; None where it was read back and
            had the same weights.
        inputs: What it takes, and the last is what it returns: (name, shape, type, meaning); empty where it is read by
            code that knows.
    """

    path: Path
    effort: Effort | None = None
    side: int | None = None
    times: tuple[float, float] | None = None
    difference: float | None = None
    inputs: Sequence[tuple[str, str, str, str]] = ()


class Writer(ABC):
    """Writes one format.

    One of its own is a class with `@WRITERS.register("name")` in a file of `denoisezoo.interop`, or of a plugin.
    """

    name: ClassVar[str] = ""
    """What it is registered as."""
    suffix: ClassVar[str] = ""
    """How its files end; "" for a format that is a folder."""
    parts: ClassVar[tuple[str, ...]] = ()
    """Parts of a denoiser that can be written by themselves, the customary one first; () where all goes together."""
    planned: ClassVar[bool] = True
    """Whether each effort of a plan is written by itself."""

    @abstractmethod
    def write(self, subject: Subject, folder: Path) -> list[Written]:
        """Write all files into a folder that is empty and is kept only if all goes well, each read back or run.

        Raises:
            UserError: The format has no form for this network, or a file does not do what the network does.
        """

    @abstractmethod
    def usage(self, subject: Subject, written: Sequence[Written]) -> str:
        """Python that uses what was written, for the model card."""


class _Writers(Registry[type[Writer]]):
    """Writers by name; a class learns the name that it is registered under."""

    def add(self, name: str, item: type[Writer], origin: str = "?") -> type[Writer]:
        """See `Registry.add`."""
        super().add(name, item, origin)
        item.name = name
        return item


WRITERS = _Writers("format to write")


def needed(module: str, what: str) -> ModuleType:
    """An optional package.

    Args:
        module: What to import.
        what: What it is needed for.

    Raises:
        UserError: It is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"{what} needs {module}, which is not installed", how_to_install(module)) from error
