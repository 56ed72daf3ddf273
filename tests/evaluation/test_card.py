from __future__ import annotations

import dataclasses
import json
import platform
from datetime import datetime, timedelta

import pytest
import torch

from denoisezoo.evaluation.card import ResultCard, seed_range


def test_what_is_not_told_is_none():
    card = ResultCard()
    assert all(value is None for key, value in card.as_dict().items() if key != "versions")
    assert card.versions == {}


def test_facts_of_this_machine():
    card = ResultCard.here(dataset="digits", steps=18)
    assert (card.dataset, card.steps, card.sampler) == ("digits", 18, None)
    assert card.device == "cpu"
    assert card.device_name
    assert card.versions["torch"] == torch.__version__.split("+")[0]
    assert card.versions["python"] == platform.python_version()
    age = datetime.now().astimezone() - datetime.fromisoformat(card.date)
    assert timedelta(0) <= age < timedelta(minutes=5)
    assert card.date.endswith("+00:00")


def test_a_given_fact_wins():
    assert ResultCard.here("cuda:1", device_name="Some GPU").device_name == "Some GPU"
    assert ResultCard.here(device="cpu", git_commit=None).git_commit is None


def test_json_and_back():
    card = ResultCard.here(dataset="digits", train_seconds=1.5, compiled=False)
    assert ResultCard.from_dict(json.loads(json.dumps(card.as_dict()))) == card
    assert ResultCard.from_dict(card.as_dict() | {"of a later version": 1}) == card


def test_a_row_is_flat():
    row = ResultCard.here(dataset="digits").as_row()
    assert all(value is None or isinstance(value, str | int | float | bool) for value in row.values())
    assert row["version_torch_fidelity"]
    assert "versions" not in row
    assert {f.name for f in dataclasses.fields(ResultCard)} - {"versions"} <= set(row)


def test_a_wrong_fact_is_refused():
    with pytest.raises(TypeError, match="sampelr"):
        ResultCard.here(sampelr="heun")


def test_seed_ranges():
    assert (seed_range(0, 1797), seed_range(5, 1)) == ("0-1796", "5")
