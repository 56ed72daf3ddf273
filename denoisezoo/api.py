"""What the commands do, as functions: load, train, evaluate, profile, search and compare; see `denoisezoo`."""

from __future__ import annotations

import copy
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Unpack, overload

import yaml
from torch import Tensor

from denoisezoo.compare.budget import Budget, make_budget
from denoisezoo.compare.comparison import Outcome, launch
from denoisezoo.compare.comparison import compare as compare_jobs
from denoisezoo.compare.jobs import plan_jobs
from denoisezoo.compare.launching import LAUNCHERS
from denoisezoo.data import ImageData, Source
from denoisezoo.data.source_images import as_data
from denoisezoo.diffusion import Codec, NetworkDenoiser, Objective
from denoisezoo.errors import unknown
from denoisezoo.locking import only_writer
from denoisezoo.plans import Plan, find_plan
from denoisezoo.plugins import trusting
from denoisezoo.report import write_report
from denoisezoo.runs.ema_sweep import sweep as ema  # noqa: F401 - part of this API
from denoisezoo.runs.evaluating import Judged, run_of, settings_for
from denoisezoo.runs.evaluating import evaluate as evaluate
from denoisezoo.runs.exporting import Exported, export_run
from denoisezoo.runs.pricing import PricingTerms, Profile, price_rows
from denoisezoo.runs.ratios import Ratios, price_ratios
from denoisezoo.runs.run import Run, load_run
from denoisezoo.runs.subjects import Priced, find_subjects
from denoisezoo.runs.teacher import load_teacher
from denoisezoo.runs.terms import Terms, make_settings
from denoisezoo.search.evolved_front import EvolutionOptions
from denoisezoo.search.search import SearchOptions, SearchResult
from denoisezoo.search.search import search as search_plans
from denoisezoo.train.changes import as_plain, as_words, packages_of
from denoisezoo.train.fit import train as train_words
from denoisezoo.train.objects import make_optimizer, train_objects
from denoisezoo.train.recipe_files import read_recipe
from denoisezoo.train.recipe_names import find_recipe


def load(
    path: str | os.PathLike[str],
    *,
    weights: str = "ema",
    trust: Sequence[str] = (),
    into: NetworkDenoiser | None = None,
    codec: str | Codec | None = None,
) -> NetworkDenoiser:
    """Load a trained denoiser.

        denoiser = dz.load("runs/digits/ddpm")
        denoiser.sample(16), denoiser.run.facts

    Args:
        path: Run folder, checkpoint, a safetensors file that `export` wrote, or FORMAT:PATH, e.g. "edm:network.pkl".
        weights: "ema" for the averaged weights, "raw" for those of the optimiser.
        trust: Packages whose code its recipe may name.
        into: A denoiser that takes the weights, where one was built by hand that no file can build (see `fit`).
        codec: Of a FORMAT:PATH that is a network of latents: what decodes them, e.g. "autoencoder_kl:path=FOLDER"; of a
            run on latents: another codec with the same encoder, such as one of a smaller decoder.

    Returns:
        The denoiser, in evaluation mode on the CPU, with its history as `.run`.

    Raises:
        UserError: There is no run, or its file is damaged, of another network, lacks these weights, or names code of a
            package that is not trusted.
    """
    return load_run(path, weights, trust, into, codec).denoiser


def export(
    subject: Judged,
    out: str | os.PathLike[str] | None = None,
    *,
    format: str = "safetensors",
    part: str | None = None,
    plan: Plan | str | os.PathLike[str] | None = None,
    license: str = "unknown",
    weights: str = "ema",
    trust: Sequence[str] = (),
) -> Exported:
    """Write a denoiser for other code, with a model card, README.md, beside it.

        dz.export("runs/digits/ddpm", "out", format="onnx")
        dz.export(denoiser, "network.pt2", format="pt2", part="network")

    Programs (onnx, pt2) take any batch size, and are run at other sizes than the traced one before they are kept. There
    is one for each effort of a plan, and one for each stage of a process whose stages differ in size.

    Args:
        subject: A run, its path, or a denoiser.
        out: A folder, or, without the card, one file that ends as the format's do; RUN/FORMAT unless given.
        format: "safetensors", which `load` reads; "diffusers", a pipeline's folder; "onnx"; "pt2", of torch.export.
        part: Of a program: "denoiser", (u_t, t) to the estimate of u_0, unless given; or "network", F alone.
        plan: The efforts to write, each by itself: a plan, its file, or a preset, e.g. "uniform:effort=0.5". The full
            one unless given.
        license: Of the weights, as the card tells it: an identifier, e.g. "apache-2.0".
        weights: "ema" or "raw", of a path.
        trust: Packages whose code the recipe of a path may name.

    Raises:
        UserError: An unknown format, part, plan or effort, a network that has no form in the format, a package that is
            not installed, or an `out` that cannot be written. Nothing is written then.
    """
    chosen = plan if plan is None or isinstance(plan, Plan) else find_plan(os.fspath(plan))
    run = run_of(subject, None, weights, trust)
    return export_run(run, out, format=format, part=part, plan=chosen, license=license)


