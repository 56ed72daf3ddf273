"""What is not finite is skipped, counted, told with its noise level, and in the end diagnosed."""

import copy
import math

import pytest
import torch
from lightning.pytorch import Callback

from denoisezoo.data.loader import TrainLoader
from denoisezoo.errors import ComputationError, UserError
from denoisezoo.train import fit
from denoisezoo.train.checkpoint import read_checkpoint
from denoisezoo.train.ema import EMA
from denoisezoo.train.fit import train
from denoisezoo.train.guard import Guard, block_norms, block_of
from denoisezoo.train.log import read_log
from denoisezoo.train.sharding import all_finite


def with_callback(monkeypatch, callback):
    """Add a callback to every training."""
    build = fit.parse_recipe

    def parse(args):
        cli = build(args)
        cli.trainer.callbacks.insert(0, callback)
        return cli

    monkeypatch.setattr(fit, "parse_recipe", parse)
    return callback


def poison_data(monkeypatch, *batches, image=0):
    """Put a NaN into one image of some batches."""
    batch = TrainLoader.batch

    def poisoned(self, n):
        found = batch(self, n)
        if n in batches:
            found["image"][image, 0, 0, 0] = math.nan
        return found

    monkeypatch.setattr(TrainLoader, "batch", poisoned)


class PoisonGradient(Callback):
    """Puts an infinity into one gradient after backward, in some steps."""

    def __init__(self, *steps):
        self.steps = steps

    def on_after_backward(self, trainer, pl_module):
        if trainer.global_step in self.steps:
            list(pl_module.parameters())[3].grad.fill_(math.inf)


class PoisonWeight(Callback):
    """Puts a NaN into a weight before a step, as a bad memory chip would."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.step:
            pl_module.denoiser.backbone.get_submodule("head").weight.data.fill_(math.nan)


class Watch(Callback):
    """Keeps copies of everything that a step changes."""

    def __init__(self):
        self.states = []

    def on_train_batch_end(self, trainer, pl_module, *args):
        (ema,) = (callback for callback in trainer.callbacks if isinstance(callback, EMA))
        state = {
            "weights": pl_module.state_dict(),
            "optimizer": trainer.optimizers[0].state_dict()["state"],
            "average before": ema.average(pl_module).state_dict(),  # this callback comes before the average's
        }
        self.states.append(copy.deepcopy(state))

    def unchanged(self, i, j):
        """Whether the batches between changed neither the weights nor the optimiser."""
        return all(same(self.states[i][key], self.states[j][key]) for key in ("weights", "optimizer"))


def same(a, b):
    """Equality of nested dictionaries of tensors."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def skipped(folder):
    """What the last row of the log says of skipped steps."""
    rows = read_log(folder)
    last = rows[max(rows)]
    return {key.removeprefix("guard/"): value for key, value in last.items() if key.startswith("guard/")}


def test_a_bad_batch_is_skipped_and_changes_nothing(arguments, tmp_path, monkeypatch):
    poison_data(monkeypatch, 2)
    watch = with_callback(monkeypatch, Watch())
    assert train(arguments()).steps == 4
    assert watch.unchanged(1, 2)  # weights, moments and the optimiser's own count of steps
    assert not watch.unchanged(2, 3)
    assert same(watch.states[2]["average before"], watch.states[3]["average before"])
    assert not same(watch.states[1]["average before"], watch.states[2]["average before"])
    found = skipped(tmp_path / "run")
    assert found.pop("skipped") == 1
    (bin_,) = found  # one image, one noise level
    assert bin_.startswith("skipped_by_noise/")
    assert found[bin_] == 1
    assert all(math.isfinite(v) for row in read_log(tmp_path / "run").values() for k, v in row.items() if "noise" in k)


