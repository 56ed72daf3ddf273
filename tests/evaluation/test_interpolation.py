"""Images between latents and round them."""

import pytest
import torch

from denoisezoo.archs import create_backbone
from denoisezoo.diffusion import PRECONDITIONINGS, DownSampling, MixedBlock, NetworkDenoiser, SeedBlock, create_sampler
from denoisezoo.diffusion.denoiser import Denoiser, Prediction
from denoisezoo.diffusion.generate import generate
from denoisezoo.diffusion.processes.joint import Joint
from denoisezoo.diffusion.processes.scalar import VP
from denoisezoo.errors import UserError
from denoisezoo.evaluation.interpolation import Walker, interpolate, perturb
from denoisezoo.nn.given import Given

SHAPE = (1, 8, 8)


class Copy(Denoiser):
    """Answers its input, doubled in size with zeros where there is nothing to see."""

    def __init__(self, process):
        super().__init__()
        self.process = process

    def forward(self, u_t, t, *given):
        found = self.process.up(u_t) if isinstance(self.process, DownSampling) else u_t
        return Prediction(found, torch.zeros_like(u_t))


def walker(process, sampler, steps):
    """The walk of a denoiser that shows the latents themselves."""
    return Walker(Copy(process), create_sampler(sampler), SHAPE, steps)


def plain(walk, seed):
    """The image of a seed, as `sample` draws it."""
    noise = SeedBlock([seed])
    u_T = walk.sampler.prior(walk.denoiser.process, (1, *SHAPE), walk.steps, noise, dtype=torch.float32)
    return walk.sampler(walk.denoiser, u_T, steps=walk.steps, generator=noise).images.float()


def test_mixed_noise_is_standard_normal_and_exact_at_its_ends():
    shape, shares = (3, 2, 40, 40), torch.tensor([[0.0, 0.6, 1.0]])
    mixed = MixedBlock([1, 2, 3], [4, 5, 6], shares).normal(shape)
    assert torch.equal(mixed[0], SeedBlock([1]).normal((1, *shape[1:]))[0])
    assert torch.equal(mixed[2], SeedBlock([6]).normal((1, *shape[1:]))[0])
    assert float(mixed[1].std()) == pytest.approx(1, abs=0.05)
    expected = 0.8 * SeedBlock([2]).normal((1, *shape[1:])) + 0.6 * SeedBlock([5]).normal((1, *shape[1:]))
    torch.testing.assert_close(mixed[1:2], expected)


@pytest.mark.parametrize(("process", "sampler", "steps"), [(DownSampling(8), "udpm", 3), (VP(), "ddim", 2)])
def test_interpolation_begins_and_ends_at_the_seeds(process, sampler, steps):
    walk = walker(process, sampler, steps)
    images = interpolate(walk, [7, 8, 9, 10], 5)
    assert images.shape == (2, 5, *SHAPE)
    for pair, (first, last) in enumerate(((7, 8), (9, 10))):
        torch.testing.assert_close(images[pair, 0], plain(walk, first)[0])
        torch.testing.assert_close(images[pair, 4], plain(walk, last)[0], atol=1e-5, rtol=1e-5)
        gap = (images[pair].diff(dim=0)).flatten(1).norm(dim=1)
        assert gap.min() > 0.5 * gap.max()  # equal steps of the angle are nearly equal steps of the image


def test_each_draw_is_perturbed_alone():
    process = DownSampling(8)
    images = perturb(walker(process, "udpm", 3), [3, 4], 1.0)
    assert images.shape == (4, 2, *SHAPE)  # plain, and one for each level
    torch.testing.assert_close(images[0, 1], plain(walker(process, "udpm", 3), 4)[0])
    states = process.basis.encode(images)
    moved = [(states[i] - states[0]).abs() > 1e-6 for i in (1, 2, 3)]
    assert [int(m[0].sum()) for m in moved] == [1, 4, 16]  # the coefficients that the level's noise reaches
    again = perturb(walker(process, "udpm", 3), [4], 1.0)
    torch.testing.assert_close(again[:, 0], images[:, 1])  # whatever the batch


def test_too_many_draws_are_refused():
    with pytest.raises(UserError, match="deterministic"):
        perturb(walker(VP(), "ddpm", 30), [0], 0.5)


def test_each_image_keeps_its_condition():
    backbone = create_backbone(
        "ddpm_tiny", in_channels=2, out_channels=1, num_classes=0, cond_channels=0, augment_dim=0
    )
    torch.nn.init.normal_(backbone.head.weight)
    denoiser = NetworkDenoiser(
        backbone.eval(), Joint(channels=1, cond_channels=1, sigma_max=0.0), PRECONDITIONINGS["edm"]()
    )
    sampler, cond = create_sampler("heun"), torch.randn(4, 1, 8, 8)
    walk = Walker(denoiser, sampler, (1, 8, 8), 2, given=Given(image=cond))
    plain = perturb(walk, range(4), 0.5)[0]
    images = generate(denoiser, sampler, 4, (1, 8, 8), steps=2, given=Given(image=cond)).images
    torch.testing.assert_close(plain, images)
    others = generate(denoiser, sampler, 4, (1, 8, 8), steps=2, given=Given(image=cond.flip(0))).images
    assert (images - others).abs().max() > 1e-3