def train(recipe: str | os.PathLike[str] | Mapping[str, Any], **changes: Any) -> Run:
    """Train a recipe in its run folder; the same call again goes on where it stopped.

        run = dz.train("digits/ddpm", trainer={"max_steps": 400, "default_root_dir": "runs/first"})
        run = dz.train("digits/ddpm", **{"model.optimizer.lr": 1e-3, "data.init_args.batch_size": 32})

    Args:
        recipe: Name of a shipped recipe, path of a YAML file, or its content.
        **changes: What to change of it: sections with nested keys, or dotted keys, in plain values. A mapping with a
            "class_path" replaces a class and all its arguments.

    Returns:
        The run, with the averaged weights of its last step, or of the last one that was saved where it was interrupted.

    Raises:
        UserError: An unknown recipe, key or class, a value of the wrong type, or a run folder that holds another run.
    """
    with tempfile.TemporaryDirectory() as folder:
        if isinstance(recipe, Mapping):
            name = os.path.join(folder, "recipe.yaml")
            Path(name).write_text(yaml.safe_dump(as_plain(recipe, "recipe"), sort_keys=False), encoding="utf-8")
        else:
            name = os.fspath(recipe)
        result = train_words([f"--config={name}", *as_words(changes)], load_teacher)
        file = read_recipe(find_recipe(name))
        packages = {*packages_of([file.sections, changes]), *packages_of({"imports": file.imports})}
    if result.interrupted:
        print(f"interrupted after step {result.steps}; the same call goes on", file=sys.stderr)
    return load_run(result.folder, trust=sorted(packages))


def fit(
    denoiser: NetworkDenoiser,
    objective: Objective,
    data: ImageData | Source | Sequence[Any] | Tensor,
    *,
    steps: int,
    batch_size: int | None = None,
    optimizer: str | Mapping[str, Any] | None = None,
    lr: float | None = None,
    seed: int = 0,
    out: str | os.PathLike[str] = "runs/fit",
    **options: Any,
) -> Run:
    """Train a denoiser without a recipe, by the trainer of recipes; the same call again goes on where it stopped.

        denoiser = dz.create_denoiser("ddpm_digits", dz.diffusion.RectifiedFlow())
        run = dz.fit(denoiser, dz.diffusion.Simple(), images, steps=400, batch_size=64, lr=2e-3, out="runs/mine")
        run.denoiser.sample(16), dz.evaluate(run), dz.load("runs/mine")

    A run folder loads again where the denoiser is of classes that a file can name, those of other packages with
    `trust`; of another one `load` says that it needs `into`.

    Args:
        denoiser: What is trained, in a copy: it stays as it is. Its initial weights are the caller's to seed.
        objective: What training makes small, of `dz.diffusion` or your own.
        data: A data module; or images (N, C, H, W), uint8 or float in [-1, 1], or what else `SourceImages` takes.
        steps: Optimiser steps in all, those of a run that goes on included.
        batch_size: Images per step; 128, or all where there are fewer. A data module has its own.
        optimizer: Name of an optimiser, or fields of `OptimizerConfig`; AdamW unless given.
        lr: Learning rate; 2e-4 unless given.
        seed: Of times, noise, dropout, and the order of the images (of a data module: its own).
        out: The run folder.
        **options: Sections of a recipe, `trainer`, `ema`, `samples` (none unless given), `guard`, `checkpoint`,
            `wandb`, as `train` takes them; or how to train: `effort`, `label_dropout`, `on_failure`, `compile`, ...

    Returns:
        The run, with the averaged weights and its data.

    Raises:
        UserError: Parts that do not fit together, an unknown option, or a folder that holds another run.
    """
    images = as_data(data, batch_size, seed, labels=denoiser.backbone.spec.num_classes > 0)
    chosen = make_optimizer(optimizer, lr)
    result = train_objects(denoiser, objective, images, steps, Path(out), seed, chosen, options, load_teacher)
    if result.interrupted:
        print(f"interrupted after step {result.steps}; the same call goes on", file=sys.stderr)
    return load_run(result.folder, into=copy.deepcopy(denoiser)).on(images)


