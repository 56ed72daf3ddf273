"""Training a recipe: what the run folder holds, resuming, interrupting, and what is refused."""

import contextlib
import gc
import json
import signal

import pytest
import torch
import yaml
from lightning.pytorch import Callback

from denoisezoo.diffusion.objectives.regression import EDMLoss
from denoisezoo.errors import ComputationError, UserError
from denoisezoo.runs.run import load_run
from denoisezoo.train import fit
from denoisezoo.train.checkpoint import read_checkpoint
from denoisezoo.train.fit import train
from denoisezoo.train.log import read_log


def test_a_run_folder_holds_all_that_is_needed(arguments, tmp_path):
    result = train(arguments())
    folder = tmp_path / "run"
    assert (result.folder, result.steps, result.interrupted) == (folder, 4, False)
    facts = json.loads((folder / "run.json").read_text())
    assert facts["images_seen"] == 4 * 32
    assert facts["finished"]
    assert facts["train_macs"] % facts["images_seen"] == 0
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["data"]["init_args"]["batch_size"] == 32
    assert (folder / "checkpoints" / "last.ckpt").is_file()
    assert len(list((folder / "logs").glob("*/metrics.csv"))) == 1


def weights(folder, key="state_dict"):
    return read_checkpoint(folder / "checkpoints" / "last.ckpt")[key]


def test_resuming_gives_what_an_unbroken_run_gives(arguments, tmp_path):
    train(arguments("--trainer.max_steps", 4, folder="whole"))
    train(arguments("--trainer.max_steps", 2, folder="broken"))
    result = train(arguments("--trainer.max_steps", 4, folder="broken"))
    assert result.steps == 4
    assert result.facts["images_seen"] == 4 * 32
    for key in ("state_dict", "current_model_state"):
        whole, broken = weights(tmp_path / "whole", key), weights(tmp_path / "broken", key)
        assert whole.keys() == broken.keys()
        for name in whole:
            assert torch.equal(whole[name], broken[name]), name


def test_averaged_and_raw_weights_differ_and_both_load(arguments, tmp_path):
    train(arguments("--ema.half_life", 1000, "--ema.ramp_up", 0))
    ema, raw = (load_run(tmp_path / "run", w).denoiser.state_dict() for w in ("ema", "raw"))
    assert any(not torch.equal(ema[k], raw[k]) for k in ema)


def test_a_finished_run_is_not_trained_again(arguments, tmp_path):
    train(arguments())
    before = (tmp_path / "run" / "checkpoints" / "last.ckpt").stat().st_mtime_ns
    again = train(arguments())
    assert again.facts["images_seen"] == 4 * 32
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").stat().st_mtime_ns == before


@pytest.mark.parametrize(("outputs", "said"), [(1, ""), (2, "warning: 1 of the 2 output channels of ")])
def test_outputs_of_a_learned_variance_are_said_to_stay_untrained(arguments, capsys, outputs, said):
    train(arguments("--model.network.out_channels", outputs, "--trainer.max_steps", 1))
    err = capsys.readouterr().err
    assert err.startswith(said)
    assert err.count("learned variance") == bool(said)


def test_a_folder_with_another_run_is_refused(arguments):
    train(arguments())
    with pytest.raises(UserError, match=r"another model\.optimizer\.lr"):
        train(arguments("--model.optimizer.lr", 0.01))


