"""Everything the zoo knows of one denoiser: its family, the paper, its arguments and its costs."""

from __future__ import annotations

import argparse
import dataclasses
import typing
from typing import Any

from denoisezoo.commands.list import row
from denoisezoo.commands.output import add_output_arguments, human, plain, print_table, write_rows
from denoisezoo.tables import Column

if typing.TYPE_CHECKING:
    from denoisezoo.archs import BackboneConfig, Variant


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("name", metavar="NAME", help="a name that `denoisezoo list` shows")
    add_output_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Print the entry."""
    from denoisezoo.archs import get_variant, list_denoisers

    variant = get_variant(args.name)
    others = list_denoisers(family=variant.family.name)
    arguments = [argument(variant.config, field) for field in dataclasses.fields(variant.config)]
    entry = row(args.name) | {
        "title": variant.family.title,
        "doc": variant.family.doc,
        "variants": others,
        "arguments": arguments,
    }
    write_rows([entry], args)
    print(heading(variant, others))
    print_table(arguments, [Column("argument", "name"), Column("type", "type"), Column("default", "default", repr)])
    print_table(entry["costs"], cost_columns())
    print(f'\ncreate it with  denoisezoo.create_backbone("{args.name}", argument=value, ...)')
    return 0


def heading(variant: Variant, others: list[str]) -> str:
    """Name, paper, what the family's file says of itself, and its other variants."""
    family, spec = variant.family, variant.spec
    extras = [
        (spec.num_classes, "classes"),
        (spec.cond_channels, "condition channels"),
        (spec.augment_dim, "augmentation labels"),
    ]
    takes = ", ".join(f"{count} {what}" for count, what in extras if count)
    image = f"{spec.in_channels}x{spec.input_resolution}x{spec.input_resolution}"
    lines = [
        f"{variant.name}  (family {family.name})",
        "",
        family.doc,
        "",
        f"paper     {family.title}. {family.paper}, https://arxiv.org/abs/{family.arxiv}",
        f"image     {image} in, {spec.out_channels} channels out" + (f"; {takes}" if takes else ""),
        f"tags      {' '.join(sorted(variant.tags)) or '-'}",
        f"variants  {' '.join(others)}",
        "",
    ]
    return "\n".join(lines)


def argument(config: BackboneConfig, field: dataclasses.Field[Any]) -> dict[str, Any]:
    """One field of a variant's configuration: name, type and the value that this variant has."""
    hint = typing.get_type_hints(type(config))[field.name]
    text = hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint).replace("typing.", "")
    return {"name": field.name, "type": text, "default": getattr(config, field.name)}


def cost_columns() -> list[Column]:
    """Columns of the costs per effort."""
    return [
        Column("effort", "effort", plain, right=True),
        Column("params", "params", human, right=True),
        Column("exact", "params", lambda value: f"{value:,}", right=True),
        Column("MACs", "macs", human, right=True),
        Column("exact", "macs", lambda value: f"{value:,}", right=True),
    ]
