"""Files of this machine that are whole or absent: written under a temporary name, flushed to disk, then renamed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from denoisezoo.errors import UserError, nearest

NOTE = "samples.json"
"""What `sample` writes beside its images, and says of them."""
SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")
"""How a URL begins; `Path` makes one slash of two. The one letter of a drive is no scheme."""


def local_path(path: str | os.PathLike[str]) -> Path:
    """`path`, unless it is a URL: runs rest on renames, links and locks, which only file systems have.

    Raises:
        UserError: It is a URL, of whatever scheme.
    """
    text = os.fspath(path)
    if (found := SCHEME.match(text)) is None:
        return Path(text)
    place = "/" + text[found.end() :].lstrip("/")
    cure = f"give {place}" if found[1].lower() in {"file", "local"} else "give a path, of a mounted or copied folder"
    raise UserError(f"{text} is a URL, and files are read and written by path", cure)


def beside(path: str | os.PathLike[str]) -> str:
    """What stands in the folder of a path that is not there and looks like it, as what to do; empty for nothing."""
    near = []
    with contextlib.suppress(OSError, ValueError):
        near = nearest(Path(path).name, (entry.name for entry in Path(path).parent.iterdir()), 2)
    return "did you mean " + " or ".join(str(Path(path).with_name(name)) for name in near) + "?" if near else ""


def no_run(path: str | os.PathLike[str]) -> UserError:
    """The error for a path at which nothing is, where a run is needed."""
    cure = (
        beside(path)
        or "give a run folder, a file that train or export has written, or FORMAT:PATH for a checkpoint of other code"
    )
    return UserError(f"there is no run {os.fspath(path)}", cure)


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it replaces `path`, on failure it is removed.

    Raises:
        UserError: `path` is a URL, the folder cannot be written, or the disk is full. What stood there is untouched.
    """
    path = local_path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _flush_folder(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _flush_folder(folder: Path) -> None:
    """Make a rename in a folder outlive a power failure; not every file system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def cannot_write(path: str | os.PathLike[str], error: OSError) -> UserError:
    """The user's error for an operating-system error while writing `path`."""
    reason = error.strerror or str(error)
    return UserError(f"cannot write {path}: {reason}", "choose a folder that you may write to, with space left on it")


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file atomically, UTF-8; what no UTF-8 can hold, as of some file names, is escaped."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: str | os.PathLike[str], data: Any) -> None:
    """Write JSON atomically; numbers that JSON cannot hold (infinity, NaN) become null."""
    write_text(path, json.dumps(json_safe(data), indent=2, allow_nan=False) + "\n")


def json_safe(data: Any) -> Any:
    """`data` with non-finite floats as None, paths as text and tuples as lists."""
    if isinstance(data, dict):
        return {str(key): json_safe(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [json_safe(value) for value in data]
    if isinstance(data, float) and not math.isfinite(data):
        return None
    return str(data) if isinstance(data, Path) else data


def printable(name: str) -> str:
    """A file name as text; bytes of it that are no UTF-8 are written out, such as caf\\xe9."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


def sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
