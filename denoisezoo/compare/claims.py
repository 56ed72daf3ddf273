"""The ledger of claims: what a paper says, what was measured here, and whether the two agree.

A file `claims/PAPER.yaml` holds the claims of one paper, each with the figures that its verdict rests on. A figure is
drawn from rows of `results/`, or computed of other figures, and is held against what the ledger says of it: no figure
stands in the ledger that its rows do not give.

    figures:
      ours:   {rows: missing_u_digits_cpu.csv, where: {name: missing_u_fast}, take: params}
      theirs: {rows: missing_u_digits_cpu.csv, where: {name: lucid_unet}, take: params}
      share:  {compute: ours / theirs, says: "0.21"}
"""

from __future__ import annotations

import ast
import csv
import fnmatch
import functools
import math
import operator
import os
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from denoisezoo.errors import UserError, unknown
from denoisezoo.tables import Column, Table, Tabular

VERDICTS = ("reproduced", "reproduced under conditions", "not reproduced", "not checkable here")

REDUCTIONS: dict[str, Callable[[Sequence[float]], float]] = {
    "mean": statistics.fmean,
    "median": statistics.median,
    "min": min,
    "max": max,
    "count": len,
}
"""How the values of several rows become one; a mean has a spread besides, the standard deviation of a sample."""

