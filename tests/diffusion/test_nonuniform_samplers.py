"""Euler-Maruyama, Heun, Runge-Kutta and stochastic gDDIM on blurring, Langevin and multi-scale diffusion.

Data are Gaussian. A stochastic sampler is then an affine function of its start and of every noise that it draws, so its
mean and covariance are had without drawing anything: one walk carries, row by row, a one for each of them.
"""

import itertools

import pytest
import torch

from denoisezoo.diffusion import Blurring, GaussianOracle, MultiScale, SeedBlock, apply_blocks, create_sampler
from denoisezoo.diffusion.capabilities import stages_of, state_shape
from denoisezoo.diffusion.coefficients import inverse, product, square_root, transpose
from denoisezoo.diffusion.processes.process import ScalarProcess
from denoisezoo.diffusion.processes.scalar import VP, VPCosine
from denoisezoo.diffusion.samplers.probability_flow import slope as field_of
from denoisezoo.diffusion.samplers.rk45 import advance
from denoisezoo.diffusion.samplers.stochastic_multistep import StochasticDPMSolverPP2M

from .truth import PROCESSES, SIDE, DiagonalTruth, at, f64, slope

FLOWS = ["blurring", "blurring_cosine", "cld", "cld_celeba", "multiscale"]
each_flow = pytest.mark.parametrize("name", FLOWS)


@each_flow
def test_heun_is_of_second_order(name):
    """Over the whole walk, stage after stage, from the prior to the image."""
    steps = [128, 256]
    errors = DiagonalTruth(PROCESSES[name]).errors("heun:time_grid=cosine_of_test", steps)
    assert abs(slope(steps, errors) - 2) < 0.2, errors


@each_flow
def test_euler_is_of_first_order(name):
    steps = [192, 384]
    errors = DiagonalTruth(PROCESSES[name]).errors("euler:time_grid=cosine_of_test", steps)
    assert abs(slope(steps, errors) - 1) < 0.15, errors


@each_flow
def test_a_step_of_dormand_and_prince_is_of_fifth_order(name):
    """Equal steps over half of the last stage, without the control of their size."""
    truth = DiagonalTruth(PROCESSES[name])
    first, last = stages_of(truth.process)[-1]
    start, end = last + 0.8 * (first - last), last + 0.3 * (first - last)
    shape = state_shape(truth.process, (4, *truth.shape))
    noise = torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=f64)
    u_0 = truth.process.perturb(truth.state(truth.mean), noise, at(start))

    def field(t, u):
        return field_of(truth.process, truth.oracle(u, t.expand(len(u))), t)

    steps, errors = [32, 64], []
    for n in steps:
        times, u = torch.linspace(start, end, n + 1, dtype=f64), u_0
        k = field(times[0], u)
        for t, s in itertools.pairwise(times):
            u, slopes = advance(field, u, t, k, s - t)
            k = slopes[-1]
        errors.append((u - truth.flow(u_0, start, end)).abs().max().item())
    assert abs(slope(steps, errors) - 5) < 0.45, errors  # where errors are 1e-11, some still fall faster


@each_flow
def test_rk45_is_as_exact_as_it_is_told_to_be(name):
    truth, calls = DiagonalTruth(PROCESSES[name]), []
    for tolerance in (1e-5, 1e-8):
        sampler = create_sampler(f"rk45:rtol={tolerance},atol={tolerance}")
        u_T = sampler.prior(truth.process, (4, *truth.shape), 8, torch.Generator().manual_seed(0))
        found = sampler(truth.oracle, u_T, steps=8, generator=torch.Generator().manual_seed(1))
        exact = truth.walked(u_T, torch.Generator().manual_seed(1))
        assert (found.images - exact).abs().max() < 10 * tolerance
        calls.append(found.nfe)
    assert calls[0] < calls[1] < 8 * calls[0]  # 1,000 times as exact: a method of second order takes 32 times as many


# Covariances

NOISY = {
    "blurring": PROCESSES["blurring"],
    "cld": PROCESSES["cld"],
    # Where a band enters it holds nothing of the data: e^-12 instead of e^-5, so that no bias of the process is left.
    "multiscale": MultiScale(SIDE, levels=1, lowest=-24.0),
}


class OneByOne(SeedBlock):
    """In place of noise: each draw has ones in one part of the state of one row, or of k rows, and else zeros."""

    def __init__(self, k):
        self.k, self.row = k, 1 + k

    def normal(self, shape):
        drawn = torch.zeros(*shape)
        for part in range(self.k):
            drawn[self.row + part].unflatten(0, (self.k, -1))[part] = 1
        self.row += self.k
        return drawn


