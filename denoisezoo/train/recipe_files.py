"""What recipes say, once the recipes that they extend are merged in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from yaml.nodes import MappingNode

from denoisezoo.errors import UserError
from denoisezoo.files import local_path
from denoisezoo.train import recipe_yaml
from denoisezoo.train.recipe_names import find_recipe

EXTENDS, IMPORTS = "extends", "imports"
"""Keys of a recipe beside its sections: the recipe that it builds on, and modules of other packages."""


@dataclass(frozen=True)
class RecipeFile:
    """What a recipe says.

    Attributes:
        config: What the parser is to read: the path of the file, or YAML where that extends or imports something.
        sections: Its sections as plain data.
        imports: Modules that it asks for, those of the recipes that it extends first.
    """

    config: str
    sections: dict[str, Any]
    imports: tuple[str, ...] = ()


def read_recipe(path: Path) -> RecipeFile:
    """Read a recipe, merged into the recipe that it extends, which may extend another.

    Raises:
        UserError: One of the files is no YAML or holds no sections, one extends what is not there, or itself.
    """
    sections = read_sections(path)
    if EXTENDS not in sections and IMPORTS not in sections:
        return RecipeFile(str(path), sections)
    tree, imports = _merged(path, ())
    if not tree.value:
        raise UserError(f"{path} holds no sections such as model: and data:", "see a shipped recipe")
    text = recipe_yaml.serialize(tree)
    return RecipeFile(text, yaml.safe_load(text), tuple(imports))


def _merged(path: Path, children: tuple[Path, ...]) -> tuple[MappingNode, list[str]]:
    """The sections of a recipe and of all that it extends, and their imports; `children` have led to it."""
    sections = read_sections(path)
    tree = recipe_yaml.compose(path.read_bytes(), without=(EXTENDS, IMPORTS))
    imports = module_names(sections.get(IMPORTS), f"imports in {path}")
    if EXTENDS not in sections:
        return tree, imports
    children = (*children, path.resolve())
    parent = find_parent(path, sections[EXTENDS])
    if parent.resolve() in children:
        through = "" if parent.samefile(path) else f", through {path}"
        raise UserError(f"{parent} extends itself{through}", "take the extends: out of one of them")
    above, needed = _merged(parent, children)
    return recipe_yaml.merge(above, tree), needed + [name for name in imports if name not in needed]


def find_parent(path: Path, name: Any) -> Path:
    """The file of what the recipe at `path` extends: seen from there, else as `find_recipe` finds it.

    Raises:
        UserError: There is no such recipe.
    """
    if not isinstance(name, str) or not name:
        raise UserError(f"extends in {path} is {name!r}", "give one name of a recipe, or a path")
    try:
        beside = path.parent / local_path(name)
        return beside if beside.is_file() else find_recipe(name)
    except UserError as error:
        raise UserError(f"{error.what}, which {path} extends", error.cure) from error


def module_names(value: Any, where: str) -> list[str]:
    """Names of modules, from a list of them or None.

    Raises:
        UserError: It is something else.
    """
    value = [] if value is None else value
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise UserError(f"{where} is {value!r:.60}", "give a list of modules, such as [their.module]")
    return list(dict.fromkeys(value))


def read_sections(path: Path) -> dict[str, Any]:
    """The sections of a recipe, whose file is YAML; jsonargparse does not say which file is not.

    Raises:
        UserError: It is something else.
    """
    try:
        content = yaml.safe_load(path.read_bytes())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise UserError(f"{path} is no YAML: {error.problem}{where}", "mend it there") from error
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{path} is no YAML: {str(error).splitlines()[0]}", "mend it, or give another file") from error
    if content is not None and not isinstance(content, dict):
        raise UserError(f"{path} holds no sections such as model: and data:", "see a shipped recipe")
    for key in ("ema", "posthoc", "samples", "guard", "checkpoint"):
        if content and key in content and content[key] is None:
            raise UserError(f"{key} is empty in {path}", "give it keys, or leave it out")
    return content or {}
