"""What is wrong with a recipe: one line from a message of jsonargparse or Lightning, with the nearest key."""

from __future__ import annotations

import ast
import inspect
import re
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException

from denoisezoo.data import ImageData, Task
from denoisezoo.diffusion import Codec, Objective, Preconditioning, Process, Times
from denoisezoo.errors import UserError, nearest
from denoisezoo.train.allowed import subclasses
from denoisezoo.train.callbacks import SampleGrid
from denoisezoo.train.efforts import Sandwich
from denoisezoo.train.ema import EMA
from denoisezoo.train.guard import Guard
from denoisezoo.train.module import DiffusionModule
from denoisezoo.train.power_averages import PowerAverages
from denoisezoo.train.recipe_files import EXTENDS, IMPORTS
from denoisezoo.train.saving import Checkpoints
from denoisezoo.train.training_module import OptimizerConfig, TrainingModule

PART = re.compile(r"(?<![\w.`-])((?:network|process|preconditioning|objective)\.[a-z](?:[\w.]*\w)?)")
"""An argument of a part, as errors of the rooms that know no command line name it: process.resolution."""


def as_keys(text: str) -> str:
    """A text with parts and their arguments as keys of a recipe: process.resolution is `model.process.resolution`."""
    return PART.sub(r"`model.\1`", text).replace("`process`", "`model.process`")


SEE = "see `denoisezoo train --config RECIPE --print_config`"


