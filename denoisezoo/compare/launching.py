"""Trainings as jobs of their own, through submitit: on this machine, or on a SLURM cluster."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from denoisezoo.errors import UserError

LAUNCHERS = ("inline", "local", "slurm")
JOBS = "jobs"


def parse_options(text: str) -> dict[str, Any]:
    """`partition=gpu,timeout_min=600` as submitit takes it; whole numbers become numbers."""
    pairs = [part.partition("=") for part in text.split(",") if part]
    if any(not key or not equals for key, equals, _ in pairs):
        raise UserError(f"launcher options {text!r} are not KEY=VALUE,KEY=VALUE", "e.g. partition=gpu,timeout_min=600")
    return {key: int(value) if value.isdigit() else value for key, _, value in pairs}


def make_executor(launcher: str, folder: Path, options: dict[str, Any]) -> Any:
    """submitit's executor.

    Raises:
        UserError: submitit is not installed, there is no SLURM here, or an option is unknown.
    """
    try:
        import submitit
    except ImportError:
        raise UserError(f"`launcher={launcher}` needs submitit", "pip install 'denoisezoo[cluster]'") from None
    try:
        executor = submitit.AutoExecutor(folder=folder, cluster=launcher)
        executor.update_parameters(**{"timeout_min": 60 * 24, "name": "denoisezoo", **options})
    except (RuntimeError, NameError, TypeError, AssertionError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"`launcher={launcher}`: {reason}", "see docs/distributed.md") from error
    return executor


class Launcher:
    """Hands trainings to submitit, several at a time.

    Args:
        name: "local" or "slurm".
        folder: For logs and scripts of the jobs.
        options: More parameters of submitit.
        at_once: Jobs on this machine at the same time; a cluster has a queue of its own.
    """

    def __init__(self, name: str, folder: Path, options: dict[str, Any], at_once: int = 1) -> None:
        self.name, self.at_once = name, at_once
        self.executor = make_executor(name, folder, options)

    def run(self, commands: list[list[str]]) -> list[str | None]:
        """Train all; for each what went wrong, or None."""
        size = self.at_once if self.name == "local" else len(commands)
        outcomes: list[str | None] = []
        for first in range(0, len(commands), size):
            jobs = [self._submit(command) for command in commands[first : first + size]]
            outcomes += [_outcome(job) for job in jobs]
        return outcomes

    def _submit(self, command: list[str]) -> Any:
        import submitit

        # A command, not a function: training in several processes starts itself again by its command line.
        words = [sys.executable, "-m", "denoisezoo", "train", *command]
        return self.executor.submit(submitit.helpers.CommandFunction(words, cwd=os.getcwd(), verbose=False))


def _outcome(job: Any) -> str | None:
    try:
        job.result()
    except Exception as error:  # whatever ended the job, the others go on
        lines = [line for line in (job.stderr() or str(error)).splitlines() if line.startswith("error: ")]
        return lines[-1].removeprefix("error: ") if lines else str(error).strip().splitlines()[-1]
    return None
