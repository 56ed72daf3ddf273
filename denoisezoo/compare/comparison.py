"""Jobs of equal budget, one after another, into records that a report is made of."""

from __future__ import annotations

import fnmatch
import shlex
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from denoisezoo.compare.budget import STEPS, Budget
from denoisezoo.compare.kept import Kept, terms_of
from denoisezoo.compare.records import Comparison, RunRecord
from denoisezoo.data import ImageData
from denoisezoo.errors import UserError, unknown
from denoisezoo.evaluation.features import create_features
from denoisezoo.evaluation.metrics import Evaluator
from denoisezoo.evaluation.neighbours import neighbour_grid
from denoisezoo.pictures import image_grid, save_png
from denoisezoo.progress import progress_bar
from denoisezoo.runs.assessor import Assessment, assess, check_guidance, make_evaluator
from denoisezoo.runs.run import Run, load_run
from denoisezoo.runs.terms import Settings
from denoisezoo.tables import Column, Table, Tabular, human, scatter
from denoisezoo.train.fit import read_facts, train
from denoisezoo.train.log import read_log
from denoisezoo.train.recipe import parse_recipe
from denoisezoo.train.recipe_files import IMPORTS, find_recipe, list_recipes
from denoisezoo.train.suited import check_data

GRID_IMAGES = 36
NEIGHBOUR_ROWS = 8
ERROR = "error.txt"


@dataclass(frozen=True)
class Job:
    """One training.

    Attributes:
        name: Name of the recipe.
        seed: Training seed.
        folder: Its run folder.
        arguments: Arguments of `train`.
        budget: The budget in words.
        steps: Its steps; -1 where they are not limited.
        trust: Packages that the recipe imports: who asks for its training trusts them.
    """

    name: str
    seed: int
    folder: Path
    arguments: list[str]
    budget: str
    steps: int = -1
    trust: tuple[str, ...] = ()


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


def expand(recipes: list[str]) -> list[str]:
    """Recipes of names, paths and patterns, each once.

    Raises:
        UserError: A name or pattern that matches nothing.
    """
    names: list[str] = []
    for name in recipes:
        matching = (
            [r for r in list_recipes() if fnmatch.fnmatchcase(r, name)] if any(c in name for c in "*?[") else [name]
        )
        if not matching:
            raise unknown("recipe", name, list_recipes())
        names += [r for r in matching if r not in names]
    for name in names:
        find_recipe(name)
    return names


def plan_jobs(
    recipes: list[str],
    seeds: list[int],
    budget: Budget,
    out: Path,
    *,
    wandb: str | None = None,
    inline: bool = True,
    settings: Settings | None = None,
) -> list[Job]:
    """All trainings, seed by seed, so that an early stop leaves every recipe with the same seeds.

    Every recipe is built once before anything is trained, so that a mistake in the last one costs nothing; so are
    the terms of sampling and the features, where they are given.
    """
    names = expand(recipes)
    limits: dict[str, list[str]] = {}
    steps: dict[str, int] = {}
    trust: dict[str, tuple[str, ...]] = {}
    titles = [label(name) for name in names]
    if twice := next((title for title in titles if titles.count(title) > 1), None):
        raise UserError(f"two recipes are called {twice}", "rename one: runs and rows go by the names of their files")
    features = create_features(settings.features) if settings is not None else None
    for name in names:
        cli = parse_recipe(["--config", name, "--trainer.logger", "false"])
        check_data(cli.model.name, cli.model.denoiser, cli.datamodule)
        if inline and cli.trainer.num_devices * cli.trainer.num_nodes > 1:
            raise UserError(f"{name} trains in several processes", "add `launcher=local`, or set its devices to 1")
        if settings is not None and features is not None:
            check_terms(settings, label(name), cli.model)
            features.check(cli.model.denoiser.image_shape)
        words = limits[name] = budget.arguments(cli.datamodule.batch_size, cli.model.training_macs())
        steps[name] = int(words[words.index(STEPS) + 1]) if STEPS in words else cli.trainer.max_steps
        trust[name] = tuple(module.partition(".")[0] for module in cli.config.get(IMPORTS) or ())
    jobs = []
    for seed in seeds:
        for name in names:
            folder = out / "runs" / label(name) / f"seed_{seed}"
            arguments = ["--config", name, "--seed_everything", str(seed), "--data.init_args.seed", str(seed)]
            arguments += ["--trainer.default_root_dir", str(folder), *limits[name]]
            arguments += ["--wandb", wandb] if wandb else []
            jobs.append(Job(label(name), seed, folder, arguments, budget.text(), steps[name], trust[name]))
    return jobs


def check_terms(settings: Settings, name: str, model: Any) -> None:
    """Refuse a recipe's network (`DiffusionModule`) that cannot be sampled on the terms.

    Raises:
        UserError: It lacks an effort of the plan, or cannot be guided.
    """
    if settings.plan is not None:
        settings.plan.check(model.denoiser.efforts)
    check_guidance(settings, name, model.denoiser.backbone.spec.num_classes, model.label_dropout)


def label(recipe: str) -> str:
    """What the report calls a recipe: its file's name."""
    return Path(recipe).stem


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
    for i, job in enumerate(jobs, 1):
        say(f"[{i}/{len(jobs)}] {job.name}, seed {job.seed}: training")
        try:
            if launched is not None:
                check_launched(job, launched[job.folder])
            elif (trained := train(job.arguments)).interrupted:
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


def say(text: str) -> None:
    """A line of progress."""
    print(text, file=sys.stderr, flush=True)


def failed(job: Job, error: Exception) -> RunRecord:
    """The record of a training that failed; the traceback goes into its folder."""
    job.folder.mkdir(parents=True, exist_ok=True)
    (job.folder / ERROR).write_text("".join(traceback.format_exception(error)))
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return RunRecord(job.name, "", "", "", job.seed, error=reason, command=train_command(job))


def train_command(job: Job) -> str:
    """The command that repeats one training."""
    return shlex.join(["denoisezoo", "train", *job.arguments])


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
        return Comparison(
            title=title,
            command=command,
            runs=records,
            data=self.data.card() | {"split": self.settings.split},
            terms=terms,
            real=self.out / "real.png",
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            machine=machine,
            quality=self.evaluator.features.distance_name,
        )


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
