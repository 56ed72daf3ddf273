"""Training against an opponent: resumed bit by bit, guarded together, in parts, and on several devices."""

import copy
import json

import pytest
import torch

from denoisezoo.cli import main
from denoisezoo.diffusion import UDPMLoss, perceptual
from denoisezoo.errors import ComputationError
from denoisezoo.runs.run import load_run
from denoisezoo.train.checkpoint import read_checkpoint
from denoisezoo.train.fit import read_facts, train
from denoisezoo.train.log import read_log
from denoisezoo.train.module import DiffusionModule
from tests.train.test_distributed import TWO, largest_difference, run_two
from tests.train.test_guard import poison_data
from tests.train.test_resume import assert_same, assert_same_run

UDPM = [
    *("--model.denoiser", "udpm_tiny", "--model.network.resolution", 8, "--data.resolution", 8),
    *("--model.process", "DownSampling", "--model.process.resolution", 8, "--model.process.alphas", "[0.5, 0.2]"),
    *("--model.process.sigmas", "[0.1, 0.2]", "--model.preconditioning", "NextScale", "--model.objective", "UDPMLoss"),
    *("--model.objective.l1", "[1, 0]", "--model.objective.perceptual", "[4, 1]"),
    *("--model.objective.adversarial", "[0.5, 1]", "--model.objective.r1", "[0.1, 0.4]"),
    *("--model.objective.discriminator.channels", 8, "--model.objective.discriminator.widths", "[8, 12]"),
    *("--model.optimizer.name", "adam", "--model.adversary_optimizer.warmup_steps", 5, "--data.batch_size", 256),
]


@pytest.fixture(autouse=True)
def short(request, monkeypatch):
    """A classifier that knows little is good enough here, and counting takes most of the time of such short runs."""
    monkeypatch.setattr(perceptual, "STEPS", 4)
    if "price" not in request.node.name:
        monkeypatch.setattr(DiffusionModule, "training_macs", lambda self: 1)


@pytest.fixture
def words(arguments):
    """Arguments of an adversarial training."""
    return lambda *more, folder="run": arguments(*UDPM, *more, folder=folder)


def last(folder):
    """The newest checkpoint."""
    return read_checkpoint(folder / "checkpoints" / "last.ckpt")


def test_stopping_at_two_steps_changes_nothing(words, tmp_path):
    more = ("--checkpoint.every_n_steps", 100, "--trainer.accumulate_grad_batches", 2)
    train(words(*more, "--trainer.max_steps", 8, folder="whole"))
    for steps in (3, 8):
        train(words(*more, "--trainer.max_steps", steps, folder="broken"))
    assert_same_run(tmp_path / "broken", tmp_path / "whole")
    ours, theirs = (last(tmp_path / name)["denoisezoo"]["adversary_optimizer"] for name in ("broken", "whole"))
    assert_same(ours, theirs)
    assert int(next(iter(ours["state"].values()))["step"]) == 8


def test_both_networks_learn_and_both_losses_are_logged(words, tmp_path):
    train(words("--trainer.max_steps", 3, "--checkpoint.every_n_steps", 1, "--checkpoint.keep_all", "true"))
    states = [
        read_checkpoint(tmp_path / "run" / "checkpoints" / f"step_0000000{i}.ckpt")["current_model_state"]
        for i in (1, 3)
    ]
    for part in ("denoiser.", "adversary."):
        moved = [k for k in states[0] if k.startswith(part) and not torch.equal(states[0][k], states[1][k])]
        assert moved
    row = read_log(tmp_path / "run")[2]
    assert row["train/adversary_loss"] > 0
    assert row["grad_norm/adversary"] > 0


def test_a_bad_batch_changes_neither_network(words, tmp_path, monkeypatch):
    poison_data(monkeypatch, 2)
    train(words("--trainer.max_steps", 4, "--checkpoint.every_n_steps", 1, "--checkpoint.keep_all", "true"))
    found = [read_checkpoint(tmp_path / "run" / "checkpoints" / f"step_0000000{i}.ckpt") for i in (2, 3, 4)]
    for key in ("current_model_state", "state_dict"):
        assert_same(found[0][key], found[1][key])
    moments = [copy.deepcopy(c["denoisezoo"]["adversary_optimizer"]["state"]) for c in found]
    assert_same(moments[0], moments[1])
    assert int(moments[2][0]["step"]) == int(moments[1][0]["step"]) + 1


