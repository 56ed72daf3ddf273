"""Every process against its equations: closed forms, drift and diffusion, moments, priors and transitions."""

import math

import numpy as np
import pytest
import torch

from denoisezoo.diffusion import apply_blocks
from denoisezoo.diffusion.capabilities import stages_of
from denoisezoo.diffusion.coefficients import inverse, product, square_root, transpose

from .truth import EVERY, DiagonalTruth, at, drift, f64

each_process = pytest.mark.parametrize("name", list(EVERY))


def span(process):
    """Most of the last stage, as its first and last time."""
    low, high = stages_of(process)[-1][1], min(stages_of(process)[-1][0], 5.0)
    return low + 0.95 * (high - low), low + 0.05 * (high - low)


def quadrature(process, first, last, pieces=24, points=24):
    """Gauss-Legendre nodes and weights (pieces, points) between two times, in pieces that meet where bands end."""
    ends = [end for end in getattr(process, "ends", []) if last < end < first]
    edges = np.unique([*np.geomspace(last, first, pieces + 1 - len(ends)), *ends])
    x, w = np.polynomial.legendre.leggauss(points)
    half = (edges[1:] - edges[:-1])[:, None] / 2
    return torch.from_numpy(edges), torch.from_numpy(edges[:-1, None] + half * (x + 1)), torch.from_numpy(half * w)


@each_process
def test_coefficients_solve_their_equations(name):
    """A' = F A; Sigma' = F Sigma + Sigma F^T + G G^T (Lyapunov); R' = (F + 1/2 G G^T Sigma^-1) R, piece by piece.

    At every coefficient, what each grows by is the integral of its right side.
    """
    process = EVERY[name]
    edges, nodes, weights = quadrature(process, *span(process))

    def closed(t):
        R = process.noise(t)
        return process.signal(t), product(R, transpose(R)), R

    t = nodes.flatten()
    (A, Sigma, R), F, G2 = closed(t), drift(process, t), process.diffusion(t)
    F_Sigma, pull = product(F, Sigma), product(G2, inverse(transpose(R))) / 2
    sides = product(F, A), F_Sigma + transpose(F_Sigma) + G2, product(F, R) + pull
    for side, values in zip(sides, closed(edges), strict=True):
        weight = weights.reshape(*weights.shape, *[1] * 5)
        grown = (weight * side.expand(len(t), *side.shape[1:]).unflatten(0, weights.shape)).sum(1)
        values = values.expand(-1, *grown.shape[1:])
        torch.testing.assert_close(grown, values.diff(dim=0), atol=1e-10, rtol=1e-10)


PUBLISHED = {
    "vp": (lambda t: -(0.1 + 19.9 * t) / 2, lambda t: 0.1 + 19.9 * t),
    "edm": (lambda t: 0 * t, lambda t: 2 * t),
    "ve": (lambda t: 0 * t, lambda t: 0 * t + 1),
    "ve_geometric": (lambda t: 0 * t, lambda t: 2 * math.log(1e4) * (0.01 * 1e4**t) ** 2),
    "flow": (lambda t: -1 / (1 - t), lambda t: 2 * t / (1 - t)),
}
"""F and G^2 as written down: -beta/2 and beta; 0 and 2 sigma sigma'; -1 / (1 - t) and 2 t / (1 - t)."""


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_drift_and_diffusion_are_those_of_the_papers(name):
    process = EVERY[name]
    t = torch.linspace(*span(process), 9, dtype=f64)
    for blocks, formula in zip((drift(process, t), process.diffusion(t)), PUBLISHED[name], strict=True):
        torch.testing.assert_close(blocks.flatten(), formula(t), rtol=1e-12, atol=1e-13)


