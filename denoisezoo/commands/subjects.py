"""What a command is asked to price: registered denoisers, by name or pattern, and trained runs, by path."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from denoisezoo.commands.list import matching
from denoisezoo.errors import UserError

if TYPE_CHECKING:
    from denoisezoo.archs import Backbone
    from denoisezoo.diffusion import Denoiser


@dataclass(frozen=True)
class Subject:
    """A network to price.

    Attributes:
        name: Registry name; for a run, that of its backbone.
        build: Makes the network: on the meta device, without weights, if asked so, else on the CPU.
        denoiser: Wraps it for its process.
        run: Path of the run; None for a registered network.
    """

    name: str
    build: Callable[[bool], Backbone]
    denoiser: Callable[[Backbone], Denoiser]
    run: str | None = None


def find_subjects(arguments: list[str], process: str | None, resolution: int | None = None) -> Iterator[Subject]:
    """Subjects of names, patterns and paths, in the order given, each once.

    Args:
        arguments: Names ("ddpm_cifar10"), patterns ("ddpm*"), run folders or checkpoints.
        process: Process to wrap registered networks for; None is the default.
        resolution: Size of the images for registered networks; None is what they were made for.

    Raises:
        UserError: An unknown name (the nearest are given), process or path, or a size for a trained network.
    """
    seen: set[str] = set()
    for argument in arguments:
        names = [] if _is_path(argument) else matching(argument)
        for key in names or [argument]:
            if key not in seen:
                seen.add(key)
                yield _registered(key, process, resolution) if names else _trained(key, process, resolution)


def _is_path(argument: str) -> bool:
    separators = {os.sep, os.altsep or os.sep}
    return any(separator in argument for separator in separators) or Path(argument).exists()


def _registered(name: str, process: str | None, resolution: int | None) -> Subject:
    from denoisezoo.diffusion import DEFAULT_PROCESS, PROCESSES, create_denoiser

    process_name = DEFAULT_PROCESS if process is None else process
    PROCESSES[process_name]  # an unknown name ends here, before anything is built
    overrides = {} if resolution is None else {"resolution": resolution}
    return Subject(
        name,
        lambda meta: _create(name, meta, **overrides),
        lambda backbone: create_denoiser(backbone, process_name),
    )


def _create(name: str, meta: bool, **overrides: int) -> Backbone:
    import torch

    from denoisezoo.archs import create_backbone

    with torch.device("meta" if meta else "cpu"):
        return create_backbone(name, **overrides)


def _trained(path: str, process: str | None, resolution: int | None) -> Subject:
    from denoisezoo.diffusion import NetworkDenoiser
    from denoisezoo.runs.run import load_run

    if process is not None:
        raise UserError(f"{path} was trained with a process of its own", "leave --process out")
    if resolution is not None:
        raise UserError(f"{path} was trained for images of one size", "leave --resolution out")
    run = load_run(path)
    trained = run.denoiser

    def build(meta: bool) -> Backbone:
        backbone: Backbone = trained.backbone
        return copy.deepcopy(backbone).to("meta") if meta else backbone

    def denoiser(backbone: Backbone) -> Denoiser:
        return NetworkDenoiser(backbone, trained.process, trained.preconditioning)

    return Subject(run.name, build, denoiser, path)
