"""Runs that training begins with and learns from: resumed bit by bit, in parts, refused where they do not fit."""

import hashlib
import json

import pytest
import torch

import denoisezoo as dz
from denoisezoo.archs import create_backbone
from denoisezoo.cli import main
from denoisezoo.diffusion import ProgressiveDistillation
from denoisezoo.errors import UserError
from denoisezoo.runs.run import load_run
from denoisezoo.runs.teacher import load_teacher
from denoisezoo.train import training_module
from denoisezoo.train.fit import train
from denoisezoo.train.teachers import begin_with
from tests.interop.written import write_snapshot
from tests.train import faults
from tests.train.test_distributed import TWO, largest_difference, run_two
from tests.train.test_resume import SMALL, assert_same_run

SIZES = [*SMALL, "--data.batch_size", 64, "--trainer.limit_val_batches", 1, "--checkpoint.every_n_steps", 100]


@pytest.fixture
def teacher(trained):
    """A run of the tiny recipe."""
    return trained(*SIZES, "--trainer.max_steps", 2, folder="teacher")


@pytest.fixture
def words(arguments, teacher):
    """Arguments of a training that begins with it, by the name of the objective."""

    def make(objective, *more, folder="run", taught=True):
        told = ["--model.objective.teacher", teacher] if taught else []
        chosen = ["--model.objective", objective, *told, "--model.start_from", teacher]
        return arguments(*SIZES, *chosen, *more, folder=folder)

    return make


def test_stopping_changes_nothing(words, tmp_path, monkeypatch):
    """The teacher, the average and the dropout of both sides are what they would have been."""
    monkeypatch.setattr(training_module.TrainingModule, "training_macs", lambda self: 1)
    more = ("--trainer.accumulate_grad_batches", 2, "--model.network.dropout", 0.3, "--trainer.max_steps")
    train(words("ConsistencyDistillation", *more, 5, folder="whole"), load_teacher)
    for steps in (2, 5):
        train(words("ConsistencyDistillation", *more, steps, folder="broken"), load_teacher)
    assert_same_run(tmp_path / "broken", tmp_path / "whole")


PROGRESSIVE = ("--model.objective.every", 2, "--model.network.second_time", "true", "--trainer.max_steps", 6)


def test_a_kill_changes_nothing(words, tmp_path):
    """SIGKILL while the checkpoint after the first round is written."""
    log, more = tmp_path / "log", (*PROGRESSIVE, "--checkpoint.every_n_steps", 1)
    train(words("ProgressiveDistillation", *more, folder="whole"), load_teacher)
    killed = words("ProgressiveDistillation", *more, folder="killed")
    assert faults.run(killed, log, faults.Kill("checkpoint", 4, "half written")) == -9, log.read_text()
    train(killed, load_teacher)
    assert_same_run(tmp_path / "killed", tmp_path / "whole")


def test_two_processes_train_like_one_that_accumulates_twice(words, tmp_path):
    more = (*PROGRESSIVE, "--data.batch_size", 32)
    train(words("ProgressiveDistillation", *more, "--trainer.accumulate_grad_batches", 2, folder="one"), load_teacher)
    run_two(words("ProgressiveDistillation", *more, *TWO, folder="two"), tmp_path / "log")
    ours, theirs = (load_run(tmp_path / name, "raw").denoiser.state_dict() for name in ("one", "two"))
    assert largest_difference(ours, theirs) < 1e-5


def test_training_in_half_precision_goes_on(words, tmp_path):
    flow = ("--model.process", "RectifiedFlow", "--model.preconditioning", "Velocity", "--model.start_from", "null")
    more = (*PROGRESSIVE, "--trainer.precision", "bf16-mixed")
    train(words("MeanFlow", *flow, *more[2:], taught=False), load_teacher)
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["finished"]
    assert facts["train_macs"] > 0
    train(words("ProgressiveDistillation", *more, folder="taught"), load_teacher)
    facts = json.loads((tmp_path / "taught" / "run.json").read_text())
    assert len(facts["teacher_sha256"]) == 64
    assert load_run(tmp_path / "taught").facts["teacher_sha256"] == facts["teacher_sha256"]
    assert main(["sample", str(tmp_path / "taught"), "--num", "2", "--sampler", "flow_map", "--steps", "1"]) == 0