SCALES = {"": 1.0, "%": 1e-2, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
SAID = re.compile(
    r"(?P<mean>-?[\d,]+(?:\.\d+)?)(?: ± (?P<spread>\d+(?:\.\d+)?))? ?(?P<scale>[%kMGT]?)(?: ?(?:x|s|ms|dB))?"
)
OPERATORS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
FIGURE_FIELDS = {"rows", "where", "take", "per", "reduce", "compute", "says"}
FIELDS = {"claim", "source", "verdict", "why", "conditions", "counting", "command", "figures"}


class Quantity(NamedTuple):
    """A number that rows give, and its standard deviation over them; None where it has none."""

    value: float
    spread: float | None = None


@dataclass(frozen=True)
class Claim:
    """One claim of a paper, and what became of it.

    Attributes:
        name: `PAPER/NAME`, by which it is found.
        paper: Title, and where it can be read.
        claim: What the paper claims, in our words.
        source: Where it says so.
        verdict: One of `VERDICTS`.
        why: What the verdict rests on; `{figure}` stands for what the ledger says of that figure.
        conditions: Under which it was measured.
        counting: What is counted, where papers differ.
        command: What measures it again.
        figures: Name -> what gives it. Either `rows` (a file), `where` (column: value, one of several values, or a
            pattern; a list of such mappings takes the rows of any), `take` (a column), `per` (a column, whose equal
            values are averaged first) and `reduce` (see `REDUCTIONS`); or `compute`, a sum of figures before it.
            `says` is what the ledger says of it; none where others are computed of it alone.
    """

    name: str
    paper: str
    claim: str
    source: str
    verdict: str
    why: str
    conditions: str = ""
    counting: str = ""
    command: str = ""
    figures: Mapping[str, Mapping[str, Any]] | None = None

    @property
    def reason(self) -> str:
        """`why` with its figures."""
        return self.why.format(**{name: figure.get("says", "") for name, figure in (self.figures or {}).items()})

    def measure(self, results: str | os.PathLike[str]) -> dict[str, Quantity]:
        """All figures, from the files of rows in a folder.

        Raises:
            UserError: A file, a column or a row that is not there, or a sum that cannot be computed.
        """
        found: dict[str, Quantity] = {}
        for name, figure in (self.figures or {}).items():
            try:
                if "compute" in figure:
                    found[name] = Quantity(_compute(str(figure["compute"]), {k: v.value for k, v in found.items()}))
                else:
                    found[name] = _of_rows(Path(results) / figure["rows"], figure)
            except UserError as error:
                raise UserError(f"{self.name}, figure {name}: {error.what}", error.cure) from error
        return found

    def check(self, results: str | os.PathLike[str]) -> list[str]:
        """What the ledger says and its rows do not give, a line each; none where all is well.

        Raises:
            UserError: See `measure`.
        """
        wrong = []
        for name, (value, spread) in self.measure(results).items():
            says = (self.figures or {})[name].get("says")
            if says is not None and (written := written_like(says, value, spread)) != says:
                wrong.append(f"{self.name}, figure {name}: the ledger says {says}, and its rows give {written}")
        return wrong

    def row(self) -> dict[str, Any]:
        """All of it, as plain values."""
        said = {name: figure["says"] for name, figure in (self.figures or {}).items() if "says" in figure}
        texts = {key: getattr(self, key) for key in ("claim", "source", "verdict", "conditions", "counting", "command")}
        return {"name": self.name, "paper": self.paper, **texts, "why": self.reason, "figures": said}

    def __str__(self) -> str:
        shown = {"claim": self.claim, "source": f"{self.paper}, {self.source}", "verdict": self.verdict}
        shown |= {"why": self.reason, "conditions": self.conditions, "counting": self.counting, "command": self.command}
        return "\n".join([self.name, "", *(f"{title:<11} {text}" for title, text in shown.items() if text)])


@dataclass(frozen=True)
class Ledger(Tabular):
    """Claims, in the order of their papers; prints as a table, and as a text where it holds one.

    Attributes:
        claims: The claims.
    """

    claims: tuple[Claim, ...]

    def rows(self) -> list[dict[str, Any]]:
        """All that is known of each claim."""
        return [claim.row() for claim in self.claims]

    def summary(self) -> Table:
        """Name, claim and verdict."""
        return Table(self.rows(), [Column("name", "name"), Column("verdict", "verdict"), Column("claim", "claim")])

    def __str__(self) -> str:
        return str(self.claims[0]) if len(self.claims) == 1 else super().__str__()

    def check(self, results: str | os.PathLike[str] = "results") -> list[str]:
        """What the ledger says and the rows in `results` do not give, a line each.

        Raises:
            UserError: See `Claim.measure`.
        """
        return [line for claim in self.claims for line in claim.check(results)]


def claims(pattern: str = "*", folder: str | os.PathLike[str] | None = None) -> Ledger:
    """The claims whose name, `PAPER/NAME`, matches a shell pattern.

    Args:
        pattern: Such as "ddsm/*".
        folder: Of the ledger's files; those that come with the package unless given.

    Raises:
        UserError: No claim matches, or a file of the ledger is no such.
    """
    place = resources.files("denoisezoo").joinpath("claims") if folder is None else Path(folder)
    files = sorted((item for item in place.iterdir() if item.name.endswith(".yaml")), key=lambda item: item.name)
    ledger = [claim for file in files for claim in _read(file.name, file.read_text(encoding="utf-8"))]
    found = tuple(claim for claim in ledger if fnmatch.fnmatch(claim.name, pattern))
    if not found:
        raise unknown("claim", pattern, (claim.name for claim in ledger), "denoisezoo claims")
    return Ledger(found)


def written_like(says: str, value: float, spread: float | None = None) -> str:
    """A number with the decimals, the scale and the unit of a text, such as "1.21 ± 0.04", "49 %", "2.24 M" or "4.4x".

    Raises:
        UserError: The text is none of these, or has a spread where the number has none.
    """
    match = SAID.fullmatch(says)
    if match is None:
        raise UserError(f"says {says!r} is no figure", 'write it as "1.21 ± 0.04", "49 %", "2.24 M" or "4.4x"')
    scale = SCALES[match["scale"]]

    def like(text: str, number: float) -> str:
        return f"{number / scale:{',' if ',' in text else ''}.{len(text.partition('.')[2])}f}"

    written = like(match["mean"], value) + says[match.end("mean") :]
    if match["spread"] is None:
        return written
    if spread is None:
        raise UserError(
            f"says {says!r}, and one row has no spread", "leave the spread out, or take the mean of several"
        )
    return written.replace(f"± {match['spread']}", f"± {like(match['spread'], spread)}")


def _read(file: str, text: str) -> list[Claim]:
    """The claims of one file of the ledger."""
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"{file} is no YAML: {' '.join(str(error).split())}", "mend it") from error
    if not isinstance(content, dict) or set(content) != {"paper", "claims"} or not isinstance(content["claims"], dict):
        raise UserError(f"{file} holds no claims", "give it `paper`, and `claims` by name")
    found = []
    for name, entry in content["claims"].items():
        where = f"{file.removesuffix('.yaml')}/{name}"
        if not isinstance(entry, dict) or not {"claim", "source", "verdict", "why"} <= set(entry):
            raise UserError(f"{where} lacks one of claim, source, verdict, why", f"complete it in {file}")
        if extra := set(entry) - FIELDS:
            raise unknown(f"field of {where}", min(extra), FIELDS)
        if entry["verdict"] not in VERDICTS:
            raise unknown(f"verdict of {where}", entry["verdict"], VERDICTS)
        for figure, fields in entry.get("figures", {}).items():
            if extra := set(fields) - FIGURE_FIELDS:
                raise unknown(f"field of figure {figure} of {where}", min(extra), FIGURE_FIELDS)
            if "compute" not in fields and not {"rows", "take"} <= set(fields):
                raise UserError(
                    f"figure {figure} of {where} has no rows to take it from", "give `rows` and `take`, or `compute`"
                )
        claim = Claim(name=where, paper=content["paper"], **{key: _one_line(value) for key, value in entry.items()})
        for figure in set(re.findall(r"\{(\w+)\}", claim.why)):
            if "says" not in (claim.figures or {}).get(figure, {}):
                raise UserError(f"why of {where} names {figure}, of which its figures say nothing", f"mend {file}")
        found.append(claim)
    return found


