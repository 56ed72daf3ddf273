"""Which source this is: the commit of the checkout, or the one that a distribution was built from.

It imports nothing of the package, for the build reads it before there is one.
"""

from __future__ import annotations

import contextlib
import subprocess
from functools import cache
from pathlib import Path

RECORD = "commit.txt"
"""Beside this file in wheels and source distributions, which have no git."""


@cache
def git_commit() -> str | None:
    """Commit of the checkout that this package runs from, "-dirty" if tracked files differ; elsewhere that of the
    checkout that it was built from, None if there was none."""
    package = Path(__file__).resolve().parent
    if not (package.parent / ".git").exists():  # within some other repository, its commit would not be ours
        with contextlib.suppress(OSError):
            return (package / RECORD).read_text(encoding="ascii").strip() or None
        return None
    commit = _git(package.parent, "rev-parse", "HEAD")
    changes = _git(package.parent, "status", "--porcelain", "--untracked-files=no")
    return commit + ("-dirty" if changes else "") if commit else None


def version_text(version: str) -> str:
    """The version and, where it is known, the commit, cut to seven digits: "0.1.0 (commit abcdef1)"."""
    commit, dirty, _ = (git_commit() or "").partition("-dirty")
    return f"{version} (commit {commit[:7]}{dirty})" if commit else version


def _git(root: Path, *arguments: str) -> str | None:
    """What git prints; None where there is no git or it fails."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        result = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10)
        return result.stdout.strip() if result.returncode == 0 else None
    return None
