"""Sandwich training: which efforts a step trains, what their gradient is, what they cost."""

from collections import Counter

import pytest
import torch

from denoisezoo.archs import create_backbone
from denoisezoo.diffusion.network_denoiser import create_denoiser
from denoisezoo.diffusion.objectives.objective import Step
from denoisezoo.diffusion.objectives.regression import EDMLoss
from denoisezoo.errors import UserError
from denoisezoo.train.checkpoint import read_checkpoint
from denoisezoo.train.efforts import Passes, Sandwich, check_mode, choose, expected_macs, losses_of, training_macs
from denoisezoo.train.fit import train

EFFORTS = (0.25, 0.5, 0.75, 1.0)
SLIM = ("--model.denoiser", "slim_tiny", "--model.effort", "sandwich")


def test_the_sandwich_has_the_full_the_cheapest_and_some_between():
    steps = [choose("sandwich", EFFORTS, Sandwich(), seed) for seed in range(400)]
    assert {tuple(step[:2]) for step in steps} == {(1.0, 0.25)}
    between = Counter(step[2] for step in steps)
    assert between.keys() == {0.5, 0.75}
    assert abs(between[0.5] - 200) < 4 * 10  # four standard deviations of 400 coin tosses
    assert choose("sandwich", EFFORTS, Sandwich(between=2), 3)[2:] in ([0.5, 0.75], [0.75, 0.5])
    assert choose("sandwich", EFFORTS, Sandwich(between=9), 3)[:2] == [1.0, 0.25]
    assert choose("sandwich", (1.0, 2.0), Sandwich(), 3) == [2.0, 1.0]
    assert choose("full", EFFORTS, Sandwich(), 3) == [1.0]
    assert {choose("random", EFFORTS, Sandwich(), seed)[0] for seed in range(50)} == set(EFFORTS)


@pytest.fixture
def setting():
    torch.manual_seed(0)
    net = create_backbone("slim_tiny", num_classes=0, cond_channels=0, augment_dim=0).double().eval()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return create_denoiser(net), {"image": torch.randn(4, 3, 8, 8, dtype=torch.float64)}


def gradients(denoiser):
    found = {name: None if p.grad is None else p.grad.clone() for name, p in denoiser.named_parameters()}
    denoiser.zero_grad(set_to_none=True)
    return found


@pytest.mark.parametrize("sandwich", [Sandwich(), Sandwich(shared_noise=True), Sandwich(1, True, True)])
def test_gradients_are_the_sum_of_separate_ones(setting, sandwich):
    denoiser, batch = setting
    objective = EDMLoss()

    def generator(index):
        return torch.Generator().manual_seed(100 + index)

    losses = losses_of(objective, Passes(Step(denoiser, batch), [1.0, 0.5], sandwich, generator))
    sum(loss.loss for loss in losses).backward()
    together = gradients(denoiser)
    separate = []
    with torch.no_grad():
        teacher = objective(Step(denoiser, batch, generator(0), 1.0)).error
    for index, effort in enumerate([1.0, 0.5]):
        source = generator(0 if sandwich.shared_noise else index)
        taught = teacher if sandwich.distill and index else None
        objective(Step(denoiser, batch, source, effort, taught)).loss.backward()
        separate.append(gradients(denoiser))
    for name, total in together.items():
        parts = [part[name] for part in separate if part[name] is not None]
        torch.testing.assert_close(total, sum(parts), rtol=1e-10, atol=1e-12)
    assert all(total.abs().max() > 0 for total in together.values())


def test_passes_share_times_and_noise_or_do_not(setting):
    denoiser, batch = setting
    objective = EDMLoss()
    for sandwich, same in ((Sandwich(), False), (Sandwich(shared_noise=True), True)):
        passes = Passes(Step(denoiser, batch), [1.0, 0.5], sandwich, lambda i: torch.Generator().manual_seed(i))
        a, b = losses_of(objective, passes)
        assert torch.equal(a.t, b.t) == same


def test_distillation_learns_the_full_networks_prediction(setting):
    """Its loss is the mean square of the difference of two predictions, and vanishes between a network and itself."""
    denoiser, batch = setting
    objective = EDMLoss()
    full = objective(Step(denoiser, batch, torch.Generator().manual_seed(0), 1.0))
    again = objective(Step(denoiser, batch, torch.Generator().manual_seed(0), 1.0, full.error.detach()))
    assert float(again.loss) == 0
    half = objective(Step(denoiser, batch, torch.Generator().manual_seed(0), 0.5, full.error.detach()))
    expected = (half.error - full.error).square().mean()
    torch.testing.assert_close(half.loss, expected.to(half.loss.dtype))


def test_cost_of_a_step():
    net = create_denoiser(create_backbone("slim_ddpm_small32"))
    each = [training_macs(net, effort) for effort in net.efforts]
    assert expected_macs(net, "full", Sandwich()) == each[-1]
    assert expected_macs(net, "random", Sandwich()) == round(sum(each) / 4)
    assert expected_macs(net, "sandwich", Sandwich()) == each[0] + each[-1] + round(sum(each[1:-1]) / 2)
    assert expected_macs(net, "sandwich", Sandwich(between=2)) == sum(each)
    assert expected_macs(net, "sandwich", Sandwich(between=0)) == each[0] + each[-1]


@pytest.mark.parametrize(
    ("mode", "efforts", "sandwich", "told"),
    [
        ("sandwich", (1.0,), Sandwich(), "no sandwich"),
        ("sandwich", EFFORTS, Sandwich(distill=True), "same noise"),
        ("full", EFFORTS, Sandwich(between=-1), "between is -1"),
    ],
)
def test_what_makes_no_sandwich(mode, efforts, sandwich, told):
    with pytest.raises(UserError, match=told):
        check_mode(mode, efforts, sandwich, "net")


def test_a_sandwich_run_resumes_as_if_unbroken_and_says_what_it_cost(arguments, tmp_path):
    result = train(arguments(*SLIM, "--trainer.max_steps", 4, folder="whole"))
    train(arguments(*SLIM, "--trainer.max_steps", 2, folder="broken"))
    train(arguments(*SLIM, "--trainer.max_steps", 4, folder="broken"))
    whole, broken = (read_checkpoint(tmp_path / name / "checkpoints" / "last.ckpt") for name in ("whole", "broken"))
    for key in ("state_dict", "current_model_state"):
        assert all(torch.equal(whole[key][name], broken[key][name]) for name in whole[key])
    assert 1.2 < result.facts["train_macs_relative"] < 1.5  # half the width costs about a quarter
    logged = (tmp_path / "whole" / "logs").glob("*/metrics.csv")
    assert "train/loss_at_0.5" in next(logged).read_text()


def test_sandwich_training_of_solver_steps_is_the_same_code(arguments, tmp_path):
    network = ("--model.denoiser", "missing_u_second_order_tiny", "--model.effort", "sandwich")
    result = train(arguments(*network, "--model.sandwich.between", 0))
    assert result.steps == 4
    assert result.facts["train_macs_relative"] > 1.3
