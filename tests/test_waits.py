"""The table of waits and launches in the documentation is that of the rows, and the rows are of all that there is."""

import csv
from pathlib import Path

from benchmarks.waits_table import tables
from denoisezoo.archs import get_variant, list_denoisers
from denoisezoo.diffusion import OBJECTIVES, PROCESSES, SAMPLERS

ROOT = Path(__file__).parents[1]
ROWS = ROOT / "results" / "waits.csv"


def test_the_page_has_the_rows():
    assert tables(ROWS) in (ROOT / "docs" / "training.md").read_text()


def test_everything_was_counted():
    with ROWS.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["code"] == "after"]
    found = {kind: [row["name"] for row in rows if row["kind"] == kind] for kind in {row["kind"] for row in rows}}
    families = {get_variant(name).family.name for name in list_denoisers("*_tiny")}
    assert {get_variant(name).family.name for name in found.pop("network")} == families
    registries = {"process": PROCESSES, "objective": OBJECTIVES, "sampler": SAMPLERS}
    ours = {  # other tests register some of their own
        kind: sorted(name for name, cls in registry.items() if cls.__module__.startswith("denoisezoo."))
        for kind, registry in registries.items()
    }
    assert {kind: sorted(names) for kind, names in found.items()} == ours


def test_no_step_waits_but_for_the_log_and_for_the_error_of_an_adaptive_solver():
    with ROWS.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["code"] == "after"]
    for row in rows:
        end = row["where"].startswith("diffusion/samplers/sampler.py")  # of a whole walk, shared among its steps
        assert row["name"] == "rk45" or end or float(row["waits"]) == 0, row
        assert float(row["waits_log"] or 0) <= 1, row
