"""Names of recipes. Nothing heavy is imported, so that a command can say at once which it does not know."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from pathlib import Path

from denoisezoo.errors import UserError, unknown
from denoisezoo.files import local_path

CONFIGS = Path(__file__).parents[1] / "configs"


def list_recipes() -> list[str]:
    """Names of the shipped recipes, such as "digits/ddpm"."""
    return sorted(str(path.relative_to(CONFIGS).with_suffix("")) for path in CONFIGS.glob("*/*.yaml"))


def find_recipe(name: str) -> Path:
    """The file of a recipe: a path, or the name of a shipped one.

    Raises:
        UserError: There is no such file or name, or it is a URL.
    """
    shipped = CONFIGS / f"{name}.yaml"
    if shipped.is_file():
        return shipped
    path = local_path(name)
    if path.is_file():
        return path
    if path.suffix in {".yaml", ".yml"} or path.is_absolute():
        raise UserError(f"there is no recipe file {name}", "give a YAML file, or the name of a shipped recipe")
    raise unknown("recipe", name, list_recipes())


def expand(recipes: Sequence[str]) -> list[str]:
    """Recipes of names, paths and patterns, each once.

    Raises:
        UserError: A name or pattern that matches nothing.
    """
    names: list[str] = []
    for name in recipes:
        pattern = any(c in name for c in "*?[")
        matching = [r for r in list_recipes() if fnmatch.fnmatchcase(r, name)] if pattern else [name]
        if not matching:
            raise unknown("recipe", name, list_recipes())
        names += [r for r in matching if r not in names]
    for name in names:
        find_recipe(name)
    return names