def test_an_interrupted_run_stops_in_order_and_goes_on(arguments, tmp_path, monkeypatch):
    """Ctrl-C in the second step: that step ends, a checkpoint is written, and the run goes on from there."""

    class PressCtrlC(Callback):
        def on_train_batch_start(self, trainer, *args):
            if trainer.global_step == 1:
                # Not os.kill: the system may hand that to another thread of this process, and where the machine is
                # busy, that thread may come to run only when training is steps ahead.
                signal.raise_signal(signal.SIGINT)

    build = fit.parse_recipe

    def with_ctrl_c(args):
        cli = build(args)
        cli.trainer.callbacks.append(PressCtrlC())
        return cli

    monkeypatch.setattr(fit, "parse_recipe", with_ctrl_c)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    result = train(arguments(folder="broken"))
    assert (result.interrupted, result.steps) == (True, 2)
    assert not json.loads((tmp_path / "broken" / "run.json").read_text())["finished"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    monkeypatch.setattr(fit, "parse_recipe", build)
    assert train(arguments(folder="broken")).steps == 4
    train(arguments(folder="whole"))
    whole, broken = weights(tmp_path / "whole"), weights(tmp_path / "broken")
    assert all(torch.equal(whole[name], broken[name]) for name in whole)


class Look(Callback):
    """Looks at what the progress bar and other callbacks are given, and at the garbage collector, after each step."""

    def __init__(self, fails_at=None):
        self.seen, self.fails_at = [], fails_at

    def on_train_batch_start(self, trainer, *args):
        watched = trainer.callback_metrics.get("train/loss")
        self.seen.append((dict(trainer.progress_bar_metrics), watched, gc.isenabled() or gc.get_freeze_count()))
        if trainer.global_step == self.fails_at:
            raise ComputationError("it fails", "see what happens")


def test_the_progress_bar_shows_the_loss_of_the_log(arguments, tmp_path, look):
    seen = look(Look()).seen
    train(arguments())
    logged = read_log(tmp_path / "run")
    assert seen[0][0] == {}
    for step, (shown, watched, _) in enumerate(seen[1:]):
        assert shown["train/loss"] == float(watched) == pytest.approx(logged[step]["train/loss"])
        assert shown["images_per_s"] == logged[step]["images_per_s"] > 0


@pytest.mark.parametrize("fails_at", [None, 2])
def test_the_garbage_collector_leaves_alone_what_was_there_while_training_lasts(arguments, look, fails_at):
    gc.unfreeze()
    seen = look(Look(fails_at)).seen
    with pytest.raises(ComputationError) if fails_at else contextlib.nullcontext():
        train(arguments())
    assert all(frozen > 10_000 for *_, frozen in seen)  # True, where it is enabled, is 1
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


def test_what_the_caller_has_frozen_stays_frozen(arguments):
    kept = [object()]
    gc.freeze()
    train(arguments())
    assert not any(known is kept for known in gc.get_objects())  # which lists what is not frozen
    gc.unfreeze()
    assert any(known is kept for known in gc.get_objects())


def test_steps_leave_no_tensors_to_the_garbage_collector(arguments, look, monkeypatch):
    """So that it may wait until the log is due, and no memory waits with it."""
    garbage = []

    class Collect(Callback):
        def on_train_batch_start(self, trainer, *args):
            gc.set_debug(gc.DEBUG_SAVEALL * (trainer.global_step == 8))
            if trainer.global_step in (2, 8):
                gc.collect()
                garbage.extend(gc.garbage)
                gc.garbage.clear()
                gc.set_debug(0)

    look(Collect())
    train(arguments("--trainer.max_steps", 9, "--trainer.log_every_n_steps", 100))
    assert not any(isinstance(found, torch.Tensor) for found in garbage)
    assert len(garbage) < 6 * 100


@pytest.mark.parametrize("path", ["nowhere", "."])
def test_no_run_there(tmp_path, path):
    with pytest.raises(UserError, match="run"):
        load_run(tmp_path / path)


@pytest.fixture
def fails_once(monkeypatch):
    """The third batch cannot be computed, as when an ODE becomes too stiff."""
    compute, calls = EDMLoss.__call__, []

    def failing(self, step):
        if step.batch["image"].is_meta:  # it is priced, not trained
            return compute(self, step)
        calls.append(step)
        if len(calls) == 3:
            raise ComputationError("solver failed in block encoder.0", "raise rtol")
        return compute(self, step)

    monkeypatch.setattr(EDMLoss, "__call__", failing)


@pytest.mark.usefixtures("fails_once")
def test_a_computation_that_fails_stops_training_and_the_last_checkpoint_stays(arguments, tmp_path):
    with pytest.raises(ComputationError, match=r"encoder\.0; raise rtol"):
        train(arguments())
    assert read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")["global_step"] == 2
    assert train(arguments()).steps == 4  # the same command goes on


@pytest.mark.usefixtures("fails_once")
def test_a_computation_that_fails_can_be_skipped(arguments):
    result = train(arguments("--model.on_failure", "skip"))
    assert (result.steps, result.interrupted) == (4, False)
    assert result.facts["images_seen"] == 3 * 32  # the step counts, without an update; its images do not


def test_random_efforts_train_every_one_of_them(arguments, monkeypatch):
    compute, efforts = EDMLoss.__call__, []

    def watched(self, step):
        efforts.append(step.effort)
        return compute(self, step)

    monkeypatch.setattr(EDMLoss, "__call__", watched)
    network = ["--model.denoiser", "missing_u_second_order_tiny", "--model.effort", "random"]
    train(arguments(*network, "--trainer.max_steps", 12))
    assert set(efforts) == {1.0, 2.0}
    first, efforts[:] = list(efforts), []
    train(arguments(*network, "--trainer.max_steps", 12, folder="again"))
    assert efforts == first  # drawn from the seed and the step alone
