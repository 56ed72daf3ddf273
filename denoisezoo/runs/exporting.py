"""A run in the formats of other code: all files are written and checked elsewhere, and then put in their place."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from denoisezoo.errors import UserError, unknown
from denoisezoo.files import cannot_write, local_path, write_text
from denoisezoo.interop.model_card import MARK, README, model_card
from denoisezoo.interop.writer import WRITERS, Subject, Writer, Written
from denoisezoo.plans import Plan
from denoisezoo.runs.published import about, check_finite
from denoisezoo.runs.run import Run
from denoisezoo.tables import Column, Table, Tabular, human_bytes

PLAN = "plan.json"


@dataclass(frozen=True)
class Exported(Tabular):
    """What was written; prints as a table of files.

    Attributes:
        folder: Where.
        files: In the order of efforts, and of stages from noise to image.
        format: Which format it is.
        part: "network", "denoiser", or None for a format that holds all.
    """

    folder: Path
    files: Sequence[Written]
    format: str
    part: str | None

    def summary(self) -> Table:
        """See `Tabular.summary`."""
        columns = [
            Column("file", "file"),
            Column("effort", "effort", "{:g}".format, right=True),
            Column("pixels", "side", right=True),
            Column("size", "bytes", human_bytes, right=True),
            Column("difference", "difference", "{:.1e}".format, right=True),
        ]
        return Table(self.rows(), columns)

    def rows(self) -> list[dict[str, Any]]:
        """One for each file: its path, what it is for, bytes, and its largest difference from the network."""
        return [
            {
                "file": str(self.folder / file.path),
                "format": self.format,
                "part": self.part,
                "effort": file.effort,
                "side": file.side,
                "times": file.times,
                "bytes": _size(self.folder / file.path),
                "difference": file.difference,
            }
            for file in self.files
        ]


def _size(path: Path) -> int:
    """Bytes of a file with its `.data`, or of a folder."""
    beside = path.with_name(f"{path.name}.data")
    files = path.rglob("*") if path.is_dir() else (file for file in (path, beside) if file.exists())
    return sum(file.stat().st_size for file in files if file.is_file())


def export_run(
    run: Run,
    out: str | os.PathLike[str] | None = None,
    *,
    format: str,
    part: str | None = None,
    plan: Plan | None = None,
    license: str = "unknown",
) -> Exported:
    """Write a run in a format; see `denoisezoo.export`.

    Raises:
        UserError: See there. What stood at `out` is as it was.
    """
    writer = WRITERS[format]()
    part = _part(writer, part)
    if plan is not None:
        if not writer.planned:
            raise UserError(f"format {format} holds all efforts in one file", "leave `plan` out")
        plan.check(run.denoiser.efforts)
    if not re.fullmatch(r"[\w.+-]+", license):
        raise UserError(f"license is {license!r:.60}", "give an identifier, such as apache-2.0")
    target = local_path(run.folder / format if out is None else out)
    alone = _is_file(target, writer, format)
    check_finite(run)
    subject = Subject(
        name=run.name, denoiser=run.denoiser, about=about(run), part=part, plan=plan, sampling=run.sampling()
    )
    parent = target.parent
    made = [folder for folder in (parent, *parent.parents) if not folder.exists()]
    temporary = parent / f".{target.name or 'export'}.{os.getpid()}.tmp"
    try:
        temporary.mkdir(parents=True)
        written = writer.write(subject, temporary)
        if alone:
            written = [_named(written, temporary, target.name)]
        else:
            (temporary / README).write_text(model_card(subject, writer, written, temporary, license), encoding="utf-8")
            if plan is not None:
                write_text(temporary / PLAN, plan.to_json() + "\n")
        _move(temporary, parent if alone else target)
    except OSError as error:
        raise cannot_write(target, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()  # nothing was written into it
    return Exported(parent if alone else target, written, format, part)


def _part(writer: Writer, part: str | None) -> str | None:
    """The part that is meant: one of the writer's, or its customary one.

    Raises:
        UserError: The format has no parts, or no such part.
    """
    if part is None:
        return next(iter(writer.parts), None)
    if not writer.parts:
        raise UserError(f"format {writer.name} holds the whole denoiser", "leave `part` out")
    if part not in writer.parts:
        raise unknown("part", part, writer.parts)
    return part


def _is_file(target: Path, writer: Writer, format: str) -> bool:
    """Whether the export is one file of that name, without a card beside it.

    Raises:
        UserError: It is a folder or a file where the other is needed, or has another format's suffix, or somebody
            else's README.md would be replaced.
    """
    if writer.suffix and target.suffix == writer.suffix:
        if target.is_dir():
            raise UserError(f"`out` {target} is a folder", "give the name of a file")
        return True
    like = f", or a name that ends in {writer.suffix}" if writer.suffix else ""
    if target.is_file():
        raise UserError(f"`out` {target} is a file", f"give a folder{like}")
    if target.suffix and not target.is_dir():
        what = f"`out` {target} does not end in {writer.suffix}" if like else f"`out` {target} has a suffix"
        raise UserError(what, f"give a folder{like}")
    readme = target / README
    if readme.exists() and MARK not in readme.read_text(encoding="utf-8", errors="replace")[:500]:
        raise UserError(
            f"{readme} is no card of an earlier {format} export, and would be replaced", "give another folder"
        )
    return False


def _named(written: Sequence[Written], folder: Path, name: str) -> Written:
    """The one file under the name that it shall have.

    Raises:
        UserError: There are several.
    """
    if len(written) > 1:
        raise UserError(f"{len(written)} files are to be written, and {name} is one", "give a folder")
    (only,) = written
    if (folder / f"{only.path}.data").exists() and str(only.path) != name:
        raise UserError(f"{name} has a second file of weights, which is named in it", "give a folder")
    os.replace(folder / only.path, folder / name)
    return replace(only, path=Path(name))


def _move(source: Path, target: Path) -> None:
    """Put every file of a folder into another, replacing what has its name."""
    for file in sorted(path for path in source.rglob("*") if path.is_file()):
        place = target / file.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        os.replace(file, place)
