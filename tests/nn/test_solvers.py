"""Solvers against exact solutions, against torchdiffeq, and at the end of their tether."""

import itertools
import math

import pytest
import torch
import torchdiffeq
from torch import nn

from denoisezoo.errors import UserError
from denoisezoo.nn.solvers import (
    ADAPTIVE,
    FIXED,
    Failure,
    Solver,
    SolverError,
    integrate,
    integrate_with_torchdiffeq,
    worst_sample,
)

Z_0 = torch.tensor([[0.4, 0.9], [-1.3, 0.7]], dtype=torch.float64)


def riccati(tau, z):
    """z' = cos(2 tau) z^2: not linear, and different at each time."""
    return math.cos(2 * tau) * z**2 if isinstance(tau, float) else torch.cos(2 * tau) * z**2


def riccati_solution(z_0):
    """1 / z falls by the integral of cos(2 tau), sin(2) / 2."""
    return 1 / (1 / z_0 - math.sin(2) / 2)


def adaptive(f, z, c_noise=None, block="middle", adjoint_of=(), **settings):
    failure = Failure(Solver(**settings), block, c_noise)
    return integrate_with_torchdiffeq(f, z, failure, steps=1, parameters=adjoint_of)


class Counted:
    """A derivative that counts its evaluations."""

    def __init__(self, f):
        self.f, self.calls = f, 0

    def __call__(self, tau, z):
        self.calls += 1
        return self.f(tau, z)


# Fixed steps


@pytest.mark.parametrize("name", FIXED)
def test_order_of_convergence(name):
    steps = [32, 64, 128]
    errors = [(integrate(riccati, Z_0, FIXED[name], n) - riccati_solution(Z_0)).abs().max().item() for n in steps]
    slopes = [math.log2(coarse / fine) for coarse, fine in itertools.pairwise(errors)]
    assert abs(slopes[-1] - FIXED[name].order) < 0.1


@pytest.mark.parametrize("name", FIXED)
def test_one_step_is_the_taylor_polynomial_of_exp(name):
    """On z' = z any method of order p = stages gives sum_{i <= p} h^i / i! exactly."""
    expected = sum(1 / math.factorial(i) for i in range(FIXED[name].order + 1))
    z = integrate(lambda tau, z: z, torch.ones(1, dtype=torch.float64), FIXED[name], 1)
    assert z.item() == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("name", FIXED)
def test_evaluations(name):
    counted = Counted(riccati)
    integrate(counted, Z_0, FIXED[name], 3)
    assert counted.calls == 3 * FIXED[name].evaluations == 3 * len(FIXED[name].a)


@pytest.mark.parametrize("name", [name for name, tableau in FIXED.items() if tableau.torchdiffeq])
@pytest.mark.parametrize("steps", [1, 5])
def test_equals_torchdiffeq(name, steps):
    times, seen = torch.linspace(0, 1, steps + 1, dtype=torch.float64), []

    def f(tau, z):
        seen.append(float(tau))
        return riccati(tau, z)

    theirs = torchdiffeq.odeint(f, Z_0, times, method=FIXED[name].torchdiffeq)[-1]
    their_times, seen[:] = seen[:], []
    ours = integrate(f, Z_0, FIXED[name], steps)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-13)
    assert seen == pytest.approx(their_times, abs=1e-15)


def test_equals_torchdiffeq_in_float32():
    conv = nn.Conv2d(4, 4, 3, padding=1)
    z = torch.randn(2, 4, 8, 8)

    def f(tau, z):
        return conv(z).tanh()

    theirs = torchdiffeq.odeint(f, z, torch.tensor([0.0, 1.0]), method="rk4")[-1]
    torch.testing.assert_close(integrate(f, z, FIXED["rk4"], 1), theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", FIXED)
def test_leaves_the_state_alone_and_keeps_its_layout(name):
    z = torch.randn(2, 4, 6, 6).contiguous(memory_format=torch.channels_last)
    before = z.clone()
    y = integrate(lambda tau, z: z.sin(), z, FIXED[name], 2)
    assert torch.equal(z, before)
    assert y.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", FIXED)
def test_gradients_of_the_loop(name):
    """The sums are formed in place; back-propagation must not notice."""
    z = Z_0.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: integrate(riccati, z, FIXED[name], 2), z)


# Adaptive steps


