import math

import pytest
import torch

from denoisezoo.diffusion import GaussianOracle
from denoisezoo.diffusion.processes.scalar import VP, RectifiedFlow
from denoisezoo.studies.robustness import denoise


@pytest.mark.parametrize("process", [VP(), RectifiedFlow()])
@pytest.mark.parametrize("steps", [1, 4])
def test_one_step_is_the_best_estimate_and_more_steps_walk_to_a_sample(process, steps):
    """Data N(0, 1): E[u_0 given noisy] = noisy / (1 + sigma^2), the flow gives noisy / sqrt(1 + sigma^2)."""
    oracle = GaussianOracle(process, torch.zeros(1, 2, 2), torch.eye(4))
    sigma = 0.4
    noisy = 0.3 * torch.randn(16, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    found = denoise(oracle, noisy, sigma, steps).images
    shrink = 1 / (1 + sigma**2) if steps == 1 else 1 / math.sqrt(1 + sigma**2)
    # Four Euler-like steps from sigma to sigma / 100 are within a few per cent of the exact flow.
    torch.testing.assert_close(found, noisy * shrink, rtol=1e-3 if steps == 1 else 0.06, atol=1e-6)
