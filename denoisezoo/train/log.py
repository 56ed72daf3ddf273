"""The log of a run: CSV files that neither a kill nor a full disk can spoil, one for each time that training starts."""

from __future__ import annotations

import csv
import io
import itertools
import os
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.loggers.logger import rank_zero_experiment
from torch import Tensor

from denoisezoo.errors import UserError
from denoisezoo.files import write_text

LOGS, PART, FILE = "logs", "from_step_", "metrics.csv"


def step_done(trainer: Trainer) -> bool:
    """Whether the batch in hand, at its end, completed an optimiser step; if not, gradients still accumulate."""
    return not trainer.fit_loop._should_accumulate()


def log_due(trainer: Trainer) -> bool:
    """Whether the batch in hand, at its end, completed a step that is logged."""
    return step_done(trainer) and _logged(trainer, trainer.global_step)


def loss_due(trainer: Trainer) -> bool:
    """Whether the batch in hand, while its loss is computed, is of a step that is logged."""
    return _logged(trainer, trainer.global_step + 1)


def _logged(trainer: Trainer, step: int) -> bool:
    """Every so many steps, and the last one: a short training has something to tell, too."""
    every = trainer.log_every_n_steps
    return every > 0 and (step % every == 0 or step == trainer.max_steps)


def log_now(trainer: Trainer, metrics: dict[str, Any], *, shown: Collection[str] = ()) -> None:
    """Log metrics of the step that was just completed.

    Lightning's `self.log` repeats the last value of a metric that a later step does not have, and takes milliseconds.

    Args:
        trainer: The trainer.
        metrics: Name -> value.
        shown: Those that the progress bar shows, and callbacks may watch.
    """
    values = {key: float(value) for key, value in metrics.items()}
    for logger in trainer.loggers:
        logger.log_metrics(values, step=trainer.global_step - 1)
    for key in shown:
        trainer.progress_bar_metrics[key] = values[key]
        trainer.callback_metrics[key] = torch.tensor(values[key])


class Readings:
    """Numbers on the device that the log is to tell: read in one go when it is due, so that the host waits once."""

    def __init__(self) -> None:
        self._wanted: list[tuple[Tensor, Callable[[list[float]], Mapping[str, float]]]] = []

    def add(self, values: Tensor, metrics: Callable[[list[float]], Mapping[str, float]]) -> None:
        """Want values of any shape, and make metrics of them once they are read."""
        self._wanted.append((values.flatten(), metrics))

    def read(self) -> dict[str, float]:
        """All metrics, and begin anew."""
        wanted, self._wanted = self._wanted, []
        sizes = [len(values) for values, _ in wanted]
        found = iter(torch.cat([values for values, _ in wanted]).tolist() if wanted else [])
        read = [metrics([*itertools.islice(found, size)]) for size, (_, metrics) in zip(sizes, wanted, strict=True)]
        return {name: value for metrics in read for name, value in metrics.items()}


class StepNotes:
    """Values of the parts of a step: the batches over which each process accumulates. Their mean is logged.

    Args:
        names: Of the values. A part may lack some.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self._parts: dict[str, list[Tensor]] = {}

    def add(self, trainer: Trainer, name: str, value: Tensor) -> None:
        """Keep a value () of one part, if its step is one that is logged."""
        if loss_due(trainer):
            self._parts.setdefault(name, []).append(value.detach().float())

    def sums(self, trainer: Trainer, device: torch.device) -> Tensor:
        """Sum and number of each name's values, over all parts of the step; begins anew. All processes must ask."""
        sums = torch.zeros(len(self.names), 2, device=device)
        for row, name in zip(sums, self.names, strict=True):
            for value in self._parts.get(name, []):
                row[0] += value
                row[1] += 1
        self._parts = {}
        return trainer.strategy.reduce(sums, reduce_op="sum")

    def means(self, sums: list[float]) -> dict[str, float]:
        """Name -> mean over the parts that had such a value, of what `sums` gave, as flat numbers."""
        return {
            name: total / parts for name, total, parts in zip(self.names, sums[::2], sums[1::2], strict=True) if parts
        }


class RunLog(CSVLogger):
    """Lightning's CSV log, in `logs/from_step_N/metrics.csv` of a run folder.

    Args:
        folder: The run folder.
        step: Step from which training goes on.
    """

    _experiment: Any

    def __init__(self, folder: Path, step: int) -> None:
        super().__init__(folder, name=LOGS, version=f"{PART}{step:08d}", flush_logs_every_n_steps=100)

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """What writes the file."""
        if self._experiment is None:
            self._experiment = Writer(log_dir=self.log_dir)
        return self._experiment


class Writer(ExperimentWriter):
    """Appends whole rows, or none: what cannot be written now is tried again with the next rows."""

    metrics: list[dict[str, Any]]
    metrics_keys: list[str]

    def save(self) -> None:
        """Write the rows that are not yet in the file."""
        rows = list(self.metrics)
        try:
            self._save(Path(self.metrics_file_path), rows)
        except (OSError, UserError) as error:
            print(f"warning: the log cannot be written, which will be tried again: {error}", file=sys.stderr)
            return
        self.metrics = []

    def _save(self, path: Path, rows: list[dict[str, Any]]) -> None:
        if not rows:
            return
        keys = sorted({*self.metrics_keys, *(key for row in rows for key in row)})
        if not path.is_file() or keys != self.metrics_keys:
            write_text(path, _csv(keys, [*read_rows(path), *rows], header=True))
        else:
            _append(path, _csv(keys, rows, header=False))
        self.metrics_keys = keys


def _csv(keys: list[str], rows: list[dict[str, Any]], *, header: bool) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=keys)
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _append(path: Path, text: str) -> None:
    """Append to a file; if that fails half-way, the file is as before."""
    size = path.stat().st_size
    try:
        with open(path, "a", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        os.truncate(path, size)
        raise


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of one file as text; a last line that was cut off is left out."""
    if not path.is_file():
        return []
    whole, _, _ = path.read_bytes().rpartition(b"\n")
    return list(csv.DictReader(io.StringIO(whole.decode(errors="replace") + "\n", newline="")))


def first_step(path: Path) -> int:
    """The step from which a file of the log goes on."""
    step = path.parent.name.removeprefix(PART)
    return int(step) if step.isdigit() else -1


def log_files(folder: str | os.PathLike[str]) -> list[Path]:
    """The files of a run's log, in the order of the steps from which they go on."""
    return sorted((Path(folder) / LOGS).glob(f"{PART}*/{FILE}"), key=first_step)


def read_log(folder: str | os.PathLike[str]) -> dict[int, dict[str, float]]:
    """Step -> metrics of a run. Where parts of the log overlap, the one from the later step counts."""
    found: dict[int, dict[str, float]] = {}
    for path in log_files(folder):
        for row in read_rows(path):
            values = {key: float(value) for key, value in row.items() if value not in ("", None) and key != "step"}
            found.setdefault(int(row["step"]), {}).update(values)
    return dict(sorted(found.items()))
