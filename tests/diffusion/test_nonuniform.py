"""Processes with blocks and maps: published numbers, special cases, and what is refused."""

import math

import numpy as np
import pytest
import torch

from denoisezoo.diffusion import CLD, Blurring, Diagonal, LogSNRProcess, MultiScale
from denoisezoo.diffusion.capabilities import clean_state, expand, state_shape
from denoisezoo.diffusion.coefficients import product, square_root, transpose
from denoisezoo.diffusion.network_denoiser import check_images
from denoisezoo.diffusion.processes.scalar import EDM, VE, VP
from denoisezoo.diffusion.samplers.exponential import multistep_coefficients, stochastic_transition
from denoisezoo.diffusion.transforms import haar, inverse_dct
from denoisezoo.errors import UserError

from .truth import EVERY, at, drift, f64

# Langevin diffusion

PRINTED = 5e-9
"""Half a unit of the ninth digit: what the published numbers are rounded to."""


def numbers(blocks):
    return blocks[..., 0, 0, 0]


def test_langevin_transition_is_the_matrix_exponential():
    process = CLD()
    F = numbers(process.drift(at(0.3)))[0]
    for s, t in ((0.0, 1.0), (0.7, 0.2), (0.31, 0.3)):
        expected = torch.linalg.matrix_exp(F * (s - t))
        torch.testing.assert_close(numbers(process.psi(at(s), at(t)))[0], expected, rtol=1e-12, atol=1e-12)


def test_langevin_covariance_fixtures():
    process = CLD(start=(1e-18, 0.01))
    expected = {
        0.1: (0.221810061, 0.12985984, 0.215758351),
        0.5: (0.986460728, 0.00528689102, 0.24793355),
        1.0: (0.99998397, 7.07621179e-6, 0.249996876),
    }
    for t, values in expected.items():
        S = numbers(process.covariance(at(t)))[0]
        np.testing.assert_allclose([S[0, 0], S[0, 1], S[1, 1]], values, rtol=PRINTED)
    L = numbers(process.cholesky(at(0.5)))[0]
    np.testing.assert_allclose(L, [[0.993207294, 0], [0.00532304892, 0.497900809]], rtol=PRINTED)


def test_langevin_noise_fixtures():
    process = CLD()
    expected = {
        0.001: (0.000848750379, 0.00186378751, -0.0267363135, 0.129783542),
        0.1: (0.112751924, -0.457272605, 0.428947604, -0.17821993),
        0.5: (-0.584152045, 0.803260323, -0.405809973, -0.288533916),
        1.0: (0.996619598, -0.0820569773, 0.0410356135, 0.498310099),
    }
    for t, values in expected.items():
        R = process.noise(at(t))
        np.testing.assert_allclose(numbers(R)[0].ravel(), values, rtol=0, atol=6e-10)
        torch.testing.assert_close(product(R, transpose(R)), process.covariance(at(t)), rtol=0, atol=1e-14)
    torch.testing.assert_close(
        numbers(process.noise(at(0)))[0], torch.tensor([[1e-3, 0], [0, 0.010001**0.5]], dtype=f64)
    )


GRID = [1, 0.905506664, 0.8157021, 0.730586308, 0.650159289, 0.574421041, 0.503371566, 0.437010863, 0.375338933]
GRID += [0.318355774, 0.266061388, 0.218455774, 0.175538933, 0.137310863, 0.103771566, 0.0749210412, 0.0507592885]
GRID += [0.031286308, 0.0165020998, 0.00640666378, 0.001]


def test_langevin_grid_and_step_fixtures():
    process = CLD()
    grid = process.grid(21)
    np.testing.assert_allclose(grid[:-1], GRID, rtol=PRINTED)
    t, s, r = (grid[i].reshape(1) for i in range(3))
    np.testing.assert_allclose(
        numbers(process.psi(s, t))[0], [[0.519742437, -3.21976846], [0.804942114, 3.73951089]], rtol=2e-8
    )
    np.testing.assert_allclose(
        one_step(process, s, t), [[0.28299619, 0.903740728], [-0.583978456, -1.46297381]], rtol=2e-8
    )
    second = one_step(process, r, s)
    np.testing.assert_allclose(second, [[0.723466119, 0.415154202], [-1.30311576, -0.624002569]], rtol=2e-8)
    (C_1,) = multistep_coefficients(process, r[0], torch.cat([s, t]))
    C_1 = numbers(C_1)[0]
    np.testing.assert_allclose(C_1, [[-0.215793878, -0.0910530383], [0.524051479, 0.166696651]], rtol=2e-8)
    np.testing.assert_allclose(second - C_1, [[0.939259996, 0.50620724], [-1.82716724, -0.79069922]], rtol=2e-8)


