"""Digital links: rates and errors of theory, quantisers of the literature, bit errors of BPSK."""

import math

import pytest
import torch

from denoisezoo.evaluation.digital import (
    BitLink,
    allocate,
    best_link,
    capacity,
    ideal_link,
    lloyd,
    nearest_level,
    pixel_link,
    water_level,
)
from denoisezoo.evaluation.linear import Moments

f64 = torch.float64


def gaussian(n=20_000, variances=(4.0, 1.0, 0.25, 0.01)):
    z = torch.randn(n, 4, generator=torch.Generator().manual_seed(0), dtype=f64)
    return (z * torch.tensor(variances, dtype=f64).sqrt()).reshape(n, 1, 2, 2)


def test_capacity_by_hand():
    """SNR 3 for one row of two, 15 for the other: 2 (1 + 2) bits."""
    sigma = torch.tensor([3**-0.5, 15**-0.5], dtype=f64).reshape(1, 1, 2, 1)
    assert capacity(1.0, sigma, (1, 1, 2, 2)).item() == pytest.approx(6.0)


def test_water_levels_by_hand():
    """Variances 4, 1, 1/4: 1 bit fills the first to 1; 3.5 bits take all three down to 1/8."""
    v = torch.tensor([4.0, 1.0, 0.25], dtype=f64)
    found = water_level(v, torch.tensor([0.0, 1.0, 3.0, 4.5], dtype=f64))
    torch.testing.assert_close(found, torch.tensor([4.0, 1.0, 0.25, 0.125], dtype=f64))


@pytest.mark.parametrize("snr", [0.1, 3.0])
def test_the_ideal_link_attains_the_rate_distortion_function(snr):
    x = gaussian()
    moments = Moments.of(x)
    sigma = torch.tensor(math.sqrt(moments.power / snr), dtype=f64).reshape(1, 1, 1, 1)
    arrived = ideal_link(moments, x, sigma.expand(len(x), 1, 1, 1), torch.Generator().manual_seed(1))
    theta = water_level(moments.variances, torch.tensor([2 * math.log2(1 + snr)], dtype=f64))
    expected = moments.variances.minimum(theta).sum().item()
    assert (arrived - x).square().sum((1, 2, 3)).mean().item() == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize(("bits", "error"), [(1, 0.3634), (2, 0.1175), (3, 0.03454)])
def test_quantisers_are_those_of_max(bits, error):
    values = torch.randn(100_000, generator=torch.Generator().manual_seed(0), dtype=f64)
    levels = lloyd(values, bits, rounds=100)
    found = (levels[nearest_level(levels, values)] - values).square().mean().item()
    assert found == pytest.approx(error, rel=0.02)


def test_bits_go_where_they_help():
    assert allocate(torch.tensor([4.0, 1.0, 0.0]), 4) == [3, 1, 0]  # as the errors of Max's quantisers have it
    assert allocate(torch.tensor([1.0]), 20) == [8]


def test_bits_without_errors_leave_the_quantisers_error():
    x = gaussian(5000)
    link = BitLink(Moments.of(x), x, 4)
    assert link.allocation == sorted(link.allocation, reverse=True)
    assert link.bits == 4
    bits = link.encode(x)
    assert bits.shape == (5000, 4)
    assert bits.unique().tolist() == [0, 1]
    sent = link.send(x, torch.zeros_like(x), torch.ones(1, 1, 1, 1))
    assert sent.bit_error_rate == 0
    torch.testing.assert_close(sent.images, link.decode(bits, x.shape))
    # Two bits and one for variances 4 and 1, or three and one: what Max's table says.
    errors = {0: 1.0, 1: 0.3634, 2: 0.1175, 3: 0.03454}
    expected = sum(v * errors[b] for v, b in zip((4, 1, 0.25, 0.01), link.allocation + [0] * 4, strict=False))
    assert (sent.images - x).square().sum((1, 2, 3)).mean().item() == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_bit_errors_are_those_of_bpsk_with_repetition(bits):
    """4 uses, each bit sent r = 4 / bits times: Q(sqrt(r SNR))."""
    x = gaussian(40_000)
    moments = Moments.of(x)
    link, snr = BitLink(moments, x, bits), 0.5
    sigma = math.sqrt(moments.power / snr)
    noise = sigma * torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=f64)
    found = link.send(x, noise, torch.full((1, 1, 1, 1), sigma)).bit_error_rate
    Q = 0.5 * math.erfc(math.sqrt(4 / bits * snr / 2))
    assert found == pytest.approx(Q, rel=0.05)


def test_faded_uses_count_by_their_likelihood():
    """One bit over a clear row and a buried one: as good as the sum of their SNRs, Q(sqrt(2 a + 2 b))."""
    x = gaussian(40_000)
    moments = Moments.of(x)
    sigma = (moments.power / torch.tensor([0.5, 0.01], dtype=f64)).sqrt().reshape(1, 1, 2, 1)
    noise = sigma * torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=f64)
    found = BitLink(moments, x, 1).send(x, noise, sigma).bit_error_rate
    assert found == pytest.approx(0.5 * math.erfc(math.sqrt((2 * 0.5 + 2 * 0.01) / 2)), rel=0.05)


def test_the_best_link_sends_more_bits_over_a_better_channel():
    x = gaussian(500)
    moments = Moments.of(x)
    found = []
    for snr in (0.3, 30.0):
        sigma = torch.full((1, 1, 1, 1), math.sqrt(moments.power / snr), dtype=f64)
        noise = sigma * torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=f64)
        found.append(best_link(moments, x, noise, sigma).bits)
    assert found[0] < found[1] == 4


def test_uncoded_pixels_have_a_bit_each():
    """Clear: the half-means of a Gaussian, Max's error of one bit; with SNR 1, Q(1) of the bits are wrong."""
    x = gaussian()
    moments = Moments.of(x)
    link = pixel_link(moments, x)
    assert link.allocation == [1, 1, 1, 1]
    clear = link.send(x, torch.zeros_like(x), torch.ones(1, 1, 1, 1))
    expected = 0.3634 * torch.tensor([4.0, 1.0, 0.25, 0.01]).sum().item()
    assert (clear.images - x).square().sum((1, 2, 3)).mean().item() == pytest.approx(expected, rel=0.03)
    sigma = math.sqrt(moments.power)
    noise = sigma * torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=f64)
    found = link.send(x, noise, torch.full((1, 1, 1, 1), sigma)).bit_error_rate
    assert found == pytest.approx(0.5 * math.erfc(1 / math.sqrt(2)), rel=0.03)
