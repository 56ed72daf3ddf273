import argparse
import csv
import io
import json
import math

import pytest

from denoisezoo.commands.output import print_table, write_rows
from denoisezoo.errors import UserError
from denoisezoo.tables import Column, csv_text, flatten, human, human_bytes, plain, several

ROWS = [
    {"name": "a", "macs": 6221856768, "latency_ms": {"median": 1.5, "runs": 3}, "uncounted_ops": {}, "efforts": [1.0]},
    {"name": "b", "macs": 5, "latency_ms": None, "uncounted_ops": {"aten._fft_c2c": 2}, "sigma": math.inf},
]


def test_csv_is_flat_and_exact():
    first, second = csv.DictReader(io.StringIO(csv_text(ROWS)))
    assert first == {
        "name": "a", "macs": "6221856768", "latency_ms.median": "1.5", "latency_ms.runs": "3", "latency_ms": "",
        "uncounted_ops": "{}", "efforts": "[1.0]", "sigma": "",
    }  # fmt: skip
    assert (second["uncounted_ops"], second["latency_ms.median"], second["sigma"]) == ('{"aten._fft_c2c": 2}', "", "")


def test_flatten_joins_names_and_keeps_lists_as_json():
    assert flatten({"a": {"torch-fidelity": 1, "c": {"d": None}}, "e": [1, 2], "f": {"encoder.0": 3}}, "card.") == {
        "card.a.torch-fidelity": 1,
        "card.a.c.d": None,
        "card.e": "[1, 2]",
        "card.f": '{"encoder.0": 3}',
    }


def test_rows_are_written_where_asked(tmp_path):
    args = argparse.Namespace(json=str(tmp_path / "deep" / "rows.json"), csv=str(tmp_path / "rows.csv"))
    write_rows(ROWS, args)
    data = json.loads((tmp_path / "deep" / "rows.json").read_text())
    assert (data[0], data[1]["sigma"]) == (ROWS[0], None)
    assert (tmp_path / "rows.csv").read_text() == csv_text(ROWS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "rows.csv"]


def test_a_path_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        write_rows(ROWS, argparse.Namespace(json=str(tmp_path / "file" / "rows.json"), csv=None))


def test_a_pipe_gets_every_cell_whole(capsys):
    wide = "x" * 300
    print_table([{"a": wide, "b": None}], [Column("first", "a"), Column("second", "b")], title="title")
    title, head, _, line = capsys.readouterr().out.splitlines()
    assert title == "title"
    assert head.split() == ["first", "second"]
    assert line.split() == [wide, "-"]


def test_cells_are_not_markup(capsys):
    print_table([{"a": "[bold]x[/bold]"}], [Column("a", "a")])
    assert "[bold]x[/bold]" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("number", "text"),
    [(35746307, "35.75 M"), (6221856768, "6.22 G"), (1119832768512, "1.12 T"), (999, "999"), (0, "0"), (0.25, "0.25")],
)
def test_human_numbers(number, text):
    assert human(number) == text


@pytest.mark.parametrize(("number", "text"), [(512, "512 B"), (1572864, "1.50 MiB"), (3 * 2**30, "3.00 GiB")])
def test_human_bytes(number, text):
    assert human_bytes(number) == text


def test_efforts():
    assert (plain(1.0), several((0.25, 1.0))) == ("1", "0.25 1")
