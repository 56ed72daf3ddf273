"""Training a denoiser, an objective and data that are there as objects, by the trainer of recipes."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from denoisezoo.data import ImageData
from denoisezoo.diffusion import NetworkDenoiser, Objective
from denoisezoo.errors import UserError, unknown
from denoisezoo.recorded import UndescribableError, describe
from denoisezoo.train.changes import as_words
from denoisezoo.train.described import BY_HAND, describe_denoiser, title_of
from denoisezoo.train.efforts import Sandwich
from denoisezoo.train.fit import TrainResult, train
from denoisezoo.train.optimizer import OptimizerConfig
from denoisezoo.train.recipe import parse_recipe
from denoisezoo.train.teachers import Loader, nothing_loads
from denoisezoo.train.training_module import TrainingModule

SECTIONS = ("trainer", "ema", "samples", "guard", "checkpoint", "wandb")
"""Sections of a recipe beside what is given as objects."""
PLAIN = (
    *("effort", "sandwich", "label_dropout", "on_failure", "channels_last", "compile", "adversary_optimizer"),
    "start_from",
)
"""Arguments of training that are passed on."""


def train_objects(
    denoiser: NetworkDenoiser,
    objective: Objective,
    data: ImageData,
    steps: int,
    folder: Path,
    seed: int,
    optimizer: OptimizerConfig,
    options: Mapping[str, Any],
    load: Loader = nothing_loads,
) -> TrainResult:
    """Train a copy of a denoiser; the folder is that of a run.

    Args:
        denoiser: It stays as it is.
        objective: What training makes small.
        data: Images.
        steps: Optimiser steps in all.
        folder: The run folder.
        seed: Of times, noise, dropout.
        optimizer: Optimiser and learning rate.
        options: `SECTIONS`, also as dotted keys, and `PLAIN`.
        load: Reads the runs that training begins with or learns from.

    Raises:
        UserError: See `train`.
    """
    if steps < 1:
        raise UserError(f"steps is {steps}", "give a whole number of at least 1")
    sections = {key: value for key, value in options.items() if key.partition(".")[0] in SECTIONS}
    training = {key: value for key, value in options.items() if key not in sections}
    if wrong := next((key for key in training if key not in PLAIN), None):
        raise unknown("argument", wrong, [*PLAIN, *SECTIONS])
    if isinstance(mixed := training.get("sandwich"), Mapping):
        training["sandwich"] = Sandwich(**mixed)
    if isinstance(other := training.get("adversary_optimizer"), Mapping):
        training["adversary_optimizer"] = OptimizerConfig(**other)
    # What a recipe would say; the data may hold nothing out to look at more often than at the end.
    told = {"seed_everything": seed, "samples.every_n_steps": 0, "trainer.val_check_interval": steps}
    words = [
        *as_words(told),
        *as_words(sections),
        *as_words({"trainer.max_steps": steps, "trainer.default_root_dir": folder}),
    ]
    name, family = title_of(denoiser)
    module = TrainingModule(
        copy.deepcopy(denoiser).train(),
        objective,
        name=name,
        family=family,
        optimizer=optimizer,
        seed=seed,
        **training,
    )
    kept = {"optimizer": dataclasses.asdict(optimizer), "seed": seed, **describe(training)}
    described = {"model": _described(denoiser, objective) | kept, "data": _named(data) or {}}
    return train(parse_recipe(words, given=(module, data), described=described), load)


def _described(denoiser: NetworkDenoiser, objective: Objective) -> dict[str, Any]:
    """Section `model` of the recipe that the run folder keeps."""
    try:
        section = describe_denoiser(denoiser)
    except UndescribableError as error:
        section = {"denoiser": None, BY_HAND: str(error)}
    return section | {"objective": _named(objective)}


def _named(value: Any) -> Any:
    """An object as a recipe names it, or None where it cannot."""
    try:
        return describe(value)
    except UndescribableError:
        return None


def make_optimizer(chosen: str | Mapping[str, Any] | OptimizerConfig | None, lr: float | None) -> OptimizerConfig:
    """An optimiser from its name or its fields, with a learning rate.

    Raises:
        UserError: An unknown field, or a value out of range.
    """
    if isinstance(chosen, OptimizerConfig):
        return chosen if lr is None else dataclasses.replace(chosen, lr=lr)
    fields = {"name": chosen} if isinstance(chosen, str) else dict(chosen or {})
    known = [field.name for field in dataclasses.fields(OptimizerConfig)]
    if wrong := next((key for key in fields if key not in known), None):
        raise unknown("field of optimizer", wrong, known)
    return OptimizerConfig(**fields | ({} if lr is None else {"lr": lr}))
