"""The process that drifts to what was received: closed forms, its posterior by brute force, exact conditionals."""

import pytest
import torch

from denoisezoo.archs import BackboneConfig
from denoisezoo.archs.backbone import Backbone
from denoisezoo.diffusion import (
    Denoiser,
    Drift,
    GaussianOracle,
    Given,
    NetworkDenoiser,
    OfCondition,
    Prediction,
    create_sampler,
)
from denoisezoo.diffusion.preconditioning import EDMPreconditioning
from denoisezoo.diffusion.samplers.first_order import bridge
from denoisezoo.errors import UserError

f64 = torch.float64
PROCESS = Drift(1, 1)
X = PROCESS.x


def at(*t):
    return torch.tensor(t, dtype=f64)


def test_the_coefficients_are_those_of_cdiffuse():
    """m = sqrt((1 - abar) / sqrt(abar)) and delta = (1 - abar) - m^2 abar (arXiv 2202.05256)."""
    t = torch.linspace(0.05, 1, 20, dtype=f64)
    m, abar = X.share(t), X.shrinkage(t) ** 2
    torch.testing.assert_close(m, ((1 - abar) / abar.sqrt()).sqrt(), rtol=1e-9, atol=0)
    torch.testing.assert_close(X.sigma(t) ** 2, (1 - abar) - m**2 * abar, rtol=1e-9, atol=1e-14)
    torch.testing.assert_close(X.alpha(t), abar.sqrt() * (1 - m))
    torch.testing.assert_close(X.drift(t), abar.sqrt() * m)
    assert float(X.share(at(0.0))) == 0
    assert float(X.share(at(1.0))) == pytest.approx(0.999)
    assert float(X.shrinkage(at(1.0)) ** 2) == pytest.approx(0.382, abs=1e-3)  # the golden ratio squared, at m = 1


def transition(s, t):
    """Mean's factors of u_s and y, and the variance, of q(u_t | u_s, y), in CDiffuSE's letters."""
    (m_s, m_t), (a_s, a_t) = ((f(at(s)).item(), f(at(t)).item()) for f in (X.share, X.shrinkage))
    ratio = (1 - m_t) / (1 - m_s)
    delta_s, delta_t = ((X.sigma(at(x)) ** 2).item() for x in (s, t))
    factor = ratio * a_t / a_s
    return factor, (m_t - ratio * m_s) * a_t, delta_t - factor**2 * delta_s


def test_the_transition_carries_one_marginal_into_the_other():
    s, t, x, y = 0.3, 0.7, 0.8, -1.3
    of_u, of_y, variance = transition(s, t)
    mean_s, mean_t = ((X.alpha(at(r)) * x + X.drift(at(r)) * y).item() for r in (s, t))
    assert of_u * mean_s + of_y * y == pytest.approx(mean_t, abs=1e-12)
    assert variance > 0


@pytest.mark.parametrize(("s", "t"), [(0.3, 0.7), (0.05, 0.1), (0.9, 1.0)])
def test_the_posterior_by_brute_force(s, t):
    """(u_s, u_t) given (x, y) is a Gaussian in the plane, conditioned by linear algebra; the house walks w = u - d."""
    x, y, u_t = 0.8, -1.3, 0.4
    of_u, of_y, variance = transition(s, t)
    delta_s = (X.sigma(at(s)) ** 2).item()
    mean_s = (X.alpha(at(s)) * x + X.drift(at(s)) * y).item()
    mean = torch.tensor([mean_s, of_u * mean_s + of_y * y], dtype=f64)
    S = torch.tensor([[delta_s, of_u * delta_s], [of_u * delta_s, of_u**2 * delta_s + variance]], dtype=f64)
    gain = S[0, 1] / S[1, 1]
    exact_mean, exact_variance = mean[0] + gain * (u_t - mean[1]), S[0, 0] - gain * S[0, 1]
    # DDPM's step in w, as `ddpm` takes it.
    a, v, posterior = (part.item() for part in bridge(X, at(s), at(t)))
    delta_t = (X.sigma(at(t)) ** 2).item()
    w_t = u_t - (X.drift(at(t)) * y).item()
    w_s = (a * delta_s * w_t + X.alpha(at(s)).item() * v * x) / delta_t
    assert w_s + (X.drift(at(s)) * y).item() == pytest.approx(exact_mean.item(), abs=1e-10)
    assert posterior == pytest.approx(exact_variance.item(), abs=1e-10)
    assert (a, v) == pytest.approx((of_u, variance), abs=1e-12)


