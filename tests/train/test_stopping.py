"""Signals end training in order: a checkpoint after the step in hand, one line, a status that says so."""

import os
import signal

import pytest
from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.pytorch import Callback

from denoisezoo.cli import main
from denoisezoo.train import fit
from denoisezoo.train.checkpoint import read_checkpoint
from denoisezoo.train.fit import train
from denoisezoo.train.recipe import parse_recipe
from denoisezoo.train.stopping import STATUSES
from tests.train.test_resume import assert_same_run


class Send(Callback):
    """Sends signals to this process in the midst of a step."""

    def __init__(self, *numbers, step=1, hook="on_before_backward"):
        self.numbers, self.step = numbers, step
        setattr(self, hook, self.send)

    def send(self, trainer, *args):
        if trainer.global_step == self.step:
            for number in self.numbers:
                signal.raise_signal(number)


@pytest.fixture
def sends(monkeypatch):
    """Makes the next training send itself signals; the handlers afterwards must be those of before."""
    build = fit.parse_recipe
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    before = {number: signal.getsignal(number) for number in STATUSES}

    def arm(*numbers, **options):
        def parse(args):
            cli = build(args)
            cli.trainer.callbacks.append(Send(*numbers, **options))
            monkeypatch.setattr(fit, "parse_recipe", build)
            return cli

        monkeypatch.setattr(fit, "parse_recipe", parse)

    yield arm
    assert {number: signal.getsignal(number) for number in STATUSES} == before


def step_of_last(folder):
    return read_checkpoint(folder / "checkpoints" / "last.ckpt")["global_step"]


@pytest.mark.parametrize(
    ("numbers", "status"),
    [
        ([signal.SIGINT], 130),
        ([signal.SIGTERM, signal.SIGTERM], 143),
        ([signal.SIGUSR1, signal.SIGTERM], 143),
    ],
)
def test_a_signal_ends_training_after_the_step_with_a_checkpoint(
    arguments, trained, tmp_path, sends, capsys, numbers, status
):
    trained(folder="whole")
    capsys.readouterr()
    sends(*numbers)
    assert main(["train", *arguments()]) == status
    assert capsys.readouterr().err == "interrupted after step 2; run the same command again to go on\n"
    assert step_of_last(tmp_path / "run") == 2
    assert main(["train", *arguments()]) == 0
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_a_second_ctrl_c_aborts_at_once(arguments, tmp_path, sends, capsys):
    sends(signal.SIGINT, signal.SIGINT, step=2)
    assert main(["train", *arguments()]) == 130
    assert capsys.readouterr().err == "error: interrupted\n"
    assert step_of_last(tmp_path / "run") == 2  # the one of every second step; none was written for the abort
    assert main(["train", *arguments()]) == 0


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_comparison_which_goes_on_later(recipe, tmp_path, sends, capsys, number, status):
    words = ["compare", str(recipe), "--seeds", "0", "--out", str(tmp_path / "cmp"), "--steps", "2", "--num", "8"]
    sends(number)
    assert main(words) == status
    assert capsys.readouterr().err.splitlines()[-1] == "interrupted; run the same command again to go on"
    assert not list((tmp_path / "cmp").glob("*.html"))
    assert main(words) == 0
    assert list((tmp_path / "cmp").glob("*.html"))


def test_sigterm_before_the_first_step_is_no_success(arguments, sends):
    """Lightning has taken the signal by then, and ends with status 0."""
    sends(signal.SIGTERM, step=0, hook="on_train_start")
    monkey = fit.parse_recipe

    def first(args):
        cli = monkey(args)
        cli.trainer.callbacks.insert(0, cli.trainer.callbacks.pop())  # before StopOnInterrupt takes it
        return cli

    fit.parse_recipe = first
    assert main(["train", *arguments()]) == 143


SLURM = {
    "SLURM_NTASKS": "1",
    "SLURM_JOB_ID": "42",
    "SLURM_JOB_NAME": "zoo",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
    "SLURM_NODELIST": "localhost",
}


@pytest.fixture
def in_slurm(monkeypatch):
    """The variables of a job of one process."""
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("in_slurm")
def test_slurm_s_signal_is_ours_and_nothing_is_saved_amid_a_step(arguments, tmp_path, sends, monkeypatch):
    """With accumulation, so that half a step could be lost."""
    monkeypatch.setenv("PATH", "")  # no scontrol: the script of the job calls it
    words = arguments("--trainer.accumulate_grad_batches", 2)
    environment = parse_recipe(words).trainer._accelerator_connector.cluster_environment
    assert isinstance(environment, SLURMEnvironment)
    assert not environment.auto_requeue
    sends(signal.SIGUSR1)
    assert main(["train", *words]) == 143
    assert not list((tmp_path / "run").glob("hpc_ckpt*"))
    assert step_of_last(tmp_path / "run") == 2
    assert main(["train", *words]) == 0
    for name in SLURM:
        monkeypatch.delenv(name)
    train(arguments("--trainer.accumulate_grad_batches", 2, folder="whole"))
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_the_shell_of_a_job_sees_the_status(arguments, tmp_path):
    """A real SIGTERM from outside, as `kill` sends it."""
    from tests.train import faults

    log = tmp_path / "log"
    words = arguments("--trainer.max_steps", 100_000, "--checkpoint.every_n_steps", 100_000)
    process = faults.start(words, log)
    while not (tmp_path / "run" / "logs").is_dir() and process.is_alive():
        process.join(0.05)
    process.join(1.0)
    os.kill(process.pid, signal.SIGTERM)
    assert faults.wait([process]) == [143], log.read_text()
    assert f"interrupted after step {step_of_last(tmp_path / 'run')};" in log.read_text()
