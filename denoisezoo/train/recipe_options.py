"""The options that `denoisezoo train` takes, as any parser can have them: for the completion of a shell."""

from __future__ import annotations

import argparse
import inspect
import warnings
from collections.abc import Sequence
from typing import Any

from lightning.pytorch.cli import LightningArgumentParser

from denoisezoo.archs import list_denoisers
from denoisezoo.data import ImageData
from denoisezoo.train.allowed import BASES, argument_types, subclasses, types_within
from denoisezoo.train.module import DiffusionModule
from denoisezoo.train.recipe import RecipeCLI, RecipeParser


class _ParserMade(Exception):  # noqa: N818, for it is no mistake
    """The parser is there, and nothing shall be parsed."""


class _ParserOnly(RecipeCLI):
    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        raise _ParserMade(parser)


def add_recipe_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of a recipe: names and help, with what is to choose from where that is a word."""
    words = _words()
    for action in _recipe_parser()._actions:
        options = [option for option in action.option_strings if option not in {"-h", "--help"}]
        if options and action.help != argparse.SUPPRESS:
            chosen = words.get(options[-1]) or _switch(action)
            parser.add_argument(*options, choices=chosen, help=str(action.help or "").replace("%", "%%"))


def _recipe_parser() -> RecipeParser:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            _ParserOnly([])
        except _ParserMade as made:
            parser: RecipeParser = made.args[0]
    return parser


def _words() -> dict[str, list[str]]:
    """Option -> what it chooses from by one word: classes by name, and networks."""
    hints = {f"--model.{key}": hint for key, hint in argument_types(DiffusionModule).items()} | {"--data": ImageData}
    found = {option: names for option, hint in hints.items() if (names := _class_names(types_within(hint)))}
    return found | {"--model.denoiser": list_denoisers()}


def _class_names(hints: set[Any]) -> list[str]:
    bases = [base for base in BASES if base in hints]
    classes = {cls for base in bases for cls in subclasses(base) if not inspect.isabstract(cls)}
    return sorted(cls.__name__ for cls in classes if not cls.__name__.startswith("_"))


def _switch(action: argparse.Action) -> Sequence[str] | None:
    """What a yes or no is written as; jsonargparse shows it in place of a name for the value."""
    shown = action.metavar if isinstance(action.metavar, str) else ""
    return shown[1:-1].split(",") if shown.startswith("{true,false") else None
