"""The terms that all runs of a comparison are judged on, and the record of each."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from denoisezoo.compare.jobs import Job, train_command
from denoisezoo.compare.kept import Kept, terms_of
from denoisezoo.compare.records import Comparison, RunRecord
from denoisezoo.data import ImageData
from denoisezoo.errors import UserError
from denoisezoo.evaluation.metrics import Evaluator
from denoisezoo.evaluation.neighbours import neighbour_grid
from denoisezoo.pictures import image_grid, save_png
from denoisezoo.progress import progress_bar
from denoisezoo.runs.assessor import Assessment, assess, make_evaluator
from denoisezoo.runs.run import Run
from denoisezoo.runs.terms import Settings
from denoisezoo.train.log import read_log

GRID_IMAGES = 36
NEIGHBOUR_ROWS = 8


@dataclass(frozen=True)
class Bench:
    """What all runs of a comparison share: the data, the reference side of the metrics, the terms."""

    data: ImageData
    settings: Settings
    evaluator: Evaluator
    out: Path

    @classmethod
    def of(cls, data: ImageData, settings: Settings, out: Path) -> Bench:
        """Read the data, compute its features, and draw the real images."""
        evaluator = make_evaluator(data, settings)
        save_png(
            image_grid(evaluator.reference[:: max(1, len(evaluator.reference) // GRID_IMAGES)][:GRID_IMAGES]),
            out / "real.png",
        )
        return cls(data, settings, evaluator, out)

    def record(self, job: Job, run: Run, title: str) -> RunRecord:
        """Assess one run on the shared terms, or take up what was found on the same terms before.

        Args:
            job: Its training.
            run: The run.
            title: What progress is told of.

        Raises:
            UserError: The run was trained on other data than the others.
        """
        if run.data().content_hash() != self.data.content_hash():
            raise UserError(f"{job.name} was trained on other data than the rest", "compare recipes of one data set")
        kept = Kept.of(job.folder, terms_of(run, self.data, self.settings, self.evaluator))
        record = kept.load()
        if record is None:
            say(f"{title}: sampling and evaluating")
            record = self._assess(job, run, kept)
            kept.save(record)
        else:
            say(f"{title}: kept as assessed on these terms at {record.card.get('date')}")
        return replace(
            record,
            loss_curve=loss_curve(job.folder),
            samples=kept.samples,
            neighbours=kept.neighbours,
            command=train_command(job),
        )

    def _assess(self, job: Job, run: Run, kept: Kept) -> RunRecord:
        with progress_bar("sampling", self.settings.num or len(self.evaluator.reference)) as progress:
            found = assess(run, self.data, self.settings, self.evaluator, progress)
        save_png(found.picture(GRID_IMAGES), kept.samples)
        save_png(neighbour_grid(found.generated.images[:NEIGHBOUR_ROWS], self.data.images("train")), kept.neighbours)
        return RunRecord(
            name=job.name,
            denoiser=run.name,
            family=run.family,
            process=type(run.denoiser.process).__name__,
            seed=job.seed,
            metrics=found.metrics,
            costs=costs(run, found),
            card=found.card.as_dict(),
            loss_by_noise=found.noise_curve,
            pixel_loss_by_noise=found.pixel_curve,
            trajectory=found.trajectory.to_dict()["trajectory"],
        )

    def comparison(self, jobs: list[Job], records: list[RunRecord], title: str, command: str) -> Comparison:
        """Everything found so far."""
        card = next((r.card for r in records if r.card), {})
        terms = {
            "budget": jobs[0].budget,
            "batch size": self.data.batch_size,
            "sampler": self.settings.sampler,
            "sampler steps": self.settings.steps,
            "images evaluated": self.settings.num or len(self.evaluator.reference),
            "reference images": len(self.evaluator.reference),
            "sampling batch": self.settings.batch_size,
            "guidance": self.settings.guidance_text() or "none",
            "plan": "none" if self.settings.plan is None else self.settings.plan.to_json(),
            "weights": "ema",
        }
        machine = {key: card.get(key) for key in ("device", "device_name", "versions", "git_commit")}
        missing = ", ".join(f"{job.name} seed {job.seed}" for job in jobs[len(records) :])
        notes = [f"Unfinished: {len(records)} of {len(jobs)} runs are here; missing: {missing}."] if missing else []
        return Comparison(
            title=title,
            command=command,
            runs=records,
            data=self.data.card() | {"split": self.settings.split},
            terms=terms,
            real=self.out / "real.png",
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            machine=machine,
            notes=notes,
            quality=self.evaluator.features.distance_name,
        )


def say(text: str) -> None:
    """A line of progress."""
    print(text, file=sys.stderr, flush=True)


def costs(run: Run, assessment: Assessment) -> dict[str, Any]:
    """What a run costs, by the report's names."""
    seconds, images = assessment.card.train_seconds, assessment.card.images_seen
    return {
        "params": assessment.card.params,
        "macs_per_call": max(call.macs for call in assessment.trajectory.calls),
        "macs_per_image": assessment.trajectory.macs_per_image,
        "nfe": assessment.trajectory.nfe,
        "latency_ms_per_image": assessment.latency_ms,
        "train_seconds": seconds,
        "train_macs": assessment.card.train_macs,
        "images_per_s_training": images / seconds if images and seconds else None,
    }


def loss_curve(folder: Path) -> list[tuple[float, float]]:
    """(step, training loss) from the log of a run."""
    return [(float(step), row["train/loss"]) for step, row in read_log(folder).items() if "train/loss" in row]