@pytest.mark.parametrize("part", ["__call__", "opposing_loss"])
def test_a_batch_that_cannot_be_computed_changes_neither_network(words, tmp_path, monkeypatch, part):
    """The second batch fails in one network's loss, after the other's may have been computed."""
    compute, calls = getattr(UDPMLoss, part), []

    def failing(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise ComputationError("too stiff", "none")
        return compute(self, *args, **kwargs)

    monkeypatch.setattr(UDPMLoss, part, failing)
    every = ("--checkpoint.every_n_steps", 1, "--checkpoint.keep_all", "true", "--model.on_failure", "skip")
    train(words("--trainer.max_steps", 3, *every))
    one, two, three = (read_checkpoint(path) for path in sorted((tmp_path / "run" / "checkpoints").glob("step_*.ckpt")))
    assert_same(one["current_model_state"], two["current_model_state"])
    counts = [int(found["denoisezoo"]["adversary_optimizer"]["state"][0]["step"]) for found in (one, two, three)]
    assert counts == [1, 1, 2]
    assert two["denoisezoo"]["skipped"] == 1


def test_two_devices_train_as_two_parts_do(words, tmp_path):
    more = ["--trainer.max_steps", "2", "--model.objective.perceptual", "[0, 0]"]
    train(words(*more, "--trainer.accumulate_grad_batches", 2, folder="one"))
    run_two(words(*more, *TWO, folder="two"), tmp_path / "log")
    one, two = last(tmp_path / "one"), last(tmp_path / "two")
    assert largest_difference(one["current_model_state"], two["current_model_state"]) < 1e-5


def test_the_card_names_the_perceptual_network(words, tmp_path):
    train(words("--trainer.max_steps", 1))
    named = read_facts(tmp_path / "run")["perceptual"]
    assert named.startswith("classifier of digits, accuracy 0.")
    run = load_run(tmp_path / "run")
    assert run.facts["perceptual"] == named
    assert main(["evaluate", str(tmp_path / "run"), "--sampler", "udpm", "--steps", "2", "--num", "64"]) == 0
    result = json.loads((tmp_path / "run" / "evaluation" / "result.json").read_text())
    assert result["perceptual"] == named
    assert result["nfe"] == 2


def test_the_opponent_stays_behind_when_weights_are_published(words, tmp_path):
    train(words("--trainer.max_steps", 1))
    path = tmp_path / "x.safetensors"
    assert main(["export", str(tmp_path / "run"), "--format", "safetensors", "--out", str(path)]) == 0
    ours, theirs = load_run(path), load_run(tmp_path / "run")
    assert_same(ours.denoiser.state_dict(), theirs.denoiser.state_dict())
    assert not [name for name in ours.denoiser.state_dict() if "adversary" in name]


def test_the_price_of_training_counts_both_networks(words, tmp_path):
    train(words("--trainer.max_steps", 1, folder="both"))
    alone = ["--model.objective.adversarial", "[0, 0]", "--model.objective.perceptual", "[0, 0]"]
    train(words("--trainer.max_steps", 1, "--model.objective.l1", "[1, 1]", *alone, folder="alone"))
    both, one = (read_facts(tmp_path / name) for name in ("both", "alone"))
    assert both["train_macs"] > 1.5 * one["train_macs"]
    assert one["perceptual"] is None


GAN = [
    *("--model.objective", "PlainGAN", "--model.objective.discriminator.channels", 8),
    *("--model.objective.discriminator.widths", "[8, 12]", "--model.objective.discriminator.dropout", 0),
]


def test_another_adversarial_objective_needs_nothing_else_of_the_trainer(arguments, tmp_path):
    """A plain GAN: both networks step, also after a pause, and what they made is sampled in one call."""
    every = ("--checkpoint.every_n_steps", 1, "--checkpoint.keep_all", "true")
    for folder, stops in (("whole", (2,)), ("broken", (1, 2))):
        for steps in stops:
            train(arguments(*GAN, *every, "--trainer.max_steps", steps, folder=folder))
    assert_same_run(tmp_path / "broken", tmp_path / "whole")
    one, two = (read_checkpoint(path) for path in sorted((tmp_path / "whole" / "checkpoints").glob("step_*.ckpt")))
    for part in ("denoiser.", "adversary."):
        state = one["current_model_state"]
        assert any(not torch.equal(state[k], two["current_model_state"][k]) for k in state if k.startswith(part))
    assert read_log(tmp_path / "whole")[1]["train/adversary_loss"] > 0
    words = ["evaluate", str(tmp_path / "whole"), "--sampler", "ddim", "--steps", "1", "--num", "64"]
    assert main(words) == 0


def test_a_gan_of_a_process_whose_states_are_smaller_is_refused(words, tmp_path, capsys):
    network = words()[: words().index("--model.objective")]
    assert main(["train", *network, "--model.objective", "PlainGAN"]) == 2
    assert "PlainGAN cannot train a denoiser of DownSampling" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--model.objective.vgg", "nowhere.pth"], "VGG-16 weights are not at nowhere.pth"),
        (["--model.objective.l1", "[1, 1, 1]"], "levels"),
        (["--model.process.resolution", "9"], "halved"),
        (["--model.preconditioning", "X0"], "do not fit"),
        (["--model.objective.discriminator.channels", "3"], "discriminator"),
        (["--samples.every_n_steps", "1", "--samples.sampler", "heun", "--samples.steps", "9"], "use sampler 'udpm'"),
    ],
)
def test_mistakes_are_one_line_with_status_two(words, tmp_path, capsys, more, said):
    assert main(["train", *words(*more)]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert said in lines[-1]
    assert lines[-1].startswith("error: ")
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_other_files_than_vgg_weights_are_refused(words, tmp_path, capsys):
    path = tmp_path / "vgg.pth"
    path.write_bytes(b"no weights")
    assert main(["train", *words("--model.objective.vgg", path)]) == 2
    assert "does not hold VGG-16 weights" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
