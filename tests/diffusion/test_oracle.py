"""Oracles against brute force: integrals over a grid, and Monte Carlo weights."""

import pytest
import torch

from denoisezoo.diffusion import GaussianOracle, MixtureOracle, PointsOracle, create_sampler
from denoisezoo.diffusion.processes.scalar import EDM, VP, RectifiedFlow

f64 = torch.float64


@pytest.mark.parametrize("process", [VP(), EDM(), RectifiedFlow()], ids=lambda p: type(p).__name__)
def test_gaussian_against_quadrature(process):
    """One pixel: E[u_0 | u_t] by integrating prior times likelihood numerically."""
    oracle = GaussianOracle(process, torch.full((1, 1, 1), 0.3, dtype=f64), torch.tensor([[0.25]]))
    t = torch.tensor([0.3], dtype=f64)
    u_t = torch.tensor([0.8], dtype=f64)
    grid = torch.linspace(-6, 7, 200_001, dtype=f64)
    log_joint = -((grid - 0.3) ** 2) / (2 * 0.25) - (u_t - process.alpha(t) * grid) ** 2 / (2 * process.sigma(t) ** 2)
    weights = torch.softmax(log_joint, 0)
    found = oracle(u_t.reshape(1, 1, 1, 1), t)
    torch.testing.assert_close(found.u_0.flatten(), (weights * grid).sum().reshape(1), atol=1e-9, rtol=1e-9)
    recombined = process.perturb(found.u_0, found.eps, t)
    torch.testing.assert_close(recombined, u_t.reshape(1, 1, 1, 1))


def test_mixture_against_quadrature():
    process, t = VP(), torch.tensor([0.4], dtype=f64)
    means, variances = torch.tensor([-0.8, 0.1, 0.9], dtype=f64), torch.tensor([0.01, 0.2, 0.05], dtype=f64)
    weights = torch.tensor([0.5, 0.2, 0.3], dtype=f64)
    oracle = MixtureOracle(process, means.reshape(3, 1, 1, 1), variances.reshape(3, 1, 1), weights)
    grid = torch.linspace(-5, 5, 400_001, dtype=f64)
    prior = sum(
        w * torch.exp(-((grid - m) ** 2) / (2 * v)) / v.sqrt()
        for w, m, v in zip(weights, means, variances, strict=True)
    )
    for u in (-0.5, 0.2, 1.1):
        joint = prior * torch.exp(-((u - process.alpha(t) * grid) ** 2) / (2 * process.sigma(t) ** 2))
        expected = (joint * grid).sum() / joint.sum()
        found = oracle(torch.full((1, 1, 1, 1), u, dtype=f64), t).u_0
        torch.testing.assert_close(found.flatten(), expected.reshape(1), atol=1e-8, rtol=1e-8)


def test_points_are_a_mixture_of_points():
    process = EDM()
    points = torch.randn(7, 1, 2, 2, dtype=f64)
    u_t = torch.randn(5, 1, 2, 2, dtype=f64)
    t = torch.tensor([0.3, 0.3, 1.0, 5.0, 1.0], dtype=f64)
    ours = PointsOracle(process, points)(u_t, t)
    theirs = MixtureOracle(process, points, torch.zeros(7, 4, 4))(u_t, t)
    torch.testing.assert_close(ours.u_0, theirs.u_0)
    torch.testing.assert_close(ours.eps, theirs.eps)


def test_sampling_with_points_returns_points():
    points = torch.rand(20, 1, 4, 4, dtype=f64) * 2 - 1
    oracle, sampler = PointsOracle(EDM(), points), create_sampler("heun")
    u_T = sampler.prior(oracle.process, (16, 1, 4, 4), 18, torch.Generator().manual_seed(0))
    images = sampler(oracle, u_T, steps=18).images
    distance = torch.cdist(images.flatten(1), points.flatten(1)).min(1).values
    assert distance.max() < 1e-3


@pytest.mark.parametrize("process", [VP(), EDM()], ids=lambda p: type(p).__name__)
def test_oracles_compute_where_their_input_is(process):
    """A tensor without a device of its own would be on the one that is pretended here, where nothing is computed."""
    means, points = torch.zeros(2, 1, 2, 2), torch.randn(5, 1, 2, 2)
    oracles = [MixtureOracle(process, means, torch.eye(4).expand(2, 4, 4)), PointsOracle(process, points)]
    u_t, t = torch.randn(3, 1, 2, 2), torch.tensor([0.5, 0.5, 0.9], dtype=f64)
    for oracle in oracles:
        expected = oracle(u_t, t)
        with torch.device("meta"):
            found = oracle(u_t, t)
        assert torch.equal(found.u_0, expected.u_0)
        assert torch.equal(found.eps, expected.eps)
