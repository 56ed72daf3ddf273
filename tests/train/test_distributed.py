"""Two processes: the same training as one, samples and figures gathered, and what happens when one is killed."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch

from denoisezoo.errors import UserError
from denoisezoo.train.checkpoint import newest_checkpoint, read_checkpoint, step_of
from denoisezoo.train.fit import train
from denoisezoo.train.log import read_log
from tests.conftest import RECIPE
from tests.train import faults
from tests.train.test_guard import poison_data
from tests.train.test_resume import SMALL, assert_same, assert_same_run

TWO = ["--trainer.devices", "2"]
WORDS = [
    *(*SMALL, "--checkpoint.every_n_steps", "2", "--model.network.num_classes", "10", "--data.labels", "true"),
    *("--samples.every_n_steps", "4", "--samples.num", "5", "--samples.steps", "2"),
    *("--trainer.limit_val_batches", "1", "--trainer.val_check_interval", "4"),
]


def environment(rank, port):
    """What torchrun and Lightning's own launcher set."""
    return {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "NODE_RANK": "0",
        "LOCAL_RANK": str(rank),
        "RANK": str(rank),
        "WORLD_SIZE": "2",
        "GLOO_SOCKET_IFNAME": "lo",
    }


def free_port():
    """A port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def start_two(words, log, command="train", trouble=None):
    """Two processes of one run."""
    port = free_port()
    return [faults.start(words, log, trouble, environment(rank, port), command) for rank in range(2)]


def run_two(words, log, command="train", trouble=None):
    """Run them to their end; both must succeed."""
    assert faults.wait(start_two(words, log, command, trouble)) == [0, 0], log.read_text()


@pytest.fixture(scope="module")
def one_and_two(tmp_path_factory):
    """Folders of the same run: in one process that accumulates twice, and in two."""
    home = tmp_path_factory.mktemp("runs")
    (home / "recipe.yaml").write_text(RECIPE.replace("NAME", "ddpm_tiny"))
    words = ["--config", str(home / "recipe.yaml"), *map(str, WORDS), "--trainer.default_root_dir"]
    accumulate = ["--trainer.accumulate_grad_batches", "2", "--trainer.val_check_interval", "8"]
    train([*words, str(home / "one"), *accumulate])
    run_two([*words, str(home / "two"), *TWO], home / "log")
    return home / "one", home / "two"


def largest_difference(a, b):
    """Between two dictionaries of tensors."""
    assert a.keys() == b.keys()
    return max(float((a[name].double() - b[name].double()).abs().max()) for name in a if a[name].numel())


def test_two_processes_train_like_one_that_accumulates_twice(one_and_two):
    one, two = (read_checkpoint(folder / "checkpoints" / "last.ckpt") for folder in one_and_two)
    for key in ("state_dict", "current_model_state"):
        assert_same(one[key], two[key])
    before = read_checkpoint(one_and_two[0] / "checkpoints" / "step_00000002.ckpt")["current_model_state"]
    assert largest_difference(one["current_model_state"], before) > 1e-3  # what two steps do is not within tolerance
    assert one["denoisezoo"]["images_seen"] == two["denoisezoo"]["images_seen"]
    rows = [read_log(folder) for folder in one_and_two]
    for step in rows[0]:
        ours, theirs = ({k: v for k, v in row[step].items() if k.startswith("loss_by_noise")} for row in rows)
        assert ours == theirs  # gathered from both processes
        assert rows[0][step]["grad_norm"] == pytest.approx(rows[1][step]["grad_norm"], rel=1e-4)
    facts = [json.loads((folder / "run.json").read_text()) for folder in one_and_two]
    assert facts[0]["images_seen"] == facts[1]["images_seen"]


def test_losses_are_those_of_all_parts_of_all_steps(arguments, tmp_path):
    """Logged every third step: by noise level each process keeps its own sums, and a step's loss has all its parts."""
    words = [*map(str, SMALL), "--trainer.log_every_n_steps", "3", "--trainer.max_steps", "6"]
    run_two(arguments(*words, *TWO, folder="two"), tmp_path / "log")
    train(arguments(*words, "--trainer.accumulate_grad_batches", "2", folder="one"))
    one, two = read_log(tmp_path / "one"), read_log(tmp_path / "two")
    assert sorted(one) == sorted(two) == [2, 5]
    for step in one:
        keys = [key for key in one[step] if key.startswith(("loss_by_noise", "train/"))]
        assert len(keys) > 5
        assert {key: two[step].get(key) for key in keys} == {key: one[step][key] for key in keys}


