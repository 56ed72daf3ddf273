"""Records: JSON and back, files, and damaged data."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace

import pytest

from denoisezoo.errors import UserError
from denoisezoo.report import Comparison, RunRecord, load_comparison, save_comparison
from tests.report.fixtures import comparison


@pytest.fixture
def whole(tmp_path):
    return comparison(tmp_path, seeds=(0, 1), models=2)


def test_json_round_trip(whole):
    assert Comparison.from_json(json.loads(json.dumps(whole.to_json()))) == whole


def test_what_is_not_finite_becomes_null_and_nan(whole):
    run = replace(
        whole.runs[0], metrics={"fd_pixels": math.inf}, loss_curve=[(1.0, math.nan)], costs={"params": math.nan}
    )
    data = run.to_json()
    json.dumps(data, allow_nan=False)
    back = RunRecord.from_json(data)
    assert math.isnan(back.metrics["fd_pixels"])
    assert math.isnan(back.loss_curve[0][1])
    assert back.costs == {"params": None}


def test_saved_comparison_moves_with_its_folder(whole, tmp_path):
    save_comparison(whole, tmp_path)
    moved = tmp_path.with_name("moved")
    shutil.move(tmp_path, moved)
    loaded = load_comparison(moved)
    assert loaded.real == "real.png"
    assert all((moved / run.samples).is_file() and (moved / run.neighbours).is_file() for run in loaded.runs)
    assert load_comparison(moved / "comparison.json") == loaded


def test_a_picture_outside_the_folder_keeps_its_whole_path(whole, tmp_path):
    save_comparison(whole, tmp_path / "report")
    assert load_comparison(tmp_path / "report").real == str(tmp_path / "real.png")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"title": 3}, "title must be a text"),
        ({"runs": {}}, "runs must be a list"),
        ({"runs": [3]}, "runs must be an object"),
        ({"runs": [{"name": "a"}]}, "run 0 is damaged: it has no denoiser"),
        ({"titel": "x"}, "did you mean title"),
        ({"format": 99}, "has format 99"),
        ({"notes": [1]}, "notes must be a text"),
    ],
)
def test_damaged_comparison_is_the_users_error(whole, change, message):
    with pytest.raises(UserError, match=message):
        Comparison.from_json(whole.to_json() | change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": "0"}, "seed must be a whole number"),
        ({"seed": True}, "seed must be a whole number"),
        ({"metrics": {"fd_pixels": "low"}}, "metrics must be a number"),
        ({"loss_curve": [[1]]}, "loss_curve must be rows of 2 numbers"),
        ({"loss_by_noise": [[1, 2]]}, "loss_by_noise must be rows of 4 numbers"),
        ({"card": []}, "card must be an object"),
    ],
)
def test_damaged_run_is_the_users_error(whole, change, message):
    with pytest.raises(UserError, match=message):
        RunRecord.from_json(whole.runs[0].to_json() | change)


def test_missing_and_broken_files_are_the_users_error(tmp_path):
    with pytest.raises(UserError, match="cannot read"):
        load_comparison(tmp_path)
    (tmp_path / "comparison.json").write_text('{"title": ')
    with pytest.raises(UserError, match="is damaged"):
        load_comparison(tmp_path)
    (tmp_path / "comparison.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="is damaged"):
        load_comparison(tmp_path)
