"""The denoisers of the zoo, with what one call at batch 1 costs (1 MAC = 1 multiply-add)."""

from __future__ import annotations

import argparse

from denoisezoo.commands.output import add_output_arguments, print_table, write_rows
from denoisezoo.tables import Column, human, several


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("pattern", metavar="PATTERN", nargs="?", default="*", help="shell pattern of names: 'ddpm*'")
    parser.add_argument("--family", metavar="F", help="only this family")
    add_output_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Print the table."""
    from denoisezoo.archs.info import entry, matching

    rows = [entry(name) for name in matching(args.pattern, args.family)]
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
