"""What a command says of a folder is true of all that lies in it."""

import json
import shutil

import pytest
import yaml

from denoisezoo.cli import main
from denoisezoo.errors import UserError
from denoisezoo.locking import only_writer
from denoisezoo.train.fit import train
from denoisezoo.train.log import log_files, read_log, read_rows
from denoisezoo.train.resumable import SUMMARY
from denoisezoo.train.tracking import IDENTITY, MARK, WANDB


@pytest.fixture
def sample(trained, tmp_path):
    """Samples into one folder."""
    run = str(trained())
    words = ["sample", run, "--sampler", "ddim", "--steps", "1", "--out", str(tmp_path / "images")]
    return lambda *more: main([*words, *more])


@pytest.mark.parametrize(
    ("first", "second", "left"),
    [
        (["--num", "3"], ["--num", "2", "--seed", "7"], "3 images of another call, such as 000000.png"),
        (["--num", "3"], ["--num", "2"], "an image of another call, such as 000002.png"),
        (["--num", "2", "--interpolate", "3"], ["--num", "2"], "an image of another call, such as interpolation.png"),
    ],
)
def test_sampling_leaves_no_mixture(sample, tmp_path, capsys, first, second, left):
    assert sample(*first) == 0
    before = {path: path.read_bytes() for path in (tmp_path / "images").iterdir()}
    assert sample(*second) == 2
    assert left in capsys.readouterr().err
    assert {path: path.read_bytes() for path in (tmp_path / "images").iterdir()} == before
    assert sample(*first) == 0


def test_a_note_is_of_the_images_beside_it(sample, tmp_path, monkeypatch):
    """A call that is cut off while it writes leaves no note of an earlier one."""
    assert sample("--num", "2") == 0
    monkeypatch.setattr("denoisezoo.evaluation.conditions.sample_picture", lambda *args: 1 / 0)
    assert sample("--num", "2") == 1
    assert not (tmp_path / "images" / "samples.json").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["train", "--config", "RECIPE", "--trainer.default_root_dir", "OUT"],
        ["sample", "RUN", "--steps", "1", "--num", "1", "--out", "OUT"],
        ["evaluate", "RUN", "--steps", "1", "--num", "20", "--out", "OUT"],
        ["compare", "RECIPE", "--out", "OUT"],
    ],
)
def test_a_folder_that_another_writes_into_is_refused_before_anything_is_written(
    words, trained, recipe, tmp_path, capsys
):
    places = {"RUN": str(trained()), "RECIPE": str(recipe), "OUT": str(tmp_path / "out")}
    with only_writer(tmp_path / "out", ""):
        before = sorted(tmp_path.rglob("*"))
        assert main([places.get(word, word) for word in words]) == 2
        assert sorted(tmp_path.rglob("*")) == before
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {tmp_path / 'out'} is being written by process")


def test_nothing_of_a_run_stays_that_another_cannot_go_on_from(arguments, tmp_path):
    """As after a kill before the first checkpoint, and with other settings: the log holds the steps of one run."""
    train(arguments())
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    (tmp_path / "run" / WANDB).mkdir()
    for name in (IDENTITY, MARK):
        (tmp_path / "run" / WANDB / name).write_text("3")
    for folder in ("run", "fresh"):
        train(arguments("--trainer.max_steps", 2, "--model.optimizer.lr", 0.01, folder=folder))
    (path,), (fresh,) = (log_files(tmp_path / folder) for folder in ("run", "fresh"))
    assert [row["step"] for row in read_rows(path)] == [row["step"] for row in read_rows(fresh)]
    losses = [{step: row["train/loss"] for step, row in read_log(tmp_path / f).items()} for f in ("run", "fresh")]
    assert losses[0] == losses[1]
    assert json.loads((tmp_path / "run" / SUMMARY).read_text())["train_steps"] == 2
    assert list((tmp_path / "run" / WANDB).iterdir()) == []


def test_a_run_goes_on_beside_the_lock_of_a_killed_one(arguments, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").write_text('{"pid": 1, "host": "here", "since": "now"}')
    assert train(arguments()).steps == 4
    assert not (tmp_path / "run" / ".lock").exists()


def test_a_training_that_another_holds_says_nothing_of_its_settings(arguments, tmp_path):
    train(arguments("--trainer.max_steps", 1))
    with only_writer(tmp_path / "run", ""), pytest.raises(UserError, match=r"`trainer\.default_root_dir`"):
        train(arguments("--model.optimizer.lr", 0.5))
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["model"]["optimizer"]["lr"] == 0.001