@pytest.mark.parametrize("method", ADAPTIVE)
def test_tolerance_is_met_with_more_evaluations(method):
    calls = []
    z_0 = Z_0 / 2  # the tolerance is that of one step; this solution hardly magnifies it
    for tolerance in (1e-3, 1e-4, 1e-5):
        counted = Counted(riccati)
        z = adaptive(counted, z_0, method=method, rtol=tolerance, atol=tolerance)
        assert (z - riccati_solution(z_0)).abs().max() < 3 * tolerance
        calls.append(counted.calls)
    assert calls == sorted(calls)
    assert calls[0] < calls[-1]


def test_a_batch_does_not_hide_its_hardest_sample():
    """Rotation by 40 radians in one sample of 200, nothing to do in the others."""
    z = torch.zeros(200, 2, dtype=torch.float64)
    z[7] = torch.tensor([1.0, 0.0])

    def rotate(tau, z):
        return 40 * torch.stack([-z[:, 1], z[:, 0]], dim=1)

    exact = torch.tensor([math.cos(40), math.sin(40)], dtype=torch.float64)
    ours = adaptive(rotate, z, method="dopri5", rtol=1e-5, atol=1e-5)[7]
    theirs = torchdiffeq.odeint(
        rotate, z, torch.tensor([0.0, 1.0], dtype=torch.float64), rtol=1e-5, atol=1e-5, method="dopri5"
    )[-1, 7]
    alone = adaptive(rotate, z[7:8], method="dopri5", rtol=1e-5, atol=1e-5)[0]
    assert (ours - exact).abs().max() < 2 * (alone - exact).abs().max()
    assert (theirs - exact).abs().max() > 4 * (ours - exact).abs().max()


def test_worst_sample():
    z = torch.tensor([[3.0, 4.0], [0.0, 1.0]])
    assert worst_sample(z).item() == pytest.approx(math.sqrt(12.5))


# Adjoint


class Small(nn.Module):
    """A field with weights and a conditioning that has a history."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(3, 3).double()
        self.source = nn.Parameter(torch.randn(2, 3, dtype=torch.float64))

    def forward(self, tau, z):
        return (self.linear(z) + tau * self.c).tanh()


def gradients(solve):
    small, z = Small(), torch.linspace(-1, 1, 6, dtype=torch.float64).view(2, 3).requires_grad_()
    small.c = 2 * small.source
    solve(small, z).square().sum().backward()
    return [z.grad, small.source.grad, small.linear.weight.grad, small.linear.bias.grad]


@pytest.mark.parametrize(
    ("method", "steps"), [("rk4", 12), ("heun", 400), ("midpoint", 400), ("dopri5", 1), ("bosh3", 1)]
)
def test_adjoint_gradients_equal_back_propagation(method, steps):
    def by_adjoint(small, z):
        failure = Failure(Solver(method, rtol=1e-7, atol=1e-7, adjoint=True), "x")
        parameters = [*small.linear.parameters(), small.c]
        return integrate_with_torchdiffeq(small, z, failure, steps, parameters)

    def by_loop(small, z):
        tableau, n = (FIXED[method], steps) if method in FIXED else (FIXED["rk4"], 40)
        return integrate(small, z, tableau, n)

    for adjoint, loop in zip(gradients(by_adjoint), gradients(by_loop), strict=True):
        assert loop.abs().max() > 0.01
        torch.testing.assert_close(adjoint, loop, rtol=0, atol=1e-4 * loop.abs().max().item())


def test_adjoint_keeps_no_stages():
    """Back-propagation through 50 steps of rk4 keeps the activations of 200 evaluations, the adjoint those of none."""
    kept = []

    def pack(tensor):
        kept.append(tensor.numel())
        return tensor

    small, z = Small(), torch.zeros(2, 3, dtype=torch.float64)
    small.c = small.source
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        integrate(small, z, FIXED["rk4"], 50)
        loop, kept[:] = sum(kept), []
        failure = Failure(Solver("rk4", adjoint=True), "x")
        integrate_with_torchdiffeq(small, z, failure, 50, [*small.linear.parameters(), small.c])
    assert sum(kept) < 0.05 * loop


# Settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "dopri6"}, "unknown solver 'dopri6'; did you mean dopri5"),
        ({"method": "rk5"}, "did you mean rk4"),
        ({"rtol": 0.0}, "rtol is 0"),
        ({"atol": float("nan")}, "atol is nan"),
        ({"max_num_steps": 0}, "max_num_steps is 0"),
        ({"min_step": 1.0}, "min_step is 1"),
        ({"method": "ralston", "adjoint": True}, "no adjoint of ralston; use rk4"),
    ],
)
def test_impossible_settings(settings, message):
    with pytest.raises(UserError, match=message):
        Solver(**settings).validate()


@pytest.mark.parametrize("method", [*FIXED, *ADAPTIVE])
def test_possible_settings(method):
    Solver(method, min_step=0.01).validate()


# Errors

C_NOISE = torch.tensor([0.25, 0.5])


def refusal(f, z=Z_0, **settings):
    with pytest.raises(SolverError) as caught:
        adaptive(f, z, C_NOISE, **settings)
    message = str(caught.value)
    assert "block middle" in message
    assert f"solver {settings.get('method', 'rk4')}" in message
    assert isinstance(caught.value, UserError)
    return message


@pytest.mark.parametrize("method", ADAPTIVE)
def test_blow_up_before_the_end(method):
    """z' = 4 z^2 from 1 has no solution beyond tau = 1/4."""
    message = refusal(lambda tau, z: 4 * z**2, torch.ones(2, 1), method=method, max_num_steps=10_000)
    assert "at solver time 0.25" in message
    assert "rk4" in message
    assert "c_noise 0.25 to 0.5" in message