@overload
def profile(
    subjects: Sequence[Priced],
    *,
    compare: Literal[True],
    process: str | None = None,
    resolution: int | None = None,
    trust: Sequence[str] = (),
    **terms: Any,
) -> Ratios: ...


@overload
def profile(
    subjects: Priced | Sequence[Priced],
    *,
    compare: Literal[False] = False,
    process: str | None = None,
    resolution: int | None = None,
    trust: Sequence[str] = (),
    **terms: Any,
) -> Profile: ...


def profile(
    subjects: Priced | Sequence[Priced],
    *,
    compare: bool = False,
    process: str | None = None,
    resolution: int | None = None,
    trust: Sequence[str] = (),
    **terms: Any,
) -> Profile | Ratios:
    """What networks cost: parameters, MACs (1 MAC = 1 multiply-add), latency and memory; with a sampler, a whole image.

        dz.profile("*cifar10", counts_only=True)                      # in seconds, without weights
        dz.profile(denoiser, sampler="heun", steps=18).rows()[0]["macs_per_image"]
        dz.profile(["ddpm_digits", "adm_digits"], compare=True)       # ratios, timed in turns

    Args:
        subjects: A name or pattern, the path of a run, a backbone, a denoiser or a run, or several of them. What is
            given as an object is priced in a copy.
        compare: Of two subjects, the second's cost over the first's, single calls of both timed in turns: unlike two
            rows of a busy machine, their ratio can be trusted, and has an interval. See `Ratios`.
        process: Process for networks that have none; the zoo's default unless given.
        resolution: Size of the images for registered names.
        trust: Packages whose code the recipe of a path may name.
        **terms: Fields of `denoisezoo.runs.pricing.PricingTerms`: `batch_sizes`, `efforts`, `device`, `dtype`,
            `compile`, `variants`, `counts_only`, `training`, `sampler`, `steps`, `plan`, `guidance`, ...

    Returns:
        A row for each network, effort and batch size: MACs per image, latency in milliseconds of a call for the whole
        batch, memory in bytes.

    Raises:
        UserError: An unknown name or term, terms that contradict each other, or a device or type that does not work.
    """
    if wrong := next((name for name in terms if name not in PricingTerms.__dataclass_fields__), None):
        own = ("compare", "process", "resolution", "trust")
        raise unknown("argument", wrong, [*PricingTerms.__dataclass_fields__, *own])
    priced = PricingTerms(**terms)
    several = subjects if isinstance(subjects, Sequence) and not isinstance(subjects, str) else [subjects]
    with trusting(trust):
        if compare:
            return price_ratios(list(find_subjects(several, process, resolution)), priced)
        rows = [row for subject in find_subjects(several, process, resolution) for row in price_rows(subject, priced)]
    return Profile(rows, priced.counters)


