"""From the plain configuration that a checkpoint keeps back to objects."""

from __future__ import annotations

from typing import Any

from jsonargparse import ArgumentParser

from denoisezoo.archs import list_denoisers, without_pretrained_weights
from denoisezoo.data import ImageData
from denoisezoo.diffusion import Simple
from denoisezoo.errors import UserError
from denoisezoo.plugins import check_trusted, import_trusted
from denoisezoo.train import recipe_yaml
from denoisezoo.train.allowed import check_arguments, check_class
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


def build_module(config: dict[str, Any]) -> DiffusionModule:
    """The training module of a recipe's `model` section, uncompiled.

    Raises:
        UserError: The section does not fit this version.
    """
    name = config.get("denoiser")
    if isinstance(name, str) and "." in name and name not in list_denoisers():
        import_trusted(name.rpartition(".")[0], f"the checkpoint's network is the class {name}")
    if config.get("objective") is None:  # given to fit as an object that no file can name; only training needs it
        config = config | {"objective": {"class_path": f"{Simple.__module__}.{Simple.__qualname__}", "init_args": {}}}
    config = check_arguments(config, DiffusionModule, "model")
    parser = ArgumentParser(exit_on_error=False, parser_mode=recipe_yaml.MODE)
    parser.add_class_arguments(DiffusionModule, "model")
    with without_pretrained_weights():  # their files may be gone
        return _instantiate(parser, "model", config | {"compile": False})


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
        from denoisezoo.train.recipe import explain

        raise UserError(
            f"the checkpoint's {key} section does not fit this version: {explain(str(error), error)[0]}",
            "use the version of denoisezoo that wrote it",
        ) from error
    try:
        return parser.instantiate_classes(parsed)[key]
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        from denoisezoo.train.recipe import explain

        raise UserError(*explain(str(error), error)) from error
