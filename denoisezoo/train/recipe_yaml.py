"""Recipes as YAML in which text stays text: a folder called 1e5, 007 or yes is that folder, and neither 100000.0 nor 7.

YAML tells text from numbers by how it looks. Here the argument tells: what a class takes as text alone is read as it is
written, and text is written in such a way that reading it gives it back. A plain `null` still is nothing; a folder of
that name is `./null`.

A recipe that extends another is merged into it as a tree, before anything is read: what a child calls 007 is told by
the class that its parent names.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import set_dumper, set_loader
from lightning.pytorch import Trainer
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from denoisezoo.train.allowed import BASES, argument_types, subclasses, types_within
from denoisezoo.train.module import DiffusionModule

MODE = "recipe"
"""The name of this way to read and write, for jsonargparse."""
SECTIONS: dict[str, type] = {"model": DiffusionModule, "trainer": Trainer}
"""Sections of a recipe whose class is always the same."""
TAG = "tag:yaml.org,2002:"
FLOAT = re.compile(
    r"""[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?
    |[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+
    |[-+]?\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?
    |[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)""",
    re.VERBOSE,
)
"""Numbers as YAML 1.2 has them, where 1e-4 is one; PyYAML asks for 1.0e-4."""


class Loader(yaml.SafeLoader):
    """PyYAML's safe loader, with floats as above and dates as the text that they are."""


class Dumper(yaml.SafeDumper):
    """PyYAML's safe dumper; it quotes text that `Loader` would take for a number."""


Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in found if tag not in (f"{TAG}timestamp", f"{TAG}float")]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _kind in (Loader, Dumper):
    _kind.add_implicit_resolver(f"{TAG}float", re.compile(rf"^(?:{FLOAT.pattern})$", re.VERBOSE), list("-+0123456789."))


def load(text: str) -> Any:
    """The value of YAML, a recipe or a part of one.

    Raises:
        yaml.YAMLError: It is no YAML.
    """
    loader = Loader(text)
    node = loader.get_single_node()
    if node is None or _is_empty(node) or (isinstance(node, MappingNode) and all(_is_empty(v) for _, v in node.value)):
        return text  # nothing but a comment, an anchor, or keys such as {a}: a name that looks so
    for values, cls in _arguments(node):
        _keep_text(values, argument_types(cls))
    if isinstance(node, MappingNode):
        _keep_text(node, {"wandb": str | None})
    return loader.construct_document(node)


def dump(data: Any) -> str:
    """YAML of plain values, which `load` reads back as they are."""
    return yaml.dump(data, Dumper=Dumper, sort_keys=False, default_flow_style=False, allow_unicode=True)


def compose(content: bytes, without: Collection[str] = ()) -> MappingNode:
    """The tree of a recipe without some of its keys. Its scalars are text as written, whose type is yet open.

    Raises:
        yaml.YAMLError: It is no YAML.
    """
    node = yaml.compose(content, Loader=Loader)
    kept = fields(node) if isinstance(node, MappingNode) else {}
    return MappingNode(f"{TAG}map", [field for key, field in kept.items() if key not in without])


def serialize(node: MappingNode) -> str:
    """The YAML of such a tree."""
    text: str = yaml.serialize(node, Dumper=Dumper, allow_unicode=True)
    return text


def fields(node: MappingNode) -> dict[str, tuple[Node, Node]]:
    """Key -> (its node, its value's), those of merge keys (`<<`) included."""
    Loader("").flatten_mapping(node)
    return {str(key.value): (key, value) for key, value in node.value}


def merge(parent: MappingNode, child: MappingNode) -> MappingNode:
    """What a child says on top of its parent.

    Mappings merge key by key; a list, a number or text replaces what was there. So does a class with its arguments,
    unless it is the parent's class, or names none and so means that one: arguments belong to their class.
    """
    theirs, ours = fields(parent), fields(child)
    both = {key: (theirs[key][0], _merge_values(theirs[key][1], ours[key][1])) for key in theirs if key in ours}
    return MappingNode(parent.tag, list((theirs | ours | both).values()), flow_style=False)


def _merge_values(parent: Node, child: Node) -> Node:
    if not isinstance(child, MappingNode):
        return child
    if isinstance(parent, ScalarNode) and "init_args" in fields(child):  # a class may be written as its path alone
        parent = MappingNode(f"{TAG}map", [(ScalarNode(f"{TAG}str", "class_path"), parent)])
    return merge(parent, child) if isinstance(parent, MappingNode) and _same_class(parent, child) else child


def _same_class(parent: MappingNode, child: MappingNode) -> bool:
    """Whether a child's class is its parent's, with or without the module written out, or neither names one."""
    if (ours := fields(child).get("class_path")) is None:
        return True
    if (theirs := fields(parent).get("class_path")) is None:
        return False
    short, full = sorted((str(ours[1].value), str(theirs[1].value)), key=len)
    return short == full or (full.endswith(f".{short}") and "." not in short)


def _is_empty(node: Node) -> bool:
    """Whether there is nothing, not even `null`."""
    return isinstance(node, ScalarNode) and not node.value and not node.style


def _arguments(node: Node) -> Iterator[tuple[MappingNode, type]]:
    """The mappings of arguments within a node, each with its class."""
    if isinstance(node, SequenceNode):
        for inside in node.value:
            yield from _arguments(inside)
    if not isinstance(node, MappingNode):
        return
    inside_of = {key.value: value for key, value in node.value if isinstance(key, ScalarNode)}
    path = inside_of.get("class_path")
    if isinstance(path, ScalarNode) and isinstance(inside_of.get("init_args"), MappingNode):
        name = path.value.rpartition(".")[2]
        for cls in (cls for base in BASES for cls in subclasses(base) if cls.__name__ == name):
            yield inside_of["init_args"], cls
    for key, value in inside_of.items():
        if key in SECTIONS and isinstance(value, MappingNode):
            yield value, SECTIONS[key]
        yield from _arguments(value)


def _keep_text(values: MappingNode, types: dict[str, Any]) -> None:
    """Make text of what looks otherwise, where an argument takes text and no number; inside of dataclasses too."""
    for key, value in values.value:
        kinds = types_within(types.get(key.value, Any))
        config = next((kind for kind in kinds if isinstance(kind, type) and dataclasses.is_dataclass(kind)), None)
        if config is not None and isinstance(value, MappingNode):
            _keep_text(value, argument_types(config))
        elif kinds & {str, Path} and not kinds & {int, float, bool, Any} and isinstance(value, ScalarNode):
            value.tag = value.tag if value.tag == f"{TAG}null" else f"{TAG}str"


set_loader(MODE, load, exceptions=(yaml.YAMLError,))
set_dumper(MODE, dump)
