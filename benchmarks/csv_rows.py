"""Rows of benchmarks, written as they come: what comes after one may never end."""

from __future__ import annotations

import csv
import datetime
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def append(path: Path, row: Mapping[str, Any]) -> None:
    """Add a row to a file, which may hold those of other machines and runs; a new file begins with its columns.

    Raises:
        ValueError: The file has other columns.
    """
    begun = path.exists() and path.stat().st_size
    if begun:
        with path.open(newline="") as file:
            if next(csv.reader(file)) != list(row):
                raise ValueError(f"{path} has other columns: give another file")
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(row), lineterminator="\n")
        if not begun:
            writer.writeheader()
        writer.writerow(row)


def origin() -> dict[str, str]:
    """When and by what command a row was made."""
    return {"date": datetime.date.today().isoformat(), "command": shlex.join(["python", *sys.argv])}
