"""A run that goes on is the run that was never interrupted: weights, average, optimiser and log, bit by bit."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from denoisezoo.cli import main
from denoisezoo.data.store import LazyStore
from denoisezoo.train import fit
from denoisezoo.train.checkpoint import newest_checkpoint, read_checkpoint, step_of
from denoisezoo.train.fit import train
from denoisezoo.train.log import read_log
from denoisezoo.train.training_module import TrainingModule
from tests.train import faults

CLOCK = ("images_per_s", "flop_per_s", "share_of_peak")
"""What the log holds of time, which no two runs share."""


def log_of(folder):
    """Step -> metrics, without those of the clock."""
    return {
        step: {key: value for key, value in row.items() if key not in CLOCK} for step, row in read_log(folder).items()
    }


def assert_same(a, b, path=""):
    """Equality of nested plain values and tensors, bit by bit."""
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), path
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            assert_same(a[key], b[key], f"{path}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), path
        for i, (left, right) in enumerate(zip(a, b, strict=True)):
            assert_same(left, right, f"{path}[{i}]")
    else:
        assert a == b, path


def assert_same_run(ours: Path, theirs: Path):
    """Weights, average, optimiser, schedule, counters, log and sample grids of two runs."""
    a, b = (read_checkpoint(folder / "checkpoints" / "last.ckpt") for folder in (ours, theirs))
    for key in ("global_step", "state_dict", "current_model_state", "averaging_state", "optimizer_states"):
        assert_same(a[key], b[key], key)
    assert_same(a["lr_schedulers"], b["lr_schedulers"], "lr_schedulers")
    for key in ("images_seen", "seed", "skipped", "noise_bins"):
        assert_same(a["denoisezoo"][key], b["denoisezoo"][key], key)
    assert_same(log_of(ours), log_of(theirs), "log")
    grids = [sorted((folder / "samples").glob("*.png")) for folder in (ours, theirs)]
    assert [path.name for path in grids[0]] == [path.name for path in grids[1]]
    assert all(x.read_bytes() == y.read_bytes() for x, y in zip(*grids, strict=True))


SMALL = ["--data.batch_size", 256, "--model.network.resolution", 8, "--data.resolution", 8]

CONDITIONS = {
    "plain": [],
    "dropout and labels": ["--model.network.dropout", 0.3, "--model.network.num_classes", 10, "--data.labels", "true"],
    "accumulation": ["--trainer.accumulate_grad_batches", 2],
    "random efforts": ["--model.denoiser", "missing_u_second_order_tiny", "--model.effort", "random"],
    "sandwich": [
        "--model.denoiser",
        "slim_tiny",
        "--model.effort",
        "sandwich",
        "--model.sandwich.shared_noise",
        "true",
    ],
    "stages in turn": [
        *("--model.denoiser", "multiscale_tiny", "--model.process", "MultiScale", "--model.process.resolution", 8),
        *("--model.process.levels", 1, "--model.preconditioning", "V", "--model.objective", "Simple"),
        *("--model.objective.times", "OneStage"),
    ],
    "uncertainty of the network": ["--model.denoiser", "edm2_tiny", "--model.objective", "EDM2Loss"],
    "uncertainty beside the network": ["--model.objective", "EDM2Loss"],
    "sparse log, validation, grids": [
        *("--trainer.log_every_n_steps", 3, "--trainer.limit_val_batches", 1, "--trainer.val_check_interval", 2),
        *("--samples.every_n_steps", 2, "--samples.num", 2, "--samples.steps", 2),
    ],
}


@pytest.fixture
def uncounted(monkeypatch):
    """No multiply-adds are counted, which takes as long as the steps."""
    monkeypatch.setattr(TrainingModule, "training_macs", lambda self: 1)
    monkeypatch.setattr(fit, "training_macs", lambda denoiser: 1)


@pytest.mark.usefixtures("uncounted")
@pytest.mark.parametrize("condition", CONDITIONS)
def test_stopping_at_two_steps_changes_nothing(arguments, tmp_path, condition):
    """An epoch has six steps: the first stop is within one, the second at its end."""
    more = [*CONDITIONS[condition], *SMALL, "--checkpoint.every_n_steps", 100]
    train(arguments(*more, "--trainer.max_steps", 8, folder="whole"))
    for steps in (3, 6, 8):
        train(arguments(*more, "--trainer.max_steps", steps, folder="broken"))
    assert_same_run(tmp_path / "broken", tmp_path / "whole")


@pytest.fixture
def decoded_in_threads(tmp_path):
    """Words for 26 pictures that never are in memory together: six batches of 4, the next decoded during each step."""
    (tmp_path / "images" / "any").mkdir(parents=True)
    for i in range(26):
        pixels = np.random.RandomState(i).randint(0, 256, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / "any" / f"{i:02}.png")
    where = ["--data", "ImageFolder", "--data.path", tmp_path / "images", "--data.channels", 1]
    sizes = ["--data.resolution", 8, "--model.network.resolution", 8, "--data.batch_size", 4]
    return [*where, *sizes, "--data.memory_limit_gb", 0, "--data.holdout_every", 0]


@pytest.mark.usefixtures("uncounted")
def test_stopping_while_threads_decode_changes_nothing(arguments, tmp_path, decoded_in_threads, monkeypatch):
    """The first stop is within a pass, with a batch under way in the threads; the second is in the next pass."""
    expect, began = LazyStore.expect, []
    monkeypatch.setattr(LazyStore, "expect", lambda store, index: (began.append(len(index)), expect(store, index)))
    more = [*decoded_in_threads, "--checkpoint.every_n_steps", 100]
    train(arguments(*more, "--trainer.max_steps", 10, folder="whole"))
    for steps in (3, 8, 10):
        train(arguments(*more, "--trainer.max_steps", steps, folder="broken"))
    assert set(began) == {4}  # the threads were in use, and looked ahead
    assert_same_run(tmp_path / "broken", tmp_path / "whole")


FAULTY = [
    *("--data.batch_size", 64),
    *("--trainer.max_steps", 50, "--trainer.accumulate_grad_batches", 2, "--trainer.limit_val_batches", 1),
    *("--trainer.val_check_interval", 10, "--checkpoint.every_n_steps", 3, "--samples.every_n_steps", 20),
    *("--samples.num", 2, "--samples.steps", 2, "--model.network.dropout", 0.2, "--model.optimizer.schedule", "cosine"),
    *("--model.network.num_classes", 10, "--data.labels", "true", "--trainer.log_every_n_steps", 2),
]
EVERY = 3


@pytest.mark.slow
def test_twenty_kills_change_nothing(arguments, tmp_path):
    """SIGKILL in steps, in checkpoints and in validations; the run is resumed each time."""
    log = tmp_path / "log"
    assert faults.run(arguments(*SMALL, *FAULTY, folder="whole"), log) == 0, log.read_text()
    words = arguments(*SMALL, *FAULTY, folder="killed")
    reached = 0
    for kill in faults.random_kills(20, seed=7):
        assert faults.run(words, log, kill) == -9, f"{kill} did not happen: {log.read_text()}"
        newest = newest_checkpoint(tmp_path / "killed")
        step = 0 if newest is None else step_of(newest)
        logged = max(read_log(tmp_path / "killed"), default=-1) + 1
        assert step >= reached  # what was saved stays
        assert logged - step <= EVERY + 1  # nothing is lost but the steps since the last checkpoint
        reached = step
    assert reached >= 30
    assert faults.run(words, log) == 0, log.read_text()
    assert_same_run(tmp_path / "killed", tmp_path / "whole")
    assert not list((tmp_path / "killed" / "checkpoints").glob(".*"))  # halves of files are cleared away


def test_a_killed_run_can_be_sampled(arguments, tmp_path):
    log = tmp_path / "log"
    kill = faults.Kill("checkpoint", 2, "half written")
    assert faults.run(arguments("--checkpoint.every_n_steps", 1), log, kill) == -9
    assert main(["sample", str(tmp_path / "run"), "--num", "1", "--steps", "1"]) == 0