def explain(message: str, error: Exception | None = None) -> tuple[str, str]:
    """What is wrong and what to do, from a message of jsonargparse; a `UserError` inside it wins."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, UserError):
            return cause.what, cause.cure
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, RecursionError):
        return "the recipe holds itself: a YAML alias stands within its own anchor", "write the value out"
    text = " ".join(message.split())
    if found := re.search(r"dot import path string: (\S+)", text):
        return _unknown(f"class {found[1]!r}", found[1].split(".")[-1], _class_names())
    if found := re.search(r"Group '([\w.]+)' does not accept option '([\w.]+)", text):
        return _unknown_key(f"{found[1]}.{found[2]}")
    if found := re.search(r"(?:unrecognized arguments:|Key|Option) [\"'`-]*([\w.]+)", text):
        return _unknown_key(found[1])
    if found := re.search(r"the following arguments are required: ([\w.]+)", text):
        places = sorted(f"{place}.{found[1]}" for place in _known_keys().get(found[1], ()) if place)
        return f"{found[1]} is missing", f"give {' or '.join(places) or 'it'}; {SEE}"
    if "numpy accepts from" in text:
        return f"seed_everything is {text.split()[0]}", "give a whole number from 0 to 4294967295"
    if "Not a valid subclass" in text and (key := _foreign_key(message)):
        return _unknown_key(key)
    if found := re.search(r"Parser key \"([\w.]+)\".*?Expected an? (.+?)\. Got value: (.+)", text):
        kind = found[2].removeprefix("<class '").removesuffix("'>")
        *_, inner = re.findall(r"Parser key \"([\w.]+)\"", text.partition("Expected a")[0])
        name = found[1] if inner.startswith(found[1]) else f"{found[1]}.{inner}"
        return f"{name} is {found[3][:60]!r}", f"give a value of type {kind[:60]}"
    if found := re.search(r"Parser key \"([\w.]+)\"", text):
        given = re.search(r"(?:Given|Got) value: (.+)", text)
        reason = re.findall(r"Problem[^:]*: (.+?)(?= - |$)", text) or [text.partition(found[0])[2].strip(": ")]
        return f"{found[1]} is {given[1][:60]!r}" if given else f"{found[1]}: {reason[0][:200]}".rstrip(".:; "), SEE
    if isinstance(error, MisconfigurationException) and (key := _trainer_key(text)):
        return f"trainer.{key}: {text[:200]}".rstrip(".:; "), SEE
    lines = [line.strip(" -") for line in message.splitlines() if line.strip(" -")] or ["the recipe is wrong"]
    return ": ".join(lines[:2])[:300].rstrip(".:; "), SEE


def _trainer_key(text: str) -> str | None:
    """The option of the trainer that a message of Lightning is about."""
    if "Timer(duration=" in text:
        return "max_time"
    from lightning.pytorch import Trainer

    keys = inspect.signature(Trainer.__init__).parameters
    return next((word for word in re.findall(r"\w+", text) if word in keys and word != "self"), None)


def _foreign_key(message: str) -> str | None:
    """The first key beside class_path and init_args of the value that a message of jsonargparse shows."""
    try:
        value = ast.literal_eval(message.rpartition("Given value: ")[2].strip())
    except (ValueError, SyntaxError):
        return None
    keys = [str(key) for key in value] if isinstance(value, dict) else []
    return next((key for key in keys if key not in {"class_path", "init_args", "dict_kwargs"}), None)


def _unknown_key(path: str) -> tuple[str, str]:
    """What is wrong with a key in dots: it is named as far as its first part that no recipe knows, if there is one.

    A key that recipes know, but elsewhere, is answered with the places that it has.
    """
    known, parts = _known_keys(), path.split(".")
    depth = next((i for i, part in enumerate(parts) if part not in known), len(parts) - 1)
    what, name = f"key {'.'.join(parts[: depth + 1])!r}", parts[depth]
    if name in OUTSIDE:
        return f"unknown {what}", f"the run folder is {OUTSIDE[name]}; {SEE}"
    if places := sorted(f"{place}.{name}" for place in known.get(name, ()) if place):
        return f"unknown {what}", f"did you mean {' or '.join(places[:3])}? {SEE}"
    section = ".".join(parts[:depth])
    beside = sorted(key for key, places in known.items() if section and section in places)
    if 0 < len(beside) <= 8:
        return f"unknown {what}", f"{section} has {', '.join(beside)}; {SEE}"
    return _unknown(what, name, set(beside or known))


OUTSIDE = dict.fromkeys(("out", "output", "folder", "run", "run_dir", "output_dir"), "`trainer.default_root_dir`")
"""What other programs, and other commands of this one, call the folder that is written to."""


def _unknown(what: str, name: str, choices: set[str]) -> tuple[str, str]:
    near = nearest(name, choices)
    return f"unknown {what}", (f"did you mean {' or '.join(near)}? " if near else "") + SEE


def _class_names() -> set[str]:
    """Classes that a recipe may name."""
    return {cls.__name__ for base in SECTIONS for cls in subclasses(base) if not inspect.isabstract(cls)}


def _known_keys() -> dict[str, set[str]]:
    """Every key that a recipe may hold, and the sections where it stands; "" for the recipe itself."""
    from lightning.pytorch import Trainer

    classes: list[tuple[str, Any]] = [("trainer", Trainer), ("model", DiffusionModule), ("model", TrainingModule)]
    classes += [("model.optimizer", OptimizerConfig), ("model.sandwich", Sandwich), *SECTIONS_OF_CALLBACKS.items()]
    classes += [(section, cls) for base, section in SECTIONS.items() for cls in subclasses(base)]
    top = ("trainer", "model", "data", "seed_everything", "wandb", *SECTIONS_OF_CALLBACKS, EXTENDS, IMPORTS)
    known: dict[str, set[str]] = {key: {""} for key in (*top, "class_path", "init_args")}
    for section, cls in classes:
        for key in inspect.signature(cls.__init__).parameters:
            if key not in ("self", "args", "kwargs", "training", "name", "family"):
                known.setdefault(key, set()).add(section)
    return known


SECTIONS = {
    Process: "model.process",
    Preconditioning: "model.preconditioning",
    Objective: "model.objective",
    Times: "model.objective.times",
    Codec: "model.codec",
    ImageData: "data",
    Task: "data.task",
}
"""Where a recipe names a class of each kind."""

SECTIONS_OF_CALLBACKS: dict[str, Any] = {
    "ema": EMA,
    "posthoc": PowerAverages,
    "samples": SampleGrid,
    "guard": Guard,
    "checkpoint": Checkpoints,
}
"""Callbacks that every run has, and the sections that configure them."""