WRONG = {
    "no run": (["--model.objective.teacher", "nowhere"], "there is no run nowhere"),
    "no teacher": (["--model.objective.teacher", "null"], "none is given"),
    "another process": (["--model.process", "VP", "--model.preconditioning", "V"], "the teacher and the network have"),
    "another size": (
        ["--model.network.resolution", 16, "--data.resolution", 16, "--model.start_from", "null"],
        "shape",
    ),
    "another network": (["--model.network.channels", 16], "holds another network"),
    "no second time": (
        ["--model.objective", "MeanFlow", "--model.process", "RectifiedFlow", "--model.preconditioning", "Velocity"],
        "needs a network that is told a second time; set --model.network.second_time to true",
    ),
    "too fine a grid": (["--model.objective.steps", 1000], "give a power of 2 from 1 to 512"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_refused_in_one_line(words, capsys, case):
    more, told = WRONG[case]
    assert main(["train", *words("ProgressiveDistillation", *more)]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert told in error


def test_another_teacher_under_the_same_name_is_refused(words, teacher, trained, capsys):
    """So is one that was trained on, whose averaged weights are others."""
    train(words("ProgressiveDistillation", "--trainer.max_steps", 1), load_teacher)
    other = trained(*SIZES, "--trainer.max_steps", 2, "--model.seed", 5, folder="other")
    (teacher / "checkpoints").rename(teacher / "before")
    (other / "checkpoints").rename(teacher / "checkpoints")
    assert main(["train", *words("ProgressiveDistillation", "--trainer.max_steps", 2)]) == 2
    assert "the teacher is not the one that this run began with" in capsys.readouterr().err


def test_a_network_goes_on_from_weights_without_a_second_time():
    torch.manual_seed(0)
    old, new = create_backbone("ddpm_tiny"), create_backbone("ddpm_tiny", second_time=True)
    begin_with(new, old, "runs/x")
    assert all(torch.equal(new.state_dict()[key], value) for key, value in old.state_dict().items())
    with pytest.raises(UserError, match="another network"):
        begin_with(old, new, "runs/x")


def test_a_published_checkpoint_teaches(tmp_path, monkeypatch):
    """One step from a snapshot of EDM, by its address, on a network that is told a second time besides."""
    address = f"edm:{write_snapshot(tmp_path / 'network.pkl', 'edm_ncsnpp', monkeypatch)}"
    model = load_run(address).config["model"]
    told = dz.create_denoiser(
        model["denoiser"],
        load_run(address).denoiser.process,
        load_run(address).denoiser.preconditioning,
        **model["network"] | {"second_time": True},
    )
    images = torch.rand(8, 3, 8, 8) * 2 - 1
    options = {"steps": 1, "out": tmp_path / "run", "start_from": address, "trainer": {"accelerator": "cpu"}}
    run = dz.fit(told, ProgressiveDistillation(address, steps=2, every=1), images, lr=1e-9, **options)
    assert run.facts["teacher_sha256"] == hashlib.sha256((tmp_path / "network.pkl").read_bytes()).hexdigest()
    theirs, ours = load_run(address).denoiser.state_dict(), run.denoiser.state_dict()
    assert all(torch.allclose(ours[key], value, atol=1e-6) for key, value in theirs.items())
    assert run.denoiser.sample(2, sampler="flow_map", steps=1, progress=False).images.shape == (2, 3, 8, 8)


def test_new_input_channels_count_for_nothing_at_first():
    """With a condition the network goes on from one without: what it computes is the same, whatever it is shown."""
    old = create_backbone("ddpm_digits").eval()
    new = create_backbone("ddpm_digits", cond_channels=2).eval()
    begin_with(new, old, "runs/x")
    x, t, y = torch.randn(2, 1, 16, 16), torch.tensor([3.0, 500.0]), torch.randn(2, 2, 16, 16)
    assert torch.allclose(new(x, t, dz.diffusion.Given(image=y)), old(x, t), atol=1e-6)
    assert new.stem.weight.requires_grad
    in_state = create_backbone("ddpm_digits", in_channels=3).eval()
    begin_with(in_state, old, "runs/x")
    assert torch.allclose(in_state(torch.cat([x, y], 1), t), old(x, t), atol=1e-6)
    with pytest.raises(UserError, match="holds another network"):
        begin_with(old, new, "runs/x")