class Certain(Denoiser):
    """Knows the image."""

    def __init__(self, process, x):
        super().__init__()
        self.process, self.x = process, x

    def forward(self, u_t, t, *given):
        u_0 = torch.cat([self.x.expand(len(u_t), 1, 1, 1), u_t[:, 1:]], 1)
        alpha, sigma = self.process.alpha(t), self.process.sigma(t).clamp(min=1e-30)
        return Prediction(u_0, (u_t - alpha * u_0) / sigma)


def test_a_step_of_ddpm_draws_from_the_posterior():
    """The sampler itself: its step from u_t, with noise switched off and on, against the formula of the docstring."""
    x, y = at(0.8).reshape(1, 1, 1, 1), at(-1.3).reshape(1, 1, 1, 1)
    denoiser, n = OfCondition(Certain(PROCESS, x), y.expand(4000, 1, 1, 1)), 4000
    sampler, seen = create_sampler("ddpm:clip=false"), []
    w_T = X.prior((n, 1, 1, 1), torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    sampler(denoiser, w_T, steps=4, generator=generator, on_step=lambda info: seen.append((info.t, info.u_t)))
    for time, w in seen[1:]:
        expected = X.alpha(at(time)).item() * x.item()
        assert w.mean().item() == pytest.approx(expected, abs=4 * X.sigma(at(time)).item() / n**0.5)
        assert w.std().item() == pytest.approx(X.sigma(at(time)).item(), rel=0.05)


# Gaussian (x, y): two pixels of x, two of y

COVARIANCE = torch.tensor(
    [[0.5, 0.1, 0.30, 0.05], [0.1, 0.4, -0.10, 0.25], [0.30, -0.10, 0.45, 0.1], [0.05, 0.25, 0.1, 0.35]], dtype=f64
)
MEAN = torch.tensor([0.3, -0.2, 0.1, 0.4], dtype=f64)
Y = torch.tensor([[0.7, -0.3]], dtype=f64)


@pytest.mark.parametrize("spec", ["heun", "gddim:q=3", "dpmpp_2m"])
def test_an_oracles_samples_have_the_conditional_moments(spec):
    """The walk of a linear denoiser is affine in its start: its mean and covariance from three walks."""
    oracle = GaussianOracle(PROCESS, MEAN.reshape(2, 1, 2), COVARIANCE)
    gain = COVARIANCE[:2, 2:] @ COVARIANCE[2:, 2:].inverse()
    w_T = torch.cat([torch.zeros(1, 2, dtype=f64), torch.eye(2, dtype=f64)]).reshape(3, 1, 1, 2)
    cond = Y.expand(3, 2).reshape(3, 1, 1, 2)
    images = create_sampler(spec)(oracle, w_T, steps=300, given=Given(image=cond)).images.reshape(3, 2)
    M = (images[1:] - images[:1]).T
    covariance = float(X.sigma(at(1.0)) ** 2) * M @ M.T
    torch.testing.assert_close(images[0], MEAN[:2] + gain @ (Y[0] - MEAN[2:]), rtol=0, atol=3e-3)
    torch.testing.assert_close(covariance, COVARIANCE[:2, :2] - gain @ COVARIANCE[2:, :2], rtol=0, atol=3e-3)


class Recorder(Backbone):
    """Remembers what it sees, and answers zero."""

    def __init__(self):
        config = BackboneConfig(in_channels=2, out_channels=1, resolution=2)
        super().__init__(config)
        self.weight = torch.nn.Parameter(torch.zeros(1, dtype=f64))

    def forward(self, x, c_noise, *given):
        self.shown = x
        return torch.zeros_like(x[:, :1])


def test_networks_see_the_drifting_image_and_a_walk_starts_from_what_was_received():
    preconditioning = EDMPreconditioning(0.7)
    denoiser = NetworkDenoiser(Recorder(), PROCESS, preconditioning)
    y = torch.randn(2, 1, 2, 2, generator=torch.Generator().manual_seed(0), dtype=f64)
    w, t = torch.randn_like(y), at(1.0, 0.4)
    OfCondition(denoiser, y)(w, t)
    scale = preconditioning.c_in(PROCESS, t)
    drift = X.drift(t).reshape(-1, 1, 1, 1)
    torch.testing.assert_close(denoiser.backbone.shown, scale * torch.cat([w + drift * y, y], 1))
    assert float(X.drift(at(1.0))) == pytest.approx(0.618, abs=1e-3)  # at the end u is 0.618 y with noise, and no x
    assert float(X.alpha(at(1.0))) < 1e-3


def test_what_cannot_be_is_refused():
    with pytest.raises(UserError, match="cannot drift"):
        Drift(3, 1)
    with pytest.raises(UserError, match="m_max"):
        Drift(m_max=1.0)
