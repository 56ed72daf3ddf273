"""Linear estimates against a second computation, Monte Carlo and the exact posterior of points."""

import pytest
import torch

from denoisezoo.evaluation.linear import Moments, linear_mmse, memory, pixelwise_mmse

f64 = torch.float64


def data(n=20_000):
    """Images (n, 1, 2, 2) of a correlated Gaussian."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(4, 4, generator=generator, dtype=f64)
    mean = torch.randn(4, generator=generator, dtype=f64)
    return (torch.randn(n, 4, generator=generator, dtype=f64) @ mixing + mean).reshape(n, 1, 2, 2)


def test_moments_are_those_of_the_images():
    x = data(500)
    moments = Moments.of(x)
    torch.testing.assert_close(moments.covariance, torch.cov(x.flatten(1).T, correction=0))
    torch.testing.assert_close(moments.mean, x.flatten(1).mean(0))
    assert (moments.variances.diff() <= 0).all()
    assert moments.power == pytest.approx(x.square().mean().item())


@pytest.mark.parametrize("bands", [False, True])
def test_linear_mmse_is_the_closed_form_and_attains_its_error(bands):
    """mean + C (C + S)^-1 (y - mean) with the error tr(C - C (C + S)^-1 C)."""
    x = data()
    moments = Moments.of(x)
    sigma = torch.tensor([0.7, 1.6 if bands else 0.7], dtype=f64).reshape(1, 1, 2, 1)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=f64)
    y = x + sigma * noise
    C, S = torch.cov(x.flatten(1).T, correction=0), sigma.square().expand(1, 1, 2, 2).flatten().diag()
    mean, gain = x.flatten(1).mean(0), C @ (C + S).inverse()
    part = y[:50]
    found = linear_mmse(moments, part, sigma.expand(50, 1, 2, 1))
    expected = mean + (part.flatten(1) - mean) @ gain.T
    torch.testing.assert_close(found.flatten(1), expected, rtol=0, atol=1e-10)
    error = (mean + (y.flatten(1) - mean) @ gain.T - x.flatten(1)).square().sum(1).mean().item()
    assert error == pytest.approx((C - gain @ C).trace().item(), rel=0.03)
    if not bands:
        assert (linear_mmse(moments, y, sigma) - x).square().sum((1, 2, 3)).mean().item() == pytest.approx(error)


def test_pixelwise_mmse_is_the_best_factor():
    x = data()
    y = x + 0.9 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=f64)
    found = pixelwise_mmse(x.square().mean().item(), y, torch.tensor(0.9))
    best = (x * y).mean() / y.square().mean()
    torch.testing.assert_close(found, best * y, rtol=0.02, atol=0)


def test_memory_of_two_points_is_a_hyperbolic_tangent():
    points = torch.tensor([-1.0, 1.0]).reshape(2, 1, 1, 1).expand(2, 1, 1, 2)
    y = torch.tensor([[0.3, -0.2], [4.0, 1.0]], dtype=f64).reshape(2, 1, 1, 2)
    sigma = torch.tensor([1.0, 2.0], dtype=f64).reshape(2, 1, 1, 1)
    found = memory(points, y, sigma)
    expected = torch.tanh(y.sum(-1, keepdim=True) / sigma**2).expand_as(y)
    torch.testing.assert_close(found, expected)
