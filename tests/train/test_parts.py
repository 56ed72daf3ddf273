"""EMA, loss by noise level, learning-rate schedule, sample grids, training cost."""

import math
import warnings
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import Timer

from denoisezoo.archs import create_backbone, get_variant
from denoisezoo.diffusion import create_denoiser
from denoisezoo.diffusion.generate import generate
from denoisezoo.errors import UserError
from denoisezoo.train import callbacks
from denoisezoo.train.checkpoint import read_checkpoint
from denoisezoo.train.efforts import training_macs
from denoisezoo.train.ema import EMA
from denoisezoo.train.fit import train
from denoisezoo.train.noise_bins import NoiseBins, bin_edges, bin_of
from denoisezoo.train.optimizer import OptimizerConfig, last_step


def test_ema_decay_fixtures():
    """EDM's code: batch 512 with a half-life of 0.5 M images, batch 4096 with 50 M."""
    assert EMA(0.5e6, 0).decay(10**9, 512) == pytest.approx(0.9992904691, abs=1e-10)
    assert EMA(50e6, 0).decay(10**9, 4096) == pytest.approx(0.9999432190, abs=1e-10)
    # The ramp caps the half-life at 5 % of the images seen; at the first update nothing old is kept.
    assert EMA(1e6, 0.05).decay(2000, 100) == pytest.approx(0.5)
    assert EMA(1e6, 0.05).decay(0, 100) == 0.0


class Net(LightningModule):
    def __init__(self, value):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([value]))
        self.register_buffer("seen", torch.tensor(value))
        self.images_seen = 0


def test_ema_follows_its_formula():
    ema, net, mean = EMA(half_life=100, ramp_up=0.1), Net(0.0), 0.0
    trainer = SimpleNamespace(global_step=0, callbacks=[])
    ema.setup(trainer, net, "fit")
    for step in range(1, 8):
        trainer.global_step, net.images_seen = step, 50 * step
        net.weight.data.fill_(float(step**2))
        net.seen.fill_(float(step))
        net.weight.grad = torch.zeros(1)
        ema.on_before_optimizer_step(trainer, net, None)
        ema.on_train_batch_end(trainer, net, None, None, 0)
        half_life = min(100, 0.1 * 50 * (step - 1))
        beta = 0.5 ** (50 / half_life) if half_life else 0.0
        mean = beta * mean + (1 - beta) * step**2
        assert ema.average(net).weight.item() == pytest.approx(mean, rel=1e-6)
        assert ema.average(net).seen.item() == step
    live = net.weight.item()
    with ema.averaged(net):
        assert net.weight.item() == pytest.approx(mean, rel=1e-6)
    assert net.weight.item() == live


def test_ema_leaves_alone_what_a_step_does_not_train():
    """Its half-life counts the images of the steps that trained it."""
    ema, net, mean = EMA(half_life=100, ramp_up=0), Net(0.0), 0.0
    trainer = SimpleNamespace(global_step=0, callbacks=[])
    ema.setup(trainer, net, "fit")
    for step in range(1, 8):
        trainer.global_step, net.images_seen = step, 50 * step
        if step % 2:
            net.weight.data.fill_(float(step**2))
            mean += (1 - 0.5 ** (50 / 100)) * (step**2 - mean)
        net.weight.grad = torch.zeros(1) if step % 2 else None
        before = ema.average(net).weight.item()
        ema.on_before_optimizer_step(trainer, net, None)
        ema.on_train_batch_end(trainer, net, None, None, 0)
        assert ema.average(net).weight.item() == (pytest.approx(mean, rel=1e-6) if step % 2 else before)


def test_noise_bins():
    edges = bin_edges()
    assert (len(edges), edges[0], edges[-1]) == (10, (-10.0, -8.0), (8.0, 10.0))
    assert bin_of(torch.tensor([-99.0, -9.0, -0.1, 0.1, 9.9, 99.0])).tolist() == [0, 0, 4, 5, 9, 9]
    bins = NoiseBins()
    bins.add(torch.tensor([-9.0, -8.5, 0.5]), torch.tensor([1.0, 3.0, 7.0]))
    bins.add(torch.tensor([0.7]), torch.tensor([9.0], requires_grad=True))
    assert not bins.stacked().requires_grad  # what a loss was computed from is not kept
    assert bins.means(bins.stacked().flatten().tolist()) == {"-10_to_-8": 2.0, "0_to_2": 8.0}
    bins.reset()
    assert bins.means(bins.stacked().flatten().tolist()) == {}


def test_schedules():
    cosine = OptimizerConfig(warmup_steps=10, schedule="cosine")
    assert cosine.factor(0, 110) == pytest.approx(0.1)
    assert cosine.factor(9, 110) == 1.0
    assert cosine.factor(60, 110) == pytest.approx((1 + math.cos(math.pi / 2)) / 2)
    assert cosine.factor(110, 110) == pytest.approx(0.0)
    assert OptimizerConfig(schedule="linear").factor(25, 100) == 0.75
    falling = OptimizerConfig(schedule="inverse_sqrt", warmup_steps=10, t_ref=100)
    assert [falling.factor(step, 1e9) for step in (0, 9, 100, 400)] == pytest.approx([0.1, 1, 1, 0.5])
    early = OptimizerConfig(schedule="inverse_sqrt", warmup_steps=40, t_ref=10)  # both at once, as in EDM2
    assert early.factor(19, math.inf) == pytest.approx(0.5 / math.sqrt(1.9))
    for options in ({"schedule": "inverse_sqrt"}, {"t_ref": 100}, {"schedule": "inverse_sqrt", "t_ref": 0}):
        with pytest.raises(UserError, match="t_ref is"):
            OptimizerConfig(**options)
    assert OptimizerConfig().factor(99, 100) == 1.0