@pytest.mark.parametrize("method", ADAPTIVE)
def test_field_that_is_not_finite(method):
    message = refusal(lambda tau, z: z * torch.log(0.5 - tau), method=method)
    assert "not finite" in message
    assert "min_step" in message


def test_state_that_is_not_finite_names_its_noise_level():
    z = torch.ones(2, 3)
    z[1, 0] = float("nan")
    message = refusal(lambda tau, z: -z, z, method="dopri5")
    assert "the state is NaN or infinite" in message
    assert "c_noise 0.5:" in message
    assert "learning rate" in message


def test_last_step_is_looked_at_too():
    """With min_step every step is accepted, and the last one here makes the state infinite."""
    message = refusal(lambda tau, z: torch.where(tau > 0.97, torch.inf, -z), method="dopri5", min_step=0.5)
    assert "NaN or infinite at the end" in message


def test_stiff_field_takes_too_many_steps():
    message = refusal(lambda tau, z: -1e5 * (z - torch.cos(tau)), method="dopri5", max_num_steps=50)
    assert "more than max_num_steps=50 attempts" in message
    assert "with step" in message
    assert "raise rtol and atol, set min_step, take a fixed-step solver" in message


def test_cures_work():
    def stiff(tau, z):
        return -3e3 * (z - torch.cos(tau))

    exact = math.cos(1)  # up to 1 / 3000
    settings = {"method": "bosh3", "max_num_steps": 100}
    refusal(stiff, **settings)
    more = adaptive(stiff, Z_0, **settings | {"max_num_steps": 10_000})
    assert (more - exact).abs().max() < 1e-2
    adaptive(lambda tau, z: 50 * torch.sign(0.5 - z), Z_0, method="dopri5", min_step=0.02, max_num_steps=60)


def test_backward_solve_is_watched():
    def f(tau, z):
        return -60 * w * z

    w, z = torch.ones((), requires_grad=True), torch.ones(2, 1, requires_grad=True)
    settings = {"method": "dopri5", "max_num_steps": 100, "adjoint": True, "adjoint_of": [w]}
    y = adaptive(f, z, C_NOISE, **settings)
    with pytest.raises(SolverError, match="of the backward solve"):
        # Back in time what decays grows: by e^60, which no float32 state keeps to the tolerance.
        y.sum().mul(1e20).backward()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("method", ADAPTIVE)
def test_half_precision(dtype, method):
    message = refusal(lambda tau, z: -z, torch.ones(2, 3, dtype=dtype), method=method)
    assert str(dtype).removeprefix("torch.") in message
    assert "autocast" in message


def test_autocast():
    linear = nn.Linear(3, 3)
    z = torch.randn(2, 3)
    expected = adaptive(lambda tau, z: linear(z), z, method="dopri5")
    with torch.autocast("cpu", torch.bfloat16):
        y = adaptive(lambda tau, z: linear(z), z.bfloat16(), method="dopri5")
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, expected, rtol=0, atol=0.05)


def test_cost_of_an_adaptive_solver_is_not_known_beforehand():
    with pytest.raises(UserError, match="costs what the data make it cost; run it"):
        adaptive(lambda tau, z: z, torch.ones(2, 1, device="meta"), method="dopri5")


def test_inference_mode():
    with torch.inference_mode():
        z = adaptive(riccati, Z_0, method="dopri5", rtol=1e-5, atol=1e-5)
    assert (z - riccati_solution(Z_0)).abs().max() < 1e-4