def one_step(process, s, t):
    """C = R_s - psi(s, t) R_t."""
    return numbers(process.noise(s) - product(process.psi(s, t), process.noise(t)))[0]


@pytest.mark.parametrize(
    ("lam", "of_eps", "P"),
    [
        (
            1.0,
            [[0.406740604, 1.22567831], [-0.774073737, -1.75485779]],
            [[0.194134184, -0.125988879], [-0.125988879, 0.215201239]],
        ),
        (
            0.5,
            [[0.323296838, 1.01541359], [-0.651536097, -1.58518164]],
            [[0.0980185728, -0.0816112469], [-0.0816112469, 0.112458304]],
        ),
    ],
)
def test_langevin_stochastic_step_fixtures(lam, of_eps, P):
    process = CLD()
    t, s = process.grid(21)[:2]
    carried = product(stochastic_transition(process, s, t, lam), process.noise(t.reshape(1)))
    found = carried - product(process.psi(s.reshape(1), t.reshape(1)), process.noise(t.reshape(1)))
    np.testing.assert_allclose(numbers(found)[0], of_eps, rtol=2e-8)
    covariance = process.covariance(s.reshape(1)) - product(carried, transpose(carried))
    np.testing.assert_allclose(numbers(covariance)[0], P, rtol=2e-8)
    root = square_root(covariance)
    torch.testing.assert_close(product(root, root), covariance, rtol=1e-12, atol=1e-12)


def test_the_three_forms_of_a_stochastic_transition_agree():
    """The equation that is solved for other lambda, at lambda 1 and nearly 0, where closed forms are known."""
    process = CLD()
    t, s = process.grid(21)[:2]
    for lam, near in ((1.0, 1.0 + 1e-9), (0.0, 1e-6)):
        closed, solved = (stochastic_transition(process, s, t, x) for x in (lam, near))
        torch.testing.assert_close(closed, solved, rtol=1e-7, atol=1e-8)


def test_langevin_state():
    process, image = CLD(velocity="sampled"), torch.rand(2000, 3, 2, 2) * 4 - 2
    u = process.basis.encode(image)
    assert u.shape == (2000, 6, 2, 2)
    assert torch.equal(process.basis.decode(u), image)
    assert torch.equal(process.basis.decode(process.basis.clip(u)), image.clamp(-1, 1))
    velocity = clean_state(process, image, torch.Generator().manual_seed(0))[:, 3:]
    assert velocity.std().item() == pytest.approx(0.1, rel=0.03)  # sqrt(gamma M)
    assert process.start_variance == (1e-6, 1e-6)
    assert torch.equal(clean_state(CLD(), image), u)
    assert state_shape(process, (5, 3, 8, 8)) == (5, 6, 8, 8)
    with pytest.raises(UserError, match="multiple of 2"):
        process.basis.image_channels(3)


# Blurring


def test_blurring_fixtures():
    at_frequencies = {10.0: [[0.999711728, 0.999423539, 0.963769189], [0.989728082, 0.979561782, 0.267086139]]}
    at_frequencies[10.0] += [[0.886609589, 0.786089434, 0.00100020054]]
    at_frequencies[20.0] = [[0.998847411, 0.997696152, 0.86277178], [0.959541702, 0.920721917, 0.00602796844]]
    at_frequencies[20.0] += [[0.617982402, 0.382048332, 0.001]]
    t = torch.tensor([0.1, 0.25, 0.5], dtype=f64)
    for blur, expected in at_frequencies.items():
        process, plain = Blurring(blur), Blurring(0.0)
        D = (process.alpha(t) / plain.alpha(t))[:, 0, [0, 1, 8], [1, 1, 8]]
        np.testing.assert_allclose(D, expected, rtol=2e-8)
    ends = torch.tensor([1e-12, 0.5, 1.0], dtype=f64)
    np.testing.assert_allclose(plain.alpha(ends)[:, 0, 3, 3], [0.9999773008, 0.707106781, 0.00673779405], rtol=1e-7)
    np.testing.assert_allclose(plain.sigma(ends).flatten(), [0.00673779405, 0.707106781, 0.9999773008], rtol=1e-7)


