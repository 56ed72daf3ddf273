"""`denoisezoo train`: train a recipe; the same command again resumes."""

from __future__ import annotations

import argparse
import sys

from denoisezoo.errors import UserError


def run_raw(argv: list[str]) -> int:
    """Train with LightningCLI's own arguments."""
    from denoisezoo.runs.teacher import load_teacher
    from denoisezoo.train.fit import train
    from denoisezoo.train.recipe_files import list_recipes

    words = {word.partition("=")[0] for word in argv}
    if not words & {"-c", "--config", "-h", "--help"}:
        names = ", ".join(list_recipes()[:4])
        raise UserError("train needs a recipe", f"give --config RECIPE, a YAML file or a shipped one ({names}, ...)")
    result = train(argv, load_teacher)
    if result.rank:
        return result.status
    if result.interrupted:
        print(f"interrupted after step {result.steps}; run the same command again to go on", file=sys.stderr)
    else:
        print(f"trained {result.steps} steps, {result.facts['images_seen']:,} images; run folder: {result.folder}")
    return result.status


def add_completed_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments for the completion of a shell: a copy of LightningCLI's, which has a parser of its own."""
    from denoisezoo.train.recipe_options import add_recipe_options

    add_recipe_options(parser)