@pytest.mark.parametrize("first", ["one", "two"])
def test_what_two_processes_began_one_that_accumulates_twice_ends(arguments, tmp_path, one_and_two, first):
    """And the other way round; the parts are the same ones. Step 3 is amid an epoch."""
    words = [*WORDS, "--model.denoiser", "ddpm_tiny", "--samples.every_n_steps", "0"]
    begin = [*words, "--trainer.max_steps", "3"]
    once = ["--trainer.accumulate_grad_batches", "2", "--trainer.val_check_interval", "8"]
    if first == "two":
        run_two(arguments(*begin, *TWO), tmp_path / "log")
        train(arguments(*words, *once))
    else:
        train(arguments(*begin, *once))
        run_two(arguments(*words, *TWO), tmp_path / "log")
    broken, whole = (
        read_checkpoint(folder / "checkpoints" / "last.ckpt") for folder in (tmp_path / "run", one_and_two[0])
    )
    assert broken["global_step"] == whole["global_step"] == 4
    for key in ("state_dict", "current_model_state"):
        assert_same(broken[key], whole[key])
    place = broken["loops"]["fit_loop"]["state_dict"]["combined_loader"][0]["position"]
    assert place == (8 if first == "two" else 4)


def test_grids_are_drawn_by_both_and_put_together(one_and_two):
    from PIL import Image, ImageChops

    one, two = (Image.open(folder / "samples" / "step_00000004.png") for folder in one_and_two)
    difference = ImageChops.difference(one.convert("L"), two.convert("L")).getextrema()[1]
    assert difference <= 1  # of 255: the weights differ by rounding


def test_samples_features_and_metrics_are_gathered(arguments, tmp_path):
    """evaluate in two processes gives the figures of one."""
    from denoisezoo.cli import main

    train(arguments("--trainer.max_steps", 2))
    words = [str(tmp_path / "run"), "--steps", "2", "--num", "41"]
    assert main(["evaluate", *words, "--json", str(tmp_path / "one.json")]) == 0
    run_two([*words, "--json", str(tmp_path / "two.json")], tmp_path / "log", "evaluate")
    one, two = (json.loads((tmp_path / f"{name}.json").read_text())[0] for name in ("one", "two"))
    assert one["num_generated"] == two["num_generated"] == 41
    for key in ("fd_pixels", "fd_pixels_halves", "precision", "recall"):
        assert two[key] == pytest.approx(one[key], rel=1e-6)


def test_noise_differs_between_processes_and_is_reproducible(tmp_path):
    """Parts of a step draw different numbers, and the same ones whenever they are asked."""
    from types import SimpleNamespace

    from denoisezoo.train.module import DiffusionModule

    def noise(rank, world_size, accumulate, batch_idx, step=3):
        trainer = SimpleNamespace(world_size=world_size, accumulate_grad_batches=accumulate)
        module = SimpleNamespace(trainer=trainer, global_rank=rank, global_step=step, seed=0, device="cpu")
        key = DiffusionModule.step_key(module, batch_idx)
        module._mixed = lambda *parts: DiffusionModule._mixed(module, *parts)
        return torch.randn(4, generator=DiffusionModule.generator(module, *key))

    assert not torch.equal(noise(0, 2, 1, 3), noise(1, 2, 1, 3))
    assert torch.equal(noise(1, 2, 1, 3), noise(1, 2, 1, 3))
    assert torch.equal(noise(1, 2, 1, 3), noise(0, 1, 2, 7))  # the second process is the second turn of one
    assert not torch.equal(noise(1, 2, 1, 3, step=4), noise(1, 2, 1, 3))


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_run_with_a_checkpoint_to_go_on_from(arguments, tmp_path, victim):
    log, words = tmp_path / "log", arguments(*WORDS, *TWO, "--trainer.max_steps", "20", folder="killed")
    processes = start_two(words, log)
    deadline = time.monotonic() + 60
    while newest_checkpoint(tmp_path / "killed") is None and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(processes[victim].pid, signal.SIGKILL)
    found = faults.wait(processes, 60)
    assert found[victim] == -9
    assert found[1 - victim] == 2, log.read_text()
    (line,) = [line for line in log.read_text().splitlines() if line.startswith("error: ")]
    assert "run the same command again; it goes on from" in line
    assert 2 <= step_of(newest_checkpoint(tmp_path / "killed")) < 20
    if victim:
        run_two(words, log)
        run_two(arguments(*WORDS, *TWO, "--trainer.max_steps", "20", folder="whole"), log)
        assert_same_run(tmp_path / "killed", tmp_path / "whole")


