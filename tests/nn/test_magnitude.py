"""Magnitude-preserving layers against their definition (EDM2, arXiv 2312.02696)."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from denoisezoo.nn.magnitude import (
    EPS,
    SILU_RMS,
    MPConv,
    MPFourier,
    MPLinear,
    Uncertainty,
    mp_cat,
    mp_sum,
    normalize,
    normalize_weights,
)


def rms(x):
    return float(x.square().mean().sqrt())


def test_normalize_divides_by_the_rms_with_eps_outside_of_the_root():
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    root = np.sqrt((x.numpy() ** 2).mean(axis=(1, 2), keepdims=True))
    np.testing.assert_allclose(normalize(x, (1, 2)).numpy(), x.numpy() / (1e-4 + root), rtol=1e-12)
    assert normalize(torch.zeros(1, 4), 1).abs().max() == 0
    half = normalize(torch.full((1, 4), 3e4, dtype=torch.float16), 1)  # the square is beyond float16
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.float(), torch.ones(1, 4))


def test_silu_has_the_root_mean_square_of_the_paper():
    z, weight = np.polynomial.hermite_e.hermegauss(80)
    silu = z / (1 + np.exp(-z))
    assert math.sqrt((weight * silu**2).sum() / weight.sum()) == pytest.approx(SILU_RMS, abs=5e-4)


@pytest.mark.parametrize("t", [0.3, 0.5])
def test_sums_and_concatenations_keep_unit_mean_square(t):
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(64, n, 16, 16, generator=generator) for n in (8, 24))
    assert rms(mp_sum(a, b[:, :8], t)) == pytest.approx(1, abs=0.01)
    joined = mp_cat(a, b, t)
    assert rms(joined) == pytest.approx(1, abs=0.01)
    # What follows sees the energies of the parts in the ratio (1 - t)^2 : t^2, whatever their channels.
    energy = [float(part.square().sum()) for part in (joined[:, :8], joined[:, 8:])]
    assert energy[1] / energy[0] == pytest.approx((t / (1 - t)) ** 2, rel=0.02)


def test_layers_use_unit_vectors_times_the_gain():
    torch.manual_seed(0)
    conv, linear = MPConv(3, 5, 3), MPLinear(6, 4)
    with torch.no_grad():
        conv.weight.mul_(torch.tensor([1.0, 2, 3, 0.5, 7])[:, None, None, None])
    x, y = torch.randn(2, 3, 8, 8), torch.randn(2, 6)
    unit = conv.weight / conv.weight.flatten(1).norm(dim=1)[:, None, None, None]
    torch.testing.assert_close(conv(x, 0.5), 0.5 * F.conv2d(x, unit, padding=1), rtol=5e-4, atol=1e-4)
    unit = linear.weight / linear.weight.norm(dim=1, keepdim=True)
    torch.testing.assert_close(linear(y, torch.tensor([2.0])), 2 * y @ unit.T, rtol=5e-4, atol=1e-4)


def test_normalising_the_weights_changes_no_output_and_has_a_fixed_point():
    torch.manual_seed(0)
    net = torch.nn.Sequential(MPLinear(6, 4), MPLinear(4, 3))
    with torch.no_grad():
        for layer in net:
            layer.weight.mul_(5)
    x = torch.randn(2, 6)
    before = net(x)
    normalize_weights(net)
    torch.testing.assert_close(net(x), before, rtol=5e-4, atol=1e-5)
    for layer in net:
        assert rms(layer.weight) == pytest.approx(1, abs=2 * EPS)
    for _ in range(5):
        normalize_weights(net)
    fixed = net[0].weight.clone()
    normalize_weights(net)
    torch.testing.assert_close(net[0].weight, fixed, rtol=1e-6, atol=1e-7)


def test_gradients_are_orthogonal_to_the_weights():
    torch.manual_seed(0)
    layer = MPLinear(6, 4)
    layer(torch.randn(8, 6)).pow(3).sum().backward()
    along = (layer.weight * layer.weight.grad).sum(1) / layer.weight.grad.norm(dim=1) / layer.weight.norm(dim=1)
    assert along.abs().max() < 1e-3


def test_fourier_features_keep_float32_and_unit_mean_square():
    torch.manual_seed(0)
    features = MPFourier(4096).to(torch.bfloat16)
    assert features.frequencies.dtype == features.phases.dtype == torch.float32
    assert rms(features(torch.tensor([-1.6, 0.0, 1.1]))) == pytest.approx(1, abs=0.02)
    assert Uncertainty(128)(torch.zeros(3)).shape == (3,)
