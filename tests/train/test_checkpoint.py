"""Checkpoints: whole or absent, damage noticed, nothing executed, the newest and the best kept."""

import contextlib
import errno
import os
import random
import resource
import signal
import subprocess
import warnings

import pytest
import torch

from denoisezoo.cli import main
from denoisezoo.errors import UserError
from denoisezoo.runs.run import load_run
from denoisezoo.train.checkpoint import AtomicCheckpointIO, newest_checkpoint, read_checkpoint, sum_path, verify
from denoisezoo.train.fit import train

CANARY = "/tmp/denoisezoo_was_here"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A real checkpoint, small: the tiny network's weights, optimiser and all."""
    folder = tmp_path_factory.mktemp("run")
    recipe = folder / "recipe.yaml"
    from tests.conftest import RECIPE

    recipe.write_text(RECIPE.replace("NAME", "ddpm_tiny"))
    train(["--config", str(recipe), "--trainer.default_root_dir", str(folder / "run"), "--trainer.max_steps", "2"])
    return (folder / "run" / "checkpoints" / "last.ckpt").resolve()


@pytest.fixture
def copy(checkpoint, tmp_path):
    """A copy of it with its checksum."""
    target = tmp_path / checkpoint.name
    for path in (checkpoint, sum_path(checkpoint)):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return target


