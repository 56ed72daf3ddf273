"""Stochastic samplers reproduce mean and covariance of Gaussian data within four standard errors."""

import pytest
import torch

from denoisezoo.diffusion import create_sampler
from denoisezoo.diffusion.processes.scalar import EDM, VP, RectifiedFlow
from denoisezoo.diffusion.processes.vp_discrete import VPDiscrete

from .conftest import SHAPE

N = 10_000


def moments_in_standard_errors(truth, images):
    """Largest deviation of mean and covariance from the truth, each in its own standard errors."""
    flat = images.flatten(1)
    S = truth.covariance
    mean_error = (flat.mean(0) - truth.mean) / (S.diagonal() / N).sqrt()
    # Standard error of a sample covariance of Gaussian data: var(S_ij) = (S_ij^2 + S_ii S_jj) / n.
    spread = ((S**2 + S.diagonal()[:, None] * S.diagonal()) / N).sqrt()
    cov_error = (torch.cov(flat.T) - S) / spread
    return mean_error.abs().max().item(), cov_error.abs().max().item()


@pytest.mark.parametrize(
    ("process", "spec", "steps"),
    [
        (VP(), "ddpm:clip=false,time_grid=edm", 800),
        (VP(), "ddpm:clip=false,variance=large,time_grid=edm", 800),
        (VPDiscrete(), "ddpm:clip=false", 1000),
        (VP(), "ddim:eta=1.0,time_grid=edm", 800),
        (VP(), "ddim:eta=0.5,time_grid=edm", 800),
        (EDM(), "ddim:eta=1.0", 800),
        (VP(), "gddim:lam=0.5,time_grid=edm", 800),
        (EDM(), "gddim:lam=1.0", 800),
        (VP(), "dpmpp_2m_sde:tau=0.5,time_grid=edm", 100),
        (EDM(), "dpmpp_2m_sde", 100),
        (RectifiedFlow(), "dpmpp_2m_sde", 800),
        (VP(), "euler_maruyama:time_grid=edm", 800),
        (RectifiedFlow(), "ddpm:clip=false", 800),
        (EDM(), "edm:S_churn=40", 100),
        (VP(), "edm:S_churn=40,S_min=0.05,S_max=50", 100),
        (VPDiscrete(), "edm:S_churn=20", 100),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_moments(gaussian, process, spec, steps):
    truth, sampler = gaussian(process), create_sampler(spec)
    generator = torch.Generator().manual_seed(0)
    u_T = sampler.prior(process, (N, *SHAPE), steps, generator)
    images = sampler(truth.oracle, u_T, steps=steps, generator=generator).images
    mean_error, cov_error = moments_in_standard_errors(truth, images)
    assert mean_error < 4
    assert cov_error < 4


def test_a_seed_repeats_and_another_differs(gaussian):
    truth, sampler = gaussian(EDM()), create_sampler("edm:S_churn=40")

    def draw(seed):
        generator = torch.Generator().manual_seed(seed)
        u_T = sampler.prior(truth.process, (4, *SHAPE), 6, generator)
        return sampler(truth.oracle, u_T, steps=6, generator=generator).images

    assert torch.equal(draw(3), draw(3))
    assert not torch.allclose(draw(3), draw(4))
