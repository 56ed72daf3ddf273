"""What a comparison found: typed records that `compare` fills and the report reads; JSON on disk between them.

A `Comparison` holds one `RunRecord` per trained denoiser and training seed. Runs that share a `name` differ only in
their seed: the report shows them as one denoiser with a spread.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from denoisezoo.errors import UserError, unknown
from denoisezoo.files import json_safe, local_path, write_json

FILE_NAME = "comparison.json"
FORMAT = 1  # of comparison.json; raised when an old file can no longer be read
REMEDY = "run compare again, or restore the file"

Number = int | float | None


@dataclass(frozen=True)
class RunRecord:
    """One denoiser, trained once with one seed.

    Args:
        name: Label of the recipe or variant; runs of one name differ only in `seed`.
        denoiser: Name in the registry.
        family: Family in the registry; it chooses colour and marker shape.
        process: Name of the process.
        seed: Training seed.
        metrics: Metric by name, e.g. `fd_pixels`, `fd_pixels_halves`, `fd_pixels_over_halves`, `precision`, `recall`.
        costs: Cost by name, None where it was not measured: `params`, `macs_per_call`, `macs_per_image`, `nfe`,
            `latency_ms_per_image`, `latency_ms_p10`, `latency_ms_p90` (both per image), `peak_memory_bytes`,
            `train_seconds`, `train_macs`, `images_per_s_training`.
        card: The result card, flat or nested.
        loss_curve: Rows (step, loss).
        loss_by_noise: Rows (lower log-SNR, upper log-SNR, mean loss, count).
        pixel_loss_by_noise: The same of decoded predictions, in pixels; empty without a codec.
        trajectory: One row per denoiser call: `call, t, sigma, effort, macs, inner_nfe, latency_ms`.
        samples: PNG grid of samples; a relative path is relative to the report's folder.
        neighbours: PNG of samples beside their nearest training images.
        command: The exact command that reproduces this run.
        error: Why the run failed; None when it did not.
    """

    name: str
    denoiser: str
    family: str
    process: str
    seed: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    costs: Mapping[str, Number] = field(default_factory=dict)
    card: Mapping[str, Any] = field(default_factory=dict)
    loss_curve: list[tuple[float, float]] = field(default_factory=list)
    loss_by_noise: list[tuple[float, float, float, float]] = field(default_factory=list)
    pixel_loss_by_noise: list[tuple[float, float, float, float]] = field(default_factory=list)
    trajectory: list[dict[str, Any]] = field(default_factory=list)
    samples: str | Path | None = None
    neighbours: str | Path | None = None
    command: str = ""
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain data that JSON can hold; a number that is not finite becomes null."""
        data: dict[str, Any] = json_safe(asdict(self))
        return data

    @classmethod
    def from_json(cls, data: Any, where: str = "run") -> RunRecord:
        """The record that `to_json` gave.

        Raises:
            UserError: A field is missing, unknown or of the wrong type.
        """
        return cls(**_read_fields(data, cls, _RUN_FIELDS, where))


@dataclass(frozen=True)
class Comparison:
    """Everything that one `denoisezoo compare` found.

    Args:
        title: Heading of the report.
        command: The exact command that made it.
        runs: One record per denoiser and seed, failed runs too.
        data: Facts of the data set: name, hash, split, resolution, number of images.
        terms: What was equal for all runs: budget, batch size, sampler, steps, images evaluated.
        real: PNG grid of real images, of the same size and number as the samples.
        created: ISO date.
        machine: Facts of the machine: device, cores, memory, library versions.
        notes: Warnings, one sentence each, e.g. that a run failed and why.
        quality: The metric that decides. `<quality>_halves` is its floor: the distance between two halves of the
            real data.
    """

    title: str
    command: str
    runs: list[RunRecord]
    data: Mapping[str, Any] = field(default_factory=dict)
    terms: Mapping[str, Any] = field(default_factory=dict)
    real: str | Path | None = None
    created: str = ""
    machine: Mapping[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    quality: str = "fd_pixels"

    def to_json(self) -> dict[str, Any]:
        """Plain data that JSON can hold; a number that is not finite becomes null."""
        data: dict[str, Any] = json_safe({"format": FORMAT} | asdict(self))
        return data

    @classmethod
    def from_json(cls, data: Any, where: str = "comparison") -> Comparison:
        """The comparison that `to_json` gave.

        Raises:
            UserError: A field is missing, unknown or of the wrong type, or a newer version wrote it.
        """
        data = dict(_mapping(data, where))
        found = data.pop("format", FORMAT)
        if found != FORMAT:
            raise UserError(f"{where} has format {found!r}, this version reads {FORMAT}", "update denoisezoo")
        return cls(**_read_fields(data, cls, _COMPARISON_FIELDS, where))


def save_comparison(comparison: Comparison, folder: str | os.PathLike[str]) -> Path:
    """Write `comparison.json` into `folder`, atomically; paths inside the folder are stored relative to it."""
    folder = Path(folder)
    runs = [
        replace(run, samples=_relative(run.samples, folder), neighbours=_relative(run.neighbours, folder))
        for run in comparison.runs
    ]
    path = folder / FILE_NAME
    write_json(path, replace(comparison, runs=runs, real=_relative(comparison.real, folder)).to_json())
    return path


def load_comparison(folder: str | os.PathLike[str]) -> Comparison:
    """The comparison saved in `folder` (or in that very file), so that its report can be written again.

    Raises:
        UserError: There is none, or it is damaged.
    """
    path = local_path(folder)
    path = path / FILE_NAME if path.is_dir() else path
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}", "name a folder that compare wrote") from error
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}", REMEDY) from error
    return Comparison.from_json(data, str(path))


