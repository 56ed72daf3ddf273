"""The trainings that a comparison asks for: recipes times seeds, each within the same budget."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from denoisezoo.compare.budget import STEPS, Budget
from denoisezoo.errors import UserError
from denoisezoo.evaluation.features import create_each
from denoisezoo.runs.drawing import check_guidance
from denoisezoo.runs.terms import Settings
from denoisezoo.train.recipe import parse_recipe
from denoisezoo.train.recipe_files import IMPORTS
from denoisezoo.train.recipe_names import expand
from denoisezoo.train.suited import check_data


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


def train_command(job: Job) -> str:
    """The command that repeats one training."""
    return shlex.join(["denoisezoo", "train", *job.arguments])


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
    features = create_each(settings.features) if settings is not None else []
    for name in names:
        cli = parse_recipe(["--config", name, "--trainer.logger", "false"])
        check_data(cli.model.name, cli.model.denoiser, cli.datamodule)
        if inline and cli.trainer.num_devices * cli.trainer.num_nodes > 1:
            raise UserError(f"{name} trains in several processes", "add `launcher=local`, or set its devices to 1")
        if settings is not None:
            check_terms(settings, label(name), cli.model)
            for one in features:
                one.check(cli.model.denoiser.image_shape)
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
