"""The tables of docs/training.md, from the rows that benchmarks/waits.py has counted.

python benchmarks/waits_table.py results/waits.csv
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

HEADS = {
    "network": "step of the trainer of",
    "process": "objective `simple` under",
    "objective": "objective",
    "sampler": "step of a walk by",
}


def tables(path: Path) -> str:
    """Markdown of the rows of a file, a table for each kind; what has the same figures shares a row."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    made = []
    for kind, head in HEADS.items():
        found = {code: {row["name"]: row for row in rows if (row["code"], row["kind"]) == (code, kind)}
                 for code in ("before", "after")}  # fmt: skip
        same: dict[tuple[str, ...], list[str]] = {}
        for name in sorted(found["after"]):
            cells = [shown(found[code].get(name), *columns) for columns in (("waits", "waits_log"), ("launches",))
                     for code in ("before", "after")]  # fmt: skip
            same.setdefault(tuple(cells), []).append(f"`{name}`")
        lines = [f"| {', '.join(names)} | {' | '.join(cells)} |" for cells, names in same.items()]
        made.append(
            "\n".join([f"| {head} | waits before | now | launches before | now |", "|---|---|---|---|---|", *lines])
        )
    return "\n\n".join(made) + "\n"


def shown(row: dict[str, str] | None, *columns: str) -> str:
    """Figures of a row as they stand in a cell; in brackets those of a logged step."""
    if row is None:
        return "-"
    plain, *logged = (f"{float(row[column]):.3g}" for column in columns if row[column])
    return plain + "".join(f" ({value})" for value in logged)


if __name__ == "__main__":
    print(tables(Path(sys.argv[1])), end="")
