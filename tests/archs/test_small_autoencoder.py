"""The small autoencoder: its cost by hand, its quantiser, and what it refuses."""

import pytest
import torch

from denoisezoo.archs.small_autoencoder import SmallAutoencoder, quantise
from denoisezoo.errors import UserError
from denoisezoo.profiling.counting import count

TINY = {"resolution": 8, "in_channels": 1, "latent_channels": 2, "channels": 4, "multipliers": (1, 2)}


def test_each_way_costs_what_its_layers_cost():
    net, image = SmallAutoencoder(**TINY), torch.randn(1, 1, 8, 8)
    stem, block, down = 9 * 1 * 4 * 64, 2 * 9 * 4 * 4 * 64, 9 * 4 * 4 * 16
    wider, out = (9 * 4 * 8 + 9 * 8 * 8 + 4 * 8) * 16, 9 * 8 * 4 * 16  # of mean and log-variance, two channels each
    assert count(lambda: net.encode(image)).macs == stem + block + down + wider + out == 41_984
    stem, block, up = 9 * 2 * 8 * 16, 2 * 9 * 8 * 8 * 16, 9 * 8 * 8 * 64
    narrower, out = (9 * 8 * 4 + 9 * 4 * 4 + 8 * 4) * 64, 9 * 4 * 1 * 64
    assert count(lambda: net.decode(torch.randn(1, 2, 4, 4))).macs == stem + block + up + narrower + out == 89_600
    assert count(lambda: net(image, torch.zeros(1))).macs == 41_984 + 89_600


@pytest.mark.parametrize("multipliers", [(1,), (1, 2), (1, 1, 2), (1, 1, 1, 1)])
def test_latents_are_f_times_smaller(multipliers):
    net = SmallAutoencoder(16, 3, 5, 4, multipliers)
    mean, log_variance = net.encode(torch.randn(2, 3, 16, 16))
    assert net.factor == 2 ** (len(multipliers) - 1)
    assert mean.shape == log_variance.shape == (2, 5, 16 // net.factor, 16 // net.factor)
    image = net(torch.randn(2, 3, 16, 16), torch.zeros(2))
    assert image.shape == (2, 3, 16, 16)
    image.sum().backward()
    unused = net.encoder[-1].weight[5:]  # of the log-variance
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in net.parameters())
    assert (net.encoder[-1].weight.grad[5:] == 0).all()
    assert unused.shape == (5, 4 * multipliers[-1], 3, 3)


def test_the_quantiser_rounds_to_its_levels_and_lets_gradients_pass():
    raw = torch.linspace(-4, 4, 101, dtype=torch.float64, requires_grad=True)
    z = quantise(raw, 5)
    assert sorted({round(value, 12) for value in z.tolist()}) == [-1, -0.5, 0, 0.5, 1]
    assert (z - raw.tanh()).abs().max() <= 0.25
    (slope,) = torch.autograd.grad(z.sum(), raw)
    assert torch.allclose(slope, 1 - raw.tanh() ** 2)
    mean, log_variance = SmallAutoencoder(**TINY, quantiser_levels=3).encode(torch.randn(2, 1, 8, 8))
    assert log_variance is None
    assert set(mean.unique().tolist()) <= {-1.0, 0.0, 1.0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"resolution": 9}, "resolution 9 cannot be halved 1 times"),
        ({"channels": 6}, "channels is 6"),
        ({"channels": "wide"}, "channels of SmallAutoencoder is 'wide'"),
        ({"latent_channels": 0}, "latent_channels is 0"),
        ({"multipliers": ()}, "multipliers is"),
        ({"quantiser_levels": 4}, "quantiser_levels is 4; give 0 for none, or an odd number"),
    ],
)
def test_impossible_sizes_are_one_line(change, message):
    with pytest.raises(UserError, match=message):
        SmallAutoencoder(**TINY | change)
