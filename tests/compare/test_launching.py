"""Trainings of a comparison as jobs through submitit."""

import pytest

from denoisezoo.cli import main
from denoisezoo.compare.launching import Launcher, parse_options
from denoisezoo.errors import UserError
from denoisezoo.report import load_comparison
from denoisezoo.train.fit import train

pytest.importorskip("submitit")
COMPARE = ("--budget", "images=64", "--sampler", "ddim", "--steps", "2", "--num", "40")


@pytest.mark.slow
def test_local_jobs_train_and_one_that_fails_is_named(arguments, tmp_path):
    launcher = Launcher("local", tmp_path / "jobs", {}, at_once=2)
    good, bad = launcher.run([arguments("--trainer.max_steps", 1), ["--config", "digits/nothing"]])
    assert good is None
    assert bad.startswith("unknown recipe 'digits/nothing'")
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").is_file()
    assert len(list((tmp_path / "jobs").glob("*.out"))) == 2


def test_compare_takes_up_what_jobs_trained_and_reports_what_failed(recipe, tmp_path, capsys, monkeypatch):
    """Nothing is trained here: in several processes that would start the whole comparison again."""

    def run(self, commands):
        train(commands[0])
        return [None, "the node went away"]

    monkeypatch.setattr(Launcher, "run", run)
    out = tmp_path / "cmp"
    words = ["compare", str(recipe), "--seeds", "0,1", "--out", str(out), "--launcher", "local", *COMPARE]
    assert main(words) == 0
    said = capsys.readouterr().err
    assert "recipe, seed 0: trained" in said
    assert "recipe, seed 1: failed: the node went away" in said
    first, second = load_comparison(out).runs
    assert first.error is None
    assert second.error.startswith("the node went away")
    assert not (out / "runs" / "recipe" / "seed_1" / "checkpoints").exists()


@pytest.mark.slow
def test_compare_with_local_jobs_from_end_to_end(recipe, tmp_path, capsys):
    """The training takes two processes, which start themselves again by the job's own command line."""
    recipe.write_text(recipe.read_text().replace("accelerator: cpu", "accelerator: cpu\n  devices: 2"))
    out = tmp_path / "cmp"
    assert main(["compare", str(recipe), "--out", str(out), "--launcher", "local", *COMPARE]) == 0
    said = capsys.readouterr().err
    assert "recipe, seed 0: trained" in said
    (record,) = load_comparison(out).runs
    assert record.error is None
    assert record.card["train_steps"] == 2
    assert len(list((out / "jobs").glob("*.out"))) == 1


def test_without_slurm_one_line_says_so(recipe, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PATH", "")
    words = ["compare", str(recipe), "--out", str(tmp_path / "cmp"), "--launcher", "slurm", *COMPARE]
    assert main(words) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert "--launcher slurm" in line


def test_without_submitit_one_line_says_how_to_get_it(recipe, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "submitit", None)
    words = ["compare", str(recipe), "--out", str(tmp_path / "cmp"), "--launcher", "local", *COMPARE]
    assert main(words) == 2
    assert "denoisezoo[cluster]" in capsys.readouterr().err


def test_a_recipe_of_several_processes_is_not_trained_inline(recipe, tmp_path, capsys):
    recipe.write_text(recipe.read_text().replace("accelerator: cpu", "accelerator: cpu\n  devices: 2"))
    assert main(["compare", str(recipe), "--out", str(tmp_path / "cmp"), *COMPARE]) == 2
    assert "several processes; add --launcher local" in capsys.readouterr().err


def test_options():
    assert parse_options("partition=gpu,timeout_min=600") == {"partition": "gpu", "timeout_min": 600}
    with pytest.raises(UserError, match="KEY=VALUE"):
        parse_options("partition")
