"""Features of noise levels: the published formulas, and the roundings of the codes that they come from."""

import math

import pytest
import torch

from denoisezoo.nn.embeddings import Fourier, Sinusoidal

K = torch.arange(64, dtype=torch.float32)
ROUNDINGS = {
    "rate": torch.exp(K * -(math.log(10000) / 63)),
    "quotient": torch.exp(-math.log(10000) * K / 63),
    "power": (1 / 10000) ** (K / 63),
}
"""As DDPM, guided-diffusion and EDM write 10000^(-k / 63)."""


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_sinusoids_are_rounded_as_the_code_that_is_named(rounding):
    c_noise = torch.tensor([3.0, 999.0])
    found = Sinusoidal(128, rounding=rounding)(c_noise)
    angle = c_noise[:, None] * ROUNDINGS[rounding]
    assert torch.equal(found, torch.cat([angle.sin(), angle.cos()], dim=1))
    angle = c_noise.double()[:, None] * 10000 ** (-K.double() / 63)
    torch.testing.assert_close(found, torch.cat([angle.sin(), angle.cos()], dim=1).float(), rtol=0, atol=1e-4)


def test_roundings_differ():
    assert len({tuple(values.tolist()) for values in ROUNDINGS.values()}) == 3


def test_random_features_are_turned_before_or_after():
    before, after = Fourier(64), Fourier(64, turns_last=True)
    after.frequencies = before.frequencies
    c_noise = torch.tensor([0.7, -4.6])
    angle = c_noise[:, None] * after.frequencies * 2 * math.pi
    assert torch.equal(after(c_noise), torch.cat([angle.sin(), angle.cos()], dim=1))
    torch.testing.assert_close(before(c_noise), after(c_noise), rtol=0, atol=1e-3)
