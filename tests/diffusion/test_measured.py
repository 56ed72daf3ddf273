"""Unconditional denoisers given a measurement: against linear algebra and the exact posterior of points."""

import math

import pytest
import torch

from denoisezoo.diffusion import GaussianOracle, Matched, Measured, PointsOracle, create_sampler
from denoisezoo.diffusion.processes.geometric import GeometricVE
from denoisezoo.diffusion.processes.scalar import EDM, VP, RectifiedFlow
from denoisezoo.diffusion.processes.vp_discrete import VPDiscrete
from denoisezoo.errors import UserError
from denoisezoo.nn.given import Given

f64 = torch.float64
COVARIANCE = torch.tensor([[0.5, 0.2], [0.2, 0.3]], dtype=f64)
MEAN = torch.tensor([0.3, -0.2], dtype=f64)
S = 0.6
Y = torch.tensor([0.7, -0.3], dtype=f64)
name_of = lambda value: type(value).__name__  # noqa: E731


def at(*t):
    return torch.tensor(t, dtype=f64)


def measurement(y, s):
    """y (n, 2) and ln s as a condition."""
    y = y.reshape(-1, 1, 1, 2)
    return torch.cat([y, torch.full_like(y, math.log(s))], 1)


def posterior():
    gain = COVARIANCE @ (COVARIANCE + S**2 * torch.eye(2, dtype=f64)).inverse()
    return MEAN + gain @ (Y - MEAN), COVARIANCE - gain @ COVARIANCE


@pytest.mark.parametrize("x", [EDM(), VP(), GeometricVE(), RectifiedFlow()], ids=name_of)
def test_the_estimate_from_state_and_measurement_together(x):
    """E[x | u_t, y] of a Gaussian, by solving for both looks at once."""
    matched = Matched(GaussianOracle(Measured(x, 1), MEAN.reshape(1, 1, 2), COVARIANCE), measurement(Y, S))
    for share in (0.2, 0.5, 0.9):
        t = x.sample_times(at(share))
        alpha, sigma = x.alpha(t).item(), x.sigma(t).item()
        u_t = torch.tensor([[0.4, 0.9]], dtype=f64)
        H = torch.cat([alpha * torch.eye(2, dtype=f64), torch.eye(2, dtype=f64)])
        noise = torch.diag(at(sigma**2, sigma**2, S**2, S**2))
        gain = COVARIANCE @ H.T @ (H @ COVARIANCE @ H.T + noise).inverse()
        exact = MEAN + gain @ (torch.cat([u_t[0], Y]) - H @ MEAN)
        found = matched(u_t.reshape(1, 1, 1, 2), t)
        torch.testing.assert_close(found.u_0.flatten(), exact, rtol=0, atol=1e-9)
        torch.testing.assert_close(alpha * found.u_0 + sigma * found.eps, u_t.reshape(1, 1, 1, 2))


@pytest.mark.parametrize("spec", ["heun", "dpmpp_2m"])
def test_samples_have_the_moments_of_the_posterior(spec):
    process = Measured(GeometricVE(0.005, 500.0), 1)
    oracle = GaussianOracle(process, MEAN.reshape(1, 1, 2), COVARIANCE)
    x_T = torch.cat([torch.zeros(1, 2, dtype=f64), torch.eye(2, dtype=f64)]).reshape(3, 1, 1, 2)
    images = create_sampler(spec)(
        oracle, x_T, steps=300, given=Given(image=measurement(Y.expand(3, 2), S))
    ).images.reshape(3, 2)
    M = (images[1:] - images[:1]).T
    mean, covariance = posterior()
    torch.testing.assert_close(images[0], mean, rtol=0, atol=2e-3)
    torch.testing.assert_close(500.0**2 * M @ M.T, covariance, rtol=0, atol=2e-3)


def test_the_first_call_is_at_the_noise_of_the_measurement():
    x = EDM()
    process = Measured(x, 1)
    v, t_c = process.combine(torch.randn(1, 1, 1, 2, dtype=f64), at(x.t_max), measurement(Y, S))
    assert x.edm_sigma(t_c).item() == pytest.approx(S, rel=1e-4)
    torch.testing.assert_close(v.flatten(), x.alpha(t_c) * Y, rtol=0, atol=1e-2)


def test_states_have_the_law_of_the_reverse_process_that_starts_at_y():
    """Given y and x: mean x + (s_c/s)^2 (y - x), variance s_c^2 (1 - (s_c/s)^2)."""
    process, n, x = Measured(EDM(), 1), 200_000, 0.5
    eps = torch.randn(n, 1, 1, 1, generator=torch.Generator().manual_seed(0), dtype=f64)
    sigma = 0.8
    cond = torch.tensor([1.1, math.log(S)], dtype=f64).reshape(1, 2, 1, 1).expand(n, 2, 1, 1)
    v, t_c = process.combine(x + sigma * eps, process.x.t_of_sigma(at(sigma)).expand(n), cond)
    s_c = t_c[0].item()
    assert s_c == pytest.approx((1 / sigma**2 + 1 / S**2) ** -0.5)
    assert v.mean().item() == pytest.approx(x + (s_c / S) ** 2 * (1.1 - x), abs=3e-3)
    assert v.var().item() == pytest.approx(s_c**2 * (1 - (s_c / S) ** 2), rel=0.02)


def test_every_image_has_its_own_level():
    """Points at -1 and 1: E[x | y] = tanh(y / s^2) at the start of the walk."""
    process = Measured(EDM(), 1)
    oracle = PointsOracle(process, torch.tensor([-1.0, 1.0]).reshape(2, 1, 1, 1))
    y, s = at(0.3, 0.3, -0.8), at(0.4, 2.0, 1.0)
    cond = torch.stack([y, s.log()], 1)[..., None, None]
    found = Matched(oracle, cond)(torch.zeros(3, 1, 1, 1, dtype=f64), at(80.0, 80.0, 80.0)).u_0
    torch.testing.assert_close(found.flatten(), torch.tanh(y / s**2), rtol=0, atol=1e-4)


def test_a_chain_takes_the_nearest_of_its_times():
    process = Measured(VPDiscrete(), 1)
    _, t_c = process.combine(torch.zeros(1, 1, 1, 2, dtype=f64), at(1000.0), measurement(Y, S))
    assert t_c.item() == round(t_c.item())


def test_what_is_no_measurement_is_refused():
    oracle = GaussianOracle(Measured(EDM(), 1), MEAN.reshape(1, 1, 2), COVARIANCE)
    with pytest.raises(UserError, match="1 channels"):
        Matched(oracle, torch.zeros(1, 1, 1, 2))
    with pytest.raises(UserError, match="differs within an image"):
        Matched(oracle, torch.arange(4.0).reshape(1, 2, 1, 2))
    with pytest.raises(UserError, match="one condition per image"):
        Matched(oracle, measurement(Y, S))(torch.zeros(2, 1, 1, 2), at(1.0, 1.0))
    with pytest.raises(UserError, match="channels is 0"):
        Measured(channels=0)
