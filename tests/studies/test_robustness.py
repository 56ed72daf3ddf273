import math

import pytest
import torch

from denoisezoo.diffusion import GaussianOracle
from denoisezoo.diffusion.processes.scalar import VP, RectifiedFlow
from denoisezoo.studies.robustness import denoise, psnr_of, ssim_of


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


def test_psnr_by_hand():
    clean = torch.zeros(2, 1, 4, 4)
    noisy = clean.clone()
    noisy[0] += 0.2  # 0.1 on the scale [0, 1]: 20 dB
    noisy[1] += 0.02
    torch.testing.assert_close(psnr_of(noisy, clean), torch.tensor([20.0, 40.0]))


def test_ssim_is_one_for_equal_images_and_falls_with_noise():
    clean = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
    assert float(ssim_of(clean, clean)) == pytest.approx(1.0)
    assert 0 < float(ssim_of(clean + 0.5 * noise, clean)) < float(ssim_of(clean + 0.1 * noise, clean)) < 1
