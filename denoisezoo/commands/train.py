"""`denoisezoo train`: train a recipe; the same command again resumes."""

from __future__ import annotations

import argparse
import itertools
import sys

from denoisezoo.errors import UserError, nearest, unknown
from denoisezoo.machine_load import Load, warn_of_others


def run_raw(argv: list[str]) -> int:
    """Train with LightningCLI's own arguments."""
    from denoisezoo.train.recipe_names import find_recipe, list_recipes

    words = [part for word in argv for part in word.split("=", 1)]
    if not {"-c", "--config", "-h", "--help"} & set(words):
        if near := next((word for word in words if word.startswith("-") and nearest(word, ["--config"])), None):
            raise unknown("option", near, ["--config"])
        names = ", ".join(list_recipes()[:4])
        raise UserError("train needs a recipe", f"give --config RECIPE, a YAML file or a shipped one ({names}, ...)")
    for flag, name in itertools.pairwise(words):
        if flag in {"-c", "--config"}:
            find_recipe(name)  # before the seconds that the imports take
    begin = Load.now()

    from denoisezoo.runs.teacher import load_teacher
    from denoisezoo.train.fit import train

    warn_of_others(begin)
    result = train(argv, load_teacher)
    if result.rank:
        return result.status
    if result.interrupted:
        print(f"interrupted after step {result.steps}; run the same command again to go on", file=sys.stderr)
    else:
        loss = "" if result.loss is None else f", loss {result.loss:.4g}"
        images = f"{result.facts['images_seen']:,} images"
        print(f"trained {result.steps} steps, {images}{loss}; run folder: {result.folder}")
    return result.status


def add_completed_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments for the completion of a shell: a copy of LightningCLI's, which has a parser of its own."""
    from denoisezoo.train.recipe_options import add_recipe_options

    add_recipe_options(parser)