def moments(truth, sampler, steps):
    """Mean and variance (1, 4, 4) of the images of a walk that starts from the true marginal, in state space.

    Row 0 is the walk without noise. Coefficients do not mix, so that a row may ask for all of them at once.
    """
    process, k = truth.process, truth.process.basis.k
    t = sampler.grid(process, steps)[0]
    rows = 1 + k * (1 + steps + len(stages_of(process)))
    units = torch.zeros(rows, *state_shape(process, (1, 1, SIDE, SIDE), float(t))[1:], dtype=f64)
    for part in range(k):
        units[1 + part].unflatten(0, (k, -1))[part] = 1
    u_T = truth.mean_at(t, units) + apply_blocks(square_root(truth.covariance(t)), units)
    found = process.basis.encode(sampler(truth.oracle, u_T, steps=steps, generator=OneByOne(k)).images)[:, :1]
    return found[0], (found[1:] - found[0]).square().sum(0)


def true_moments(truth):
    """Of E[u_0 | u] with u from the marginal at t_min: the mean, and V A^T S^-1 A V."""
    t = at(truth.process.t_min)
    V = torch.zeros(1, truth.process.basis.k, truth.process.basis.k, *truth.shape, dtype=f64)
    V[:, 0, 0] = truth.variance
    gain = product(product(V, transpose(truth.process.signal(t))), inverse(truth.covariance(t)))
    return truth.mean[0], product(gain, product(truth.process.signal(t), V))[0, 0, 0]


def errors_of_moments(name, spec, steps):
    """Largest errors of the mean and of the variance at numbers of steps."""
    truth, sampler = DiagonalTruth(NOISY[name]), create_sampler(f"{spec},time_grid=cosine_of_test")
    found, expected = [moments(truth, sampler, n) for n in steps], true_moments(truth)
    return [[(m[i] - expected[i]).abs().max().item() for m in found] for i in (0, 1)]


each_noisy = pytest.mark.parametrize("name", list(NOISY))
STEPS = [150, 300]


@each_noisy
@pytest.mark.parametrize("lam", [0.5, 1.0])
def test_euler_maruyama_converges_weakly_at_first_order(name, lam):
    """Mean and covariance, at the noise of the reverse SDE and at less."""
    mean, variance = errors_of_moments(name, f"euler_maruyama:lam={lam}", STEPS)
    assert abs(slope(STEPS, mean) - 1) < 0.15, mean
    assert abs(slope(STEPS, variance) - 1) < 0.15, variance


@each_noisy
@pytest.mark.parametrize("lam", [0.5, 1.0])
def test_stochastic_gddim_reproduces_mean_and_covariance(name, lam):
    """Each step is exact for the mean, which is the path of a point; the covariance converges at first order."""
    mean, variance = errors_of_moments(name, f"gddim:lam={lam}", STEPS)
    assert max(mean) < 1e-6
    assert abs(slope(STEPS, variance) - 1) < 0.15, variance


@each_noisy
@pytest.mark.parametrize(
    ("lam", "options"), [(0.5, "q=2"), (1.0, "q=2"), (1.0, "q=3"), (1.0, "q=2,corrector=true,reuse=true")]
)
def test_stochastic_gddim_of_higher_order_has_the_covariance_to_second(name, lam, options):
    """The mean is exact as ever; of the images' slope, what is not noise is approximated."""
    mean, variance = errors_of_moments(name, f"gddim:lam={lam},{options}", STEPS)
    first = errors_of_moments(name, f"gddim:lam={lam}", STEPS[:1])[1]
    assert max(mean) < 1e-5
    assert slope(STEPS, variance) > 1.8, variance
    assert variance[0] < first[0] / 4


def test_fifty_calls_have_the_covariance_of_blurred_images_better_than_a_thousand_ancestral_steps():
    truth = DiagonalTruth(Blurring(blur=SIDE / 4, resolution=SIDE))
    noisy = "gddim:q=3,lam=1,corrector=true,reuse=true,time_grid=three_halves"
    exact = true_moments(truth)[1]
    few, many = (
        (moments(truth, create_sampler(spec), steps)[1] - exact).abs().max()
        for spec, steps in ((noisy, 50), ("ddpm:clip=false", 1000))
    )
    assert few < many / 2


@pytest.mark.parametrize("name", ["blurring", "multiscale"])
@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0])
def test_stochastic_dpm_solver_is_of_second_order(name, tau):
    """The mean is the path of a point; of the covariance, the mean of the image's slope is what is approximated."""
    mean, variance = errors_of_moments(name, f"dpmpp_2m_sde:tau={tau}", STEPS)
    assert max(mean) < 1e-5
    assert abs(slope(STEPS, variance) - 2) < 0.2, variance


@pytest.mark.parametrize("tau", [0.5, 1.0])
def test_blurring_wants_its_steps_where_the_fast_frequencies_come_back(tau):
    """They return in the last third, on which a quadratic grid spends more than half of its 50 steps."""
    truth = DiagonalTruth(Blurring(blur=SIDE / 4, resolution=SIDE))
    even, quadratic = (
        moments(truth, create_sampler(f"dpmpp_2m_sde:tau={tau},time_grid={grid}"), 50)[1]
        for grid in ("process", "quadratic")
    )
    exact = true_moments(truth)[1]
    assert (quadratic - exact).abs().max() < (even - exact).abs().max() / 3


