"""Tables of results: rounded for people, on a terminal or in a notebook; exact as rows, CSV and pandas."""

from __future__ import annotations

import base64
import csv
import html
import io
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table as RichTable
from rich.text import Text

from denoisezoo.errors import UserError
from denoisezoo.files import json_safe

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


@dataclass(frozen=True)
class Table:
    """Rows, and the columns that are shown of them: prints as text, shows as HTML in a notebook.

    Attributes:
        data: The rows, with all that is known.
        columns: What is shown; every key of the rows unless given.
        title: Heading; "" for none.
    """

    data: Sequence[Row]
    columns: Sequence[Column] = ()
    title: str = ""
    _shown: Sequence[Column] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        keys = dict.fromkeys(key for row in self.data for key in row)
        object.__setattr__(self, "_shown", self.columns or [Column(key, key) for key in keys])

    def rows(self) -> list[dict[str, Any]]:
        """The rows as they are."""
        return [dict(row) for row in self.data]

    def to_csv(self) -> str:
        """The rows as CSV; see `csv_text`."""
        return csv_text(self.data)

    def to_pandas(self) -> Any:
        """The rows as a `pandas.DataFrame`, nested keys joined by dots.

        Raises:
            UserError: pandas is not installed.
        """
        try:
            import pandas
        except ModuleNotFoundError as error:
            raise UserError("pandas is not installed", "pip install pandas, or take .rows()") from error
        return pandas.DataFrame([flatten(json_safe(dict(row))) for row in self.data])

    def print(self, console: Console) -> None:
        """Print it. A terminal folds what is too wide; a pipe or file gets every cell on one line."""
        table = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
        for column in self._shown:
            table.add_column(column.title, justify="right" if column.right else "left", overflow="fold")
        for row in self.data:
            table.add_row(*(Text(column.text(row)) for column in self._shown))
        if not console.is_terminal:
            wide = console.options.update(width=10_000)
            console.width = max(1, Measurement.get(console, wide, table).maximum)
        if self.title:
            console.print(Text(self.title, style="bold"), soft_wrap=True)
        console.print(table)

    def __str__(self) -> str:
        file = io.StringIO()
        self.print(Console(file=file, highlight=False))
        return "\n".join(line.rstrip() for line in file.getvalue().rstrip().splitlines())

    def _repr_html_(self) -> str:
        def row_of(cells: Iterable[str], tag: str) -> str:
            styles = ("text-align:right" if column.right else "text-align:left" for column in self._shown)
            inside = (
                f'<{tag} style="{style}">{html.escape(cell)}</{tag}>' for style, cell in zip(styles, cells, strict=True)
            )
            return f"<tr>{''.join(inside)}</tr>"

        head = row_of((column.title for column in self._shown), "th")
        body = "".join(row_of((column.text(row) for column in self._shown), "td") for row in self.data)
        caption = f"<caption>{html.escape(self.title)}</caption>" if self.title else ""
        return f"<table>{caption}<thead>{head}</thead><tbody>{body}</tbody></table>"


class Tabular(ABC):
    """A result that is more than its table: it prints as one, gives rows, and shows itself in a notebook."""

    @abstractmethod
    def summary(self) -> Table:
        """What is shown of it."""

    def png(self) -> bytes | None:
        """A picture that a notebook shows under the table; None where there is none."""
        return None

    def plot(self) -> dict[str, Any] | None:
        """What a notebook draws under the table where plotly is installed: `data` and `layout` as plotly takes them.

        None where there is nothing to draw.
        """
        return None

    def rows(self) -> list[dict[str, Any]]:
        """All that is known, in rows of plain values."""
        return self.summary().rows()

    def to_csv(self) -> str:
        """The rows as CSV; see `csv_text`."""
        return csv_text(self.rows())

    def to_pandas(self) -> Any:
        """The rows as a `pandas.DataFrame`, nested keys joined by dots.

        Raises:
            UserError: pandas is not installed.
        """
        return Table(self.rows()).to_pandas()

    def __str__(self) -> str:
        return str(self.summary())

    def _repr_html_(self) -> str:
        parts = [self.summary()._repr_html_()]
        if (picture := self.png()) is not None:
            parts.append(f'<img src="data:image/png;base64,{base64.b64encode(picture).decode()}">')
        if (plot := self.plot()) is not None:
            parts.append(_drawn(plot))
        return "<br>".join(filter(None, parts))


def scatter(points: Mapping[str, Sequence[tuple[Any, Any]]], x: str, y: str) -> dict[str, Any]:
    """A plot of points (x, y), as plotly takes it; several of one name are joined in their order along x.

    Args:
        points: Name -> points.
        x: What the horizontal axis shows.
        y: What the vertical axis shows.
    """
    traces = [
        {
            "type": "scatter",
            "name": name,
            "mode": "lines+markers" if len(line) > 1 else "markers",
            "x": [point[0] for point in line],
            "y": [point[1] for point in line],
        }
        for name, line in ((name, sorted(of_name)) for name, of_name in points.items())
    ]
    layout = {"xaxis": {"title": {"text": x}}, "yaxis": {"title": {"text": y}}, "template": "plotly_white"}
    return {"data": traces, "layout": layout}


def _drawn(plot: dict[str, Any]) -> str:
    """A plot as HTML; nothing where plotly is not installed."""
    try:
        import plotly.graph_objects as go
    except ModuleNotFoundError:
        return ""
    # With the library inside, each of them would add four megabytes to a notebook.
    return str(go.Figure(plot).to_html(include_plotlyjs="cdn", full_html=False))


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
    """A nested row as one level with dotted keys; a list, and an object whose keys are no names, stay one JSON cell.

    A dash is part of a name (torch-fidelity), a dot is not (encoder.0, of which a network has hundreds).
    """
    flat: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, Mapping) and value and all(map(_is_name, value)):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = json.dumps(value) if isinstance(value, Mapping | list) else value
    return flat


def _is_name(key: Any) -> bool:
    return str(key).replace("-", "_").isidentifier()


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
