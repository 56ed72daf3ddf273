"""Images in batches."""

import torch

from denoisezoo.diffusion import GaussianOracle, create_sampler
from denoisezoo.diffusion.generate import generate
from denoisezoo.diffusion.processes.scalar import VP


def test_calls_of_an_adaptive_sampler_are_the_mean_over_images():
    """Tolerances hold for a batch as a whole, and some batches take more calls."""
    f64 = torch.float64
    oracle = GaussianOracle(
        VP(), torch.zeros(1, 2, 2, dtype=f64), torch.diag(torch.tensor([4.0, 1, 0.1, 0.01], dtype=f64))
    )
    sampler = create_sampler("rk45:rtol=0.0001,atol=0.0001")

    def calls(first, num, batch_size):
        given = {"steps": 1, "first_seed": first, "batch_size": batch_size, "dtype": f64}
        return generate(oracle, sampler, num, (1, 2, 2), **given).nfe

    first, last = calls(2, 2, 2), calls(4, 1, 1)
    assert first != last
    assert calls(2, 3, 2) == round((2 * first + last) / 3)