def _one_line(value: Any) -> Any:
    return " ".join(value.split()) if isinstance(value, str) else value


@functools.lru_cache
def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _of_rows(path: Path, figure: Mapping[str, Any]) -> Quantity:
    """One figure of the rows that its `where` selects."""
    if not path.is_file():
        raise UserError(f"there is no file {path}", "give the folder of the rows that the ledger speaks of")
    rows = _rows(path)
    column, where, per = str(figure["take"]), figure.get("where", {}), figure.get("per")
    either = where if isinstance(where, list) else [where]
    for key in (column, *(key for each in either for key in each), *([per] if per else [])):
        if key not in rows[0]:
            raise unknown(f"column of {path.name}", key, rows[0])
    groups: dict[str, list[float]] = {}
    for number, row in enumerate(rows):
        wanted = any(all(_is(row[key], value) for key, value in each.items()) for each in either)
        if wanted and row[column]:
            groups.setdefault(row[per] if per else str(number), []).append(float(row[column]))
    values = [statistics.fmean(group) for group in groups.values()]
    if not values:
        raise UserError(f"{path.name} has no row where {where} with {column}", "mend `where`, or measure it")
    how = figure.get("reduce", "mean")
    if how not in REDUCTIONS:
        raise unknown("reduction", how, REDUCTIONS)
    spread = statistics.stdev(values) if how == "mean" and len(values) > 1 else None
    return Quantity(float(REDUCTIONS[how](values)), spread)


def _is(cell: str, wanted: Any) -> bool:
    """Whether a cell holds a value, or one of several: numbers as numbers, texts as shell patterns."""
    if isinstance(wanted, list):
        return any(_is(cell, value) for value in wanted)
    if isinstance(wanted, bool) or not isinstance(wanted, int | float):
        return fnmatch.fnmatchcase(cell, "" if wanted is None else str(wanted))
    try:
        return math.isclose(float(cell), wanted)
    except ValueError:
        return False


def _compute(text: str, names: Mapping[str, float]) -> float:
    """The value of a sum such as "1 - ours / theirs"."""

    def value(node: ast.expr) -> float:
        match node:
            case ast.Constant(value=int() | float() as number):
                return float(number)
            case ast.Name(id=name) if name in names:
                return names[name]
            case ast.Name(id=name):
                raise unknown("figure", name, names)
            case ast.UnaryOp(op=ast.USub(), operand=inner):
                return -value(inner)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
                return OPERATORS[type(op)](value(left), value(right))
        raise UserError(f"{text!r} is no sum of figures", "use names, numbers, + - * / ** and parentheses")

    try:
        return value(ast.parse(text, mode="eval").body)
    except (SyntaxError, ZeroDivisionError) as error:
        raise UserError(f"{text!r} cannot be computed: {error}", "mend it") from error