@each_process
def test_transitions_compose(name):
    process = EVERY[name]
    low, high = stages_of(process)[-1][1], min(stages_of(process)[-1][0], 5.0)
    r, s, t = (at(low + share * (high - low)) for share in (0.1, 0.4, 0.8))
    torch.testing.assert_close(product(process.psi(r, s), process.psi(s, t)), process.psi(r, t), rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(product(process.psi(s, t), process.signal(t)), process.signal(s), rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(
        process.signal(at(0)) + 0 * process.signal(r),
        torch.eye(process.basis.k, dtype=f64)[None, :, :, None, None, None].expand_as(process.signal(r)),
    )


@each_process
def test_perturbed_states_have_their_moments(name):
    """Monte Carlo: mean A u_0 and covariance R R^T of every coefficient, within 5 standard errors."""
    process, n = EVERY[name], 20_000
    generator = torch.Generator().manual_seed(0)
    u_0 = process.basis.encode(torch.randn(1, 1, 4, 4, generator=generator, dtype=f64))
    first, last = stages_of(process)[-1]
    t = last + 0.4 * (min(first, 5.0) - last)
    eps = torch.randn(n, *u_0.shape[1:], generator=generator, dtype=f64)
    mean, R = apply_blocks(process.signal(at(t)), u_0), process.noise(at(t))
    check_moments(process.perturb(u_0, eps, at(t)), mean, product(R, transpose(R)))


def check_moments(u, mean, Sigma, errors=5.0):
    n, k = len(u), Sigma.shape[1]
    Sigma = Sigma[..., : u.shape[-2], : u.shape[-1]]
    gap = (u - mean).unflatten(1, (k, -1))
    found = torch.einsum("nichw,njchw->ijchw", gap, gap)[None] / n
    diagonal = torch.stack([Sigma[:, i, i] for i in range(k)], 1)
    spread = ((Sigma**2 + diagonal[:, :, None] * diagonal[:, None]) / n).sqrt()
    assert ((found - Sigma).abs() / spread).max() < errors
    assert (gap.mean(0).abs() / (diagonal[0] / n).sqrt()).max() < errors


LARGEST = {"edm": 80.0, "ve": 100.0, "ve_geometric": 100.0}
"""Noise of the priors that are not of variance 1."""


@each_process
def test_priors_are_what_samplers_are_told_to_begin_with(name):
    """N(0, I), or N(0, sigma_max^2 I), and with a velocity N(0, diag(I, M I)): to what is left of the image."""
    process, n = EVERY[name], 20_000
    expected = torch.diag(torch.tensor([LARGEST.get(name, 1.0) ** 2, 0.25][: process.basis.k], dtype=f64))
    expected = expected[None, :, :, None, None, None]
    R = process.noise(at(process.t_max))
    torch.testing.assert_close(product(R, transpose(R)), expected.expand_as(R), rtol=1e-3, atol=1e-4)
    drawn = process.prior((n, 1, 4, 4), torch.Generator().manual_seed(0))
    check_moments(drawn, torch.zeros_like(drawn[:1]), expected.expand(-1, -1, -1, 1, *drawn.shape[-2:]), 4.5)


@each_process
def test_transitions_carry_one_marginal_to_the_next(name):
    """u_t = psi(t, s) u_s + noise of covariance Sigma_t - psi Sigma_s psi^T, for Gaussian data.

    That covariance is the integral of psi(t, tau) G G^T psi(t, tau)^T, and what is drawn has the moments of u_t.
    """
    truth, process, n = DiagonalTruth(EVERY[name]), EVERY[name], 20_000
    t, s = span(process)
    s = s + 0.3 * (t - s)
    generator, psi = torch.Generator().manual_seed(0), process.psi(at(t), at(s))
    Sigma_s, Sigma_t = (product(R, transpose(R)) for R in (process.noise(at(s)), process.noise(at(t))))
    added = Sigma_t - product(product(psi, Sigma_s), transpose(psi))
    _, nodes, weights = quadrature(process, t, s)
    tau, weights = nodes.flatten(), weights.reshape(-1, *[1] * 5)
    from_tau = process.psi(at(t).expand(len(tau)), tau)
    spread = product(product(from_tau, process.diffusion(tau)), transpose(from_tau))
    torch.testing.assert_close((weights * spread).sum(0, keepdim=True), added, rtol=1e-10, atol=1e-10)

    def draw(mean, covariance):
        eps = torch.randn(n, *truth.state(truth.mean).shape[1:], generator=generator, dtype=f64)
        return mean + apply_blocks(square_root(covariance), eps)

    u_s = draw(truth.mean_at(s, truth.state(truth.mean)), truth.covariance(s))
    u_t = draw(apply_blocks(psi, u_s), added)
    check_moments(u_t, truth.mean_at(t, u_t), truth.covariance(t), 4.5)
