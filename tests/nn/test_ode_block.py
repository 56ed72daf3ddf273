"""ODE blocks: fields against their definitions, blocks against exact solutions, one graph, and any solver."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from denoisezoo.archs import create_backbone
from denoisezoo.archs.continuous_unet import with_solver
from denoisezoo.errors import UserError
from denoisezoo.nn.blocks import group_norm
from denoisezoo.nn.ode_block import (
    Approximator,
    ApproximatorStyle,
    FirstOrder,
    Growing,
    ODEBlock,
    SecondOrder,
    UntiedBlock,
)
from denoisezoo.nn.solvers import ADAPTIVE, FIXED, Solver, SolverError

STYLE = ApproximatorStyle(lambda channels: group_norm(channels, 1e-5), F.silu, last_gain=1.0)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def block(solver="rk4", field=FirstOrder, **style):
    made = ODEBlock(
        field(8, ApproximatorStyle(STYLE.norm, STYLE.activation, **{"last_gain": 1.0} | style)), Solver(solver)
    )
    with torch.no_grad():
        for p in made.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return made


def inputs(batch=2, width=16):
    return torch.randn(batch, 8, 6, 6), torch.randn(batch, width)


# Fields


def test_approximator_is_its_definition():
    a = Approximator(8, 4, STYLE)
    z, c = inputs()
    scale, shift = c[:, :8, None, None], c[:, 8:, None, None]
    expected = a.conv1(a.norm1(F.silu(a.conv0(a.norm0(z)))) * (1 + scale) + shift)
    torch.testing.assert_close(a(0.3, z, c), expected)
    assert a.c_width == 16


def test_approximator_with_one_norm():
    a = Approximator(8, 8, ApproximatorStyle(STYLE.norm, F.softplus, norms=1, closes=True, last_gain=1.0))
    z, c = inputs()
    scale, shift = c[:, :8, None, None], c[:, 8:, None, None]
    expected = F.softplus(a.conv1(F.softplus(a.conv0(a.norm0(z) * (1 + scale) + shift))))
    torch.testing.assert_close(a(0.3, z, c), expected)
    assert a.norm1 is None


@pytest.mark.parametrize("conditioned", [True, False])
def test_solver_time_drifts_through_the_modulation(conditioned):
    style = ApproximatorStyle(STYLE.norm, F.silu, last_gain=1.0, conditioned=conditioned, timed=True)
    a, plain = Approximator(8, 8, style), Approximator(8, 8, STYLE)
    plain.load_state_dict({key: value for key, value in a.state_dict().items() if key != "drift"})
    z, c = inputs(width=16 if conditioned else 0)
    nn.init.normal_(a.drift)
    for tau in (0.0, 0.5, 1.0, torch.tensor(0.75)):
        given = (2 * tau - 1) * a.drift.expand(2, -1)
        torch.testing.assert_close(a(tau, z, c), plain(tau, z, given + c if conditioned else given))


def test_unconditioned_field_takes_no_conditioning():
    field = FirstOrder(8, ApproximatorStyle(STYLE.norm, F.silu, conditioned=False))
    assert field.c_width == 0
    assert field(0.0, torch.randn(2, 8, 4, 4), torch.empty(2, 0)).shape == (2, 8, 4, 4)


def test_fields_start_at_zero_unless_told_otherwise():
    z, c = inputs()
    for field in (FirstOrder, Growing):
        made = ODEBlock(field(8, ApproximatorStyle(STYLE.norm, F.silu)), Solver("rk4"))
        growth = sum(1 / math.factorial(i) for i in range(5)) if field is Growing else 1
        torch.testing.assert_close(made(z, c), growth * z)


def test_second_order_field_is_position_and_velocity():
    field = SecondOrder(8, STYLE)
    z, c = inputs()
    derivative = field(0.0, z, c)
    assert torch.equal(derivative[:, :4], z[:, 4:])
    torch.testing.assert_close(derivative[:, 4:], field.approximator(0.0, z, c))


def test_second_order_block_solves_the_oscillator():
    """x'' = -9 x from x_0, v_0: x = x_0 cos 3 tau + v_0 / 3 sin 3 tau."""
    made = ODEBlock(SecondOrder(8, STYLE), Solver("rk4_classic"))

    class Spring(nn.Module):
        def forward(self, tau, z, c):
            return -9 * z[:, :4]

    made.field.approximator = Spring()
    z, c = inputs()
    x, v = z.double().chunk(2, dim=1)
    y = made(z.double(), c, steps=40)
    torch.testing.assert_close(y[:, :4], x * math.cos(3) + v / 3 * math.sin(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(y[:, 4:], v * math.cos(3) - 3 * x * math.sin(3), rtol=0, atol=1e-5)


# Blocks


@pytest.mark.parametrize("solver", FIXED)
def test_each_evaluation_is_a_call_of_the_field(solver):
    made, calls = block(solver), []
    made.field.register_forward_hook(lambda *_: calls.append(1))
    made(*inputs(), steps=3)
    assert len(calls) == 3 * FIXED[solver].evaluations
    assert made.field.is_vector_field


def test_adaptive_evaluations_are_calls_too():
    made, calls = block("dopri5"), []
    made.field.register_forward_hook(lambda *_: calls.append(1))
    made(*inputs())
    assert len(calls) >= 2 + 6  # first slope, first step size, one step of six new stages


def test_steps_where_the_field_is_dear():
    z, c = inputs()
    made = block("euler")
    once = made(z, c, steps=1)
    made.most_steps = 1
    assert torch.equal(made(z, c, steps=4), once)


@pytest.mark.parametrize("solver", ADAPTIVE)
def test_all_solvers_tend_to_one_solution(solver):
    z, c = inputs()
    made = block("rk4", timed=True)
    exact = made(z, c, steps=32)
    made.solver = Solver(solver, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(made(z, c), exact, rtol=0, atol=2e-4)
    assert (made(z, c) - z).abs().max() > 0.5


@pytest.mark.parametrize("solver", ["rk4", "dopri5"])
def test_adjoint_brings_the_gradients_of_weights_input_and_conditioning(solver):
    grads = []
    for adjoint in (False, True):
        torch.manual_seed(1)
        made = block(solver, timed=True).double()
        made.solver = Solver(solver, rtol=1e-8, atol=1e-8, adjoint=adjoint)
        z, c = (t.double().requires_grad_() for t in inputs())
        made(z, 3 * c, steps=24).square().sum().backward()
        grads.append([z.grad, c.grad, *(p.grad for p in made.parameters())])
    for by_adjoint, by_loop in zip(*reversed(grads), strict=True):
        torch.testing.assert_close(by_adjoint, by_loop, rtol=0, atol=1e-4 * by_loop.abs().max().item())


def test_untied_block_is_a_chain_of_euler_steps():
    fields = [FirstOrder(8, STYLE) for _ in range(3)]
    made = UntiedBlock(fields)
    z = torch.randn(2, 8, 6, 6)
    c = torch.randn(2, 48)
    y = z
    for n, field in enumerate(fields):
        y = y + field(n / 3, y, c[:, 16 * n : 16 * n + 16]) / 3
    torch.testing.assert_close(made(z, c), y)
    tied = UntiedBlock([copy.deepcopy(fields[0]) for _ in range(3)])
    expected = ODEBlock(fields[0], Solver("euler"))(z, c[:, :16], steps=3)
    torch.testing.assert_close(tied(z, c[:, :16].repeat(1, 3)), expected)


# One graph


@pytest.mark.parametrize("solver", FIXED)
def test_fixed_steps_compile_as_one_graph(solver):
    made, given = block(solver, timed=True), inputs()
    torch.compiler.reset()
    compiled = torch.compile(made, fullgraph=True, backend="eager")
    for steps in (1, 2):
        torch.testing.assert_close(compiled(*given, steps=steps), made(*given, steps=steps))


def test_compiled_gradients():
    made, (z, c) = block("rk4"), inputs()
    torch.compiler.reset()
    compiled = torch.compile(made, fullgraph=True, backend="aot_eager")
    grads = []
    for call in (made, compiled):
        made.zero_grad()
        call(z, c).square().sum().backward()
        grads.append([p.grad for p in made.parameters()])
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * ours.abs().max().item())


@pytest.mark.parametrize("solver", FIXED)
def test_fixed_steps_export(solver):
    made, given = block(solver, timed=True).eval(), inputs()
    program = torch.export.export(made, given, {"steps": 2})
    torch.testing.assert_close(program.module()(*given, steps=2), made(*given, steps=2))


@pytest.mark.parametrize(("solver", "adjoint"), [("dopri5", False), ("rk4", True)])
def test_what_cannot_be_exported_says_so(solver, adjoint):
    made = block()
    made.solver, made.name = Solver(solver, adjoint=adjoint), "encoder.0"
    with pytest.raises(UserError, match=rf"solver {solver}.* of block encoder\.0 cannot be exported; .*with_solver"):
        torch.export.export(made, inputs())


@pytest.mark.parametrize("solver", ADAPTIVE)
def test_adaptive_solvers_run_in_compiled_networks(solver):
    """In several graphs, but to the same numbers."""
    made, given = block(solver), inputs()
    torch.compiler.reset()
    torch.testing.assert_close(torch.compile(made, backend="eager")(*given), made(*given), rtol=0, atol=1e-4)


def test_no_fixed_step_looks_at_a_number():
    """On the meta device there is none: reading one would raise, where on a GPU it would stall."""
    for solver in FIXED:
        z, c = (t.to("meta") for t in inputs())
        assert block(solver, timed=True).to("meta")(z, c, steps=2).shape == (2, 8, 6, 6)


def test_errors_name_block_and_noise_level():
    made, (z, c) = block("dopri5"), inputs()
    made.name, z[1] = "decoder.2", float("nan")
    with pytest.raises(SolverError, match=r"dopri5 failed in block decoder\.2, c_noise 0\.7: the state is NaN"):
        made(z, c, c_noise=torch.tensor([0.1, 0.7]))
    with pytest.raises(SolverError, match="c_noise not given"):
        made(z, c)


def test_half_precision_needs_fixed_steps():
    z, c = (t.bfloat16() for t in inputs())
    assert block("rk4").bfloat16()(z, c).dtype == torch.bfloat16
    with pytest.raises(SolverError, match="bfloat16"):
        block("dopri5").bfloat16()(z, c)


# Any solver


@pytest.fixture
def net():
    made = create_backbone("missing_u_second_order_tiny", cond_channels=0).eval()
    with torch.no_grad():
        for p in made.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return made


def test_with_solver_changes_the_solver_and_shares_the_weights(net):
    net, x, c_noise = net.double(), torch.randn(2, 3, 8, 8, dtype=torch.float64), torch.zeros(2)
    fine = with_solver(net, "rk4", steps=(64,))
    assert fine.efforts == (64.0,)
    assert not fine.training
    for ours, theirs in zip(net.parameters(), fine.parameters(), strict=True):
        assert ours.data_ptr() == theirs.data_ptr()
    expected = fine(x, c_noise)
    spread = expected.std().item()
    coarse = [with_solver(net, solver, steps=(4,))(x, c_noise) for solver in ("euler", "heun", "rk4")]
    errors = [(y - expected).abs().max().item() for y in coarse]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 100 * errors[-1]
    adaptive = with_solver(net, "dopri5", rtol=1e-7, atol=1e-7)
    assert adaptive.efforts == (1.0,)
    torch.testing.assert_close(adaptive(x, c_noise), expected, rtol=0, atol=1e-5 * spread)
    by_override = create_backbone("missing_u_second_order_tiny", cond_channels=0, solver="euler", steps=[4])
    by_override = by_override.double().eval()
    by_override.load_state_dict(net.state_dict())
    torch.testing.assert_close(by_override(x, c_noise), with_solver(net, "euler", steps=(4,))(x, c_noise))


def test_with_solver_keeps_what_is_frozen(net):
    net.stem.requires_grad_(False)
    frozen = [p.requires_grad for p in with_solver(net.train(), "heun").parameters()]
    assert frozen == [p.requires_grad for p in net.parameters()]
    assert with_solver(net, "heun").training


def test_with_solver_needs_a_solver(net):
    with pytest.raises(UserError, match="DDPM has no solver"):
        with_solver(create_backbone("ddpm_tiny"), "euler")
    with pytest.raises(UserError, match="unknown solver 'ruler'; did you mean euler"):
        with_solver(net, "ruler")
    with pytest.raises(UserError, match="unknown argument of MissingU 'rtoll'; did you mean rtol"):
        with_solver(net, "dopri5", rtoll=1e-3)


def test_network_errors_name_the_block(net):
    x = torch.full((2, 3, 8, 8), float("nan"))
    with pytest.raises(SolverError, match=r"block encoder\.0, c_noise 0\.5 to 2: the state is NaN"):
        with_solver(net, "bosh3")(x, torch.tensor([0.5, 2.0]))
    names = [made.name for made in net.blocks]
    assert names == [path for path, module in net.named_modules() if isinstance(module, ODEBlock)]
