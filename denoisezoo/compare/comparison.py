"""Jobs of equal budget, one after another, into records that a report is made of."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from denoisezoo.compare.bench import Bench, say
from denoisezoo.compare.jobs import Job, train_command
from denoisezoo.compare.records import Comparison, RunRecord
from denoisezoo.errors import UserError
from denoisezoo.runs.run import Run, load_run
from denoisezoo.runs.teacher import load_teacher
from denoisezoo.runs.terms import Settings
from denoisezoo.tables import Column, Table, Tabular, human, scatter
from denoisezoo.train.fit import read_facts, train

ERROR = "error.txt"


@dataclass(frozen=True)
class Outcome(Tabular):
    """What a comparison gave; prints as a table of its runs, a notebook shows quality by price.

    Attributes:
        records: One record for each job that was reached.
        report: The report, None if there was nothing to report yet.
        status: Exit status that a signal asked for, such as 130 for Ctrl-C; 0 where none ended it.
        quality: Name of the metric that is compared.
    """

    records: list[RunRecord]
    report: Path | None
    status: int
    quality: str | None = None

    def rows(self) -> list[dict[str, Any]]:
        """A row for each run: metrics, costs and card, or the error of one that failed."""
        return [record.to_json() for record in self.records]

    def summary(self) -> Table:
        """Quality and price of each run."""
        quality = self.quality or "quality"
        shown = [
            Column("name", "name"),
            Column("seed", "seed", right=True),
            Column(quality, lambda row: row["metrics"].get(quality), "{:.4g}".format, right=True),
            Column("params", lambda row: row["costs"].get("params"), human, right=True),
            Column("MACs per image", lambda row: row["costs"].get("macs_per_image"), human, right=True),
            Column("ms per image", lambda row: row["costs"].get("latency_ms_per_image"), "{:.4g}".format, right=True),
            Column("training s", lambda row: row["costs"].get("train_seconds"), "{:.4g}".format, right=True),
            Column("error", "error"),
        ]
        return Table(self.rows(), shown)

    def plot(self) -> dict[str, Any] | None:
        """Quality by price, a point for each run; the report has more."""
        if self.quality is None:
            return None
        points: dict[str, list[tuple[Any, Any]]] = {}
        for run in self.records:
            if run.metrics.get(self.quality) is not None and "macs_per_image" in run.costs:
                points.setdefault(run.name, []).append((run.costs["macs_per_image"], run.metrics[self.quality]))
        return scatter(points, "MACs per image", self.quality)


def compare(
    jobs: list[Job],
    settings: Settings,
    out: Path,
    *,
    title: str,
    command: str,
    launched: dict[Path, str | None] | None = None,
    report: Callable[[Comparison, Path], Path],
) -> Outcome:
    """Run the jobs and report, after every one of them.

    Args:
        jobs: The trainings.
        settings: How runs are sampled and judged.
        out: Folder of the report.
        title: Its heading.
        command: The command as it was typed.
        launched: Run folder -> why it failed or None, of trainings that ran elsewhere; None trains here.
        report: Writes the report of what there is into a folder, and returns its path.
    """
    records: list[RunRecord] = []
    bench: Bench | None = None
    page: Path | None = None
    begin = time.monotonic()
    for i, job in enumerate(jobs, 1):
        left = (time.monotonic() - begin) / 60 / max(1, i - 1) * (len(jobs) - i + 1)
        rest = f", about {left:.0f} min left" if left >= 1 else ""
        say(f"[{i}/{len(jobs)}] {job.name}, seed {job.seed}: training{rest}")
        try:
            if launched is not None:
                check_launched(job, launched[job.folder])
            elif (trained := train(job.arguments, load_teacher)).interrupted:
                return Outcome(records, page, trained.status)
            run = load_run(job.folder, trust=job.trust)
            check_budget(job, run)
            bench = bench or Bench.of(run.data(), settings, out)
            records.append(bench.record(job, run, f"[{i}/{len(jobs)}] {job.name}, seed {job.seed}"))
            (job.folder / ERROR).unlink(missing_ok=True)
        except Exception as error:  # one failed training must not end the others; the report names it
            records.append(failed(job, error))
            say(f"[{i}/{len(jobs)}] {job.name}, seed {job.seed} failed: {records[-1].error}")
        if bench is not None:
            page = report(bench.comparison(jobs, records, title, command), out)
    return Outcome(records, page, 0, bench.evaluator.features.distance_name if bench else None)


def launch(jobs: list[Job], launcher: str, out: Path, options: dict[str, Any], at_once: int) -> dict[Path, str | None]:
    """Train all jobs elsewhere: run folder -> why it failed, or None."""
    from denoisezoo.compare.launching import JOBS, Launcher

    say(f"training {len(jobs)} runs through submitit ({launcher})")
    outcomes = Launcher(launcher, out / JOBS, options, at_once).run([job.arguments for job in jobs])
    for job, error in zip(jobs, outcomes, strict=True):
        say(f"{job.name}, seed {job.seed}: {'trained' if error is None else 'failed: ' + error}")
    return {job.folder: error for job, error in zip(jobs, outcomes, strict=True)}


def check_launched(job: Job, error: str | None) -> None:
    """Refuse what a job of its own did not train to the end.

    It is not trained here instead: a recipe of several processes would start this whole comparison in each.

    Raises:
        UserError: It failed, or was stopped.
    """
    if error is not None:
        raise UserError(error, f"see {job.folder.parent.parent.parent / 'jobs'}; the same command tries again")
    if read_facts(job.folder) is None:
        raise UserError("its training was interrupted", "the same command goes on with it")


def check_budget(job: Job, run: Run) -> None:
    """Refuse a run that an earlier comparison in the same folder has trained for longer than this one's budget.

    Raises:
        UserError: It is one.
    """
    steps = run.facts["train_steps"]
    if 0 <= job.steps < steps:
        raise UserError(
            f"{job.folder} was trained for {steps} steps, and this budget is {job.steps}", "give another `out`"
        )


def failed(job: Job, error: Exception) -> RunRecord:
    """The record of a training that failed; the traceback goes into its folder."""
    job.folder.mkdir(parents=True, exist_ok=True)
    (job.folder / ERROR).write_text("".join(traceback.format_exception(error)))
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return RunRecord(job.name, "", "", "", job.seed, error=reason, command=train_command(job))
