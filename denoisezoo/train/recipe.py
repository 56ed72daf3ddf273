"""Recipes: YAML files whose keys are the arguments of the classes they build (LightningCLI, jsonargparse)."""

from __future__ import annotations

import dataclasses
import importlib
import json
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from denoisezoo.data import ImageData
from denoisezoo.errors import UserError
from denoisezoo.files import local_path
from denoisezoo.plugins import import_named
from denoisezoo.train import recipe_yaml
from denoisezoo.train.allowed import argument_types, types_within
from denoisezoo.train.callbacks import GarbageCollection, Throughput
from denoisezoo.train.checkpoint import FOLDER, AtomicCheckpointIO
from denoisezoo.train.explain import SECTIONS_OF_CALLBACKS, explain
from denoisezoo.train.module import DiffusionModule
from denoisezoo.train.precision import check_precision, keep_float16
from denoisezoo.train.recipe_files import IMPORTS, module_names, read_recipe
from denoisezoo.train.recipe_names import find_recipe
from denoisezoo.train.saving import Checkpoints
from denoisezoo.train.sharding import refuse_strategy
from denoisezoo.train.step_bar import with_step_bar
from denoisezoo.train.stopping import StopOnInterrupt, cluster_plugins
from denoisezoo.train.training_module import TrainingModule
from denoisezoo.train.wandb_panels import Dashboard

CONFIG_NAME = "config.yaml"
NETWORK = "--model.network."


class RecipeParser(LightningArgumentParser):
    """A parser whose mistakes are one line that names the nearest key."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise a `UserError` instead of printing the usage."""
        raise UserError(*explain(message, ex))


class NoModel(LightningModule):
    """In the place of a module that is given: words say nothing of it."""


class NoData(LightningDataModule):
    """Likewise of data."""


class RecipeCLI(LightningCLI):
    """LightningCLI with the callbacks that every run has, as sections of the recipe.

    Args:
        args: Words of a command line.
        given: Module and data that are there, so that no words make them.
        described: What the sections `model` and `data` shall say of those.
        **kwargs: See `LightningCLI`.
    """

    def __init__(
        self,
        args: Sequence[str],
        given: tuple[TrainingModule, ImageData] | None = None,
        described: Mapping[str, Any] = MappingProxyType({}),
        **kwargs: Any,
    ) -> None:
        self.given, self.described = given, described
        super().__init__(
            model_class=NoModel if given else DiffusionModule,
            datamodule_class=NoData if given else ImageData,
            subclass_mode_data=given is None,
            save_config_callback=None,
            seed_everything_default=0,
            trainer_defaults={
                "max_epochs": -1,
                "log_every_n_steps": 50,
                "num_sanity_val_steps": 0,
                "check_val_every_n_epoch": None,
                "enable_model_summary": False,
                "logger": False,
            },
            args=list(args),
            run=False,
            auto_configure_optimizers=False,
            **kwargs,
        )

    def init_parser(self, **kwargs: Any) -> RecipeParser:
        """As LightningCLI's, with short errors."""
        kwargs.setdefault("dump_header", ["denoisezoo recipe"])
        parser = RecipeParser(prog="denoisezoo train", allow_abbrev=False, parser_mode=recipe_yaml.MODE, **kwargs)
        parser.add_argument("-c", "--config", action="config", help="A recipe: a YAML file or a shipped name.")
        return parser

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The sections beside trainer, model and data."""
        for section, callback in SECTIONS_OF_CALLBACKS.items():
            parser.add_lightning_class_args(callback, section)
        parser.add_argument(f"--{IMPORTS}", type=list[str] | None, default=None, help="Modules of other packages.")
        parser.add_argument("--wandb", type=str | None, default=None, help="Project to log to; offline without a key.")

    def before_instantiate_classes(self) -> None:
        """Refuse null where a value belongs; jsonargparse lets it pass in files.

        Raises:
            UserError: Naming the key.
        """
        classes = {"model": DiffusionModule, **SECTIONS_OF_CALLBACKS}
        written = {section: cls for section, cls in classes.items() if self.config.get(section)}
        nothing = [key for section, cls in written.items() for key in nulls(self.config[section], cls, section)]
        nothing += nulls_of_class(self.config["data"], "data") if self.config.get("data") else []
        if nothing:
            raise UserError(f"{nothing[0]} is null", "give it a value, or leave it out")

    def instantiate_classes(self) -> None:
        """Module and data as given, or as the words say; the trainer as they say."""
        super().instantiate_classes()
        if self.given:
            self.model, self.datamodule = self.given

    def instantiate_trainer(self, **kwargs: Any) -> Any:
        """The trainer in its run folder."""
        trainer_config = self._get(self.config_init, "trainer")
        refuse_strategy(trainer_config.get("strategy"))
        check_trainer(trainer_config)
        root = local_path(trainer_config.get("default_root_dir") or "runs")
        if trainer_config.get("fast_dev_run"):  # no run, and no later one may go on from it
            root = Path(tempfile.mkdtemp(prefix="denoisezoo-fast-dev-run-"))
        extra = [StopOnInterrupt(), Throughput(), Dashboard(), GarbageCollection()]
        chosen = as_list(trainer_config.get("plugins"))
        plugins = [AtomicCheckpointIO(survive=True), *cluster_plugins(chosen), *chosen]
        trainer = super().instantiate_trainer(default_root_dir=str(root), plugins=plugins, **kwargs)
        check_precision(trainer.precision)  # a plugin may bring another
        keep_float16(trainer, trainer_config.get("precision"))
        trainer.callbacks[:] = [*extra, *with_step_bar(trainer.callbacks)]
        for callback in trainer.callbacks:
            if isinstance(callback, Checkpoints):
                callback.dirpath = root / FOLDER
        return trainer


LEAST = {"log_every_n_steps": 1, "accumulate_grad_batches": 1, "num_nodes": 1, "gradient_clip_val": 0, "min_steps": 0}
"""What Lightning takes without a word, or names otherwise, where it is smaller."""
ALWAYS = {
    "reload_dataloaders_every_n_epochs": (0, "one loader gives out the batches of all epochs"),
    "use_distributed_sampler": (True, "each process has its own part of the images"),
}
"""Options of Lightning's for its own loaders -> the value that they always have here, and why."""