def refused(path, capsys):
    """The line with which the command line refuses a file; the exit status must be 2."""
    capsys.readouterr()
    assert main(["export", str(path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert str(path) in line
    return line


def test_a_checkpoint_has_its_checksum_as_sha256sum_writes_it(copy):
    command = ["sha256sum", "--check", "--status", sum_path(copy).name]
    assert subprocess.run(command, cwd=copy.parent, check=False).returncode == 0
    copy.write_bytes(flipped(copy.read_bytes(), 0))
    assert subprocess.run(command, cwd=copy.parent, check=False).returncode == 1


def flipped(data, position):
    """The data with one bit of one byte changed."""
    return data[:position] + bytes([data[position] ^ (1 << position % 8)]) + data[position + 1 :]


def test_one_flipped_bit_is_noticed_wherever_it_is(copy):
    whole = copy.read_bytes()
    for position in random.Random(0).sample(range(len(whole)), 50):
        copy.write_bytes(flipped(whole, position))
        with pytest.raises(UserError, match="damaged"):
            load_run(copy)
    copy.write_bytes(whole)
    verify(copy)


def test_without_its_checksum_a_flipped_bit_is_noticed_or_changes_nothing(copy):
    """zip's own checksums cover what is stored; what they do not cover are fields that nobody reads."""
    sum_path(copy).unlink()
    whole, expected = copy.read_bytes(), load_run(copy).denoiser.state_dict()
    noticed = 0
    for position in random.Random(1).sample(range(len(whole)), 50):
        copy.write_bytes(flipped(whole, position))
        try:
            found = load_run(copy).denoiser.state_dict()
        except UserError:
            noticed += 1
            continue
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert noticed > 40


@pytest.mark.parametrize("keep_sum", [True, False])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99, 0.9999])
def test_a_truncated_checkpoint_is_refused(copy, capsys, share, keep_sum):
    whole = copy.read_bytes()
    copy.write_bytes(whole[: int(len(whole) * share)])
    if not keep_sum:
        sum_path(copy).unlink()
    assert "damaged" in refused(copy, capsys)


class Malicious:
    def __reduce__(self):
        return os.mkdir, (CANARY,)


def foreign(path, kind):
    """Write a file that is no checkpoint of ours."""
    contents = {
        "weights alone": {"state_dict": {}},
        "a list": [1, 2],
        "our keys, wrong types": {"state_dict": {"a": 1}, "denoisezoo": {"recipe": {"model": {}, "data": {}}}},
        "no recipe": {"state_dict": {}, "denoisezoo": 7},
        "malicious": {"state_dict": {}, "denoisezoo": Malicious()},
        "malicious, old format": {"state_dict": {}, "denoisezoo": Malicious()},
        "a whole module": torch.nn.Linear(1, 1),
    }
    if kind == "text":
        path.write_bytes(b"not a checkpoint" * 64)
    elif kind == "bare pickle":
        import pickle

        path.write_bytes(pickle.dumps(Malicious()))
    else:
        torch.save(contents[kind], path, _use_new_zipfile_serialization="old" not in kind)


KINDS = [
    *("weights alone", "a list", "our keys, wrong types", "no recipe", "malicious", "malicious, old format"),
    *("a whole module", "text", "bare pickle"),
]


@pytest.mark.parametrize("kind", KINDS)
def test_foreign_and_malicious_files_are_refused_and_nothing_runs(tmp_path, capsys, kind):
    path = tmp_path / "x.ckpt"
    foreign(path, kind)
    refused(path, capsys)
    with pytest.raises(UserError):
        AtomicCheckpointIO().load_checkpoint(path)  # what resuming reads with
    assert not os.path.exists(CANARY)


def test_a_malicious_checkpoint_in_a_run_folder_does_not_run_when_training_resumes(arguments, tmp_path):
    train(arguments("--trainer.max_steps", 2))
    path = (tmp_path / "run" / "checkpoints" / "last.ckpt").resolve()
    foreign(path, "malicious")
    sum_path(path).unlink()
    with pytest.raises(UserError, match="damaged"):
        train(arguments())
    assert not os.path.exists(CANARY)


def test_a_checkpoint_cannot_choose_what_is_imported(copy):
    found = read_checkpoint(copy)
    found["denoisezoo"]["recipe"]["model"]["process"]["class_path"] = "os.path.Evil"
    AtomicCheckpointIO().save_checkpoint(found, copy)
    with pytest.raises(UserError, match=r"os\.path\.Evil"):
        load_run(copy)


def names(folder):
    return sorted(path.name for path in (folder / "checkpoints").iterdir() if path.suffix == ".ckpt")


def test_a_damaged_newest_one_is_named_and_the_previous_one_taken(arguments, trained, tmp_path, capsys):
    trained(folder="whole")
    trained()
    run = tmp_path / "run"
    newest = (run / "checkpoints" / "last.ckpt").resolve()
    newest.write_bytes(newest.read_bytes()[:-100])
    assert newest_checkpoint(run).name == "step_00000002.ckpt"
    assert load_run(run).facts["train_steps"] == 2
    (run / "run.json").unlink()
    capsys.readouterr()
    assert train(arguments()).steps == 4
    assert "step_00000004.ckpt is damaged" in capsys.readouterr().err
    ours, theirs = (read_checkpoint(tmp_path / name / "checkpoints" / "last.ckpt") for name in ("run", "whole"))
    assert all(torch.equal(ours["state_dict"][name], value) for name, value in theirs["state_dict"].items())


def test_the_newest_and_the_best_are_kept(arguments, tmp_path, monkeypatch):
    """The validation loss is lowest after step 2."""
    from denoisezoo.train.module import DiffusionModule

    losses = {1: 5.0, 2: 1.0, 3: 4.0, 4: 3.0, 5: 2.0, 6: 9.0}
    monkeypatch.setattr(
        DiffusionModule, "validation_step", lambda self, batch, i: self.log("val/loss", losses[self.global_step])
    )
    words = ["--trainer.limit_val_batches", 1, "--trainer.val_check_interval", 1, "--checkpoint.every_n_steps", 1]
    train(arguments(*words, "--trainer.max_steps", 6))
    run = tmp_path / "run"
    assert names(run) == ["best.ckpt", "last.ckpt", "step_00000002.ckpt", "step_00000005.ckpt", "step_00000006.ckpt"]
    assert read_checkpoint(run / "checkpoints" / "best.ckpt")["global_step"] == 2
    assert read_checkpoint(run / "checkpoints" / "last.ckpt")["global_step"] == 6


def test_the_best_is_remembered_over_a_resumption(arguments, tmp_path, monkeypatch):
    from denoisezoo.train.module import DiffusionModule

    monkeypatch.setattr(
        DiffusionModule, "validation_step", lambda self, batch, i: self.log("val/loss", float(self.global_step))
    )
    words = ["--trainer.limit_val_batches", 1, "--trainer.val_check_interval", 1, "--checkpoint.keep", 1]
    train(arguments(*words, "--trainer.max_steps", 2))
    train(arguments(*words, "--trainer.max_steps", 4))
    assert names(tmp_path / "run") == ["best.ckpt", "last.ckpt", "step_00000001.ckpt", "step_00000004.ckpt"]


def test_checkpoints_by_minutes(arguments, tmp_path, monkeypatch):
    """The clock moves on by 20 seconds whenever it is looked at: after each step, and when one is written."""
    from denoisezoo.train import saving

    clock = iter(range(0, 10_000, 20))
    monkeypatch.setattr(saving.time, "monotonic", lambda: float(next(clock)))
    words = ["--checkpoint.every_n_steps", 1000, "--checkpoint.every_n_minutes", 1, "--checkpoint.keep_all", "true"]
    train(arguments(*words, "--trainer.max_steps", 8))
    steps = [int(name[5:13]) for name in names(tmp_path / "run") if name.startswith("step")]
    assert steps == [3, 6, 8]  # the last is the end


def test_all_are_kept_at_will(arguments, tmp_path):
    train(arguments("--checkpoint.keep_all", "true", "--checkpoint.every_n_steps", 1))
    assert len([name for name in names(tmp_path / "run") if name.startswith("step")]) == 4


@contextlib.contextmanager
def largest_file(size):
    """No file of this process may grow beyond `size` bytes: writing more fails as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, previous)


def test_a_disk_that_is_full_for_good_leaves_the_previous_checkpoint_whole(arguments, tmp_path):
    train(arguments("--trainer.max_steps", 2))
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    before = last.read_bytes()
    with largest_file(len(before) // 2), warnings.catch_warnings(), pytest.raises(UserError, match="cannot write"):
        train(arguments())
    assert last.read_bytes() == before
    assert not list(last.parent.glob(".*"))  # no half of a file is left
    assert train(arguments()).steps == 4  # with space again, the same command goes on


@pytest.mark.parametrize("trouble", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_disk_that_is_full_for_a_while_is_survived(arguments, trained, tmp_path, monkeypatch, capsys, trouble):
    trained(folder="whole")
    save, calls = torch.save, []

    def full_once(*args, **kwargs):
        calls.append(args)
        if len(calls) == 1:
            args[1].write_bytes(b"half")
            raise OSError(trouble, os.strerror(trouble))
        save(*args, **kwargs)

    monkeypatch.setattr(torch, "save", full_once)
    assert train(arguments()).steps == 4
    assert f"no checkpoint at step 2: cannot write {tmp_path}" in capsys.readouterr().err
    whole, run = (read_checkpoint(tmp_path / name / "checkpoints" / "last.ckpt") for name in ("whole", "run"))
    assert all(torch.equal(run["state_dict"][name], value) for name, value in whole["state_dict"].items())


def test_torch_reports_a_full_disk_in_its_own_way(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        args[1].write_bytes(b"half")
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match="cannot write"):
        AtomicCheckpointIO().save_checkpoint({}, tmp_path / "x.ckpt")
    assert not list(tmp_path.iterdir())
