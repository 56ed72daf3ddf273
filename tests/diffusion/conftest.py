"""Gaussian data with a closed-form probability flow: the truth that samplers are held to."""

import pytest
import torch

from denoisezoo.diffusion import GaussianOracle

SHAPE = (1, 2, 2)


class GaussianTruth:
    """Data N(mean, covariance) of shape (1, 2, 2) under a scalar process."""

    def __init__(self, process):
        generator = torch.Generator().manual_seed(1)
        root = torch.randn(4, 4, generator=generator, dtype=torch.float64) / 3
        self.process = process
        self.mean = torch.tensor([0.4, -0.3, 0.1, 0.6], dtype=torch.float64)
        self.covariance = root @ root.T + 0.02 * torch.eye(4, dtype=torch.float64)
        self.oracle = GaussianOracle(process, self.mean.reshape(SHAPE), self.covariance)

    def flow(self, u_t, t, s):
        """The exact solution at s of the probability flow through u_t (B, 1, 2, 2) at t.

        Along an eigenvector of the covariance with eigenvalue v the deviation from the mean scales with the standard
        deviation sqrt(alpha^2 v + sigma^2) of u.
        """
        values, vectors = torch.linalg.eigh(self.covariance)
        alpha_t, sigma_t, alpha_s, sigma_s = (
            f(torch.tensor(x, dtype=torch.float64)) if x else torch.tensor(float(f == self.process.alpha))
            for x in (t, s)
            for f in (self.process.alpha, self.process.sigma)
        )
        ratio = ((alpha_s**2 * values + sigma_s**2) / (alpha_t**2 * values + sigma_t**2)).sqrt()
        deviation = (u_t.flatten(1) - alpha_t * self.mean) @ vectors
        return (alpha_s * self.mean + (deviation * ratio) @ vectors.T).reshape(-1, *SHAPE)

    def start(self, sampler, steps, n=8, seed=0):
        return sampler.prior(self.process, (n, *SHAPE), steps, torch.Generator().manual_seed(seed))


@pytest.fixture
def gaussian():
    return GaussianTruth
