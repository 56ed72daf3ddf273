"""A run knows its data: it does not go on with others, says when it is judged on others, and finds what has moved."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from denoisezoo.cli import main
from denoisezoo.data import DATASETS, Cifar10
from denoisezoo.errors import UserError
from denoisezoo.runs.changed import with_places
from denoisezoo.runs.run import load_run
from denoisezoo.train.checkpoint import data_known, read_checkpoint
from denoisezoo.train.fit import train
from denoisezoo.train.places import PLACES, located

DATA = [
    *("--data", "ImageFolder", "--data.resolution", "8", "--data.channels", "1"),
    *("--data.batch_size", "4", "--data.holdout_every", "4"),
]
NETWORK = ["--model.network.resolution", "8"]
LABELS = ["--data.labels", "true", "--model.network.num_classes", "2"]
EVALUATE = ["--steps", "2", "--num", "8"]


def fill(folder, names=("cat", "dog"), count=12):
    for c, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels = np.random.RandomState(100 * c + i).randint(0, 256, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i:02}.png")


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A working directory with data, in `data`."""
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path / "home")
    fill(tmp_path / "home" / "data")
    return tmp_path / "home"


@pytest.fixture
def training(recipe, home):
    """Trains on them in the run folder `run`, with paths relative to the working directory."""

    def go(steps, *more, path="data"):
        words = ["--config", str(recipe), *DATA, "--data.path", path, *NETWORK, "--trainer.default_root_dir", "run"]
        return train([*words, "--trainer.max_steps", str(steps), *more])

    return go


