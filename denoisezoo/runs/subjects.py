"""What is to be priced: registered denoisers, by name or pattern, trained runs, by path, and denoisers at hand."""

from __future__ import annotations

import copy
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch

from denoisezoo.archs import Backbone, create_backbone
from denoisezoo.archs.info import matching
from denoisezoo.diffusion import DEFAULT_PROCESS, PROCESSES, Denoiser, NetworkDenoiser, create_denoiser
from denoisezoo.errors import UserError
from denoisezoo.interop import find_address
from denoisezoo.runs.imported_codec import missing_codec
from denoisezoo.runs.run import Run, load_run

Priced: TypeAlias = "str | os.PathLike[str] | Backbone | Denoiser | Run"
"""A name or pattern, the path of a run, or an object."""


@dataclass(frozen=True)
class Subject:
    """A network to price.

    Attributes:
        name: Registry name; for a run, that of its backbone.
        build: Makes the network: on the meta device, without weights, if asked so, else on the CPU.
        denoiser: Wraps it for its process.
        run: Path of the run; None for other networks.
    """

    name: str
    build: Callable[[bool], Backbone]
    denoiser: Callable[[Backbone], Denoiser]
    run: str | None = None


def find_subjects(
    arguments: Sequence[Priced], process: str | None = None, resolution: int | None = None
) -> Iterator[Subject]:
    """Subjects of names, patterns, paths and objects, in the order given, each once.

    Args:
        arguments: Names ("ddpm_cifar10"), patterns ("ddpm*"), run folders or checkpoints, networks, denoisers, runs.
        process: Process to wrap networks for that have none; None is the default.
        resolution: Size of the images for registered networks; None is what they were made for.

    Raises:
        UserError: An unknown name (the nearest are given), process or path, or a size for a network that is there.
    """
    seen: set[str] = set()
    for argument in arguments:
        if not isinstance(argument, str | os.PathLike):
            yield _at_hand(argument, process, resolution)
            continue
        text = os.fspath(argument)
        names = [] if isinstance(argument, os.PathLike) or _is_path(text) else matching(text)
        for key in names or [text]:
            if key not in seen:
                seen.add(key)
                yield _registered(key, process, resolution) if names else _trained(key, process, resolution)


def _is_path(argument: str) -> bool:
    separators = {os.sep, os.altsep or os.sep}
    if any(separator in argument for separator in separators) or Path(argument).exists():
        return True
    return find_address(argument) is not None


def _registered(name: str, process: str | None, resolution: int | None) -> Subject:
    process_name = DEFAULT_PROCESS if process is None else process
    PROCESSES[process_name]  # an unknown name ends here, before anything is built
    overrides = {} if resolution is None else {"resolution": resolution}

    def build(meta: bool) -> Backbone:
        with torch.device("meta" if meta else "cpu"):
            return create_backbone(name, **overrides)

    return Subject(name, build, lambda backbone: create_denoiser(backbone, process_name))


def _trained(path: str, process: str | None, resolution: int | None) -> Subject:
    _refuse(path, process, resolution)
    run = load_run(path)
    if run.config.get("source") and (error := missing_codec(run)) is not None:
        print(f"warning: {error.what}, and its price has no decoder; {error.cure}", file=sys.stderr)
    return _of_denoiser(run.name, run.denoiser, path)


def _at_hand(subject: Backbone | Denoiser | Run, process: str | None, resolution: int | None) -> Subject:
    if isinstance(subject, Backbone):
        _refuse(type(subject).__name__, None, resolution)
        return _of_denoiser(type(subject).__name__, create_denoiser(subject, process or DEFAULT_PROCESS), None)
    run = subject if isinstance(subject, Run) else getattr(subject, "run", None) or Run.of(subject)
    _refuse(run.name, process, resolution)
    return _of_denoiser(run.name, run.denoiser, None if run.checkpoint is None else str(run.checkpoint))


def _refuse(name: str, process: str | None, resolution: int | None) -> None:
    if process is not None:
        raise UserError(f"{name} has a process of its own", "leave `process` out")
    if resolution is not None:
        raise UserError(f"{name} was made for images of one size", "leave `resolution` out")


def _of_denoiser(name: str, denoiser: NetworkDenoiser, run: str | None) -> Subject:
    """A network that is there. It is priced in a copy, since pricing moves it to another device, type and layout."""

    def build(meta: bool) -> Backbone:
        backbone = copy.deepcopy(denoiser.backbone)
        return backbone.to("meta") if meta else backbone

    def wrap(backbone: Backbone) -> Denoiser:
        device = next(backbone.parameters()).device
        codec = copy.deepcopy(denoiser.codec).to(device)
        return NetworkDenoiser(backbone, denoiser.process, denoiser.preconditioning, codec)

    return Subject(name, build, wrap, run)