def of_the_sheet(t, schedule, blur):
    """ln alpha_t (N, N) and sigma_t^2 by gDDIM's and the blurring paper's formulas, at a time that may be complex."""
    f = np.pi * np.arange(4) / 4
    D = (1 - 0.001) * np.exp(-(f[:, None] ** 2 + f**2) * (blur * np.sin(np.pi * t / 2) ** 2) ** 2 / 2) + 0.001
    if schedule == "cosine":
        a_bar = np.cos(np.pi / 2 * (t + 0.004) / 1.008) ** 2
    else:
        log_snr = -2 * np.log(np.tan(t * (np.arctan(np.exp(5)) - np.arctan(np.exp(-5))) + np.arctan(np.exp(-5))))
        a_bar = 1 / (1 + np.exp(-log_snr))
    return np.log(a_bar) / 2 + np.log(D), 1 - a_bar


@pytest.mark.parametrize(("name", "schedule", "blur"), [("blurring", "", 2.0), ("blurring_cosine", "cosine", 3.0)])
def test_drift_and_diffusion_of_blurring(name, schedule, blur):
    """F = d ln alpha / dt and G^2 = d sigma^2 / dt - 2 F sigma^2 at all frequencies, by complex steps."""
    process, h = EVERY[name], 1e-30
    for t in (0.01, 0.2, 0.5, 0.8, 0.99):
        F, rise = (part.imag / h for part in of_the_sheet(t + 1j * h, schedule, blur))
        np.testing.assert_allclose(drift(process, at(t))[0, 0, 0, 0], F, rtol=1e-11)
        expected = rise - 2 * F * of_the_sheet(t, schedule, blur)[1]
        np.testing.assert_allclose(process.diffusion(at(t))[0, 0, 0, 0], expected, rtol=1e-11)


def test_blurring_with_gddims_cosine():
    process = Blurring(0.0, schedule="cosine")
    assert process.t_max == pytest.approx(0.99597978926, rel=1e-9)
    alpha_bar = process.alpha(at(process.t_max)).flatten()[0] ** 2
    assert alpha_bar.item() == pytest.approx(1.5619518e-4, rel=1e-6)
    assert process.alpha(at(1e-12)).flatten()[0].item() ** 2 == pytest.approx(0.99996114624, rel=1e-9)


def test_blurring_blurs():
    """A cosine wave fades by its own factor, and the mean of the image does not."""
    process = Blurring(5.0, resolution=16)
    u = torch.zeros(1, 1, 16, 16, dtype=f64)
    u[..., 0, 3] = 1
    faded = process.basis.decode(process.perturb(process.basis.encode(inverse_dct(u)), torch.zeros_like(u), at(0.3)))
    factor = process.alpha(at(0.3))
    torch.testing.assert_close(faded, inverse_dct(u) * factor[..., 0, 3])
    assert factor[0, 0, 0, 0] == factor.max()


# Curves


class Like(LogSNRProcess):
    def __init__(self, other, variance):
        self.other, self.variance, self.t_min, self.t_max = other, variance, other.t_min, other.t_max

    def log_snrs(self, t):
        return self.other.log_snr(t)


