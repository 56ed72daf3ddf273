"""Everything the zoo knows of one denoiser: its family, the paper, its arguments and its costs."""

from __future__ import annotations

import argparse

from denoisezoo.commands.output import add_output_arguments, write_rows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("name", metavar="NAME", help="a name that `denoisezoo list` shows")
    add_output_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Print the entry."""
    from denoisezoo.archs.info import info

    described = info(args.name)
    write_rows(described.rows(), args)
    print(described)
    return 0
