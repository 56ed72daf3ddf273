"""Metrics of conditional tasks against known values and a second implementation."""

import math

import pytest
import torch
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from denoisezoo.errors import UserError
from denoisezoo.evaluation.features import create_features
from denoisezoo.evaluation.reconstruction import (
    Pair,
    condition_of,
    conditional_figures,
    cosine,
    diversity,
    means_of_draws,
    mse_db,
    picture_rows,
    psnr,
    ssim,
)


def images(n=6, channels=1, side=16, seed=0):
    return torch.rand(n, channels, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_psnr_of_a_known_error():
    x = images() * 0.5
    torch.testing.assert_close(psnr(x, x + 0.2), torch.full((6,), 20.0, dtype=torch.float64))  # (0.2 / 2)^2 = 0.01
    assert psnr(x, x).eq(100).all()
    torch.testing.assert_close(psnr(x, x + 7), psnr(x, torch.ones_like(x)))  # clamped
    torch.testing.assert_close(psnr(x, x + 4, clamp=False), torch.full((6,), -20 * math.log10(2), dtype=torch.float64))


def test_psnr_against_torchmetrics():
    a, b = images(4, 3), images(4, 3, seed=1)
    theirs = peak_signal_noise_ratio(a.double(), b.double(), 2.0, reduction="none", dim=(1, 2, 3))
    torch.testing.assert_close(psnr(a, b), theirs)


@pytest.mark.parametrize(("channels", "side"), [(1, 16), (3, 32)])
def test_ssim_against_torchmetrics(channels, side):
    a = images(4, channels, side)
    b = (a + 0.3 * images(4, channels, side, 1)).clamp(-1, 1)
    _, theirs = structural_similarity_index_measure(
        (a.double() + 1) / 2, (b.double() + 1) / 2, data_range=1.0, reduction="none", return_full_image=True
    )
    # It reflects the image at its borders; ours takes the windows that lie inside.
    torch.testing.assert_close(ssim(a, b), theirs[..., 5:-5, 5:-5].flatten(1).mean(1), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(ssim(a, a), torch.ones(4, dtype=torch.float64))


def test_ssim_of_images_below_the_window():
    a = images(4, 1, 8)
    torch.testing.assert_close(ssim(a, a), torch.ones(4, dtype=torch.float64))
    assert (ssim(a, a * 0.5) > ssim(a, images(4, 1, 8, 1))).all()


def test_mse_is_averaged_before_it_is_put_in_db():
    x = torch.zeros(2, 1, 4, 4)
    off = x + torch.tensor([0.1, 0.3]).reshape(2, 1, 1, 1)  # errors 0.01 and 0.09
    assert mse_db(off, x) == pytest.approx(-13.0103, abs=1e-3)  # 10 log10 0.05
    assert mse_db(x, x) == pytest.approx(-100)
    assert mse_db(x + 7, x) == pytest.approx(0)  # clamped to 1


def test_cosine_is_that_of_brightness():
    white, half = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    a, b = white.reshape(1, 1, 1, 2), half.reshape(1, 1, 1, 2)
    assert cosine(a, b).item() == pytest.approx(0.5**0.5)
    assert cosine(a, a).item() == pytest.approx(1)
    assert cosine(-a, b).item() == 0


def test_the_mean_of_the_draws_has_half_the_error_of_a_draw():
    """Truth and draws from one posterior N(0, 0.01): 2 v for a draw, v (1 + 1/n) for the mean of n."""
    generator = torch.Generator().manual_seed(0)
    x, draws = (0.1 * torch.randn(n, 1, 8, 8, generator=generator) for n in (200, 1000))
    index = torch.arange(1000) % 200
    means = means_of_draws(draws, index)
    assert means.shape == x.shape
    assert mse_db(draws, x[index]) - mse_db(means, x) == pytest.approx(10 * math.log10(2 / 1.2), abs=0.1)


def test_diversity_is_the_deviation_of_pixels():
    values = torch.tensor([-1.0, -0.5, 0.0, 0.5, 1.0])
    samples = values.reshape(5, 1, 1, 1).expand(5, 1, 4, 4).repeat(2, 1, 1, 1)  # conditions 0 and 1, five draws each
    index = torch.arange(2).repeat_interleave(5)
    assert diversity(samples, index) == pytest.approx(127.5 * 0.5**0.5)
    assert diversity(samples[:1].expand(5, 1, 4, 4), torch.zeros(5)) == 0
    assert diversity(samples[:4], index[:4]) is None


def test_conditions_go_round_with_enough_draws():
    assert condition_of(10, 100).tolist() == [0, 1] * 5
    assert condition_of(15, 3).tolist() == [0, 1, 2] * 5
    assert condition_of(3, 100).tolist() == [0, 0, 0]
    assert condition_of(4, 100, draws=1).tolist() == [0, 1, 2, 3]


def test_the_joint_distance_sees_whether_images_fit_their_conditions():
    """Shuffled images have the right distribution, and do not belong to their conditions."""
    x = images(400, side=4)
    pair = Pair(x, x.flip(-1))
    index = torch.arange(400)
    fitting = conditional_figures(x, pair, index, create_features("pixels"), pair)
    shuffled = conditional_figures(x.roll(1, 0), pair, index, create_features("pixels"), pair)
    assert fitting["fd_pixels_joint"] == pytest.approx(0, abs=1e-6)
    assert shuffled["fd_pixels_joint"] > 1
    figures = {"psnr", "ssim", "mse_db", "mse_db_mean", "cosine", "consistency", "fd_pixels_joint"}
    assert set(fitting) == figures
    assert (fitting["psnr"], fitting["consistency"]) == (100, 100)


def test_rows_of_a_picture():
    pair = Pair(images(3), images(3, seed=1))
    samples = images(12, seed=2)
    index = torch.arange(12) % 3
    rows, columns = picture_rows(samples, pair, index, draws=4)
    assert (rows.shape[0], columns) == (18, 6)
    assert torch.equal(rows[6], pair.y[1])
    assert torch.equal(rows[7:11], samples[1::3])
    assert torch.equal(rows[11], pair.x[1])
    assert picture_rows(samples, pair, index, draws=4, known=False)[1] == 5


def test_a_mask_is_of_zeros_and_ones():
    with pytest.raises(UserError, match=r"value 0\.5"):
        Pair(images(), images(), torch.full((6, 1, 16, 16), 0.5))


def test_figures_are_computed_where_the_samples_are():
    """A tensor without a device of its own would be on the one that is pretended here, where nothing is computed."""
    x, index = images(10), torch.arange(10) % 2
    pair, features = Pair(x[:2], x[:2]), create_features("pixels")
    expected = conditional_figures(x, pair, index, features, Pair(x, x))
    with torch.device("meta"):
        assert torch.equal(means_of_draws(x, index), means_of_draws(x, index.clone()))
        found = conditional_figures(x, pair, index, features, Pair(x, x))
    assert found == expected