def nulls(values: Any, cls: type, where: str) -> Iterator[str]:
    """Dotted keys of arguments of a class that are null and must not be."""
    types = argument_types(cls)
    for key, value in vars(values).items():
        within = types_within(types.get(key, Any))
        if value is None and not within & {Any, type(None)}:
            yield f"{where}.{key}"
        elif hasattr(value, "class_path"):
            yield from nulls_of_class(value, f"{where}.{key}")
        elif config := next((x for x in within if isinstance(x, type) and dataclasses.is_dataclass(x)), None):
            yield from nulls(value, config, f"{where}.{key}") if hasattr(value, "__dict__") else ()


def nulls_of_class(value: Any, where: str) -> Iterator[str]:
    """The same of a class with its arguments."""
    module, _, name = value.class_path.rpartition(".")
    cls: type = getattr(importlib.import_module(module), name)
    yield from nulls(value.init_args, cls, f"{where}.init_args") if value.get("init_args") else ()


def check_trainer(config: Any) -> None:
    """Refuse numbers of the trainer's section that are out of range.

    Raises:
        UserError: One is.
    """
    for key, cure in (("max_steps", "give a whole number; -1 is without end"), ("accumulate_grad_batches", "give 1")):
        if config.get(key, 1) is None:
            raise UserError(f"{key} is null", cure)
    check_precision(config.get("precision"))
    if config.get("limit_train_batches") == 0:
        raise UserError("limit_train_batches is 0, which trains nothing", "leave it out")
    for key, (only, why) in ALWAYS.items():
        if config.get(key, only) != only:
            raise UserError(f"{key} is {config[key]}, and {why}", "leave it out")
    for key, least in LEAST.items():
        value = config.get(key)
        if value is not None and not least <= float(value) < float("inf"):
            raise UserError(f"{key} is {value}", f"give a number of at least {least}")


def as_list(value: Any) -> list[Any]:
    """A list of what may be None, one thing, or several."""
    return [] if value is None else list(value) if isinstance(value, list | tuple) else [value]


def parse_recipe(args: Sequence[str], **objects: Any) -> RecipeCLI:
    """Build trainer, module and data from command-line arguments in which `--config` may name a shipped recipe.

    Args:
        args: The words.
        **objects: `given` and `described`; see `RecipeCLI`.

    Raises:
        UserError: Unknown recipe, key or class, or a value of the wrong type.
    """
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)  # the command says what is worth saying
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            cli = RecipeCLI(resolve_configs(list(args)), **objects)
        except (TypeError, ValueError, RecursionError, yaml.YAMLError, MisconfigurationException) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(*explain(str(error), error)) from error
    return cli


def resolve_configs(words: list[str]) -> list[str]:
    """Replace recipes after --config (or -c) by their files or, where they extend others, by what comes of that.

    jsonargparse merges recipes, but replaces `network` as a whole, since its keys are free. So what came before a
    recipe that has some of them is said again after it. Modules that recipes ask for are imported here: classes and
    names that these register may stand anywhere.

    Raises:
        UserError: A recipe is not there, or wrong as a file, or a module cannot be imported.
    """
    resolved: list[str] = []
    network: dict[str, str] = {}  # key -> value as text
    modules: list[str] = []
    rest = iter(words)
    for word in rest:
        flag, given, value = word.partition("=")
        if flag not in {"--config", "-c", f"--{IMPORTS}"} and not flag.startswith(NETWORK):
            resolved.append(word)
            continue
        if not given and (value := next(rest, given)) == given:  # the last word; the parser tells that one is missing
            resolved.append(word)
        elif flag.startswith(NETWORK):
            network[flag.removeprefix(NETWORK)] = value
            resolved.append(f"{flag}={value}")
        elif flag == f"--{IMPORTS}":
            modules += module_names(recipe_yaml.load(value), flag)
        else:
            recipe = read_recipe(find_recipe(value))
            model = recipe.sections.get("model")
            own = model.get("network") if isinstance(model, dict) else None
            own = own if isinstance(own, dict) else {}  # what else it may be, the parser tells
            resolved.append(f"--config={recipe.config}")
            resolved += [f"{NETWORK}{key}={text}" for key, text in network.items() if own and key not in own]
            network |= {key: json.dumps(field) for key, field in own.items()}
            modules += recipe.imports
    for module in modules:
        import_named(module, f"the recipe imports {module}")
    return resolved + ([f"--{IMPORTS}={json.dumps(list(dict.fromkeys(modules)))}"] if modules else [])


def plain_config(cli: RecipeCLI) -> dict[str, Any]:
    """The resolved configuration as plain data."""
    config: dict[str, Any] = recipe_yaml.load(cli.parser.dump(cli.config, skip_none=False))
    config.pop("config", None)
    if not config.get(IMPORTS):
        config.pop(IMPORTS, None)
    return config | dict(cli.described)
