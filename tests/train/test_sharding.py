"""FSDP in two processes: the training of one process, with weights, moments and average really divided."""

import copy
import shutil

import pytest
import torch

from denoisezoo.errors import UserError
from denoisezoo.train.checkpoint import FOLDER, LAST, read_checkpoint
from denoisezoo.train.fit import train
from denoisezoo.train.log import read_log
from denoisezoo.train.optimizer import OptimizerConfig
from tests.conftest import RECIPE
from tests.train import faults
from tests.train.test_adversary import UDPM
from tests.train.test_distributed import TWO, WORDS, guard_of, largest_difference, run_two
from tests.train.test_guard import poison_data
from tests.train.test_nonuniform import multiscale
from tests.train.test_resume import assert_same

FSDP = [*TWO, "--trainer.strategy", "fsdp2"]
ALIKE = ["--model.channels_last", "false"]  # as shares are
ACCUMULATE = ["--trainer.accumulate_grad_batches", "2"]
OFTEN = ["--samples.every_n_steps", "2", "--trainer.val_check_interval", "2"]  # training goes on after them
RANDOM_STAGE = ["--model.objective.times", "OneStage", "--model.objective.times.in_turn", "false"]
NOBODY = -1


def last(folder):
    """The newest checkpoint of a run."""
    return read_checkpoint(folder / FOLDER / LAST)


