"""Checkpoints that are whole or absent, whose damage is noticed, and that are read without running anything they say.

A checkpoint is written under a temporary name, flushed, and renamed; its SHA-256 stands beside it, written first, so
that whenever the machine stops, a file under its final name has a checksum that fits.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from denoisezoo.archs import FORMAT, BackboneConfig
from denoisezoo.checkpoint_files import (
    BEST,
    CURE,
    FOLDER,
    LAST,
    holds_tensors,
    list_checkpoints,
    newest_checkpoint,
    read_checkpoint,
    step_of,
    sum_path,
    verify,
)
from denoisezoo.errors import UserError
from denoisezoo.files import atomic_path, sha256, write_text

__all__ = [
    "BEST",
    "CURE",
    "FOLDER",
    "KNOWN",
    "LAST",
    "AtomicCheckpointIO",
    "check_format",
    "data_known",
    "holds_tensors",
    "list_checkpoints",
    "newest_checkpoint",
    "read_checkpoint",
    "step_of",
    "sum_path",
    "verify",
]

KNOWN: dict[str, Any] = {
    "sha256": str,
    "class_names": list,
    "num_train": int,
    "num_test": int,
    "origin": str | None,
}
"""What a checkpoint says of the data -> its type."""


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