def search(
    subject: Judged,
    budget: float | Sequence[float] = 0.5,
    *,
    data: ImageData | None = None,
    cost: Literal["macs", "latency"] = "macs",
    levels: int = 24,
    images: int = 128,
    min_segment: int = 1,
    switch_penalty: float = 0.01,
    evaluate: bool = False,
    evolution: Mapping[str, Any] | bool = False,
    out: str | os.PathLike[str] | None = None,
    weights: str = "ema",
    trust: Sequence[str] = (),
    **terms: Unpack[Terms],
) -> SearchResult:
    """Find plans of a network with several efforts: how much of it to use at each noise level.

        plan = dz.search("runs/digits/slim", budget=0.5).plan()
        dz.load("runs/digits/slim").sample(16, plan=plan)

    Args:
        subject: A run, its path, or a denoiser.
        budget: Shares of the full network's cost, each above 0 and at most 1; a plan for each.
        data: Images to measure denoising losses on; those that the run was trained on unless given.
        cost: What a budget limits.
        levels: Noise levels of a plan at most.
        images: Held-out images at each level of the loss table.
        min_segment: Levels that an effort lasts at least.
        switch_penalty: Loss of a change of effort, as a share of what the cheapest effort loses everywhere.
        evaluate: Also sample by the plans and by each effort, and measure the Frechet distance.
        evolution: Also evolve plans by that distance: true, or fields of `EvolutionOptions`, e.g. {"trials": 60}.
        out: Folder of an evolution, which goes on where it stopped; RUN/search unless given.
        weights: "ema" or "raw", of a path.
        trust: Packages whose code the recipe of a path may name.
        **terms: On what terms plans are to be good; see `evaluate`.

    Raises:
        UserError: The network has one effort, a budget is below its smallest, or there are no data.
    """
    make_settings(**terms)
    run = run_of(subject, data, weights, trust)
    settings = settings_for(run, terms)
    fields = {} if isinstance(evolution, bool) else dict(evolution)
    if wrong := next((name for name in fields if name not in EvolutionOptions.__dataclass_fields__), None):
        raise unknown("option of evolution", wrong, EvolutionOptions.__dataclass_fields__)
    options = SearchOptions(
        budget=[budget] if isinstance(budget, int | float) else budget,
        cost=cost,
        levels=levels,
        images=images,
        min_segment=min_segment,
        switch_penalty=switch_penalty,
        evaluate=evaluate,
        evolution=None if evolution is False else EvolutionOptions(**fields),
    )
    return search_plans(run, settings, options, run.folder / "search" if out is None else Path(out))


def compare(
    recipes: Sequence[str | os.PathLike[str]],
    *,
    budget: Budget | Mapping[str, float] | None = None,
    seeds: Sequence[int] = (0,),
    out: str | os.PathLike[str] = "runs/compare",
    title: str = "Comparison of denoisers",
    command: str = "",
    wandb: str | None = None,
    launcher: str = LAUNCHERS[0],
    launcher_options: Mapping[str, Any] | None = None,
    jobs: int = 1,
    **terms: Unpack[Terms],
) -> Outcome:
    """Train recipes on equal terms, sample, evaluate and price them, and write one report.

        result = dz.compare(["digits/ddpm", "digits/adm"], budget={"images": 25_600}, seeds=(0, 1, 2))
        result.report, result.to_pandas()

    The same call again goes on where it stopped: finished trainings are not repeated, nor what was assessed of them on
    the same terms. A training that fails is a row with its error, and does not end the others.

    Args:
        recipes: Names or patterns of shipped recipes, or paths.
        budget: Training of each, "images", "macs" or "minutes"; the first to end counts. As the recipes say unless
            given.
        seeds: Training seeds.
        out: Folder of the runs and the report.
        title: Heading of the report.
        command: What made it, as the report shall tell.
        wandb: Project of W&B to send the trainings and the comparison to.
        launcher: "inline" trains here; "local" and "slurm" in jobs of their own, through submitit.
        launcher_options: Of submitit.
        jobs: Trainings at once with "local".
        **terms: How runs are sampled and judged; see `evaluate`.

    Raises:
        UserError: A recipe, seed or term is wrong, which is told before anything is trained, or another process writes
            into the folder.
    """
    settings, folder, limits = make_settings(**terms), Path(out), make_budget(budget)
    if launcher not in LAUNCHERS:
        raise unknown("launcher", launcher, LAUNCHERS)
    inline = launcher == LAUNCHERS[0]
    names = [os.fspath(recipe) for recipe in recipes]
    planned = plan_jobs(names, [*seeds], limits, folder, wandb=wandb, inline=inline, settings=settings)
    with only_writer(folder, "wait until it has ended, or give another `out`"):
        launched = None if inline else launch(planned, launcher, folder, dict(launcher_options or {}), jobs)
        outcome = compare_jobs(
            planned, settings, folder, title=title, command=command, launched=launched, report=write_report
        )
        if wandb and outcome.quality and not outcome.status:
            from denoisezoo.report.wandb_table import track_comparison

            track_comparison(wandb, folder, outcome.records, outcome.quality, command)
    return outcome
