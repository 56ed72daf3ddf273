"""Processes: published numbers, identities, inverses, derivatives, and what is refused."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from denoisezoo.diffusion import PROCESSES, Blurring, Diagonal, DownSampling, MultiScale, ScalarProcess, apply_blocks
from denoisezoo.diffusion.capabilities import expand, stages_of
from denoisezoo.diffusion.grids import GRIDS, edm_sigmas
from denoisezoo.diffusion.processes.scalar import EDM, VE, VP, RectifiedFlow
from denoisezoo.diffusion.processes.vp_discrete import VPDiscrete
from denoisezoo.diffusion.samplers.edm import iddpm_levels, noise_levels, vp_betas
from denoisezoo.errors import UserError

EVERY = {name: cls.for_images(8) for name, cls in PROCESSES.items()} | {"flow of JiT": RectifiedFlow(noise_scale=2.0)}
ALL = {name: process for name, process in EVERY.items() if isinstance(process, ScalarProcess)}
f64 = torch.float64


def times(process, n=50):
    return torch.linspace(process.t_min, process.t_max * (1 - 1e-6), n, dtype=f64)


@pytest.mark.parametrize("name", ["vp", "vp_cosine", "vp_discrete"])
def test_variance_preserving(name):
    t = times(ALL[name])
    torch.testing.assert_close(ALL[name].alpha(t) ** 2 + ALL[name].sigma(t) ** 2, torch.ones(50, dtype=f64))


@pytest.mark.parametrize("name", EVERY)
def test_log_snr_falls(name):
    assert (EVERY[name].log_snr(times(EVERY[name])).diff() < 0).all()


@pytest.mark.parametrize("name", ALL)
def test_t_of_sigma_is_the_inverse(name):
    t = times(ALL[name])
    torch.testing.assert_close(ALL[name].t_of_sigma(ALL[name].edm_sigma(t)), t, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", ALL)
def test_derivatives_against_autograd(name):
    process = ALL[name]
    # Whole times of a chain are kinks of its interpolation; look between them.
    t = (times(process, 20).floor() + 0.5 if name == "vp_discrete" else times(process, 20)).requires_grad_()
    if name == "vp_discrete":
        t = torch.clamp(t, max=process.t_max - 0.5)
    for f, derivative in zip((process.alpha, process.sigma), process.derivatives(t), strict=True):
        value = f(t)
        if not value.requires_grad:
            assert (derivative == 0).all()
            continue
        (expected,) = torch.autograd.grad(value.sum(), t, allow_unused=True)
        expected = torch.zeros_like(t) if expected is None else expected
        torch.testing.assert_close(derivative, expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", EVERY)
def test_grid_falls_from_the_prior_to_zero(name):
    stages = len(stages_of(EVERY[name]))
    chain = all(first == last for first, last in stages_of(EVERY[name]))  # a step for each stage, no more and no fewer
    for steps in (stages,) if chain else (1, 2, 7, 40)[0 if stages == 1 else 2 :]:
        grid = EVERY[name].grid(steps)
        assert grid.shape == (steps + 1,)
        assert grid.dtype == f64
        assert grid[0] == pytest.approx(EVERY[name].t_max)
        assert grid[-1] == 0
        assert (grid.diff() < 0).all()


@pytest.mark.parametrize("grid", [grid for grid in GRIDS if not grid.endswith("of_test")])
@pytest.mark.parametrize("name", ALL)
def test_every_grid_on_every_process(name, grid):
    steps = 11 if grid == "fast_uniform" else 12  # which it has no list of 12 for
    t = GRIDS[grid](ALL[name], steps)
    assert t.shape == (steps + 1,)
    assert t[-1] == 0
    assert (t.diff() < 0).all()
    assert t[0] <= ALL[name].t_max * (1 + 1e-9)
    if name == "vp_discrete":
        assert torch.equal(t, t.round()) == (grid != "linspace_fractional")


@pytest.mark.parametrize("name", ALL)
def test_perturb_has_the_stated_moments(name):
    process = ALL[name]
    generator = torch.Generator().manual_seed(0)
    u_0 = torch.full((20_000, 1, 2, 2), 0.7, dtype=f64)
    eps = torch.randn(u_0.shape, generator=generator, dtype=f64)
    t = process.sample_times(torch.tensor([0.4], dtype=f64)).expand(len(u_0))
    u_t = process.perturb(u_0, eps, t)
    alpha, sigma = process.alpha(t[:1]), process.sigma(t[:1])
    assert (u_t.mean(0) - 0.7 * alpha).abs().max() < 4 * sigma / math.sqrt(len(u_0))
    assert (u_t.std(0) / sigma - 1).abs().max() < 4 / math.sqrt(2 * len(u_0))


@pytest.mark.parametrize("name", [n for n in ALL if n != "flow"])
def test_psi_carries_signal_between_times(name):
    process = ALL[name]
    t, s = process.sample_times(torch.tensor([0.9], dtype=f64)), process.sample_times(torch.tensor([0.3], dtype=f64))
    carried = process.psi(s, t) * process.signal(t)
    torch.testing.assert_close(carried, process.signal(s))


def test_edm_grid_fixtures():
    published = [80, 57.5859847, 40.7855738, 28.3745846, 19.352453, 12.9100824, 8.40093531, 5.31519452, 3.25682152]
    published += [1.92333984, 1.08817064, 0.585348123, 0.296442284, 0.139516469, 0.0599473112, 0.0229345184]
    published += [0.00752801996, 0.002]
    torch.testing.assert_close(edm_sigmas(18), torch.tensor(published, dtype=f64), rtol=1e-7, atol=0)
    five = torch.tensor([80, 17.527832, 2.51521898, 0.169752756, 0.002], dtype=f64)
    torch.testing.assert_close(edm_sigmas(5), five, rtol=1e-7, atol=0)
    torch.testing.assert_close(EDM().grid(5), torch.cat([five, torch.zeros(1, dtype=f64)]), rtol=1e-7, atol=0)


def test_iddpm_level_fixtures():
    u = iddpm_levels()
    first = [20291.17, 641.662345, 320.830393, 213.886063, 160.413638, 128.329975, 106.940694, 91.6624868]
    first += [80.2037018, 71.2911981]
    torch.testing.assert_close(u[:10], torch.tensor(first, dtype=f64), rtol=1e-6, atol=0)
    assert u[998].item() == pytest.approx(0.00935049284, rel=1e-7)
    assert u[999].item() == pytest.approx(0.00642541277, rel=1e-7)
    assert u[1000] == 0
    assert len(noise_levels("iddpm", 20, 0.0064, 81.0)) == 20


def test_vp_fixtures():
    sigma = VP().edm_sigma(torch.tensor([1e-5, 1e-3, 1.0], dtype=f64))
    torch.testing.assert_close(
        sigma, torch.tensor([0.00100049763, 0.0104859928, 152.16697], dtype=f64), rtol=1e-7, atol=0
    )
    # The generalised sampler solves the betas back from the limits.
    beta_d, beta_min = vp_betas(0.0104859928, 152.16697)
    assert beta_d == pytest.approx(19.9, rel=1e-5)
    assert beta_min == pytest.approx(0.1, rel=1e-4)


def test_linear_chain_fixtures():
    process = VPDiscrete()
    low, high = process.edm_sigma(torch.tensor([1.0, 1000.0], dtype=f64))
    assert low.item() == pytest.approx(0.0100005, rel=1e-5)
    assert high.item() == pytest.approx(157.407281, rel=1e-7)
    # alpha_bar against the cumulative product that it stands for.
    alpha_bar = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=f64)).cumprod(0)
    t = torch.arange(1, 1001, dtype=f64)
    torch.testing.assert_close(process.alpha(t) ** 2, alpha_bar)
    assert torch.equal(process.time_label(t), t - 1)


def test_cosine_chain_is_the_published_one():
    process = VPDiscrete("cosine")
    t = torch.tensor([0.0, 250, 500, 750], dtype=f64)
    f = torch.cos((t / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2
    torch.testing.assert_close(process.alpha(t) ** 2, f / f[0])
    assert process.betas.max() == pytest.approx(0.999)


@given(st.floats(0.011, 150))
def test_rounding_picks_the_nearest_level(sigma):
    process = VPDiscrete()
    levels = process.edm_sigma(torch.arange(1, 1001, dtype=f64))
    rounded = process.round_sigma(torch.tensor(sigma, dtype=f64))
    assert (rounded - sigma).abs() == (levels - sigma).abs().min()
    t = process.t_of_sigma(rounded)
    assert abs(t.item() - round(t.item())) < 1e-6


def test_continuous_chain_agrees_with_the_discrete_one():
    """DDPM's chain is the continuous VP process with beta(t) = 1000 beta_i: their noise levels agree closely."""
    index = torch.tensor([100.0, 300, 600, 900], dtype=f64)
    chain, continuous = VPDiscrete().log_snr(index), VP().log_snr(index / 1000)
    # They differ by the second-order term of ln(1 - beta), at most the sum of beta_i^2 / 2 = 0.067, and half a step.
    torch.testing.assert_close(chain, continuous, rtol=0, atol=0.07)


