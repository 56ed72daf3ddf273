"""Checkpoints as files: which there are, whether they are whole, and what they hold, without running anything they say.

Beside a checkpoint stands its SHA-256. They are written by `denoisezoo.train.checkpoint`.
"""

from __future__ import annotations

import os
import re
import sys
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from denoisezoo.errors import UserError
from denoisezoo.files import sha256

FOLDER = "checkpoints"
LAST, BEST = "last.ckpt", "best.ckpt"
"""Links to the newest checkpoint and to the one of the lowest validation loss."""
NUMBERED = re.compile(r"step_(\d+)\.ckpt")
CURE = "take an earlier checkpoint of the run, or train again"


def sum_path(path: Path) -> Path:
    """Where the checksum of a checkpoint stands, in the format of `sha256sum`."""
    return path.with_name(path.name + ".sha256")


def verify(path: str | os.PathLike[str]) -> None:
    """Compare a checkpoint with its checksum; one that came without is held against the checksums of its zip format.

    Raises:
        UserError: It is missing or damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"there is no checkpoint {path}", "give a run folder or a .ckpt file that train has written")
    real = path.resolve()
    if sum_path(real).is_file():
        fields = sum_path(real).read_text(errors="replace").split()
        if not fields or fields[0] != sha256(real):
            raise UserError(f"{path} is damaged: it differs from its checksum {sum_path(real).name}", CURE)
        return
    try:
        with zipfile.ZipFile(real) as archive:
            broken = archive.testzip()
    except Exception as error:  # whatever a damaged file makes of the reader
        raise _damaged(path, error) from error
    if broken:
        raise UserError(f"{path} is damaged (bad checksum of {broken})", CURE)


def read_checkpoint(path: str | os.PathLike[str], map_location: Any = "cpu") -> dict[str, Any]:
    """The contents of a checkpoint of this package. Nothing in the file is executed.

    Raises:
        UserError: The file is missing, damaged, or no checkpoint of denoisezoo.
    """
    verify(path)
    try:
        content = torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:  # whatever a foreign or malicious file makes of the unpickler, it is the file's fault
        raise _damaged(path, error) from error
    if not _is_ours(content):
        raise UserError(f"{path} is no checkpoint of denoisezoo", "give one that `denoisezoo train` has written")
    return content


def _is_ours(content: Any) -> bool:
    """Whether what a file holds has the shape of our checkpoints."""
    if not isinstance(content, dict):
        return False
    facts, step = content.get("denoisezoo"), content.get("global_step")
    recipe = facts.get("recipe") if isinstance(facts, dict) else None
    sections = isinstance(recipe, dict) and all(isinstance(recipe.get(key), dict) for key in ("model", "data"))
    counted = isinstance(step, int) and step >= 0
    return sections and counted and holds_tensors(content.get("state_dict"))


def holds_tensors(state: Any) -> bool:
    """Whether something is a dictionary of tensors by name."""
    if not isinstance(state, dict):
        return False
    return all(isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items())


def _damaged(path: str | os.PathLike[str], error: BaseException) -> UserError:
    text = (str(error) or type(error).__name__).splitlines()[0]
    return UserError(f"{path} is damaged or no checkpoint ({text if len(text) <= 80 else text[:77] + '...'})", CURE)


def list_checkpoints(folder: str | os.PathLike[str]) -> list[Path]:
    """Checkpoints of a run folder, newest first.

    A `last.ckpt` that is a file of its own, as in a copy of a run without its links, comes first.
    """
    home = Path(folder) / FOLDER
    last = [home / LAST] if (home / LAST).is_file() and not (home / LAST).is_symlink() else []
    numbered = [path for path in home.glob("step_*.ckpt") if NUMBERED.fullmatch(path.name) and path.is_file()]
    return last + sorted(numbered, key=step_of, reverse=True)


def step_of(path: Path) -> int:
    """The step in a checkpoint's name."""
    numbered = NUMBERED.fullmatch(path.name)
    return int(numbered[1]) if numbered else -1


def newest_checkpoint(folder: str | os.PathLike[str]) -> Path | None:
    """The newest checkpoint of a run folder that is whole; None if there is none at all.

    Damaged newer ones are named on standard error.

    Raises:
        UserError: All are damaged.
    """
    damage: list[UserError] = []
    for path in list_checkpoints(folder):
        try:
            verify(path)
        except UserError as error:
            damage.append(error)
            continue
        for mistake in damage:
            print(f"warning: {mistake.what}; going back to {path.name}", file=sys.stderr)
        return path
    if damage:
        raise UserError(damage[0].what, "train into another folder; no earlier checkpoint of this run is whole")
    return None
