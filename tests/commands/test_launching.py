"""Trainings of a comparison as jobs through submitit."""

import pytest

from denoisezoo.cli import main
from denoisezoo.commands.launching import Launcher, parse_options
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


def test_compare_hands_its_trainings_over_and_takes_them_up(recipe, tmp_path, capsys, monkeypatch):
    """What a job trained is not trained again; what a job did not is, and is told."""

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
    assert [record.error for record in load_comparison(out).runs] == [None, None]
    assert [len(list((out / "runs" / "recipe" / f"seed_{seed}" / "logs").iterdir())) for seed in (0, 1)] == [1, 1]


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
