"""Everything that the zoo knows of one denoiser: its family, the paper, its arguments and its costs."""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import dataclass
from typing import Any

from denoisezoo.archs.backbone import BackboneConfig
from denoisezoo.archs.variants import Variant, get_variant, list_denoisers
from denoisezoo.errors import unknown
from denoisezoo.tables import Column, Table, Tabular, human, plain

ARGUMENT_COLUMNS = [Column("argument", "name"), Column("type", "type"), Column("default", "default", repr)]
COST_COLUMNS = [
    Column("effort", "effort", plain, right=True),
    Column("params", "params", human, right=True),
    Column("exact", "params", lambda value: f"{value:,}", right=True),
    Column("MACs", "macs", human, right=True),
    Column("exact", "macs", lambda value: f"{value:,}", right=True),
]


@dataclass(frozen=True)
class Info(Tabular):
    """One entry of the zoo; prints as text, shows its costs in a notebook.

    Attributes:
        variant: The registry's entry.
        variants: Names of the family's variants.
    """

    variant: Variant
    variants: tuple[str, ...]

    @property
    def arguments(self) -> list[dict[str, Any]]:
        """Fields of its configuration, which `create_backbone` takes: name, type, default."""
        config = self.variant.config
        return [_argument(config, field) for field in dataclasses.fields(config)]

    def heading(self) -> str:
        """Name, paper, what the family's file says of itself, and its other variants."""
        family, spec = self.variant.family, self.variant.spec
        extras = [
            (spec.num_classes, "classes"),
            (spec.cond_channels, "condition channels"),
            (spec.augment_dim, "augmentation labels"),
            (spec.tokens, f"context tokens of {spec.token_dim} numbers"),
        ]
        takes = ", ".join(f"{count} {what}" for count, what in extras if count)
        lines = [
            f"{self.variant.name}  (family {family.name})",
            "",
            family.doc,
            "",
            f"paper     {family.title}. {family.paper}, https://arxiv.org/abs/{family.arxiv}",
            f"image     {_input(self.variant)} in, {spec.out_channels} channels out" + (f"; {takes}" if takes else ""),
            f"tags      {' '.join(sorted(self.variant.tags)) or '-'}",
            f"variants  {' '.join(self.variants)}",
        ]
        return "\n".join(lines)

    def summary(self) -> Table:
        """A row for each effort: parameters and multiply-adds of one call at batch 1."""
        return Table(entry(self.variant.name)["costs"], COST_COLUMNS, self.variant.name)

    def rows(self) -> list[dict[str, Any]]:
        """One row with everything, as `denoisezoo info NAME --json` writes it."""
        family = self.variant.family
        more = {"title": family.title, "doc": family.doc, "variants": list(self.variants), "arguments": self.arguments}
        return [entry(self.variant.name) | more]

    def __str__(self) -> str:
        arguments, costs = (
            Table(self.arguments, ARGUMENT_COLUMNS),
            Table(entry(self.variant.name)["costs"], COST_COLUMNS),
        )
        create = f'create it with  denoisezoo.create_backbone("{self.variant.name}", argument=value, ...)'
        return "\n\n".join([self.heading(), str(arguments), str(costs), create])


def info(name: str) -> Info:
    """What the zoo knows of one denoiser.

        print(dz.info(name))          # paper, arguments with their defaults, costs at each effort
        dz.info(name).arguments       # what create_backbone(name, ...) takes

    Args:
        name: A name that `list_denoisers` gives.

    Raises:
        UserError: An unknown name; the nearest are given.
    """
    variant = get_variant(name)
    return Info(variant, tuple(list_denoisers(family=variant.family.name)))


def matching(pattern: str, family: str | None = None) -> list[str]:
    """Names that match a pattern.

    Raises:
        UserError: None does; the nearest names are given.
    """
    names = list_denoisers(pattern, family)
    if not names:
        raise unknown("denoiser", pattern, list_denoisers(family=family), "denoisezoo list")
    return names


def entry(name: str) -> dict[str, Any]:
    """One denoiser as JSON has it; `params` and `macs` are those of the full network, `costs` has every effort."""
    variant = get_variant(name)
    full = variant.costs[-1]
    return {
        "name": name,
        "family": variant.family.name,
        "input": _input(variant),
        "params": full.params,
        "macs": full.macs,
        "efforts": list(variant.efforts),
        "paper": variant.family.paper,
        "tags": sorted(variant.tags),
        "costs": [
            {"effort": effort, "params": cost.params, "macs": cost.macs}
            for effort, cost in zip(variant.efforts, variant.costs, strict=True)
        ],
    }


def _input(variant: Variant) -> str:
    spec = variant.spec
    return f"{spec.in_channels}x{spec.input_resolution}x{spec.input_resolution}"


def _argument(config: BackboneConfig, field: dataclasses.Field[Any]) -> dict[str, Any]:
    """One field of a variant's configuration: name, type and the value that this variant has."""
    hint = typing.get_type_hints(type(config))[field.name]
    text = hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint).replace("typing.", "")
    return {"name": field.name, "type": text, "default": getattr(config, field.name)}
