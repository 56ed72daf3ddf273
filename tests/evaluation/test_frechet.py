from __future__ import annotations

import pytest
import torch
from scipy.linalg import sqrtm

from denoisezoo.errors import UserError
from denoisezoo.evaluation.frechet import GaussianStats, StreamingStats, frechet_distance, gaussian_stats


def gaussian(mean: torch.Tensor, covariance: torch.Tensor) -> GaussianStats:
    return GaussianStats(1000, mean.double(), covariance.double())


def random_covariance(d: int, seed: int, rank: int | None = None) -> torch.Tensor:
    factor = torch.randn(d, rank or 2 * d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return factor @ factor.T / factor.shape[1]


def random_rotation(d: int) -> torch.Tensor:
    return torch.linalg.qr(torch.randn(d, d, dtype=torch.float64, generator=torch.Generator().manual_seed(9)))[0]


def test_diagonal_covariances_have_a_closed_form():
    """|mu_1 - mu_2|^2 + sum (s_1 - s_2)^2, with s the standard deviations."""
    a = gaussian(torch.tensor([1.0, 2.0]), torch.diag(torch.tensor([4.0, 9.0])))
    b = gaussian(torch.tensor([0.0, 4.0]), torch.diag(torch.tensor([1.0, 25.0])))
    assert frechet_distance(a, b) == pytest.approx(1 + 4 + 1 + 4, abs=1e-12)


def test_commuting_covariances_have_a_closed_form():
    basis, d = random_rotation(20), 20
    s_a, s_b = torch.linspace(0.1, 2, d).double(), torch.linspace(3, 0.2, d).double()
    a = gaussian(torch.zeros(d), basis @ torch.diag(s_a**2) @ basis.T)
    b = gaussian(torch.ones(d), basis @ torch.diag(s_b**2) @ basis.T)
    assert frechet_distance(a, b) == pytest.approx(d + float((s_a - s_b).square().sum()), abs=1e-8)


@pytest.mark.parametrize("d", [3, 30, 60])
def test_general_covariances_agree_with_scipy(d):
    s_a, s_b = random_covariance(d, 1), random_covariance(d, 2)
    expected = float((s_a + s_b).trace()) - 2 * sqrtm((s_a @ s_b).numpy()).real.trace()
    assert frechet_distance(gaussian(torch.zeros(d), s_a), gaussian(torch.zeros(d), s_b)) == pytest.approx(
        expected, abs=1e-8
    )


def test_covariances_without_full_rank():
    """In a subspace shared by both, the distance is what it is there; scipy's sqrtm fails at this."""
    d, rank = 40, 6
    basis = random_rotation(d)[:, :rank]
    s_a, s_b = random_covariance(rank, 1), random_covariance(rank, 2)
    inside = frechet_distance(gaussian(torch.zeros(rank), s_a), gaussian(torch.zeros(rank), s_b))
    a, b = (gaussian(torch.zeros(d), basis @ s @ basis.T) for s in (s_a, s_b))
    assert frechet_distance(a, b) == pytest.approx(inside, abs=1e-6)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6)


def test_fewer_features_than_dimensions_need_no_decomposition():
    """The factor made of the features gives what the covariance alone gives."""
    generator = torch.Generator().manual_seed(0)
    a, b = (gaussian_stats(torch.randn(n, 60, generator=generator)) for n in (20, 35))
    assert (a.factor.shape, b.factor.shape) == ((60, 20), (60, 35))
    plain = [gaussian(s.mean, s.covariance) for s in (a, b)]
    assert [s.factorised().shape for s in plain] == [(60, 19), (60, 34)]  # the mean takes one dimension
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(*plain), abs=1e-8)
    assert gaussian_stats(torch.rand(60, 60)).factor is None


def test_symmetric_and_zero_for_equal():
    a = gaussian(torch.randn(30), random_covariance(30, 3))
    b = gaussian(torch.randn(30), random_covariance(30, 4))
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), abs=1e-9)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)


def test_streaming_equals_the_whole_even_far_from_the_origin():
    features = torch.randn(1000, 12, dtype=torch.float64) + 1e6
    streaming = StreamingStats()
    for part in features.split([1, 99, 600, 300]):
        streaming.update(part)
    stats = streaming.stats()
    assert stats.n == 1000
    torch.testing.assert_close(stats.mean, features.mean(0), rtol=1e-14, atol=0)
    torch.testing.assert_close(stats.covariance, torch.cov((features - 1e6).T), rtol=1e-7, atol=1e-9)
    assert gaussian_stats(features, chunk=7).covariance.sub(stats.covariance).abs().max() < 1e-8


def test_float32_features_are_summed_in_float64():
    features = torch.rand(50, 3)
    assert gaussian_stats(features).covariance.dtype == torch.float64
    torch.testing.assert_close(gaussian_stats(features).covariance, torch.cov(features.double().T))


def test_agrees_with_torchmetrics_on_the_same_features():
    from torchmetrics.image.fid import FrechetInceptionDistance

    class Flat(torch.nn.Module):
        num_features = 48

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1)

    real, fake = torch.rand(300, 3, 4, 4), torch.rand(300, 3, 4, 4) ** 2
    metric = FrechetInceptionDistance(feature=Flat(), normalize=True, input_img_size=(3, 4, 4)).set_dtype(torch.float64)
    metric.update(real, real=True)
    metric.update(fake, real=False)
    ours = [gaussian_stats(x.flatten(1)) for x in (real, fake)]
    assert frechet_distance(*ours) == pytest.approx(float(metric.compute()), rel=1e-6)


def test_errors():
    with pytest.raises(UserError, match="at least 2 images on each side, and one has 1"):
        gaussian_stats(torch.zeros(1, 4))
    with pytest.raises(UserError, match="at least 2 images on each side, and one has 0"):
        StreamingStats().stats()
    with pytest.raises(UserError, match="features of 4 and of 5 dimensions cannot be compared"):
        frechet_distance(gaussian_stats(torch.rand(9, 4)), gaussian_stats(torch.rand(9, 5)))
