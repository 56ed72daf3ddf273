"""Tables of the command line: rounded for people on the screen, exact in JSON and CSV."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence

from rich.console import Console

from denoisezoo.commands.arguments import file_path
from denoisezoo.files import write_json, write_text
from denoisezoo.tables import Column, Row, Table, csv_text


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


def print_table(rows: Sequence[Row], columns: Sequence[Column], title: str = "") -> None:
    """Print a table on standard output."""
    Table(list(rows), columns, title).print(Console(file=sys.stdout, highlight=False))


def human(number: float) -> str:
    """A number in three or four digits and a decimal prefix: 35746307 is 35.75 M."""
    for factor, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= factor:
            return f"{number / factor:.2f} {prefix}"
    return f"{number:.0f}" if float(number).is_integer() else f"{number:.3g}"


def human_bytes(number: float) -> str:
    """Bytes with a binary prefix: 1572864 is 1.50 MiB."""
    for power, prefix in ((4, "TiB"), (3, "GiB"), (2, "MiB"), (1, "KiB")):
        if abs(number) >= 1024**power:
            return f"{number / 1024**power:.2f} {prefix}"
    return f"{number:.0f} B"


def plain(number: float) -> str:
    """A number without a trailing .0: effort 1.0 is 1."""
    return f"{number:g}"


def several(numbers: Iterable[float]) -> str:
    """Numbers side by side: 0.25 0.5 1."""
    return " ".join(map(plain, numbers))
