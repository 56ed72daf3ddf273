"""Bases are orthonormal, and there and back is where one was."""

import pytest
import torch

from denoisezoo.diffusion import CLD, PROCESSES, Joint, MultiScale, PixelBasis
from denoisezoo.diffusion.basis import DCTBasis, HaarBasis, PositionAndVelocity
from denoisezoo.errors import UserError

f64 = torch.float64
BASES = {"pixels": PixelBasis(), "dct": DCTBasis(), "haar": HaarBasis(2), "haar_of_stages": HaarBasis(2, 8)}
EVERY = {name: cls.for_images(8).basis for name, cls in PROCESSES.items()}


def images(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=f64)


@pytest.mark.parametrize("name", BASES)
def test_a_basis_is_orthonormal(name):
    x, y = images(2, 3, 8, 8), images(2, 3, 8, 8, seed=1)
    u, v = BASES[name].encode(x), BASES[name].encode(y)
    torch.testing.assert_close((u * v).sum(), (x * y).sum())
    torch.testing.assert_close(BASES[name].decode(u), x)


@pytest.mark.parametrize("name", EVERY)
def test_there_and_back_in_the_basis_of_every_process(name):
    basis, x = EVERY[name], images(2, 3, 8, 8)
    torch.testing.assert_close(basis.decode(basis.encode(x)), x)
    torch.testing.assert_close(basis.from_pixels(basis.to_pixels(x)), x)
    clipped = basis.clip(basis.encode(3 * x))
    torch.testing.assert_close(basis.decode(clipped), (3 * x).clamp(-1, 1))
    torch.testing.assert_close(basis.clip(clipped), clipped)
    assert basis.image_channels(basis.state_channels(3)) == 3


def test_a_stage_of_a_mosaic_is_a_small_image():
    x = images(1, 1, 8, 8)
    for basis in (HaarBasis(2, 8), MultiScale(8, levels=2).basis):
        small = basis.to_pixels(basis.from_pixels(x)[..., :4, :4])
        torch.testing.assert_close(small, 2 * torch.nn.functional.avg_pool2d(x, 2))
        torch.testing.assert_close(basis.from_pixels(small), basis.from_pixels(x)[..., :4, :4])


def test_a_velocity_is_drawn_where_it_is_not_marginal():
    x = images(2, 3, 8, 8)
    assert torch.equal(PositionAndVelocity().draw(x), torch.cat([x, torch.zeros_like(x)], 1))
    drawn = PositionAndVelocity(0.5).draw(images(50, 3, 16, 16), torch.Generator().manual_seed(0))
    assert float(drawn[:, 3:].std()) == pytest.approx(0.5, rel=0.02)
    assert CLD().basis.velocity_std == 0
    assert CLD(velocity="sampled", gamma=0.04, inverse_mass=4.0).basis.velocity_std == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("basis", "channels", "words"),
    [
        (PositionAndVelocity(), 3, "2 parts cannot have 3 channels; give a multiple of 2"),
        (Joint(channels=3, cond_channels=2).basis, 6, r"3 \+ 2 channels.*takes 6; set network.in_channels to 5"),
    ],
)
def test_channels_that_no_state_has_are_refused(basis, channels, words):
    with pytest.raises(UserError, match=words):
        basis.image_channels(channels)
