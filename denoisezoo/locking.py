"""One writer for one folder: who writes into it holds a lock there, and who comes second is told who that is.

The lock is the operating system's (flock): it ends with the process that holds it, however that ends, so that nothing
has to be cleaned up after a kill. The file `.lock` carries it, names its holder, and goes with it. On a file system
without such locks, as some of clusters are, the name of the holder is all there is: a process of this machine is looked
for, one of another machine cannot be, which is said.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from denoisezoo.errors import UserError
from denoisezoo.files import cannot_write, local_path

NAME = ".lock"


@contextlib.contextmanager
def only_writer(folder: str | os.PathLike[str], cure: str, *, wait: bool = False) -> Iterator[None]:
    """Within it, no other process of this package writes into the folder, which is made where there is none.

    A folder that cannot be written needs no lock: what is read there can be read, and the first write tells the rest.

    Args:
        folder: The folder.
        cure: What to do where another process writes there.
        wait: Wait for the other process instead.

    Raises:
        UserError: Another process writes there, or the folder cannot be made.
    """
    path = local_path(folder) / NAME
    try:
        descriptor, made = _acquire(path, cure, wait)
    except PermissionError:
        descriptor, made = None, []
    except OSError as error:
        raise cannot_write(path, error) from error
    try:
        yield
    finally:
        if descriptor is not None:
            with contextlib.suppress(OSError):
                path.unlink()  # while it is held: another process that has it open looks again
            os.close(descriptor)
        for parent in made:
            with contextlib.suppress(OSError):
                parent.rmdir()  # nothing was written


def _acquire(path: Path, cure: str, wait: bool) -> tuple[int, list[Path]]:
    """The descriptor of a lock that is held from here on, and the folders that were made for it, inmost first."""
    while True:
        made = [parent for parent in path.parents if not parent.exists()]
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:
            if path.parent.exists():
                raise
            continue  # its holder removed the folder, in which nothing had been written
        try:
            held, holder = _flock(descriptor, wait), _holder(descriptor)
            if held is False or (held is None and _runs_here(holder)):
                name = f"process {holder['pid']} on {holder['host']} since {holder['since']}" if holder else "another"
                hint = "" if held is False else f" (no such process? delete {path})"
                raise UserError(f"{path.parent} is being written by {name}{hint}", cure)
            if held is None and holder and holder["host"] != platform.node():
                what = f"process {holder['pid']} of {holder['host']} may still write into {path.parent}"
                print(f"warning: {what}: this file system has no locks that would tell", file=sys.stderr)
            if _is_at(path, descriptor):
                mine = {"pid": os.getpid(), "host": platform.node()}
                mine |= {"since": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, json.dumps(mine).encode(), 0)
                return descriptor, made
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its holder removed it after it was opened here


def _flock(descriptor: int, wait: bool) -> bool | None:
    """Whether the lock is held by this process now; None where neither the system nor the file system has locks."""
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        return None
    return True


def _holder(descriptor: int) -> dict[str, Any]:
    """Who wrote its name into the file; nothing where nobody did."""
    try:
        found = json.loads(os.pread(descriptor, 4096, 0))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and {"pid", "host", "since"} <= found.keys() else {}


def _runs_here(holder: dict[str, Any]) -> bool:
    """Whether the process is one of this machine, and alive."""
    if holder.get("host") != platform.node() or not isinstance(holder["pid"], int):
        return False
    try:
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is another user's
        return True
    return True


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether the file that was opened is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
