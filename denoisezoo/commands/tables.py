"""Tables of the command line: rounded for people on the screen, exact in JSON and CSV."""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from denoisezoo.commands.assessing import file_path
from denoisezoo.files import json_safe, write_json, write_text

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Column:
    """One column of a printed table.

    Attributes:
        title: Its heading.
        value: Key of the row, or a function of the row.
        form: How to write the value; None is written as a dash.
        right: Set flush right, as numbers are.
    """

    title: str
    value: str | Callable[[Row], Any]
    form: Callable[[Any], str] = str
    right: bool = False

    def text(self, row: Row) -> str:
        """What stands in the cell of a row."""
        value = row.get(self.value) if isinstance(self.value, str) else self.value(row)
        return "-" if value is None else self.form(value)


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


def csv_text(rows: Iterable[Row]) -> str:
    """Rows as CSV: nested keys joined by dots, lists as JSON, nothing for None; columns of all rows, in order."""
    flat = [flatten(json_safe(dict(row))) for row in rows]
    columns = dict.fromkeys(key for row in flat for key in row)
    file = io.StringIO()
    writer = csv.DictWriter(file, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return file.getvalue()


def flatten(row: Row, prefix: str = "") -> dict[str, Any]:
    """A nested row as one level with dotted keys; a list, and an object whose keys are no names, stay one JSON cell."""
    flat: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, Mapping) and value and all(str(inner).isidentifier() for inner in value):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = json.dumps(value) if isinstance(value, Mapping | list) else value
    return flat


def print_table(rows: Iterable[Row], columns: Sequence[Column], title: str | None = None) -> None:
    """Print a table. A terminal folds what is too wide; a pipe or file gets every cell on one line."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        table.add_column(column.title, justify="right" if column.right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(column.text(row)) for column in columns))
    console = Console(file=sys.stdout, highlight=False)
    if not console.is_terminal:
        wide = console.options.update(width=10_000)
        console.width = max(1, Measurement.get(console, wide, table).maximum)
    if title:
        console.print(Text(title, style="bold"), soft_wrap=True)
    console.print(table)


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