@pytest.mark.parametrize("where", ["data", "gradient", "computation"])
def test_what_one_process_alone_meets_is_skipped_by_both(arguments, tmp_path, monkeypatch, where):
    """Not one steps without the other: their weights stay equal, and are those of one process that skips that step."""
    words = [*map(str, SMALL), "--checkpoint.every_n_steps", "100", "--model.on_failure", "skip"]
    trouble = faults.Poison(1, (1,), (where,), tmp_path)
    run_two(arguments(*words, *TWO, folder="two"), tmp_path / "log", trouble=trouble)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert_same(first, second)
    assert first["guard"]["skipped"] == 1
    assert first["images_seen"] == 4 * 256
    poison_data(monkeypatch, 3)  # the second half of step 1
    train(arguments(*words, "--trainer.accumulate_grad_batches", "2", folder="one"))
    one = read_checkpoint(tmp_path / "one" / "checkpoints" / "last.ckpt")
    assert largest_difference(one["current_model_state"], first["weights"]) < 1e-5
    if where == "data":  # the noise level is that of the image, which the first process has never seen
        assert first["guard"]["by_noise"] == guard_of(one)["by_noise"]
        assert sum(first["guard"]["by_noise"].values()) == 1


def test_what_one_process_found_is_told_once(arguments, tmp_path):
    """The bad images are all in the second process's batches; one line, and both end."""
    words = [*map(str, SMALL), "--guard.max_in_row", "1", *TWO]
    log = tmp_path / "log"
    trouble = faults.Poison(1, (0, 1, 2, 3), ("data",) * 4, tmp_path)
    assert faults.wait(start_two(arguments(*words), log, "train", trouble)) == [2, 2], log.read_text()
    (line,) = [line for line in log.read_text().splitlines() if line.startswith("error: ")]
    assert "the batch itself holds values that are not finite" in line


def test_a_mistake_of_all_processes_is_told_once(arguments, tmp_path):
    log = tmp_path / "log"
    assert faults.wait(start_two(arguments(*TWO, "--data.batch_size", "33"), log), 60) == [2, 2]
    assert [line for line in log.read_text().splitlines() if line.startswith("error: ")] == [
        "error: batch_size 33 cannot be divided among 2 devices; use a multiple of the number of devices"
    ]


def guard_of(checkpoint):
    """What the guard has counted."""
    (found,) = (state for name, state in checkpoint["callbacks"].items() if name.startswith("Guard"))
    return found


@pytest.mark.slow
def test_the_command_line_starts_its_own_processes(arguments, tmp_path):
    words = [sys.executable, "-m", "denoisezoo", "train", *arguments(*SMALL, *TWO, "--trainer.max_steps", 2)]
    found = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert found.returncode == 0, found.stderr
    assert found.stdout.count("trained 2 steps, 512 images") == 1
    assert read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")["global_step"] == 2


def test_a_batch_that_cannot_be_divided_is_refused(arguments):
    with pytest.raises(UserError, match=r"batch_size 33 .* accumulate_grad_batches 2"):
        train(arguments("--data.batch_size", 33, "--trainer.accumulate_grad_batches", 2))
