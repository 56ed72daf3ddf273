"""The denoisers of the zoo, with what one call at batch 1 costs (1 MAC = 1 multiply-add)."""

from __future__ import annotations

import argparse
from typing import Any

from denoisezoo.commands.output import add_output_arguments, human, print_table, several, write_rows
from denoisezoo.tables import Column


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("pattern", metavar="PATTERN", nargs="?", default="*", help="shell pattern of names: 'ddpm*'")
    parser.add_argument("--family", metavar="F", help="only this family")
    add_output_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Print the table."""
    rows = [row(name) for name in matching(args.pattern, args.family)]
    write_rows(rows, args)
    columns = [
        Column("name", "name"),
        Column("family", "family"),
        Column("input", "input"),
        Column("params", "params", human, right=True),
        Column("MACs", "macs", human, right=True),
        Column("efforts", "efforts", several),
        Column("paper", "paper"),
    ]
    print_table(rows, columns)
    return 0


def matching(pattern: str, family: str | None = None) -> list[str]:
    """Names that match a pattern.

    Raises:
        UserError: None does; the nearest names are given.
    """
    from denoisezoo.archs import list_denoisers
    from denoisezoo.errors import unknown

    names = list_denoisers(pattern, family)
    if not names:
        raise unknown("denoiser", pattern, list_denoisers(family=family), "denoisezoo list")
    return names


def row(name: str) -> dict[str, Any]:
    """One denoiser as JSON has it; `params` and `macs` are those of the full network, `costs` has every effort."""
    from denoisezoo.archs import get_variant

    variant = get_variant(name)
    spec, full = variant.spec, variant.costs[-1]
    return {
        "name": name,
        "family": variant.family.name,
        "input": f"{spec.in_channels}x{spec.input_resolution}x{spec.input_resolution}",
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
