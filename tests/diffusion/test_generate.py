"""Images in batches."""

import pytest
import torch

from denoisezoo.archs import create_backbone
from denoisezoo.diffusion import GaussianOracle, Given, create_denoiser, create_sampler
from denoisezoo.diffusion import generate as generate_module
from denoisezoo.diffusion.generate import generate
from denoisezoo.diffusion.processes.scalar import VP
from denoisezoo.errors import ComputationError


def test_calls_of_an_adaptive_sampler_are_the_mean_over_images():
    """A batch takes the calls of the image that needs most, and some batches take more."""
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


def test_a_gpu_sees_one_batch_size(monkeypatch):
    """The last batch is filled up, so that a compiled network has one program; images stay those asked for."""
    backbone = create_backbone("ddpm_tiny", cond_channels=0, augment_dim=0, num_classes=4).eval()
    denoiser, seen = create_denoiser(backbone, "edm").eval(), []
    backbone.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))

    def drawn():
        seen.clear()
        label = torch.tensor([0, 1, 2, 3, 0, 1, 2])
        options = {"steps": 2, "batch_size": 3, "given": Given(label=label), "first_seed": 5}
        return generate(denoiser, create_sampler("ddpm"), 7, (3, 8, 8), **options)

    plain, sizes = drawn(), set(seen)
    assert sizes == {3, 1}
    monkeypatch.setattr(generate_module, "one_size", lambda device: True)
    filled = drawn()
    assert set(seen) == {3}
    torch.testing.assert_close(filled.images, plain.images, rtol=1e-4, atol=1e-5)
    assert (filled.nfe, len(filled)) == (plain.nfe, 7)


def test_images_that_are_not_finite_are_not_returned():
    oracle = GaussianOracle(VP(), torch.full((1, 2, 2), torch.nan), torch.eye(4))
    with pytest.raises(ComputationError, match="2 of 2 images are not finite, first the prediction of call 1 of 3"):
        generate(oracle, create_sampler("ddim"), 3, (1, 2, 2), steps=3, batch_size=2)
