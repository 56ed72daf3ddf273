import json
import math

import pytest
import torch
from torch import nn

from denoisezoo.diffusion import Denoiser, Prediction, create_denoiser, create_sampler
from denoisezoo.errors import UserError
from denoisezoo.files import json_safe
from denoisezoo.profiling.trajectory import ConstantPlan, counting_copy, trace

from .conftest import toy_macs


@pytest.fixture
def denoiser(toy):
    return create_denoiser(toy)


def prior(denoiser, batch=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return denoiser.process.prior((batch, 3, 8, 8), generator).float()


def test_heun_makes_2n_minus_1_calls_and_each_is_a_row(denoiser):
    trajectory = trace(denoiser, create_sampler("heun"), prior(denoiser), steps=4)
    assert trajectory.nfe == len(trajectory.calls) == 2 * 4 - 1
    assert [call.call for call in trajectory.calls] == list(range(7))
    # The network does its full effort, 5 Euler steps, at each call.
    assert {call.inner_nfe for call in trajectory.calls} == {5}
    assert {call.macs for call in trajectory.calls} == {toy_macs(5)}
    assert trajectory.inner_nfe == 7 * 5
    assert trajectory.macs_per_image == 7 * toy_macs(5)
    assert all(call.latency_ms > 0 for call in trajectory.calls)
    assert not trajectory.uncounted


def test_a_plan_shows_in_the_rows(denoiser):
    class HalfAndHalf:
        def effort(self, log_snr):
            return 1.0 if log_snr < 0 else 2.0

    trajectory = trace(denoiser, create_sampler("euler"), prior(denoiser), steps=6, plan=HalfAndHalf(), timed=False)
    efforts = [call.effort for call in trajectory.calls]
    assert set(efforts) == {1.0, 2.0}
    assert efforts == sorted(efforts)
    assert [call.inner_nfe for call in trajectory.calls] == efforts
    assert [call.macs for call in trajectory.calls] == [toy_macs(effort) for effort in efforts]
    assert trajectory.macs_per_image == sum(map(toy_macs, efforts))


def test_sigma_is_noise_relative_to_the_image(denoiser):
    process = denoiser.process
    for call in trace(denoiser, create_sampler("euler"), prior(denoiser), steps=3, timed=False).calls:
        t = torch.tensor([call.t], dtype=torch.float64)
        assert call.sigma == pytest.approx(float(process.sigma(t) / process.alpha(t)), rel=1e-9)


def test_infinite_sigma_becomes_null(toy):
    denoiser = create_denoiser(toy, "flow")  # no signal is left at t = 1
    trajectory = trace(denoiser, create_sampler("euler"), prior(denoiser), steps=2, timed=False)
    assert trajectory.calls[0].sigma == math.inf
    row = json.loads(json.dumps(json_safe(trajectory.to_dict()), allow_nan=False))
    assert row["trajectory"][0]["sigma"] is None
    fields = {"call", "t", "sigma", "effort", "macs", "macs_attention", "inner_nfe", "latency_ms"}
    assert set(row["trajectory"][0]) == fields


@pytest.mark.parametrize("spec", ["heun", "euler", "ddim:eta=1", "edm", "dpmpp_2m"])
def test_the_counting_copy_costs_what_the_network_does(denoiser, spec):
    sampler = create_sampler(spec)
    real = trace(denoiser, sampler, prior(denoiser), steps=3, timed=False)
    counted = trace(counting_copy(denoiser), sampler, prior(denoiser), steps=3, timed=False)
    assert counted == real
    assert all(call.latency_ms is None for call in counted.calls)
    assert next(denoiser.parameters()).device.type == "cpu"


def test_a_counting_copy_needs_a_backbone(denoiser):
    class Exact(Denoiser):
        pass

    with pytest.raises(UserError, match="Exact has no backbone to count"):
        counting_copy(Exact())


class Mixing(Denoiser):
    """A denoiser without vector fields that does some work once per batch."""

    def __init__(self, process, shared):
        super().__init__()
        self.process, self.shared = process, shared
        self.linear = nn.Linear(8, 8)

    def forward(self, u_t, t, *given):
        if self.shared:
            self.linear(torch.zeros(1, 8))
        return Prediction(self.linear(u_t), u_t)


def test_a_network_without_fields_has_one_inner_evaluation_per_call(denoiser):
    plain = Mixing(denoiser.process, shared=False)
    trajectory = trace(plain, create_sampler("euler"), prior(denoiser), steps=3, timed=False)
    assert [call.inner_nfe for call in trajectory.calls] == [1, 1, 1]
    assert [call.macs for call in trajectory.calls] == [3 * 8 * 8 * 8] * 3
    assert {call.effort for call in trajectory.calls} == {1.0}


def test_macs_that_do_not_divide_by_the_batch_are_refused(denoiser):
    shared = Mixing(denoiser.process, shared=True)
    with pytest.raises(UserError, match="price it with a batch of 1"):
        trace(shared, create_sampler("euler"), prior(denoiser, batch=3), steps=2, timed=False)


def test_nothing_is_left_behind(denoiser):
    denoiser.train()
    torch.manual_seed(5)
    state = torch.get_rng_state()
    # A stochastic sampler without a generator draws from the global one.
    trace(denoiser, create_sampler("ddim:eta=1"), prior(denoiser), steps=2)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(part.training for part in denoiser.backbone.modules())  # codecs never are
    assert denoiser.training
    assert not any(part._forward_hooks for part in denoiser.modules())
    assert torch.is_grad_enabled()


def test_hooks_go_when_the_network_fails(denoiser, toy):
    with pytest.raises(UserError, match=r"effort 3\.0"):
        trace(denoiser, create_sampler("euler"), prior(denoiser), steps=2, plan=ConstantPlan(3.0))
    assert not any(part._forward_hooks for part in toy.modules())


def test_a_stochastic_walk_with_a_generator_is_the_sampler_s_own(denoiser):
    sampler, seen = create_sampler("ddim:eta=1"), []

    class Recording(type(denoiser.backbone)):
        def forward(self, x, c_noise, *given):
            seen.append(x.clone())
            return super().forward(x, c_noise, *given)

    denoiser.backbone.__class__ = Recording
    denoiser.eval()
    trace(denoiser, sampler, prior(denoiser), steps=3, generator=torch.Generator().manual_seed(1), timed=False)
    traced, seen[:] = seen[:], []
    sampler(denoiser, prior(denoiser), steps=3, generator=torch.Generator().manual_seed(1))
    assert all(map(torch.equal, traced, seen))
