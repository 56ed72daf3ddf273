"""Result rows: one flat row per run, in CSV and JSON lines."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace

from denoisezoo.report.rows import result_rows, write_csv, write_jsonl
from tests.report.fixtures import comparison


def test_every_row_has_every_column(tmp_path):
    found = comparison(tmp_path, seeds=(0,), models=2)
    other = replace(found.runs[1], metrics={"kid": 0.5}, card={}, error="out of memory")
    first, second = result_rows(replace(found, runs=[found.runs[0], other]))
    assert list(first) == list(second)
    assert first["kid"] is None
    assert second["kid"] == 0.5
    assert second["error"] == "out of memory"
    assert first["card.images.generated"] == 1797
    assert first["macs_per_image"] == found.runs[0].costs["macs_per_image"]


def test_csv_and_jsonl_hold_the_same_numbers(tmp_path):
    found = comparison(tmp_path, seeds=(0, 1), models=2)
    runs = [replace(run, name='a,"b"\nc', metrics={"fd_pixels": math.nan} | dict(run.metrics)) for run in found.runs]
    rows = result_rows(replace(found, runs=runs))
    with open(write_csv(tmp_path / "results.csv", rows), newline="") as file:
        from_csv = list(csv.DictReader(file))
    from_jsonl = [json.loads(line) for line in write_jsonl(tmp_path / "results.jsonl", rows).read_text().splitlines()]
    assert from_jsonl == rows
    assert [row["name"] for row in from_csv] == ['a,"b"\nc'] * 4
    assert [float(row["fd_pixels"]) for row in from_csv] == [run.metrics["fd_pixels"] for run in runs]


def test_a_number_that_is_not_finite_is_an_empty_cell(tmp_path):
    found = comparison(tmp_path, seeds=(0,), models=1)
    run = replace(found.runs[0], metrics={"fd_pixels": math.inf})
    rows = result_rows(replace(found, runs=[run]))
    assert rows[0]["fd_pixels"] is None
    with open(write_csv(tmp_path / "results.csv", rows), newline="") as file:
        assert next(csv.DictReader(file))["fd_pixels"] == ""


def test_no_runs_give_an_empty_table(tmp_path):
    assert write_jsonl(tmp_path / "rows.jsonl", []).read_text() == ""
    assert write_csv(tmp_path / "rows.csv", []).read_text().strip() == ""
