"""The table of denoisers. A file in `archs/` declares its family and variants; nothing else is edited to add one."""

from __future__ import annotations

import dataclasses
import fnmatch
import importlib
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from denoisezoo.archs.backbone import Backbone, BackboneConfig, Effort, ImageSpec
from denoisezoo.errors import UserError, unknown
from denoisezoo.registry import Registry, import_all


@dataclass(frozen=True)
class Cost:
    """Expected cost of one call at batch 1: exact parameters and multiply-adds (attention products included)."""

    params: int
    macs: int


@dataclass(frozen=True)
class Variant:
    """One registered denoiser.

    Attributes:
        name: Its registry name.
        family: The family that builds it.
        config: Its full configuration.
        costs: Expected cost for each of `config.efforts`.
        tags: Free words; "tiny" marks the variant that contract tests build, "reference" one that reproduces a paper.
        expected_failures: Contract test name -> reason why this variant cannot pass it.
    """

    name: str
    family: Family
    config: BackboneConfig
    costs: tuple[Cost, ...]
    tags: frozenset[str] = frozenset()
    expected_failures: Mapping[str, str] = field(default_factory=dict)

    @property
    def spec(self) -> ImageSpec:
        """The tensors that it takes and returns."""
        return self.config.spec

    @property
    def efforts(self) -> tuple[Effort, ...]:
        """Its efforts, cheapest first."""
        return self.config.efforts

    def build(self, **overrides: Any) -> Backbone:
        """A freshly initialised network of this variant, with some fields of its configuration replaced."""
        return self.family.network(replace_config(self.config, overrides, self.name))


@dataclass(frozen=True)
class Family:
    """An architecture: one file, one paper, one network class, several variants.

    Attributes:
        name: Family name.
        network: Builds the network from a configuration.
        title: Title of the paper.
        authors: First authors.
        year: Year of the first version.
        arxiv: arXiv number; empty where there is no paper.
    """

    name: str
    network: Callable[[Any], Backbone]
    title: str
    authors: str
    year: int
    arxiv: str

    @property
    def paper(self) -> str:
        """Short citation."""
        return f"{self.authors} {self.year}" + (f", arXiv {self.arxiv}" if self.arxiv else "")

    @property
    def doc(self) -> str:
        """The family's docstring: that of its module."""
        return (importlib.import_module(self.network.__module__).__doc__ or "").strip()

    def variant(
        self,
        name: str,
        config: BackboneConfig,
        *costs: Cost,
        tags: typing.Iterable[str] = (),
        expected_failures: Mapping[str, str] | None = None,
    ) -> Variant:
        """Register a variant; `costs` has one entry for each effort of `config`, cheapest first."""
        if len(costs) != len(config.efforts):
            raise UserError(
                f"{name} has {len(config.efforts)} efforts and {len(costs)} costs", "give one cost per effort"
            )
        entry = Variant(name, self, config, costs, frozenset(tags), dict(expected_failures or {}))
        return _VARIANTS.add(name, entry, self.network.__module__)


_VARIANTS: Registry[Variant] = Registry("denoiser", see="denoisezoo list")


@cache
def _discover() -> Registry[Variant]:
    """Import every file of `archs/` once; each registers its own family."""
    package = importlib.import_module("denoisezoo.archs")
    import_all("denoisezoo.archs", package.__path__)
    return _VARIANTS


def list_denoisers(pattern: str = "*", family: str | None = None) -> list[str]:
    """Names of the registered denoisers, in natural order.

    Args:
        pattern: Shell pattern over names, e.g. "*cifar10".
        family: Only this family.

    Raises:
        UserError: There is no such family.
    """
    variants = _discover()
    if family is not None and family not in list_families():
        raise unknown("family", family, list_families(), "denoisezoo list")
    return [name for name in variants.names(pattern) if family in (None, variants[name].family.name)]


def list_families(pattern: str = "*") -> list[str]:
    """Names of the families in the zoo."""
    return sorted({v.family.name for v in _discover().values() if fnmatch.fnmatchcase(v.family.name, pattern)})


def get_variant(name: str) -> Variant:
    """The registry entry called `name`.

    Raises:
        UserError: Unknown name; the message offers the nearest ones.
    """
    return _discover()[name]


def create_backbone(name: str, **overrides: Any) -> Backbone:
    """Build a backbone by name.

    Args:
        name: A name that `list_denoisers` gives.
        **overrides: Fields of the variant's configuration to change, e.g. `resolution=64`.

    Returns:
        The network with fresh weights, in training mode.

    Raises:
        UserError: Unknown name or override (the nearest ones are named), wrong type, or impossible value.
    """
    return get_variant(name).build(**overrides)


def replace_config(config: BackboneConfig, overrides: Mapping[str, Any], name: str) -> BackboneConfig:
    """`config` with `overrides`, each checked against the field's type."""
    hints = typing.get_type_hints(type(config))
    known = {f.name for f in dataclasses.fields(config)}
    for key in overrides:
        if key not in known:
            raise unknown(f"argument of {name}", key, known, f"denoisezoo info {name}")
    values = {key: _coerce(value, hints[key], f"{key} of {name}") for key, value in overrides.items()}
    changed = dataclasses.replace(config, **values)
    changed.validate()
    return changed


def _coerce(value: Any, hint: Any, what: str) -> Any:
    """`value` as the type `hint`: lists become tuples and whole floats stay floats; anything else is refused."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(_coerce(v, args[0], what) for v in value)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return _coerce(value, next(a for a in args if a is not type(None)), what)
    if origin is typing.Literal and value in args:
        return value
    if origin is dict and isinstance(value, Mapping):
        return dict(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    raise UserError(f"{what} is {value!r}", f"give {getattr(hint, '__name__', None) if origin is None else hint}")


def find_variant(backbone: Backbone) -> tuple[Variant, dict[str, Any]] | None:
    """The entry that a network can be built from, and the fields to change of it; None for one from elsewhere."""
    config = getattr(backbone, "config", None)
    kin = [v for v in _discover().values() if v.family.network is type(backbone) and type(v.config) is type(config)]
    if not kin:
        return None
    fields = [f.name for f in dataclasses.fields(kin[0].config)]
    changes = [{n: getattr(config, n) for n in fields if getattr(config, n) != getattr(v.config, n)} for v in kin]
    return min(zip(kin, changes, strict=True), key=lambda pair: len(pair[1]))