def test_the_noise_level_of_a_bad_image_is_its_own(arguments, tmp_path, monkeypatch):
    """The bin that is logged is the one that the image's time falls into."""
    from denoisezoo.diffusion.objectives.regression import EDMLoss
    from denoisezoo.train.noise_bins import bin_names, bin_of

    compute, expected = EDMLoss.__call__, []

    def watched(self, step):
        loss = compute(self, step)
        if loss.per_sample.is_meta:  # it is priced, not trained
            return loss
        bad = ~loss.per_sample.isfinite()
        expected.extend(bin_names()[i] for i in bin_of(step.denoiser.process.log_snr(loss.t))[bad].tolist())
        return loss

    monkeypatch.setattr(EDMLoss, "__call__", watched)
    poison_data(monkeypatch, 0, 3, image=7)
    train(arguments())
    found = {key.removeprefix("skipped_by_noise/") for key in skipped(tmp_path / "run")} - {"skipped"}
    assert found == set(expected)
    assert len(expected) == 2


def test_a_bad_gradient_is_skipped(arguments, tmp_path, monkeypatch):
    with_callback(monkeypatch, PoisonGradient(1, 2))
    watch = with_callback(monkeypatch, Watch())
    train(arguments("--trainer.gradient_clip_val", 1.0))
    assert watch.unchanged(0, 2)
    assert skipped(tmp_path / "run")["skipped"] == 2


def test_one_bad_part_spoils_a_step_of_several(arguments, tmp_path, monkeypatch):
    poison_data(monkeypatch, 4)  # the first half of step 2
    watch = with_callback(monkeypatch, Watch())
    train(arguments("--trainer.accumulate_grad_batches", 2))
    assert watch.unchanged(3, 5)
    assert not watch.unchanged(5, 7)
    assert skipped(tmp_path / "run")["skipped"] == 1


def test_a_bad_weight_ends_training_with_a_diagnosis(arguments, tmp_path, monkeypatch):
    with_callback(monkeypatch, PoisonWeight(2))
    words = ["--guard.max_in_row", 2, "--trainer.max_steps", 20]
    with pytest.raises(ComputationError) as caught:
        train(arguments(*words))
    message = str(caught.value)
    assert "3 steps in a row" in message
    assert "step 5: loss nan" in message
    assert "weight denoiser.backbone.head.weight is not finite" in message
    assert "learning rate 0.001, precision 32-true" in message
    assert "sigma " in message
    good = tmp_path / "run" / "checkpoints" / "step_00000002.ckpt"
    assert message.endswith(f"the last good checkpoint is {good}")
    found = read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")
    assert found["global_step"] == 2  # the one due at step 4 was not written
    assert all(value.isfinite().all() for value in found["current_model_state"].values())


def test_the_module_of_the_first_bad_activation_is_named(arguments, monkeypatch):
    """One layer overflows, as in half precision."""

    class Overflow(Callback):
        def on_train_start(self, trainer, pl_module):
            layer = pl_module.denoiser.backbone.get_submodule("embedding.second")
            layer.register_forward_hook(lambda module, inputs, output: output * math.inf)

    with_callback(monkeypatch, Overflow())
    with pytest.raises(ComputationError, match=r"activation in denoiser\.backbone\.embedding\.second,"):
        train(arguments("--guard.max_in_row", 1))


def test_the_first_bad_gradient_is_named_where_nothing_else_is(arguments, monkeypatch):
    with_callback(monkeypatch, PoisonGradient(*range(10)))
    with pytest.raises(ComputationError, match=r"first non-finite gradient in denoiser\.backbone\."):
        train(arguments("--guard.max_in_row", 0))


def test_bad_data_are_named(arguments, monkeypatch):
    poison_data(monkeypatch, *range(10))
    with pytest.raises(ComputationError, match=r"the batch itself .* none, training had just begun"):
        train(arguments("--guard.max_in_row", 1))


def test_good_steps_in_between_start_the_count_again(arguments, monkeypatch):
    poison_data(monkeypatch, 0, 1, 3, 4, 6, 7)
    assert train(arguments("--guard.max_in_row", 2, "--trainer.max_steps", 9)).steps == 9


def test_counts_go_on_after_a_resumption(arguments, tmp_path, monkeypatch):
    poison_data(monkeypatch, 1, 2)
    train(arguments("--trainer.max_steps", 2))
    train(arguments("--trainer.max_steps", 4))
    assert skipped(tmp_path / "run")["skipped"] == 2


