"""Tensors of other code's files: safetensors, and what torch wrote, read with `weights_only`. Nothing is executed."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from denoisezoo.errors import UserError

SAFE = ".safetensors"


def read_torch(path: Path) -> Any:
    """What torch.save wrote, of tensors and plain values only.

    Raises:
        UserError: It is missing, damaged, or holds anything else.
    """
    if not path.is_file():
        raise UserError(f"there is no file {path}", "give the path of a checkpoint")
    try:
        with warnings.catch_warnings(action="ignore"):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged or hostile file makes of torch's reader, it is the file's fault
        reason = str(error) or type(error).__name__
        asked = re.search(r"(?:GLOBAL|class|function) ([\w.]+\.\w+)", reason)
        what = "it holds more than tensors" if reason.startswith("Weights only") else reason.splitlines()[0][:80]
        what = f"it asks for {asked[1]:.80}, which could run code" if asked else what
        cure = "nothing of it was run; give a file of tensors"
        raise UserError(f"{path} is refused or damaged: {what}", cure) from error


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        UserError: It is missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise UserError(f"there is no file {path}", "give the path of a checkpoint")
    try:
        return load_file(path)
    except (SafetensorError, ValueError, OverflowError, MemoryError, KeyError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0][:80]
        raise UserError(f"{path} is damaged or no safetensors file ({reason})", "fetch it again") from error


def read_state(path: Path) -> dict[str, Tensor]:
    """A file of tensors by name: safetensors, or a state dictionary that torch wrote.

    Raises:
        UserError: It is missing, damaged, or holds something else.
    """
    found = read_safetensors(path) if path.suffix == SAFE else read_torch(path)
    return require_state(found, path)


def require_state(found: Any, path: Path, what: str = "its content") -> dict[str, Tensor]:
    """`found`, if it is a dictionary of tensors by name.

    Raises:
        UserError: It is something else.
    """
    whole = isinstance(found, dict) and found
    if not whole or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in found.items()):
        raise UserError(f"{path} holds no weights by name: {what} is another", "give a state dictionary of this format")
    return dict(found)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        UserError: The file is missing, damaged, or holds something else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"there is no file {path}", "give a folder that has one") from error
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged or no JSON", "fetch it again") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} holds no JSON object", "fetch it again")
    return found