def test_langevin_like_blocks():
    """k = 2 mixes position and velocity; k = 1 maps weigh each coefficient."""
    u = torch.arange(2 * 4 * 2 * 2, dtype=f64).reshape(2, 4, 2, 2)
    M = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=f64).reshape(1, 2, 2, 1, 1, 1)
    position, velocity = u[:, :2], u[:, 2:]
    expected = torch.cat([position + 2 * velocity, 3 * position + 4 * velocity], 1)
    torch.testing.assert_close(apply_blocks(M, u), expected)
    per_pixel = torch.rand(1, 1, 1, 1, 2, 2, dtype=f64)
    torch.testing.assert_close(apply_blocks(per_pixel, u), per_pixel[0, 0] * u)


@pytest.mark.parametrize(
    "make",
    [
        lambda: EDM(sigma_min=1.0, sigma_max=0.5),
        lambda: VE(sigma_min=-1.0),
        lambda: VP(beta_min=3.0, beta_max=2.0),
        lambda: RectifiedFlow(shift=0.0),
        lambda: VP(t_min=2.0),
        lambda: VP(t_min=float("nan")),
        lambda: VP(t_train_min=-1.0),
        lambda: VPDiscrete(T=0),
        lambda: VPDiscrete(beta_end=2.0),
        lambda: VPDiscrete(beta_end=float("nan")),
        lambda: VPDiscrete(beta_start=-0.1),
        lambda: VPDiscrete(beta_start=0.03),
        lambda: DownSampling(alphas=[float("nan"), 0.1]),
        lambda: DownSampling(alphas=[0.5, 0.1], sigmas=[float("inf"), 0.1]),
        lambda: Blurring(resolution=-4),
        lambda: MultiScale(resolution=0),
        lambda: Diagonal(basis="dct", curves=[[1.0, 0.0], [1.0, 0.0]], resolution=0),
        lambda: VPDiscrete(T=10).grid(11),
        lambda: GRIDS["edm"](VPDiscrete(T=20), 19),
    ],
)
def test_nonsense_is_refused(make):
    with pytest.raises(UserError):
        make()


def test_pixels_with_one_curve_have_no_size():
    assert Diagonal(resolution=0).resolution is None


@pytest.mark.parametrize("make", [lambda: Blurring(resolution=16), lambda: Diagonal(basis="haar", resolution=16)])
def test_states_of_another_size_are_not_filled_with_noise_where_none_has_left(make):
    u = torch.zeros(1, 1, 8, 8)
    assert expand(make(), u, torch.tensor(1.0)) is u
