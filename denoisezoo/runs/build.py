"""From the plain configuration that a checkpoint keeps back to objects."""

from __future__ import annotations

import inspect
from typing import Any

from jsonargparse import ArgumentParser

from denoisezoo.archs import list_denoisers, without_pretrained_weights
from denoisezoo.data import ImageData
from denoisezoo.diffusion import NetworkDenoiser
from denoisezoo.errors import UserError
from denoisezoo.plugins import check_trusted, import_trusted
from denoisezoo.train import recipe_yaml
from denoisezoo.train.allowed import check_arguments, check_class
from denoisezoo.train.described import build_denoiser
from denoisezoo.train.explain import explain
from denoisezoo.train.module import DiffusionModule
from denoisezoo.train.recipe_files import module_names


def import_modules(names: Any) -> None:
    """Import what the recipe of a file asks for under `imports`: all, or nothing if one is not trusted.

    Args:
        names: Names of modules; None for none.

    Raises:
        UserError: A package is not trusted, a module cannot be imported, or these are no names.
    """
    for name in (names := module_names(names, "the checkpoint's imports")):
        check_trusted(name, f"the checkpoint imports {name}")
    for name in names:
        import_trusted(name, f"the checkpoint imports {name}")


def denoiser_of(config: dict[str, Any]) -> tuple[NetworkDenoiser, str, str]:
    """The denoiser of a recipe's `model` section, the name of its network, and of the network's family.

    All of the section is checked; what training alone needs, such as the objective, is not made.

    Raises:
        UserError: The section does not fit this version, or names what a file must not.
    """
    name = config.get("denoiser")
    if isinstance(name, str) and "." in name and name not in list_denoisers():
        import_trusted(name.rpartition(".")[0], f"the checkpoint's network is the class {name}")
    # A null objective was given to `fit` as an object that no file can name.
    config = check_arguments(
        {k: v for k, v in config.items() if (k, v) != ("objective", None)}, DiffusionModule, "model"
    )
    parser = ArgumentParser(exit_on_error=False, parser_mode=recipe_yaml.MODE)
    parser.add_function_arguments(build_denoiser, "model")
    parts = {key: value for key, value in config.items() if key in inspect.signature(build_denoiser).parameters}
    with without_pretrained_weights():  # their files may be gone
        denoiser, family = build_denoiser(**_instantiate(parser, "model", parts))
    return denoiser, str(name).rpartition(".")[2], family


def build_data(config: dict[str, Any]) -> ImageData:
    """The data module of a recipe's `data` section.

    Raises:
        UserError: The section does not fit this version.
    """
    config = check_class(config, ImageData, "data")
    parser = ArgumentParser(exit_on_error=False, parser_mode=recipe_yaml.MODE)
    parser.add_subclass_arguments(ImageData, "data")
    return _instantiate(parser, "data", config)


def _instantiate(parser: ArgumentParser, key: str, config: dict[str, Any]) -> Any:
    from jsonargparse import ArgumentError

    try:
        parsed = parser.parse_object({key: config})
    except ArgumentError as error:
        raise UserError(
            f"the checkpoint's {key} section does not fit this version: {explain(str(error), error)[0]}",
            "use the version of denoisezoo that wrote it",
        ) from error
    try:
        return parser.instantiate_classes(parsed)[key]
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(*explain(str(error), error)) from error
