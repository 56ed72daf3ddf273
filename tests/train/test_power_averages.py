"""Averages kept in training and stored: what they are, how many there are, and that a resumed run has the same."""

import shutil

import pytest
import torch

from denoisezoo.errors import UserError
from denoisezoo.train.checkpoint import FOLDER as CHECKPOINTS
from denoisezoo.train.checkpoint import read_checkpoint
from denoisezoo.train.fit import train
from denoisezoo.train.power_averages import FOLDER, PowerAverages, step_of, stored
from denoisezoo.train.power_function import decay, exponent
from tests.conftest import RECIPE
from tests.train.test_resume import assert_same

BATCH = 64
EVERY = ["--posthoc.every_n_steps", "2", "--posthoc.keep", "3"]


def words(home, folder, *more):
    """Arguments of a training of ten steps that keeps the checkpoint of each."""
    (home / "recipe.yaml").write_text(RECIPE.replace("NAME", "edm2_tiny").replace("EDMLoss", "EDM2Loss"))
    small = ["--data.batch_size", BATCH, "--model.network.resolution", 8, "--data.resolution", 8]
    keep = ["--checkpoint.every_n_steps", 1, "--checkpoint.keep_all", "true", "--trainer.max_steps", 10]
    root = ["--config", home / "recipe.yaml", "--trainer.default_root_dir", home / folder]
    return [str(word) for word in (*root, *small, *keep, *EVERY, *more)]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Where a run of ten steps is, in `run`."""
    home = tmp_path_factory.mktemp("posthoc")
    train(words(home, "run"))
    return home


def read(path):
    return torch.load(path, weights_only=True)


def test_stored_averages_are_those_of_the_weights(home):
    files = stored(home / "run")
    assert [step_of(path) for path in files] == [4, 8, 10]  # of 2, 4, 6, 8, 10 every second, and the end
    states = [read_checkpoint(home / "run" / CHECKPOINTS / f"step_{n:08d}.ckpt") for n in range(1, 11)]
    for path in files:
        found = read(path)
        assert found["images"] == found["step"] * BATCH
        for profile in found["profiles"]:
            assert profile["gamma"] == exponent(profile["sigma_rel"])
            expected = {}
            for step, state in enumerate(states[: found["step"]], start=1):
                beta = decay(step * BATCH, BATCH, profile["gamma"])
                for name in profile["weights"]:
                    now = state["current_model_state"][name].double()
                    expected[name] = beta * expected.get(name, 0) + (1 - beta) * now
            for name, tensor in profile["weights"].items():
                torch.testing.assert_close(tensor.double(), expected[name], rtol=1e-5, atol=1e-6)


def test_a_resumed_run_has_the_same(home):
    train(words(home, "resumed", "--trainer.max_steps", "5"))
    assert [step_of(path) for path in stored(home / "resumed")] == [2, 4, 5]
    train(words(home, "resumed"))
    ours, theirs = (stored(home / folder) for folder in ("resumed", "run"))
    assert [path.name for path in ours] == [path.name for path in theirs]
    for a, b in zip(ours, theirs, strict=True):
        assert_same(read(a), read(b))


def test_a_run_that_began_without_cannot_go_on_with_them(home):
    shutil.copytree(home / "run", home / "later", symlinks=True)
    more = ["--trainer.max_steps", "12"]
    with pytest.raises(UserError, match=r"no averages|widths 0\.05, 0\.1 .*sigma_rel` to \[0\.05, 0\.1\]"):
        train(words(home, "later", *more, "--posthoc.sigma_rel", "[0.07]"))
    train(words(home, "later", *more, "--posthoc.every_n_steps", "0"))
    with pytest.raises(UserError, match=r"kept no averages from its beginning; leave `posthoc\.every_n_steps` out"):
        train(words(home, "later", "--trainer.max_steps", "14"))


@pytest.mark.parametrize("steps", [1, 7, 63, 64, 65, 1000])
def test_files_are_few_and_evenly_spaced(steps):
    averages = PowerAverages(every_n_steps=1, keep=8)
    interval = averages.interval(steps)
    assert steps // interval <= 8
    assert interval == 1 or steps // (interval // 2) > 8


@pytest.mark.parametrize(
    "options",
    [{"every_n_steps": -1}, {"keep": 1}, {"sigma_rel": ()}, {"sigma_rel": (0.5,)}, {"sigma_rel": (0.0,)}],
)
def test_options_out_of_range(options):
    with pytest.raises(UserError) as caught:
        PowerAverages(**options)
    assert "\n" not in str(caught.value)


def test_half_precision_takes_half_the_disk(home):
    train(words(home, "half", "--posthoc.dtype", "float16", "--trainer.max_steps", "1"))
    (path,) = (home / "half" / FOLDER).glob("*.avg")
    whole = stored(home / "run")[0]
    assert path.stat().st_size < 0.6 * whole.stat().st_size
