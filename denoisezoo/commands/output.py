"""Tables of the command line: rounded for people on the screen, exact in JSON and CSV."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from rich.console import Console

from denoisezoo.commands.arguments import file_path
from denoisezoo.files import write_json, write_text
from denoisezoo.tables import Column, Row, Table, Tabular, csv_text


def add_output_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--json PATH` and `--csv PATH`."""
    parser.add_argument("--json", type=file_path, metavar="PATH", help="also write the rows as JSON")
    parser.add_argument("--csv", type=file_path, metavar="PATH", help="also write the rows as CSV")


def write_rows(rows: Sequence[Row], args: argparse.Namespace) -> None:
    """Write the rows to where `--json` and `--csv` say.

    Raises:
        UserError: A path that cannot be written.
    """
    if args.json:
        write_json(args.json, [dict(row) for row in rows])
    if args.csv:
        write_text(args.csv, csv_text(rows))


def print_summary(result: Tabular) -> None:
    """Print the table of a result on standard output."""
    result.summary().print(Console(file=sys.stdout, highlight=False))


def print_table(rows: Sequence[Row], columns: Sequence[Column], title: str = "") -> None:
    """Print a table on standard output."""
    Table(list(rows), columns, title).print(Console(file=sys.stdout, highlight=False))