def test_gradient_norms_are_logged_by_block(arguments, tmp_path, monkeypatch):
    norms = []

    class Norms(Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            norms.append(torch.cat([p.grad.flatten() for p in pl_module.parameters()]).norm().item())

    with_callback(monkeypatch, Norms())
    train(arguments())
    rows = read_log(tmp_path / "run")
    for step, norm in enumerate(norms):
        blocks = {key: value for key, value in rows[step].items() if key.startswith("grad_norm/")}
        assert len(blocks) > 3
        assert rows[step]["grad_norm"] == pytest.approx(norm, rel=1e-5)
        assert math.hypot(*blocks.values()) == pytest.approx(norm, rel=1e-5)


def test_blocks():
    assert block_of("denoiser.backbone.down.3.conv.weight") == "down.3"
    assert block_of("denoiser.backbone.head.weight") == "head"
    found = block_norms(["backbone.a.0.w", "backbone.a.0.b", "backbone.z.w"], torch.tensor([3.0, 4.0, 12.0]))
    assert found == {"grad_norm": 13.0, "grad_norm/a.0": 5.0, "grad_norm/z": 12.0}


def test_nonsense_is_refused():
    with pytest.raises(UserError, match="max_in_row"):
        Guard(max_in_row=-1)


def test_all_batches_of_a_step_are_looked_at(arguments, monkeypatch):
    """The bad image is in the first half of each step, the last half is whole."""
    poison_data(monkeypatch, *range(0, 20, 2))
    with pytest.raises(ComputationError, match=r"loss nan, the batch itself"):
        train(arguments("--guard.max_in_row", 1, "--trainer.accumulate_grad_batches", 2))


def test_computations_that_all_give_up_end_training(arguments, monkeypatch):
    from denoisezoo.diffusion.objectives.regression import EDMLoss

    compute = EDMLoss.__call__

    def gives_up(self, step):
        if step.batch["image"].is_meta:  # it is priced, not trained
            return compute(self, step)
        raise ComputationError("solver failed in block encoder.0", "raise rtol")

    monkeypatch.setattr(EDMLoss, "__call__", gives_up)
    with pytest.raises(ComputationError, match=r"3 steps in a row could not be computed \(solver failed"):
        train(arguments("--guard.max_in_row", 2, "--model.on_failure", "skip", "--trainer.max_steps", 20))


class Scaled(Callback):
    """Lets the guard see the loss scale of float16, which CPUs do not have; the scaler's own part is torch's."""

    def __init__(self, scale):
        self.scale = scale

    def on_before_backward(self, trainer, *args):
        trainer.precision_plugin.scaler = self

    def get_scale(self):
        return self.scale


@pytest.mark.parametrize(("scale", "counted"), [(65536.0, 0), (1.0, 1)])
def test_with_loss_scaling_an_overflow_counts_where_the_scale_is_no_cure(
    arguments, tmp_path, monkeypatch, scale, counted
):
    with_callback(monkeypatch, PoisonGradient(2))
    with_callback(monkeypatch, Scaled(scale))
    monkeypatch.setattr("denoisezoo.train.saving._finite", lambda module: True)  # nothing skips the step here
    train(arguments("--trainer.max_steps", 3))
    assert skipped(tmp_path / "run")["skipped"] == counted


def test_with_loss_scaling_bad_data_still_end_training(arguments, monkeypatch):
    poison_data(monkeypatch, *range(20))
    with_callback(monkeypatch, Scaled(65536.0))
    with pytest.raises(ComputationError, match="2 steps in a row were not finite"):
        train(arguments("--guard.max_in_row", 1, "--trainer.max_steps", 20))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("index", range(3))
def test_one_value_among_all_gradients_is_found_and_none_is_changed(dtype, bad, index):
    gradients = [torch.randn(5, dtype=dtype), torch.randn(3, 4, 3, 3, dtype=dtype), torch.randn((), dtype=dtype)]
    gradients[1] = gradients[1].to(memory_format=torch.channels_last)
    gradients[0][0] = torch.finfo(dtype).max  # its square is not finite, and it is
    before = [gradient.clone() for gradient in gradients]
    assert all_finite(gradients)
    assert all(torch.equal(a, b) for a, b in zip(gradients, before, strict=True))
    gradients[index][(-1,) * gradients[index].ndim] = bad
    assert not all_finite(gradients)