def assert_near(a, b, tolerance):
    """That weights, average and moments of two checkpoints differ by no more."""
    for key in ("state_dict", "current_model_state"):
        assert largest_difference(a[key], b[key]) <= tolerance
    (ours,), (theirs,) = a["optimizer_states"], b["optimizer_states"]
    assert ours["param_groups"] == theirs["param_groups"]
    assert ours["state"].keys() == theirs["state"].keys()
    for index, moments in ours["state"].items():
        assert largest_difference(moments, theirs["state"][index]) <= tolerance


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A function that gives the words of a run in a folder, and the home of three: in one process, DDP and FSDP."""
    home = tmp_path_factory.mktemp("runs")
    (home / "recipe.yaml").write_text(RECIPE.replace("NAME", "ddpm_tiny"))

    def words(folder, *more):
        settings = map(str, [*WORDS, *ALIKE, *OFTEN, *more])
        return ["--config", str(home / "recipe.yaml"), "--trainer.default_root_dir", str(home / folder), *settings]

    train(words("one", *ACCUMULATE, "--trainer.val_check_interval", "4"))
    run_two(words("ddp", *TWO), home / "log")
    run_two(words("two", *FSDP), home / "log", trouble=faults.Poison(NOBODY, (), (), home))
    return words, home


def half(runs, name):
    """A copy of a run as it was after two of its four steps, and the words that go on with it."""
    words, home = runs
    copy = home / f"half_{name}_{len(list(home.iterdir()))}"
    (copy / FOLDER).mkdir(parents=True)
    for path in (home / name / FOLDER).glob("step_00000002.ckpt*"):
        shutil.copy(path, copy / FOLDER)
    return copy, lambda *more: words(copy.name, *more)


def test_two_processes_train_like_one_that_accumulates_twice_and_like_ddp(runs):
    _, home = runs
    for name in ("one", "ddp"):
        assert_near(last(home / name), last(home / "two"), 1e-5)
    one, two = read_log(home / "one"), read_log(home / "two")
    for step in one:
        ours, theirs = (
            {k: v for k, v in log[step].items() if k.startswith(("loss_by", "grad_norm"))} for log in (one, two)
        )
        assert ours == pytest.approx(theirs, rel=1e-4)
    losses = [read_log(home / name)[3]["val/loss"] for name in ("ddp", "two")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)  # of the average, over the batches of both


def test_weights_moments_and_average_are_divided(runs):
    _, home = runs
    first, second = (torch.load(home / f"{rank}.pt", weights_only=True)["numbers"] for rank in (0, 1))
    for name, (here, whole) in first.items():
        assert here + second[name][0] == whole == second[name][1]
        assert 0.4 * whole < here < 0.6 * whole
    assert first["moments"][1] == 2 * first["weights"][1]
    assert first["average"][1] == first["weights"][1] > 10_000


def test_samples_of_an_uneven_number_are_put_together(runs):
    from PIL import Image, ImageChops

    _, home = runs
    one, two = (Image.open(home / name / "samples" / "step_00000004.png") for name in ("one", "two"))
    assert ImageChops.difference(one.convert("L"), two.convert("L")).getextrema()[1] <= 1  # of 255


def test_a_run_that_was_broken_off_equals_an_unbroken_one_bit_by_bit(runs):
    folder, words = half(runs, "two")
    run_two(words(*FSDP), runs[1] / "log")
    assert_near(last(folder), last(runs[1] / "two"), 0)


def test_what_began_under_ddp_goes_on_divided(runs):
    folder, words = half(runs, "ddp")
    run_two(words(*FSDP), runs[1] / "log")
    assert_near(last(folder), last(runs[1] / "one"), 1e-5)


def test_what_began_divided_goes_on_in_one_process_as_what_began_under_ddp(runs):
    folders = []
    for name in ("two", "ddp"):
        folder, words = half(runs, name)
        train(words())
        folders.append(folder)
    assert_near(last(folders[0]), last(folders[1]), 1e-5)
    assert last(folders[0])["denoisezoo"]["images_seen"] == 4 * 256


def test_one_process_samples_from_the_checkpoint(runs, tmp_path):
    from denoisezoo.cli import main

    assert main(["sample", str(runs[1] / "two"), "--steps", "2", "--num", "2", "--out", str(tmp_path / "out")]) == 0
    assert list((tmp_path / "out").iterdir())


def test_what_one_process_alone_meets_is_skipped_by_both(arguments, tmp_path, monkeypatch):
    """Their networks have a part for each stage, and parts of a step may be of different stages."""
    words = [*ALIKE, *multiscale(*RANDOM_STAGE), "--data.batch_size", "256"]
    words += ["--checkpoint.every_n_steps", "100", "--model.on_failure", "skip"]
    words += ["--trainer.max_steps", "5", "--trainer.gradient_clip_val", "0.5"]
    trouble = faults.Poison(1, (1, 2, 3), ("data", "computation", "gradient"), tmp_path)
    run_two(arguments(*words, *FSDP, folder="two"), tmp_path / "log", trouble=trouble)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert_same(first["guard"], second["guard"])
    assert first["guard"]["skipped"] == 3
    assert first["images_seen"] == second["images_seen"] == 5 * 256
    poison_data(monkeypatch, 3, 5, 7)  # the second halves of these steps
    train(arguments(*words, *ACCUMULATE, folder="one"))
    one, two = (last(tmp_path / name) for name in ("one", "two"))
    assert largest_difference(one["current_model_state"], two["current_model_state"]) < 1e-5
    assert guard_of(two)["in_row"] == 0


def test_two_ddp_processes_may_train_different_stages(arguments, tmp_path):
    words = [*ALIKE, *multiscale(*RANDOM_STAGE), "--data.batch_size", "256"]
    words += ["--trainer.max_steps", "4", "--trainer.gradient_clip_val", "0.5"]
    run_two(arguments(*words, *TWO, folder="two"), tmp_path / "log")
    train(arguments(*words, *ACCUMULATE, folder="one"))
    assert_near(last(tmp_path / "one"), last(tmp_path / "two"), 1e-5)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--trainer.strategy", "fsdp"], "use `trainer.strategy=fsdp2`, or ddp"),
        (["--trainer.strategy", "deepspeed_stage_2"], "use `trainer.strategy=fsdp2`, or ddp"),
        (
            ["--trainer.strategy.class_path", "lightning.pytorch.strategies.ModelParallelStrategy"],
            "use `trainer.strategy=fsdp2`, or ddp",
        ),
        ([*FSDP, *map(str, UDPM)], "this objective has an adversary; use `trainer.strategy=ddp`"),
        ([*FSDP, "--model.optimizer.name", "muon"], "takes adam or adamw"),
        ([*FSDP, "--model.compile", "true"], "use `model.compile=false`"),
        ([*FSDP, "--trainer.precision", "16-mixed"], "use `trainer.precision=bf16-mixed`"),
    ],
)
def test_what_cannot_be_divided_is_refused_in_one_line(arguments, tmp_path, words, expected):
    with pytest.raises(UserError, match=expected):
        train(arguments(*TWO, *words))
    assert not (tmp_path / "run").exists()


def test_moments_are_laid_out_as_their_parameters():
    """A fused step of channels-last weights with contiguous moments would add each to another weight."""
    torch.manual_seed(0)
    convolution = torch.nn.Conv2d(4, 6, 3).to(memory_format=torch.channels_last)
    x, twin = torch.randn(2, 4, 8, 8), torch.nn.Conv2d(4, 6, 3)
    twin.load_state_dict(convolution.state_dict())
    optimizers = [OptimizerConfig().build(module) for module in (convolution, twin)]

    def step():
        for module, optimizer in zip((convolution, twin), optimizers, strict=True):
            optimizer.zero_grad()
            module(x).square().mean().backward()
            optimizer.step()

    step()
    optimizers[0].load_state_dict(copy.deepcopy(optimizers[1].state_dict()))
    step()
    assert torch.allclose(convolution.weight, twin.weight, atol=1e-6)
