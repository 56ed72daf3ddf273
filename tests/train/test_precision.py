"""Precisions that there are train, with clipping and fused optimisers; others are refused in one line."""

import math
from functools import partial

import pytest
import torch

from denoisezoo.errors import UserError
from denoisezoo.train.checkpoint import read_checkpoint
from denoisezoo.train.fit import train
from denoisezoo.train.log import read_log
from denoisezoo.train.precision import PRECISIONS, full_name
from tests.train.test_guard import PoisonGradient, Watch, poison_data, skipped, with_callback
from tests.train.test_resume import assert_same_run

CLIPPED = ["--trainer.gradient_clip_val", 0.01, "--model.optimizer.name"]


@pytest.mark.parametrize("optimizer", ["adamw", "lion"])  # fused, and not
def test_the_scale_of_float16_changes_no_gradient(arguments, tmp_path, monkeypatch, optimizer):
    """Of the same network: the norm that is logged, and steps with gradients that are clipped to a fifth or less."""
    monkeypatch.setattr(torch.amp, "GradScaler", partial(torch.amp.GradScaler, init_scale=256.0))  # no overflow
    norms, weights = {}, {}
    for precision in PRECISIONS:
        train(arguments(*CLIPPED, optimizer, "--trainer.precision", precision, folder=precision))
        norms[precision] = [row["grad_norm"] for row in read_log(tmp_path / precision).values()]
        weights[precision] = read_checkpoint(tmp_path / precision / "checkpoints" / "last.ckpt")["current_model_state"]
    assert min(norms["32-true"]) > 0.05
    before = read_checkpoint(tmp_path / "32-true" / "checkpoints" / "step_00000002.ckpt")["current_model_state"]
    name = max(before, key=lambda name: before[name].numel() if before[name].is_floating_point() else 0)
    moved = float((weights["32-true"][name] - before[name]).norm())
    for precision, close in (("16-mixed", 0.02), ("bf16-mixed", 0.1)):
        assert norms[precision] == pytest.approx(norms["32-true"], rel=close)
        assert float((weights[precision][name] - weights["32-true"][name]).norm()) < moved / 2


def test_clipping_sees_gradients_as_they_are(arguments, monkeypatch):
    """The momentum of SGD's first step is a gradient whose norm is the limit."""
    watch = with_callback(monkeypatch, Watch())
    words = ["--model.optimizer.name", "sgd", "--trainer.precision", "16-mixed"]
    train(arguments(*words, "--trainer.gradient_clip_val", 0.01, "--trainer.max_steps", 1))
    (state,) = watch.states
    momentum = torch.stack([found["momentum_buffer"].norm() for found in state["optimizer"].values()])
    assert float(momentum.norm()) == pytest.approx(0.01, rel=1e-3)


def test_a_bad_batch_in_float16_is_skipped(arguments, tmp_path, monkeypatch):
    poison_data(monkeypatch, 2)
    watch = with_callback(monkeypatch, Watch())
    train(arguments("--trainer.precision", "16-mixed", "--trainer.gradient_clip_val", 1.0))
    assert watch.unchanged(1, 2)
    assert not watch.unchanged(2, 3)
    assert skipped(tmp_path / "run")["skipped"] == 1


def test_an_overflow_lowers_the_scale_and_is_no_failure(arguments, tmp_path, monkeypatch):
    with_callback(monkeypatch, PoisonGradient(1))
    watch = with_callback(monkeypatch, Watch())
    train(arguments("--trainer.precision", "16-mixed", "--trainer.gradient_clip_val", 1.0))
    assert watch.unchanged(0, 1)
    assert not watch.unchanged(1, 2)
    assert skipped(tmp_path / "run")["skipped"] == 0
    found = read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")
    assert found["MixedPrecision"]["scale"] == 2**15  # half of torch's first


def test_the_scale_is_resumed(arguments, tmp_path):
    words = ["--trainer.precision", "16-mixed", "--trainer.gradient_clip_val", 1.0]
    train(arguments(*words, "--trainer.max_steps", 4, folder="whole"))
    train(arguments(*words, "--trainer.max_steps", 2, folder="broken"))
    train(arguments(*words[:1], 16, *words[2:], "--trainer.max_steps", 4, folder="broken"))  # the same by another name
    assert_same_run(tmp_path / "broken", tmp_path / "whole")


def test_the_diagnosis_is_of_the_loss_and_the_precision_that_trained(arguments, monkeypatch):
    from lightning.pytorch import Callback

    class Overflow(Callback):
        def on_train_start(self, trainer, pl_module):
            layer = pl_module.denoiser.backbone.get_submodule("embedding.second")
            layer.register_forward_hook(lambda m, _, output: output * (math.inf if output.dtype == torch.half else 1))

    with_callback(monkeypatch, Overflow())
    with pytest.raises(UserError, match=r"activation in denoiser\.backbone\.embedding\.second,"):
        train(arguments("--trainer.precision", "16-mixed", "--guard.max_in_row", 1))


@pytest.mark.parametrize(
    "value", ["bf16-true", "16-true", "64-true", "64", "transformer-engine", "transformer-engine-float16"]
)
def test_other_precisions_are_refused(arguments, tmp_path, value):
    with pytest.raises(UserError, match=f"trainer.precision {value} is not supported; use one of 32-true"):
        train(arguments("--trainer.precision", value))
    assert not (tmp_path / "run").exists()


def test_a_plugin_brings_no_other_precision(arguments):
    with pytest.raises(UserError, match="precision 64-true is not supported"):
        train(arguments("--trainer.plugins", "DoublePrecision"))


def test_names_of_precisions():
    assert [full_name(value) for value in (None, 32, "16", "bf16", "64")] == [
        *("32-true", "32-true", "16-mixed", "bf16-mixed", "64")
    ]
