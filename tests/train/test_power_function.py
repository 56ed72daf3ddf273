"""Post-hoc averages: the formulas of EDM2 (arXiv 2312.02696, section 3), and averages kept directly."""

import math

import numpy as np
import pytest
import torch

from denoisezoo.errors import UserError
from denoisezoo.train.power_function import decay, exponent, inner_product, mixture, relative_width


@pytest.mark.parametrize(("width", "gamma"), [(0.05, 16.9721986), (0.10, 6.93720394)])
def test_exponents_of_the_paper(width, gamma):
    assert exponent(width) == pytest.approx(gamma, rel=1e-8)


@pytest.mark.parametrize("width", [0.01, 0.05, 0.135, 0.25])
def test_the_width_is_the_standard_deviation_of_the_profile(width):
    gamma = exponent(width)
    assert relative_width(gamma) == pytest.approx(width, rel=1e-9)
    tau = (np.arange(200_000) + 0.5) / 200_000
    p = (gamma + 1) * tau**gamma
    mean = (p * tau).mean()
    assert math.sqrt((p * (tau - mean) ** 2).mean()) == pytest.approx(width, rel=1e-4)


@pytest.mark.parametrize("width", [0.0, -0.1, 0.26, math.nan])
def test_widths_out_of_range(width):
    with pytest.raises(UserError, match="sigma_rel"):
        exponent(width)


def test_inner_products_are_integrals():
    tau = (np.arange(400_000) + 0.5) / 100_000  # 0 ... 4

    def profile(t, gamma):
        return np.where(tau <= t, (gamma + 1) * tau**gamma / t ** (gamma + 1), 0.0)

    for a, b in [((1, 17.0), (4, 6.9)), ((4, 17.0), (4, 6.9)), ((4, 6.9), (2.5, 17.0))]:
        expected = (profile(*a) * profile(*b)).sum() / 100_000
        assert inner_product(a, b) == pytest.approx(expected, rel=1e-4)
        assert inner_product(a, b) == inner_product(b, a)


def test_a_stored_average_is_made_of_itself_alone():
    stored = [(t, g) for t in (1e6, 2e6, 3e6) for g in (exponent(0.05), exponent(0.1))]
    for index, target in enumerate(stored):
        expected = np.eye(len(stored))[index]
        np.testing.assert_allclose(mixture(stored, target), expected, atol=1e-6)


def test_what_cannot_be_made():
    for stored in ([], [(100.0, 7.0)]):
        with pytest.raises(UserError, match="no stored average"):
            mixture(stored, (200.0, 7.0))


def test_the_first_update_forgets_the_initial_weights():
    assert decay(64, 64, 7.0) == 0
    assert decay(128, 64, 7.0) == pytest.approx(0.5**8)


@pytest.mark.parametrize("width", [0.03, 0.07, 0.15, 0.2])
def test_a_reconstruction_equals_an_average_kept_directly(width):
    """Weights that wander and settle, 2,000 steps of them, of which 32 files hold two averages each."""
    steps, batch = 2000, 64
    generator = torch.Generator().manual_seed(0)
    walk = torch.randn(steps, 20, generator=generator, dtype=torch.float64)
    weights = 5 + (walk / torch.arange(1, steps + 1).sqrt()[:, None]).cumsum(0)
    widths = (0.05, 0.10, width)
    averages = [torch.zeros(20, dtype=torch.float64) for _ in widths]
    stored, profiles = [], []
    for step in range(steps):
        t = (step + 1) * batch
        for average, kept in zip(averages, widths, strict=True):
            average.lerp_(weights[step], 1 - decay(t, batch, exponent(kept)))
        if (step + 1) % 62 == 0 or step + 1 == steps:
            stored += [average.float() for average in averages[:2]]
            profiles += [(t, exponent(kept)) for kept in widths[:2]]
    factors = mixture(profiles, (steps * batch, exponent(width)))
    assert sum(factors) == pytest.approx(1)
    made = sum(factor * average.double() for factor, average in zip(factors, stored, strict=True))
    error = (made - averages[2]).norm() / averages[2].norm()
    assert error < 1e-3
    # Against how far apart averages of other lengths are, too.
    assert (made - averages[2]).norm() < 0.1 * (averages[1] - averages[2]).norm()
