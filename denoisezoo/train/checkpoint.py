"""Checkpoints that are whole or absent, whose damage is noticed, and that are read without running anything they say.

A checkpoint is written under a temporary name, flushed, and renamed; its SHA-256 stands beside it, written first, so
that whenever the machine stops, a file under its final name has a checksum that fits.
"""

from __future__ import annotations

import os
import re
import sys
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from torch import Tensor

from denoisezoo.archs import FORMAT, BackboneConfig
from denoisezoo.errors import UserError
from denoisezoo.files import atomic_path, sha256, write_text

FOLDER = "checkpoints"
LAST, BEST = "last.ckpt", "best.ckpt"
"""Links to the newest checkpoint and to the one of the lowest validation loss."""
NUMBERED = re.compile(r"step_(\d+)\.ckpt")
KNOWN: dict[str, Any] = {
    "sha256": str,
    "class_names": list,
    "num_train": int,
    "num_test": int,
    "origin": str | None,
}
"""What a checkpoint says of the data -> its type."""
CURE = "take an earlier checkpoint of the run, or train again"


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes to a temporary file, flushes it, then renames: a full disk leaves the previous checkpoint whole.

    Args:
        survive: Keep an error in `failure` instead of raising it, so that one process of several does not leave the
            others waiting.

    Attributes:
        failure: Why the latest checkpoint could not be written; None if it was.
    """

    def __init__(self, survive: bool = False) -> None:
        super().__init__()
        self.survive, self.failure = survive, None

    failure: UserError | None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint and its checksum.

        Raises:
            UserError: The disk is full, or the folder cannot be written; unless told to survive that.
        """
        self.failure = None
        try:
            _write(checkpoint, Path(path))
        except UserError as error:
            if not self.survive:
                raise
            self.failure = error

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True) -> dict[str, Any]:
        """Read a checkpoint; tensors and plain values only."""
        return read_checkpoint(path, map_location)

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a checkpoint and its checksum."""
        Path(path).unlink(missing_ok=True)
        sum_path(Path(path)).unlink(missing_ok=True)


def _write(checkpoint: dict[str, Any], path: Path) -> None:
    with atomic_path(path) as temporary:
        try:
            torch.save(checkpoint, temporary)
        except RuntimeError as error:  # torch's zip writer reports a full disk so
            raise OSError(getattr(error, "errno", None), str(error).splitlines()[0]) from error
        write_text(sum_path(path), f"{sha256(temporary)}  {path.name}\n")


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


def data_known(content: dict[str, Any]) -> dict[str, Any]:
    """What a checkpoint knows of its data: their identity, and `origin`. Nothing in one of an earlier version."""
    known = content["denoisezoo"].get("data")
    whole = isinstance(known, dict) and all(isinstance(known.get(key), kind) for key, kind in KNOWN.items())
    return dict(known) if whole else {}


def check_format(path: str | os.PathLike[str], written: Any, name: str, config: BackboneConfig) -> None:
    """Refuse weights that mean something else in the network of this version.

    Args:
        path: Their file.
        written: The `FORMAT` that it notes; None where it notes none, which is the first.
        name: The network's name.
        config: Its configuration.

    Raises:
        UserError: Saying what has changed since.
    """
    written = 1 if written is None else written
    if not isinstance(written, int) or written > FORMAT:
        raise UserError(f"{path} is of format {written!r:.20}, and {FORMAT} is the latest known", "update denoisezoo")
    if change := config.changed_since(written):
        cure = "use the version of denoisezoo that wrote it, or train it again"
        raise UserError(f"{path} was trained when {name} was another network: {change}", cure)


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