def written(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_does_not_go_on_with_other_data(training, home):
    training(2, *LABELS)
    assert json.loads((home / "run" / "run.json").read_text())["data"]["class_names"] == ["cat", "dog"]
    before = written(home / "run")
    (home / "data" / "cat").rename(home / "data" / "zebra")
    with pytest.raises(
        UserError, match=r"the data image_folder:data have changed since run .*class 0 was 'cat' and is"
    ):
        training(4, *LABELS)
    (home / "data" / "zebra").rename(home / "data" / "cat")
    shutil.copy(home / "data" / "cat" / "00.png", home / "data" / "cat" / "new.png")
    with pytest.raises(UserError, match="there were 18 training images and are 19; put them back as they were, or"):
        training(4, *LABELS)
    (home / "data" / "cat" / "new.png").unlink()
    assert written(home / "run") == before  # nothing of the refused ones
    assert training(4, *LABELS).steps == 4


def test_a_run_goes_on_with_its_data_elsewhere(training, home):
    training(2)
    (home / "data").rename(home / "moved")
    assert training(4, path="moved").steps == 4
    shutil.rmtree(home / "run")
    (home / "moved").rename(home / "data")
    fill(home / "other", ("emu",))
    training(2)
    with pytest.raises(UserError, match="the data image_folder:other have changed since run was trained on them"):
        training(4, path="other")


def test_a_run_of_an_earlier_version_goes_on_as_it_was_meant(training, home):
    """Its checkpoints know nothing of the data; where they lie decides."""
    training(2)
    path = next((home / "run" / "checkpoints").glob("step_*2.ckpt"))
    found = read_checkpoint(path)
    del found["denoisezoo"]["data"]
    torch.save(found, path)
    path.with_name(path.name + ".sha256").unlink()
    fill(home / "other", ("emu",))
    with pytest.raises(UserError, match=r"holds a run with another data\.init_args\.path"):
        training(4, path="other")
    assert training(4).steps == 4


@pytest.mark.parametrize("known", [None, {}, [1], {"sha256": 1}, {"sha256": "a", "class_names": 3}])
def test_damaged_knowledge_is_none(known):
    assert data_known({"denoisezoo": {"data": known}}) == {}


def test_evaluate_says_that_the_data_are_others(training, home, capsys):
    training(2, *LABELS)
    assert main(["evaluate", "run", *EVALUATE]) == 0
    assert "data_changed" not in json.loads((home / "run" / "evaluation" / "result.json").read_text())
    assert "trained on" not in capsys.readouterr().err
    assert main(["export", "run", "--out", "x.safetensors"]) == 0
    (home / "data" / "cat").rename(home / "data" / "zebra")
    for run in ("run", "x.safetensors"):
        assert main(["evaluate", run, *EVALUATE, "--out", "out"]) == 0
        said = "image_folder:data is not what the run was trained on: class 0 was 'cat' and is 'dog'"
        assert capsys.readouterr().err.count(said) == 1
        row = json.loads((home / "out" / "result.json").read_text())
        assert row["data_changed"] == "class 0 was 'cat' and is 'dog'"
    assert load_run(home / "x.safetensors").known["origin"] is None  # nothing of where it was made


def test_relative_paths_hold_from_anywhere_and_when_all_moves(training, home, tmp_path, monkeypatch, capsys):
    training(2)
    fill(tmp_path / "else" / "data", ("emu",))  # of the same name where one stands
    monkeypatch.chdir(tmp_path / "else")
    assert main(["evaluate", str(home / "run"), *EVALUATE]) == 0
    home.rename(tmp_path / "moved")
    assert main(["evaluate", "../moved/run", *EVALUATE]) == 0
    assert "trained on" not in capsys.readouterr().err


def test_data_that_moved_alone_are_found_where_one_says(training, home, capsys):
    training(2)
    (home / "data").rename(home / "else")
    assert main(["evaluate", "run", *EVALUATE]) == 2
    assert "data does not exist; give the path of a folder of images (--data.path)" in capsys.readouterr().err
    assert main(["evaluate", "run", *EVALUATE, "--data.path", "else"]) == 0
    assert "trained on" not in capsys.readouterr().err
    assert main(["evaluate", "run", *EVALUATE, "--data.root", "else"]) == 2
    assert "have no root; give --data.path or --data.test_path" in capsys.readouterr().err


def test_conditions_of_held_out_images_are_found_too(home, recipe, tmp_path, monkeypatch, capsys):
    words = [
        *("--data", "Paired", "--data.task", "SuperResolution", "--data.task.factor", "2"),
        *("--data.data", "ImageFolder", "--data.data.path", "data", "--data.data.resolution", "8"),
        *("--data.data.channels", "1", "--data.data.batch_size", "4"),
        *("--model.network.cond_channels", "1", "--trainer.default_root_dir", "run", *NETWORK),
    ]
    train(["--config", str(recipe), *words, "--trainer.max_steps", "1"])
    monkeypatch.chdir(tmp_path)
    sample = ["sample", str(home / "run"), "--num", "2", "--steps", "2", "--draws", "1"]
    assert main(sample) == 0
    (home / "data").rename(home / "else")
    assert main(sample) == 2
    assert main([*sample, "--data.path", str(home / "else")]) == 0
    assert "trained on" not in capsys.readouterr().err
    fill(home / "data", ("emu",))
    assert main(sample) == 0
    assert "is not what the run was trained on: class 0 was 'cat' and is 'emu'" in capsys.readouterr().err


def test_files_whose_names_are_no_utf8_are_trained_on_and_judged(training, home):
    (home / "data" / "cat" / "00.png").rename(home / "data" / "cat" / "caf\udce9.png")
    (home / "data" / "dog").rename(home / "data" / "ch\udceen")
    (home / "data").rename(home / "bo\udceete")
    assert training(2, *LABELS, path="bo\udceete").facts["data"]["class_names"] == ["cat", r"ch\xeen"]
    assert main(["evaluate", "run", *EVALUATE]) == 0
    assert training(4, *LABELS, path="bo\udceete").steps == 4


def test_nothing_held_out_is_said(training, home, capsys):
    training(1, "--data.holdout_every", "0")
    assert main(["evaluate", "run", *EVALUATE, "--split", "test"]) == 2
    assert "image_folder:data has no held-out images; give --split train or all" in capsys.readouterr().err
    assert not (home / "run" / "evaluation").exists()


def test_data_without_a_place_say_so(trained):
    with pytest.raises(UserError, match=r"have no path; leave `data.path` out"):
        with_places(load_run(trained()), {"path": "x"})


def test_every_argument_that_is_a_path_is_known_as_one(tmp_path, monkeypatch):
    found = {name for cls in DATASETS.values() for name in cls.__init__.__annotations__ if "path" in name}
    assert found <= set(PLACES)
    (tmp_path / "data").mkdir()
    (tmp_path / "run").mkdir()
    config = {"class_path": Cifar10.__name__, "init_args": {"root": "data"}}
    assert located(config, tmp_path / "run", "..")["init_args"]["root"] == str(tmp_path / "data")
    assert located(config, tmp_path / "run", None) == config
    (tmp_path / "data").rmdir()
    assert located(config, tmp_path / "run", "..") == config  # nothing there: as it was given
