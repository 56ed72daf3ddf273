"""Options of the trainer that would change what a step is: honoured, or refused in one line."""

from pathlib import Path

import pytest

from denoisezoo.cli import main
from denoisezoo.errors import UserError
from denoisezoo.train.checkpoint import read_checkpoint
from denoisezoo.train.fit import train
from denoisezoo.train.module import DiffusionModule
from denoisezoo.train.recipe import parse_recipe, plain_config
from tests.train.test_resume import SMALL


@pytest.fixture
def seen(monkeypatch):
    """The sums of the images of each batch that is trained on."""
    found, step = [], DiffusionModule.training_step

    def spy(self, batch, batch_idx):
        found.append(tuple(batch["image"].sum((1, 2, 3)).tolist()))
        return step(self, batch, batch_idx)

    monkeypatch.setattr(DiffusionModule, "training_step", spy)
    return found


@pytest.mark.parametrize(("option", "accumulate", "different"), [(1, 1, 1), (2, 1, 2), (2, 2, 2)])
def test_overfit_batches_repeats_its_batches(arguments, tmp_path, seen, option, accumulate, different):
    """Of six in an epoch; the run goes on with the same ones, and only under the same option."""
    words = [*SMALL, "--trainer.overfit_batches", option, "--trainer.accumulate_grad_batches", accumulate]
    train(arguments(*words, "--trainer.max_steps", 3))
    train(arguments(*words, "--trainer.max_steps", 6))
    assert len(seen) == 6 * accumulate
    assert len(set(seen)) == different
    assert seen[different:] == seen[:-different]  # in turn
    with pytest.raises(UserError, match=r"another trainer\.overfit_batches"):
        train(arguments(*SMALL, "--trainer.accumulate_grad_batches", accumulate, "--trainer.max_steps", 8))


def test_without_it_an_epoch_has_other_batches(arguments, seen):
    train(arguments(*SMALL, "--trainer.limit_train_batches", 2, "--trainer.max_steps", 6))
    assert len(set(seen)) == 6


def test_a_fast_run_leaves_nothing_to_go_on_from(arguments, tmp_path):
    for _ in range(2):
        result = train(arguments("--trainer.fast_dev_run", 2))
        assert (result.steps, result.facts["images_seen"]) == (2, 64)
    assert not (tmp_path / "run").exists()
    assert train(arguments()).facts["images_seen"] == 4 * 32
    before = {path: path.read_bytes() for path in sorted((tmp_path / "run").rglob("*")) if path.is_file()}
    train(arguments("--trainer.fast_dev_run", 1))
    assert {path: path.read_bytes() for path in sorted((tmp_path / "run").rglob("*")) if path.is_file()} == before


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["limit_train_batches", 0], "limit_train_batches is 0"),
        (["limit_train_batches", 0.01], "limit_train_batches 0.01 makes epochs of 0 batches"),
        (["limit_train_batches", 3, "--trainer.accumulate_grad_batches", 2], "give a multiple of 2"),
        (["overfit_batches", 3, "--trainer.accumulate_grad_batches", 2], "overfit_batches 3 makes epochs of 3 batches"),
        (["fast_dev_run", 1, "--trainer.accumulate_grad_batches", 2], "makes epochs of 1 batches"),
        (["limit_val_batches", 0.01, "--trainer.val_check_interval", 2], "limit_val_batches"),
        (["reload_dataloaders_every_n_epochs", 1], "reload_dataloaders_every_n_epochs is 1"),
        (["use_distributed_sampler", "false"], "use_distributed_sampler is False"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(arguments, tmp_path, capsys, words, expected):
    assert main(["train", *arguments(*SMALL, f"--trainer.{words[0]}", *words[1:])]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert expected in error
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_check_before_training_is_not_the_best(arguments, tmp_path):
    train(arguments("--trainer.num_sanity_val_steps", 2, "--trainer.limit_val_batches", 2))
    found = read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")
    (state,) = (state for name, state in found["callbacks"].items() if name.startswith("Checkpoints"))
    assert state["best_step"] == -1


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_more_steps_follow_the_schedule_of_the_new_length(arguments, monkeypatch, schedule):
    rates, step = {}, DiffusionModule.optimizer_step

    def spy(self, epoch, batch_idx, optimizer, closure=None):
        rates[self.global_step + 1] = optimizer.param_groups[0]["lr"]
        return step(self, epoch, batch_idx, optimizer, closure)

    monkeypatch.setattr(DiffusionModule, "optimizer_step", spy)
    words = [*SMALL, "--model.optimizer.schedule", schedule, "--model.optimizer.lr", 0.002]
    words += ["--model.optimizer.warmup_steps", 4]
    for steps in (6, 10):
        train(arguments(*words, "--trainer.max_steps", steps))
    assert len(rates) == 10
    share = {"cosine": 0.75, "linear": 2 / 3}[
        schedule
    ]  # two of the six steps after the warm-up are done: (1 + cos 60°) / 2
    assert rates[7] == pytest.approx(0.002 * share)
    broken = dict(rates)
    train(arguments(*words, "--trainer.max_steps", 10, folder="whole"))
    assert [broken[i] for i in range(7, 11)] == [rates[i] for i in range(7, 11)]


ODE = ["--model.denoiser", "missing_u_tiny", "--model.network.attention", "[]", "--data.batch_size", 8]
ODE += ["--model.network.resolution", 8, "--data.resolution", 8]


@pytest.mark.parametrize("words", [["solver", "dopri5"], ["solver", "bosh3"], ["adjoint", "true"]], ids=" ".join)
def test_costs_that_depend_on_the_data_are_not_known(arguments, words):
    result = train(arguments(*ODE, f"--model.network.{words[0]}", words[1], "--trainer.max_steps", 2))
    assert result.steps == 2
    assert result.facts["train_macs"] is None
    assert result.facts["train_macs_relative"] is None


def test_a_solver_that_gives_up_is_a_failure_of_its_batch(arguments):
    words = [*ODE, "--model.network.solver", "dopri5", "--model.network.max_num_steps", 1, "--trainer.max_steps", 2]
    with pytest.raises(UserError, match="max_num_steps=1"):
        train(arguments(*words))
    with pytest.raises(UserError, match=r"2 steps in a row could not be computed .*max_num_steps=1"):
        train(arguments(*words, "--model.on_failure", "skip", "--guard.max_in_row", 1, folder="skip"))


def test_a_later_recipe_changes_keys_of_the_network(tmp_path):
    later = Path(tmp_path / "later.yaml")
    later.write_text("model: {network: {dropout: 0.1, attention: [4]}}")
    words = ["--config", "digits/ddpm_classes", "--model.network.channels", "8", "--model.network.attention=[8]"]
    cli = parse_recipe([*words, "-c", str(later), "--trainer.accelerator", "cpu"])
    network = plain_config(cli)["model"]["network"]
    assert network == {"num_classes": 10, "channels": 8, "dropout": 0.1, "attention": [4]}


@pytest.mark.parametrize("text", ["model: 3", "model: {network: [3]}"])
def test_a_later_recipe_of_another_shape_is_refused(tmp_path, text):
    later = Path(tmp_path / "later.yaml")
    later.write_text(text)
    with pytest.raises(UserError):
        parse_recipe(["--config", "digits/ddpm_classes", "--config", str(later)])