@pytest.mark.parametrize("name", ["blurring", "multiscale"])
def test_the_corrector_adds_an_order_without_noise_and_halves_the_error_with_it(name):
    """Noise enters the predicted images, whose difference is the slope: the covariance stays of second order."""
    _, plain = errors_of_moments(name, "dpmpp_2m_sde:tau=0,corrector=true", STEPS)
    assert abs(slope(STEPS, plain) - 3) < 0.2, plain
    for tau in (0.5, 1.0):
        mean, corrected = errors_of_moments(name, f"dpmpp_2m_sde:tau={tau},corrector=true", STEPS)
        _, predicted = errors_of_moments(name, f"dpmpp_2m_sde:tau={tau}", STEPS)
        assert max(mean) < 1e-5
        assert slope(STEPS, corrected) > 2, corrected
        assert corrected[1] < predicted[1] / 2


DIAGONAL = [name for name, process in PROCESSES.items() if process.basis.k == 1]


@pytest.mark.parametrize("name", DIAGONAL)
@pytest.mark.parametrize("corrector", [False, True])
def test_stochastic_dpm_solver_walks_every_diagonal_process(name, corrector):
    """From where no signal is left (rectified flow), and with bands that stand still (multi-scale, nothing dropped)."""
    truth, steps = DiagonalTruth(PROCESSES[name]), [96, 192]
    options = f"corrector={str(corrector).lower()}"
    errors = truth.errors(f"dpmpp_2m_sde:tau=0,{options},time_grid=cosine_of_test", steps)
    assert slope(steps, errors) > 1.7 + corrector, errors
    for tau in (0.0, 0.5, 1.0):
        sampler, source = create_sampler(f"dpmpp_2m_sde:tau={tau},{options}"), torch.Generator().manual_seed(0)
        u_T = sampler.prior(truth.process, (4, *truth.shape), 8, source)
        assert sampler(truth.oracle, u_T, steps=8, generator=source).images.isfinite().all()


@pytest.mark.parametrize("gap", [1e-12, -1e-12])
def test_what_changes_while_a_band_stands_still_is_no_slope_of_it(gap):
    """A grid that all but meets a band's end: of the step that crosses it the band moves for a moment only.

    Bands are correlated here, so that the others move the image predicted in this one all the while.
    """
    process = MultiScale(SIDE, levels=1, drop=False)
    root = torch.randn(16, 16, generator=torch.Generator().manual_seed(0), dtype=f64) / 4
    oracle = GaussianOracle(process, torch.zeros(1, SIDE, SIDE, dtype=f64), root @ root.T)

    class Near(StochasticDPMSolverPP2M):
        gap = 0.0

        def grid(self, process, steps):
            times = torch.linspace(1.0, process.t_min, steps, dtype=f64)
            times[(times - 0.5).abs().argmin()] = 0.5 + self.gap
            return torch.cat([times, times.new_zeros(1)])

    def image(gap, steps=60):
        sampler = Near(tau=0.0)
        object.__setattr__(sampler, "gap", gap)  # frozen
        u_T = process.prior((2, 1, SIDE, SIDE), torch.Generator().manual_seed(0))
        return sampler(oracle, u_T, steps=steps).images

    exact = image(0.0, 2000)
    assert (image(gap) - exact).abs().max() < 1.5 * (image(0.0) - exact).abs().max()


@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0])
def test_the_stochastic_dpm_solver_is_gddim_where_a_step_has_no_history(lam):
    """Two steps, of which the second is the predicted image: the same noise, the same state."""
    truth, found = DiagonalTruth(PROCESSES["blurring"]), []
    for spec in (f"gddim:lam={lam}", f"dpmpp_2m_sde:tau={lam}"):
        sampler = create_sampler(spec)
        u_T = sampler.prior(truth.process, (3, *truth.shape), 2, torch.Generator().manual_seed(0))
        images = sampler(truth.oracle, u_T, steps=2, generator=torch.Generator().manual_seed(1)).images
        found.append(images)
    torch.testing.assert_close(*found, atol=1e-9, rtol=0)


@pytest.mark.parametrize("process", [VP(), VPCosine(), Blurring(blur=SIDE / 4, resolution=SIDE)])
@pytest.mark.parametrize("steps", [10, 20, 50])
def test_long_last_steps_of_even_grids_are_not_extrapolated_into(process, steps):
    """The last step of an even grid is several times as long in lambda as the one before."""
    truth = DiagonalTruth(process)
    exact = true_moments(truth)[1]

    def error(spec):
        return (moments(truth, create_sampler(spec), steps)[1] - exact).abs().max()

    solvers = ["dpmpp_2m_sde:tau=0"] + ["dpmpp_2m"] * isinstance(process, ScalarProcess)
    assert all(error(spec) < error("gddim") for spec in solvers)
    assert error("dpmpp_2m_sde") < error("ddpm:clip=false")
