"""Checkpoints that are whole or absent, and that are read without running anything that a file says."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint

from denoisezoo.errors import UserError
from denoisezoo.files import atomic_path

LAST = "last.ckpt"
FOLDER = "checkpoints"


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes to a temporary file, flushes it, then renames: a full disk leaves the previous checkpoint whole."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint.

        Raises:
            UserError: The disk is full, or the folder cannot be written.
        """
        with atomic_path(path) as temporary:
            try:
                torch.save(checkpoint, temporary)
            except RuntimeError as error:  # torch's zip writer reports a full disk so
                raise OSError(getattr(error, "errno", None), str(error).splitlines()[0]) from error

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True) -> dict[str, Any]:
        """Read a checkpoint; tensors and plain values only."""
        return read_checkpoint(path, map_location)


def read_checkpoint(path: str | os.PathLike[str], map_location: Any = "cpu") -> dict[str, Any]:
    """The contents of a checkpoint of this package. Nothing in the file is executed.

    Raises:
        UserError: The file is missing, damaged, or no checkpoint of denoisezoo.
    """
    if not Path(path).is_file():
        raise UserError(f"there is no checkpoint {path}", "give a run folder or a .ckpt file that train has written")
    cure = "take an earlier checkpoint of the run, or train again"
    try:
        found = torch.load(path, map_location=map_location, weights_only=True)
    except (pickle.UnpicklingError, zipfile.BadZipFile, RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        raise UserError(f"{path} is damaged or no checkpoint ({_first_line(error)})", cure) from error
    if not isinstance(found, dict) or "state_dict" not in found or "denoisezoo" not in found:
        raise UserError(f"{path} is no checkpoint of denoisezoo", "give one that `denoisezoo train` has written")
    return found


def _first_line(error: BaseException) -> str:
    text = (str(error) or type(error).__name__).splitlines()[0]
    return text if len(text) <= 80 else text[:77] + "..."


class Checkpoints(ModelCheckpoint):
    """When checkpoints are written: always `last.ckpt`, and at will numbered ones beside it.

    Args:
        every_n_steps: Steps between checkpoints.
        keep_all: Keep one file for each of them and not only the last.
    """

    def __init__(self, every_n_steps: int = 1000, keep_all: bool = False) -> None:
        if every_n_steps < 1:
            raise UserError(f"every_n_steps is {every_n_steps}", "give a whole number of at least 1")
        super().__init__(
            filename="step_{step:08d}" if keep_all else "last",
            auto_insert_metric_name=False,
            save_last=True if keep_all else None,
            save_top_k=-1 if keep_all else 1,
            every_n_train_steps=every_n_steps,
            enable_version_counter=False,
        )

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Write the end of training, unless that step has been written already."""
        if self._last_global_step_saved != trainer.global_step:
            trainer.save_checkpoint(Path(str(self.dirpath)) / LAST)