@pytest.mark.parametrize(("other", "variance"), [(VP(), "preserving"), (VE(), "exploding"), (EDM(), "exploding")])
def test_known_processes_are_special_cases(other, variance):
    process = Like(other, variance)
    t = other.sample_times(torch.linspace(0.01, 0.99, 9, dtype=f64))
    for mine, theirs in ((process.alpha, other.alpha), (process.sigma, other.sigma)):
        torch.testing.assert_close(mine(t), theirs(t), rtol=1e-11, atol=1e-12)
    with torch.inference_mode():
        for mine, theirs in zip(process.derivatives(t), other.derivatives(t), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(process.psi(t[:1], t[1:2]), other.psi(t[:1], t[1:2]))


def test_curves_of_the_general_process():
    process = Diagonal([[8.0, 0.0, -8.0]], t_min=0.1)
    t = torch.tensor([0.1, 0.325, 0.55, 1.0], dtype=f64)
    torch.testing.assert_close(process.log_snrs(t), torch.tensor([8.0, 4, 0, -8], dtype=f64))
    rings = Diagonal([[10.0, 0.0], [5.0, -15.0]], basis="dct", resolution=4).log_snrs(at(1.0))
    assert rings[0, 0, 0, 0] == 0
    assert rings[0, 0, 3, 3] == -15
    assert rings[0, 0, 0, 3].item() == pytest.approx(-15 / math.sqrt(2))
    bands = Diagonal([[5.0, -15.0], [10.0, 0.0]], basis="haar", resolution=4).log_snrs(at(1.0))[0, 0]
    assert bands[:2, :2].eq(0).all()
    assert bands[2:].eq(-15).all()


# Multi-scale


def test_multiscale_speeds_are_the_published_table():
    """Log-SNR at the ends of the stages (MSDiff); -10 where a band ends."""
    process = MultiScale(128, levels=3)
    corner = {0: (64, 64), 1: (32, 32), 2: (16, 16), 3: (0, 0)}
    table = {
        0.25: (-10, 0.0, 3.4, 5.0),
        0.5: (None, -10, -3.3, 0.0),
        0.75: (None, None, -10, -5.0),
        1.0: (None,) * 3 + (-10,),
    }
    for t, row in table.items():
        found = process.log_snrs(at(t))[0, 0]
        for band, expected in enumerate(row):
            if expected is not None:
                assert found[corner[band]].item() == pytest.approx(expected, abs=0.06)


def test_drift_and_diffusion_of_every_band_are_the_published_ones():
    """log-SNR 10 - 20 (t - eps) / (T_k - eps), g^2 = 20 sigma^2 / (T_k - eps) and drift -g^2/2, until a band ends."""
    process, eps = MultiScale(32, levels=3), 1e-3
    for t in (0.01, 0.2, 0.25, 0.3, 0.6, 0.99):
        F, G2 = drift(process, at(t))[0, 0, 0, 0], process.diffusion(at(t))[0, 0, 0, 0]
        left = [k for k in range(4) if t <= process.ends[k]]
        for k in left:
            T_k, band = (k + 1) / 4, process.bands == k
            sigma2 = 1 / (1 + math.exp(10 - 20 * (t - eps) / (T_k - eps)))
            g2 = torch.full_like(G2[band], 20 * sigma2 / (T_k - eps))
            torch.testing.assert_close(G2[band], g2, rtol=1e-11, atol=0)
            torch.testing.assert_close(F[band], -g2 / 2, rtol=1e-11, atol=0)
        assert F.isfinite().all()
        assert not G2[process.bands < min(left)].any()  # of what has left


def test_the_state_shrinks_stage_by_stage():
    process = MultiScale(32, levels=2)
    sides = [state_shape(process, (1, 3, 32, 32), t)[-1] for t in (1e-3, 1 / 3, 0.34, 2 / 3, 0.7, 1.0)]
    assert sides == [32, 32, 16, 16, 8, 8]
    assert process.stages == ((1.0, 2 / 3), (2 / 3, 1 / 3), (1 / 3, 1e-3))
    image = torch.randn(2, 3, 32, 32)
    u = process.basis.encode(image)
    torch.testing.assert_close(process.basis.to_pixels(u[..., :8, :8]), torch.nn.functional.avg_pool2d(image, 4) * 4)
    torch.testing.assert_close(process.basis.from_pixels(process.basis.to_pixels(u[..., :16, :16])), u[..., :16, :16])
    torch.testing.assert_close(process.basis.decode(u), image)


def test_what_enters_is_fresh_noise_and_the_rest_stays():
    process = MultiScale(16, levels=1)
    u, t = torch.randn(4000, 1, 8, 8), torch.tensor(0.5, dtype=f64)
    grown = expand(process, u, t, torch.Generator().manual_seed(0))
    assert torch.equal(grown[..., :8, :8], u)
    assert grown[..., 8:].std().item() == pytest.approx(math.sqrt(1 / (1 + math.exp(-10))), rel=5e-3)
    assert expand(process, grown, t) is grown
    assert expand(process, u, torch.tensor(0.8, dtype=f64)) is u


def test_rescaled_approximations_have_the_scale_of_the_image():
    process, image = MultiScale(16, levels=2, rescale=True), torch.full((1, 1, 16, 16), 0.7)
    u = process.basis.encode(image)
    torch.testing.assert_close(u[..., :4, :4], torch.full((1, 1, 4, 4), 0.7))
    torch.testing.assert_close(process.basis.decode(u), image)
    torch.testing.assert_close(haar(image, 2)[..., :4, :4], 4 * u[..., :4, :4])
    for cropped in (u, u[..., :8, :8], u[..., :4, :4]):
        torch.testing.assert_close(process.basis.clip(cropped), cropped)
        torch.testing.assert_close(process.basis.clip(2 * cropped), cropped / 0.7)


def test_bands_divided_by_their_deviation_are_of_one_size():
    process, plain = MultiScale(16, levels=2, band_std=[0.1, 0.5, 3.0]), MultiScale(16, levels=2)
    image = torch.randn(3, 2, 16, 16, dtype=f64)
    u, u_plain = process.basis.encode(image), plain.basis.encode(image)
    for band, std in enumerate((0.1, 0.5, 3.0)):
        torch.testing.assert_close(u[..., process.bands == band], u_plain[..., process.bands == band] / std)
    torch.testing.assert_close(process.basis.decode(u), image)
    torch.testing.assert_close(process.basis.decode(u[..., :8, :8]), plain.basis.decode(u_plain[..., :8, :8]))


@pytest.mark.parametrize("band_std", [[1.0, 1.0], [1.0, 0.0, 1.0], [1.0, -1.0, 1.0]])
def test_deviations_are_positive_and_one_for_each_band(band_std):
    with pytest.raises(UserError, match="give a positive number for each band"):
        MultiScale(16, levels=2, band_std=band_std)


def test_grids_share_steps_and_hit_every_stage():
    process = MultiScale(32, levels=3)
    grid = process.grid(10)
    assert [int((grid > low).sum()) for _, low in process.stages] == [3, 6, 8, 9]
    assert all((grid == first).any() for first, _ in process.stages)
    assert MultiScale(32, levels=3, drop=False).grid(1).tolist() == [1.0, 0.0]
    t = process.sample_times(torch.linspace(0, 1 - 1e-9, 400, dtype=f64))
    assert sorted(map(process.dropped, t.tolist())).count(2) == 100


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: MultiScale(20, levels=3), "multiples of 8"),
        (lambda: MultiScale(32, levels=2, ends=[0.5, 0.3, 1.0]), "do not increase"),
        (lambda: MultiScale(32, levels=2, ends=[0.5, 1.0]), "2 ends for 3 bands"),
        (lambda: MultiScale(32, levels=0), "levels is 0"),
        (lambda: MultiScale(32, levels=3).grid(3), "at least 4 steps"),
        (lambda: MultiScale(32, highest=-10.0), "lowest"),
        (lambda: Blurring(blur=-1.0), "blur"),
        (lambda: Blurring(t_min=2.0), "in order"),
        (lambda: CLD(gamma=0.0), "positive"),
        (lambda: CLD(t_min=3.0), "below 1"),
        (lambda: Diagonal([[1.0, 2.0]]), "does not fall"),
        (lambda: Diagonal([[2.0, 1.0], [1.0]]), "differ in length"),
        (lambda: Diagonal([[2.0, 1.0], [2.0, 1.0]]), "for pixels"),
        (lambda: check_images(MultiScale(32), 64), "64"),
        (lambda: check_images(MultiScale(32, levels=2), 32, stages=4), "4 stages"),
    ],
)
def test_nonsense_is_refused(make, word):
    with pytest.raises(UserError, match=word) as caught:
        make()
    assert "\n" not in str(caught.value)