def locate(path: str | Path, folder: str | os.PathLike[str]) -> Path:
    """Where a record's file is: relative to the report's folder, else relative to the working folder."""
    inside = Path(folder) / path
    return Path(path) if not inside.exists() and Path(path).exists() else inside


def _relative(path: str | Path | None, folder: Path) -> str | None:
    if path is None:
        return None
    found = locate(path, folder).resolve()
    try:
        return found.relative_to(folder.resolve()).as_posix()
    except ValueError:
        return str(found)


# Readers of one field each: they turn what JSON holds back into the declared type, or raise TypeError.


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("a text")
    return value


def _optional_text(value: Any) -> str | None:
    return None if value is None else _text(value)


def _integer(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError("a whole number")
    return value


def _cost(value: Any) -> Number:
    if value is not None and (not isinstance(value, int | float) or isinstance(value, bool)):
        raise TypeError("a number or null")
    return value


def _float(value: Any) -> float:
    number = _cost(value)
    return math.nan if number is None else float(number)


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError("an object")
    return value


def _list(read: Callable[[Any], Any]) -> Callable[[Any], list[Any]]:
    def read_list(value: Any) -> list[Any]:
        if not isinstance(value, list):
            raise TypeError("a list")
        return [read(item) for item in value]

    return read_list


def _numbers(length: int) -> Callable[[Any], tuple[float, ...]]:
    def read_row(value: Any) -> tuple[float, ...]:
        if not isinstance(value, list) or len(value) != length:
            raise TypeError(f"rows of {length} numbers")
        return tuple(_float(item) for item in value)

    return read_row


def _values(read: Callable[[Any], Any]) -> Callable[[Any], dict[str, Any]]:
    return lambda value: {key: read(item) for key, item in _object(value).items()}


_RUN_FIELDS: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("name", "denoiser", "family", "process", "command"), _text),
    **dict.fromkeys(("samples", "neighbours", "error"), _optional_text),
    "seed": _integer,
    "metrics": _values(_float),
    "costs": _values(_cost),
    "card": _object,
    "loss_curve": _list(_numbers(2)),
    **dict.fromkeys(("loss_by_noise", "pixel_loss_by_noise"), _list(_numbers(4))),
    "trajectory": _list(_object),
}
_COMPARISON_FIELDS: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("title", "command", "created", "quality"), _text),
    **dict.fromkeys(("data", "terms", "machine"), _object),
    "real": _optional_text,
    "notes": _list(_text),
    "runs": lambda value: [RunRecord.from_json(row, f"run {i}") for i, row in enumerate(_list(_object)(value))],
}


def _mapping(data: Any, where: str) -> dict[str, Any]:
    try:
        return _object(data)
    except TypeError as error:
        raise UserError(f"{where} is damaged: it must be {error}", REMEDY) from error


def _read_fields(data: Any, record: type, readers: Mapping[str, Callable[[Any], Any]], where: str) -> dict[str, Any]:
    """Every field of `data` through its reader; fields with a default may be absent."""
    data = _mapping(data, where)
    values = {}
    for key, value in data.items():
        if key not in readers:
            raise unknown(f"field of {where}", key, readers)
        try:
            values[key] = readers[key](value)
        except TypeError as error:
            raise UserError(f"{where} is damaged: {key} must be {error}", REMEDY) from error
    required = {f.name for f in fields(record) if f.default is MISSING and f.default_factory is MISSING}
    if absent := sorted(required - set(values)):
        raise UserError(f"{where} is damaged: it has no {absent[0]}", REMEDY)
    return values
