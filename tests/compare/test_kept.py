"""A comparison that is resumed assesses only what it has not assessed on the same terms."""

import json

import pytest

from denoisezoo.cli import main
from denoisezoo.compare import bench, kept
from denoisezoo.compare.records import load_comparison

TERMS = {"--sampler": "ddim", "--steps": "1", "--num": "40", "--seed": "0", "--budget": "images=64"}


@pytest.fixture
def compare(recipe, tmp_path, monkeypatch, capsys):
    """Compares on the terms with some changed; gives the status, how many runs were assessed, and what was said."""
    assessed = []

    def counted(run, *args):
        assessed.append(run)
        return bench_assess(run, *args)

    bench_assess = bench.assess
    monkeypatch.setattr(bench, "assess", counted)

    def call(changed=()):
        assessed.clear()
        words = [word for pair in (TERMS | dict(changed)).items() for word in pair]
        status = main(["compare", str(recipe), "--out", str(tmp_path / "cmp"), *words])
        return status, len(assessed), capsys.readouterr().err

    return call


def test_equal_terms_keep_and_other_terms_assess_again(compare, tmp_path, monkeypatch):
    assert compare()[:2] == (0, 1)
    first = load_comparison(tmp_path / "cmp").runs
    rows = (tmp_path / "cmp" / "results.csv").read_text()
    status, count, said = compare()
    assert (status, count) == (0, 0)
    assert "recipe, seed 0: kept as assessed on these terms at 20" in said
    assert load_comparison(tmp_path / "cmp").runs == first
    assert (tmp_path / "cmp" / "results.csv").read_text() == rows
    for change in ({"--steps": "2"}, {"--seed": "1"}):
        assert compare(change)[:2] == (0, 1), change
    assert compare()[:2] == (0, 0)  # those of the first terms are still there
    assert load_comparison(tmp_path / "cmp").runs == first
    with monkeypatch.context() as other:
        other.setattr(kept, "code_sha256", lambda: "of another version")
        assert compare()[:2] == (0, 1)


def test_trained_further_is_another_run_and_trained_too_far_is_none_of_the_budget(compare):
    compare()
    assert compare({"--budget": "images=96"})[:2] == (0, 1)
    status, count, said = compare()
    assert (status, count) == (2, 0)
    assert "was trained for 3 steps, and this budget is 2" in said.splitlines()[-1]


@pytest.mark.parametrize("damage", ["half", "terms", "picture", "absent"])
def test_a_damaged_record_is_none(tmp_path, damage):
    place = kept.Kept.of(tmp_path, {"steps": 2})
    record = bench.RunRecord("a", "b", "c", "d", 0, metrics={"fd_pixels": 0.1})
    place.folder.mkdir(parents=True)
    place.samples.touch()
    place.neighbours.touch()
    place.save(record)
    assert place.load() == record
    path = place.folder / kept.RECORD
    if damage == "half":
        path.write_text(path.read_text()[:30])
    elif damage == "terms":
        path.write_text(json.dumps(json.loads(path.read_text()) | {"terms": {"steps": 3}}))
    elif damage == "picture":
        place.samples.unlink()
    else:
        path.unlink()
    assert place.load() is None


def test_two_recipes_of_one_name_are_refused(recipe, tmp_path, capsys):
    (tmp_path / "other").mkdir()
    other = tmp_path / "other" / recipe.name
    other.write_text(recipe.read_text())
    assert main(["compare", str(recipe), str(other), "--out", str(tmp_path / "cmp")]) == 2
    assert "two recipes are called recipe" in capsys.readouterr().err
    assert not (tmp_path / "cmp").exists()


def test_a_report_that_is_not_the_last_says_what_is_missing(compare, monkeypatch):
    notes = []
    monkeypatch.setattr("denoisezoo.api.write_report", lambda found, out: notes.append(found.notes) or out)
    assert compare({"--seeds": "0,1"})[0] == 0
    assert notes == [["Unfinished: 1 of 2 runs are here; missing: recipe seed 1."], []]