def every_optimizer():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        from timm.optim import list_optimizers
    return [str(name) for name in list_optimizers()]


@pytest.mark.parametrize("name", every_optimizer())
def test_optimizers_are_timms(name):
    """Every one that timm lists takes a step, or is refused."""
    net = torch.nn.Linear(2, 2)
    if name == "adahessian" or name.startswith(("fused", "bnb")):  # second derivatives; other packages, on CUDA
        with pytest.raises(UserError, match=f"optimizer {name} "):
            OptimizerConfig(name=name).build(net)
        return
    optimizer = OptimizerConfig(name=name, lr=0.1).build(net)
    net(torch.ones(1, 2)).sum().backward()
    with torch.compiler.set_stance("force_eager"):  # one compiles its step, which takes ten seconds
        optimizer.step()
    assert isinstance(optimizer, torch.optim.Optimizer)


def test_momentum_factors_go_to_optimizers_of_two():
    net = torch.nn.Linear(2, 2)
    factors = {name: OptimizerConfig(name=name, betas=(0.8, 0.9)).build(net).defaults for name in ("adamw", "lion")}
    assert all(found["betas"] == (0.8, 0.9) for found in factors.values())
    assert OptimizerConfig(name="adan", betas=(0.8, 0.9)).build(net).defaults["betas"] == (0.98, 0.92, 0.99)  # timm's


def test_a_conditional_network_trains_and_draws_grids(arguments, tmp_path):
    from PIL import Image

    extra = ("--model.network.num_classes", 10, "--data.labels", "true", "--samples.every_n_steps", 2)
    train(arguments(*extra, "--samples.num", 9, "--samples.steps", 2))
    grids = sorted((tmp_path / "run" / "samples").glob("*.png"))
    assert [g.name for g in grids] == ["step_00000002.png", "step_00000004.png"]
    assert Image.open(grids[0]).size[0] > 3 * 16


def same_weights(a, b):
    """Whether two runs ended with the same live weights."""
    a, b = (read_checkpoint(run / "checkpoints" / "last.ckpt")["current_model_state"] for run in (a, b))
    return all(torch.equal(a[name], b[name]) for name in a)


def test_sample_grids_do_not_disturb_training(arguments, tmp_path):
    train(arguments(folder="plain"))
    train(arguments("--samples.every_n_steps", 1, "--samples.num", 4, "--samples.steps", 2, folder="grids"))
    assert same_weights(tmp_path / "plain", tmp_path / "grids")


def test_a_grid_that_is_not_finite_does_not_end_training(arguments, tmp_path, monkeypatch, capsys):
    """A warning in the place of a black picture; the next grid is drawn again."""
    grids = []

    def overflowing_at_first(denoiser, *args, **kwargs):
        grids.append(len(grids))
        if len(grids) > 1:
            return generate(denoiser, *args, **kwargs)
        bias = denoiser.backbone.head.bias
        kept = bias.detach().clone()
        bias.data.fill_(float("inf"))
        try:
            return generate(denoiser, *args, **kwargs)
        finally:
            bias.data.copy_(kept)

    monkeypatch.setattr(callbacks, "generate", overflowing_at_first)
    train(arguments("--samples.every_n_steps", 2, "--samples.num", 4, "--samples.steps", 2))
    assert "warning: no grid of samples: 4 of 4 images are not finite" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "run" / "samples").iterdir()] == ["step_00000004.png"]


def test_validation_does_not_disturb_training(arguments, tmp_path):
    train(arguments(folder="plain"))
    train(arguments("--trainer.limit_val_batches", 1, "--trainer.val_check_interval", 1, folder="val"))
    assert same_weights(tmp_path / "plain", tmp_path / "val")
    rows = next((tmp_path / "val" / "logs").glob("*/metrics.csv")).read_text()
    assert "val/loss" in rows


def test_training_costs_about_three_forwards(tiny):
    forward = get_variant(tiny).costs[-1].macs
    assert 2.5 * forward < training_macs(create_denoiser(create_backbone(tiny))) < 3.01 * forward


def test_nonsense_is_refused():
    with pytest.raises(UserError):
        EMA(half_life=0)


def test_a_limit_of_time_ends_the_schedule_as_a_limit_of_steps_does():
    def trainer(limit, steps=math.inf):
        timer = Timer(duration={"seconds": limit}) if limit else None
        return SimpleNamespace(estimated_stepping_batches=steps, callbacks=[timer] * (limit > 0), world_size=1)

    config = OptimizerConfig(schedule="linear")
    assert last_step(trainer(60), 0, 0.0) == math.inf  # nothing is known yet
    assert last_step(trainer(60), 100, 15.0) == 400
    assert last_step(trainer(60, steps=300), 100, 15.0) == 300
    assert last_step(trainer(0, steps=300), 100, 15.0) == 300
    assert config.factor(100, last_step(trainer(60), 100, 15.0)) == 0.75
    assert config.factor(100, math.inf) == 1
