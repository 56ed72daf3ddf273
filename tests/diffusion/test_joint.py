"""The process over (x, y): published numbers, and exact conditionals of Gaussian data."""

import math

import pytest
import torch

from denoisezoo.archs import BackboneConfig
from denoisezoo.archs.backbone import Backbone
from denoisezoo.diffusion import (
    NOTHING,
    GaussianOracle,
    Given,
    Joint,
    NetworkDenoiser,
    OfCondition,
    SeedBlock,
    conditioned,
    create_sampler,
)
from denoisezoo.diffusion.linear_preconditioning import PRECONDITIONINGS
from denoisezoo.diffusion.objectives.objective import Step
from denoisezoo.diffusion.objectives.regression import Likelihood, Simple
from denoisezoo.diffusion.preconditioning import EDMPreconditioning, Epsilon
from denoisezoo.diffusion.processes.diagonal import slope_of
from denoisezoo.diffusion.processes.geometric import GeometricVE
from denoisezoo.diffusion.processes.scalar import EDM, VE, VP, RectifiedFlow
from denoisezoo.diffusion.processes.vp_discrete import VPDiscrete
from denoisezoo.diffusion.samplers.sampler import Caller
from denoisezoo.errors import UserError

f64 = torch.float64
BASES = [VP(), VE(), EDM(), GeometricVE(), VPDiscrete()]
name_of = lambda value: type(value).__name__  # noqa: E731


def at(*t):
    return torch.tensor(t, dtype=f64)


# Published numbers


def test_levels_are_the_published_ones():
    """sigma_y(t) = 5e-3 (sigma_y_max / 5e-3)^t beside x's own, arXiv 2111.13606."""
    process = Joint(GeometricVE(5e-3, 277.1), sigma_max=0.5, sigma_min=5e-3)
    t = at(0.2, 0.5, 1.0)
    sigma = process.sigma(t)
    torch.testing.assert_close(sigma[:, 0].flatten(), 5e-3 * (277.1 / 5e-3) ** t)
    torch.testing.assert_close(sigma[:, 3].flatten(), 5e-3 * (0.5 / 5e-3) ** t, rtol=1e-4, atol=0)
    assert process.alpha(t).eq(1).all()
    assert process.sigma(at(0.0)).eq(0).all()


@pytest.mark.parametrize(("sigma_max", "of_y"), [(0.5, 9.21), (None, 21.85)])
def test_likelihood_weights_are_g_squared_of_each_part(sigma_max, of_y):
    """2 ln(sigma_max / sigma_min) on errors of eps, for each part its own."""
    process = Joint(GeometricVE(5e-3, 277.1), sigma_max=sigma_max)
    t = at(0.1, 0.6, 1.0)
    weight = Likelihood().weight(process, t, Epsilon().c_out(process, t))
    assert weight[:, 0].flatten().tolist() == pytest.approx([21.85] * 3, abs=0.02)
    assert weight[:, 5].flatten().tolist() == pytest.approx([of_y] * 3, abs=0.02)


PUBLISHED_FALL = [
    (277.1, 0.5, 250_000, {0: 277.1, 1000: 86.2, 10_000: 12.0, 100_000: 1.25, 250_000: 0.5, 500_000: 0.25}),
    (221.7, 1.0, 500_000, {10_000: 40.9, 100_000: 4.91}),
    (110.9, 1.0, 300_000, {10_000: 23.8, 100_000: 2.95, 500_000: 0.60}),
]


@pytest.mark.parametrize(("y_0", "y_T", "M", "values"), PUBLISHED_FALL)
def test_the_falling_speed_is_the_codes(y_0, y_T, M, values):
    process = Joint(GeometricVE(5e-3, y_0), sigma_max=y_0, falls_to=y_T, falls_in=M)
    for step, expected in values.items():
        process.advance(step)
        assert process.sigma_max == pytest.approx(expected, rel=4e-3)
        assert process.sigma(at(1.0))[0, 3].item() == pytest.approx(process.sigma_max, rel=1e-9)
        assert process.sigma(at(1.0))[0, 0].item() == pytest.approx(y_0, rel=1e-9)


# Any base


@pytest.mark.parametrize("x", BASES, ids=name_of)
def test_y_without_a_speed_of_its_own_is_diffused_as_x(x):
    process, t = Joint(x), x.sample_times(torch.linspace(0.01, 0.99, 7, dtype=f64))
    for part in (process.alpha(t), process.sigma(t), *process.derivatives(t)):
        torch.testing.assert_close(part[:, 3], part[:, 0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("x", BASES[:-1], ids=name_of)
def test_derivatives(x):
    process = Joint(x, sigma_max=0.7, sigma_min=0.05)
    t = x.sample_times(torch.linspace(0.02, 0.98, 7, dtype=f64))
    for curve, found in zip((process.alpha, process.sigma), process.derivatives(t), strict=True):
        torch.testing.assert_close(found, slope_of(curve, t), rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("x", BASES, ids=name_of)
def test_the_speed_of_y_is_linear_in_log_sigma(x):
    process = Joint(x, sigma_max=0.7, sigma_min=0.05)
    t = x.sample_times(torch.linspace(0.02, 0.98, 7, dtype=f64))
    s_x, s_y = ((process.sigma(t) / process.alpha(t))[:, i].flatten().log() for i in (0, 3))
    slope = math.log(0.7 / 0.05) / math.log(process.high / process.low)
    torch.testing.assert_close(s_y - math.log(0.05), slope * (s_x - math.log(process.low)), rtol=1e-9, atol=1e-9)


# Gaussian (x, y): two pixels of x, two of y

COVARIANCE = torch.tensor(
    [[0.5, 0.1, 0.30, 0.05], [0.1, 0.4, -0.10, 0.25], [0.30, -0.10, 0.45, 0.1], [0.05, 0.25, 0.1, 0.35]], dtype=f64
)
MEAN = torch.tensor([0.3, -0.2, 0.1, 0.4], dtype=f64)
Y = torch.tensor([[0.7, -0.3]], dtype=f64)


def joint(sigma_max, x=None):
    return Joint(x or GeometricVE(0.01, 20.0), 1, 1, sigma_max=sigma_max)


def oracle(process):
    return GaussianOracle(process, MEAN.reshape(2, 1, 2), COVARIANCE)


def posterior():
    """Mean and covariance of x given y."""
    gain = COVARIANCE[:2, 2:] @ COVARIANCE[2:, 2:].inverse()
    return MEAN[:2] + gain @ (Y[0] - MEAN[2:]), COVARIANCE[:2, :2] - gain @ COVARIANCE[2:, :2]


def affine(sampler, denoiser, steps):
    """Mean and covariance of the images of a deterministic sampler of a linear denoiser, from three walks."""
    x_T = torch.cat([torch.zeros(1, 2, dtype=f64), torch.eye(2, dtype=f64)]).reshape(3, 1, 1, 2)
    images = sampler(denoiser, x_T, steps=steps, given=Given(image=Y.expand(3, 2).reshape(3, 1, 1, 2))).images.reshape(
        3, 2
    )
    M = (images[1:] - images[:1]).T
    prior = float(denoiser.process.x.sigma(at(denoiser.process.t_max)))
    return images[0], prior**2 * M @ M.T


@pytest.mark.parametrize("spec", ["heun", "gddim:q=3", "dpmpp_2m", "edm:sigma_min=0.01,sigma_max=200"])
@pytest.mark.parametrize("x", [GeometricVE(0.01, 200.0), VP()], ids=name_of)
def test_a_clean_condition_gives_the_exact_conditional(spec, x):
    """CDE: the oracle of (x_t, y) is exact, and so are the images, whatever the sampler."""
    mean, covariance = affine(create_sampler(spec), oracle(joint(0.0, x)), 300)
    expected_mean, expected_covariance = posterior()
    torch.testing.assert_close(mean, expected_mean, rtol=0, atol=3e-3)
    torch.testing.assert_close(covariance, expected_covariance, rtol=0, atol=3e-3)


def test_the_oracle_of_a_clean_condition_is_the_closed_form():
    """E[x | x_t, y] by the formula for Gaussians, y not diffused."""
    process, t, x_t = joint(0.0), at(0.5), torch.tensor([[1.3, -0.4]], dtype=f64)
    mean, covariance = posterior()
    sigma = process.x.sigma(t)
    gain = covariance @ (covariance + sigma**2 * torch.eye(2, dtype=f64)).inverse()
    found = OfCondition(oracle(process), Y.reshape(1, 1, 1, 2))(x_t.reshape(1, 1, 1, 2), t).u_0.flatten()
    torch.testing.assert_close(found, mean + gain @ (x_t[0] - mean), rtol=1e-10, atol=1e-10)


def regression(process, t):
    """E[x | x_t, y_t] = m_x + K ((x_t, y_t) - A m): K (2, 4) and A m (4,), from the joint Gaussian of x, x_t, y_t."""
    (alpha_x, alpha_y), (s_x, s_y) = (part(t).flatten().tolist() for part in (process.alpha, process.sigma))
    A = torch.tensor([alpha_x, alpha_x, alpha_y, alpha_y], dtype=f64).diag()
    noise = torch.tensor([s_x, s_x, s_y, s_y], dtype=f64).square().diag()
    return COVARIANCE[:2] @ A @ (A @ COVARIANCE @ A + noise).inverse(), A @ MEAN


@pytest.mark.parametrize("x", [GeometricVE(0.01, 20.0), VP()], ids=name_of)
@pytest.mark.parametrize("sigma_max", [None, 1.0, 0.05])
@pytest.mark.parametrize("time", [0.1, 0.5, 0.9])
def test_the_oracle_of_a_diffused_condition_is_the_closed_form(x, sigma_max, time):
    """CDiffE and CMDE: the denoiser given y answers E[x | x_t, y_t] for the y_t that it has drawn."""
    process, t, x_t = joint(sigma_max, x), at(time), torch.tensor([[1.3, -0.4]], dtype=f64)
    y = Y.reshape(1, 1, 1, 2)
    y_t = process.diffuse(y, t, torch.Generator().manual_seed(3))
    assert not torch.equal(y_t, y)
    gain, mean = regression(process, t)
    expected = MEAN[:2] + gain @ (torch.cat([x_t[0], y_t.flatten()]) - mean)
    found = OfCondition(oracle(process), y, torch.Generator().manual_seed(3))(x_t.reshape(1, 1, 1, 2), t).u_0.flatten()
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def moments_of_walk(process, times, ancestral):
    """Mean and covariance of the images of a walk with a fresh y_t at every call: every step is affine in x_t and y_t.

    x_s = x_0 + r (x_t - x_0), r = s/t for DDIM and s^2/t^2 with noise of variance s^2 (1 - r) for the ancestral walk.
    """
    sigma = [float(process.x.sigma(at(t))) for t in times[:-1]] + [0.0]
    mean, covariance = torch.zeros(2, dtype=f64), sigma[0] ** 2 * torch.eye(2, dtype=f64)
    for i, t in enumerate(times[:-1]):
        gain, center = regression(process, at(t))
        share = sigma[i + 1] / sigma[i]
        r = share**2 if ancestral else share
        of_x, of_y = r * torch.eye(2, dtype=f64) + (1 - r) * gain[:, :2], (1 - r) * gain[:, 2:]
        mean = of_x @ mean + of_y @ (Y[0] - center[2:]) + (1 - r) * (MEAN[:2] - gain[:, :2] @ center[:2])
        s_y = float(process.sigma(at(t))[0, 1])
        covariance = of_x @ covariance @ of_x.T + s_y**2 * of_y @ of_y.T
        covariance += (sigma[i + 1] ** 2 * (1 - r) if ancestral else 0.0) * torch.eye(2, dtype=f64)
    return mean, covariance


@pytest.mark.parametrize("spec", ["ddim", "ddpm:clip=false"])
@pytest.mark.parametrize("sigma_max", [0.0, 0.05, 1.0, 20.0])
def test_images_have_the_moments_that_theory_gives_each_estimator(spec, sigma_max):
    """CDE, CMDE and CDiffE: within the errors of 20,000 draws, of which 2 % is the largest."""
    n, process, sampler = 20_000, joint(sigma_max), create_sampler(spec)
    generator = torch.Generator().manual_seed(0)
    x_T = sampler.prior(process.x, (n, 1, 1, 2), 30, generator)
    cond = Y.expand(n, 2).reshape(n, 1, 1, 2)
    images = sampler(oracle(process), x_T, steps=30, given=Given(image=cond), generator=generator).images.reshape(n, 2)
    mean, covariance = moments_of_walk(process, process.x.grid(30).tolist(), "ddpm" in spec)
    spread = covariance.diag()
    assert ((images.mean(0) - mean).abs() < 4 * (spread / n).sqrt()).all()
    error = ((spread[:, None] * spread + covariance**2) / n).sqrt()  # of a Gaussian's covariance
    assert ((images.T.cov() - covariance).abs() < 4 * error).all()


def test_in_the_limit_a_slow_condition_gives_the_posterior_and_a_fast_one_does_not():
    """The same theory over 4,000 ancestral steps: errors of mean and covariance fall with the speed of y."""
    of_mean, errors = [], []
    for sigma_max in (20.0, 1.0, 0.05):
        process = joint(sigma_max)
        mean, covariance = moments_of_walk(process, process.x.grid(4000).tolist(), ancestral=True)
        expected_mean, expected = posterior()
        errors.append(float((covariance - expected).abs().max()))
        of_mean.append(float((mean - expected_mean).abs().max()))
    for found in (of_mean, errors):
        assert found == sorted(found, reverse=True)
        assert found[0] > 20 * found[-1]
        assert found[-1] < 2e-3  # what 4,000 steps of first order leave


@pytest.mark.parametrize("t", [0.45, 0.8])
def test_the_bias_of_the_score_falls_with_the_speed_of_y(t):
    """E|score(x_t | y_t) - score(x_t | y)|^2 is tr V_y^-1 - tr V_yt^-1 with V the covariances of x_t given each.

    For the score given y_t is the mean of the score given y over what x_t and y_t leave open. It is the gap that
    arXiv 2111.13606 bounds by a function of 1/sigma_y that falls to 0.
    """
    n, generator = 20_000, torch.Generator().manual_seed(0)
    z = torch.randn(n, 4, generator=generator, dtype=f64) @ torch.linalg.cholesky(COVARIANCE).T + MEAN
    x, y = z[:, :2].reshape(n, 1, 1, 2), z[:, 2:].reshape(n, 1, 1, 2)
    base, times = joint(0.0), at(t).expand(n)
    sigma = float(base.x.sigma(at(t)))
    x_t = x + sigma * torch.randn(n, 1, 1, 2, generator=generator, dtype=f64)
    exact = OfCondition(oracle(base), y)(x_t, times).eps
    gaps = []
    for sigma_max in (0.02, 0.2, 1.0, 5.0, 20.0):
        process = joint(sigma_max)
        found = OfCondition(oracle(process), y, torch.Generator().manual_seed(1))(x_t, times).eps
        gaps.append(((found - exact) / sigma).square().sum((1, 2, 3)).mean().item())
        sigma_y = process.sigma(at(t))[0, 1].item()
        assert gaps[-1] == pytest.approx(expected_gap(sigma, sigma_y), rel=0.06)
    assert gaps == sorted(gaps)
    assert gaps[0] < 1e-2 * gaps[-1]


def expected_gap(sigma, sigma_y):
    eye = torch.eye(2, dtype=f64)

    def precision(extra):
        gain = COVARIANCE[:2, 2:] @ (COVARIANCE[2:, 2:] + extra * eye).inverse()
        return (COVARIANCE[:2, :2] + sigma**2 * eye - gain @ COVARIANCE[2:, :2]).inverse().trace()

    return float(precision(0.0) - precision(sigma_y**2))


@pytest.mark.parametrize("spec", ["pc:correct=0", "ddpm:clip=false", "gddim", "heun"])
def test_slower_conditions_give_better_images(spec):
    """Sampled mean and covariance: CDiffE is biased, CMDE with a slow y nearly exact."""
    n = 4000
    mean, covariance = posterior()
    errors = []
    for sigma_max in (20.0, 0.05):
        process, sampler = joint(sigma_max), create_sampler(spec)
        generator = torch.Generator().manual_seed(0)
        x_T = sampler.prior(process.x, (n, 1, 1, 2), 60, generator)
        cond = Y.expand(n, 2).reshape(n, 1, 1, 2)
        images = sampler(oracle(process), x_T, steps=60, given=Given(image=cond), generator=generator).images.reshape(
            n, 2
        )
        errors.append(((images.T.cov() - covariance).abs().max() + (images.mean(0) - mean).abs().max()).item())
    assert errors[1] < 0.06
    assert errors[0] > 2 * errors[1]


def test_the_corrector_relaxes_as_langevin_dynamics_does():
    """White data of variance r times the truth: one step of e = 2 snr^2/r (in units of it) gives r (1 - e)^2 + 2e."""
    process, r, snr = GeometricVE(0.01, 20.0), 2.0, 0.2
    exact, t = GaussianOracle(process, torch.zeros(1, 16, 16), 0.3 * torch.eye(256)), at(0.6)
    sampler, generator = create_sampler(f"pc:snr={snr}"), torch.Generator().manual_seed(0)
    variance = 0.3 + float(process.sigma(t)) ** 2
    u = math.sqrt(r * variance) * torch.randn(300, 1, 16, 16, generator=generator, dtype=f64)
    call = Caller(exact, 0, None, NOTHING, None)
    for _ in range(20):
        u = sampler._corrected(call, process, u, t[0], generator)
        e = 2 * snr**2 / r
        r = r * (1 - e) ** 2 + 2 * e
    assert r < 1.3
    assert u.var().item() / variance == pytest.approx(r, rel=0.02)


def test_the_corrector_brings_images_nearer_to_the_conditional_truth():
    """64 independent pixels of x, each with one of y: mean and variance over images, of 30 predictor steps with and
    without a corrector before each."""
    eye, n = torch.eye(64, dtype=f64), 400
    covariance = torch.cat([torch.cat([0.5 * eye, 0.3 * eye], 1), torch.cat([0.3 * eye, 0.45 * eye], 1)])
    process, mean = joint(0.0), torch.tensor([0.2, -0.1], dtype=f64).reshape(2, 1, 1).expand(2, 8, 8)
    y = 0.67 * torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(5), dtype=f64) - 0.1
    truth, variance = 0.2 + 0.3 / 0.45 * (y + 0.1), 0.5 - 0.3**2 / 0.45
    ratios = []
    for spec in ("pc:correct=0", "pc:correct=1,snr=0.16"):
        sampler, generator = create_sampler(spec), torch.Generator().manual_seed(0)
        x_T = sampler.prior(process.x, (n, 1, 8, 8), 30, generator)
        exact, cond = GaussianOracle(process, mean, covariance), y.expand(n, 1, 8, 8)
        images = sampler(exact, x_T, steps=30, given=Given(image=cond), generator=generator).images
        assert ((images.mean(0) - truth).abs() < 4.5 * (images.var(0) / n).sqrt()).all()
        ratios.append(float(images.var(0).mean()) / variance)
    assert ratios[0] > 1.25  # 30 steps of the predictor leave noise
    assert abs(ratios[1] - 1) < 0.12


def test_the_predictor_alone_is_exact_in_the_limit():
    exact = GaussianOracle(GeometricVE(0.01, 20.0), torch.zeros(1, 4, 4), torch.diag(torch.linspace(0.1, 0.6, 16)))
    sampler, errors = create_sampler("pc:correct=0"), []
    for steps in (50, 200):
        generator = torch.Generator().manual_seed(0)
        x_T = sampler.prior(exact.process, (3000, 1, 4, 4), steps, generator)
        result = sampler(exact, x_T, steps=steps, generator=generator)
        assert result.nfe == steps
        ratio = result.images.flatten(1).var(0) / torch.linspace(0.1, 0.6, 16, dtype=f64)
        errors.append(abs(ratio.mean().item() - 1))
    assert errors[0] == pytest.approx(4 * errors[1], rel=0.5)  # of first order
    assert errors[1] < 0.06


def test_an_image_depends_on_its_own_seed_alone():
    process, sampler = joint(1.0), create_sampler("heun")
    cond = torch.randn(3, 1, 1, 2, dtype=f64)

    def draw(rows):
        noise = SeedBlock(rows)
        x_T = sampler.prior(process.x, (len(rows), 1, 1, 2), 5, noise, dtype=f64)
        return sampler(oracle(process), x_T, steps=5, given=Given(image=cond[rows]), generator=noise).images

    assert torch.equal(draw([0, 1, 2])[1:], draw([1, 2]))


def test_every_call_draws_afresh():
    given = OfCondition(oracle(joint(5.0)), Y.reshape(1, 1, 1, 2), torch.Generator().manual_seed(0))
    x_t = torch.zeros(1, 1, 1, 2, dtype=f64)
    assert not torch.equal(given(x_t, at(0.8)).u_0, given(x_t, at(0.8)).u_0)


# Networks


class Net(Backbone):
    def __init__(self, inputs, outputs):
        super().__init__(BackboneConfig(in_channels=inputs, out_channels=outputs, resolution=4))
        self.conv = torch.nn.Conv2d(inputs, outputs, 1, dtype=f64)

    def forward(self, x, c_noise, *given):
        self.seen = x
        return self.conv(x)


BATCH = {"image": torch.rand(6, 1, 4, 4, dtype=f64) * 2 - 1, "cond": torch.rand(6, 2, 4, 4, dtype=f64) * 2 - 1}


@pytest.mark.parametrize("name", ["eps", "x0", "v", "edm"])
@pytest.mark.parametrize("sigma_max", [0.0, 0.5, None])
def test_networks_of_x_alone_or_of_both_train_and_denoise(name, sigma_max):
    for outputs in (1, 3) if sigma_max != 0 else (1,):
        net = Net(3, outputs)
        denoiser = NetworkDenoiser(net, Joint(EDM(), 1, 2, sigma_max=sigma_max), PRECONDITIONINGS[name]())
        assert denoiser.image_shape == (1, 4, 4)
        for objective in (Simple(), Likelihood()):
            loss = objective(Step(denoiser, BATCH, torch.Generator().manual_seed(0)))
            assert loss.error.shape == (6, outputs, 4, 4)
            loss.loss.backward()
            assert net.conv.weight.grad.isfinite().all()
        subject, told = conditioned(denoiser, Given(image=BATCH["cond"]), torch.Generator().manual_seed(0))
        found = subject(BATCH["image"], at(1.0).expand(6), told)
        assert found.u_0.shape == (6, 1, 4, 4)
        assert found.u_0.isfinite().all()


def test_a_clean_condition_reaches_the_network_as_it_is():
    net = Net(3, 1)
    denoiser = NetworkDenoiser(net, Joint(GeometricVE(), 1, 2, sigma_max=0.0), Epsilon())
    Simple()(Step(denoiser, BATCH, torch.Generator().manual_seed(0)))
    assert torch.equal(net.seen[:, 1:], BATCH["cond"])


def test_both_parts_have_unit_variance_as_the_network_sees_them():
    process, preconditioning = Joint(GeometricVE(), 1, 1, sigma_max=3.0), EDMPreconditioning(0.5)
    u_0 = 0.5 * torch.randn(4000, 2, 2, 2, dtype=f64)
    for t in (at(0.1), at(0.9)):
        times = t.expand(4000)
        x, _ = preconditioning.inputs(process, process.perturb(u_0, torch.randn_like(u_0), times), times)
        torch.testing.assert_close(x.std((0, 2, 3)), torch.ones(2, dtype=f64), rtol=0.03, atol=0)


def test_augmented_conditions_are_noisy_and_say_how_much():
    process = Joint(EDM(), 1, 2, sigma_max=0.0, augmented=0.8, augment_at=0.2)
    assert process.cond_channels == 3
    y = torch.zeros(4000, 2, 2, 2, dtype=f64)
    u = process.join(y[:, :1], y, torch.Generator().manual_seed(0))
    share = u[:, 3, 0, 0]
    assert share.min() >= 0
    assert share.max() <= 1
    assert share.mean().item() == pytest.approx(0.5, abs=0.02)
    large = share > 0.9
    assert u[large, 1:3].std().item() == pytest.approx(0.8 * share[large].square().mean().sqrt().item(), rel=0.05)
    begun = process.begin(y, torch.Generator().manual_seed(0))
    assert begun[:, 2].eq(0.25).all()
    assert begun[:, :2].std().item() == pytest.approx(0.2, rel=0.03)


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: Joint(RectifiedFlow()), "without any signal"),
        (lambda: Joint(EDM(), sigma_max=0.001, sigma_min=0.1), "not in order"),
        (lambda: Joint(EDM(), sigma_max=1.0, falls_to=2.0, falls_in=10), "falls_to"),
        (lambda: Joint(EDM(), sigma_max=1.0, falls_to=0.5), "falls_to"),
        (lambda: Joint(EDM(), sigma_max=1.0, augmented=0.5), "augmented"),
        (lambda: Joint(EDM(), sigma_max=0.0, augmented=0.5, augment_at=0.6), "augment_at"),
        (lambda: Joint(EDM(), channels=0), "channels"),
        (lambda: NetworkDenoiser(Net(2, 1), Joint(EDM(), 1, 2), Epsilon()), "in_channels to 3"),
        (lambda: NetworkDenoiser(Net(3, 3), Joint(EDM(), 1, 2, sigma_max=0.0), Epsilon()), "out_channels to 1"),
        (lambda: NetworkDenoiser(Net(3, 2), Joint(EDM(), 1, 2), Epsilon()), "x and y have 3"),
        (lambda: Joint(EDM(), 1, 1).join(torch.zeros(1, 1, 4, 4), None), "no condition"),
        (lambda: Joint(EDM(), 1, 1).join(torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 2, 2)), "2x2"),
        (lambda: Joint(EDM(), 1, 1).begin(torch.zeros(1, 3, 4, 4)), "3 channels"),
        (lambda: OfCondition(oracle(VP()), Y), "VP"),
        (lambda: OfCondition(oracle(joint(0.0)), torch.zeros(1, 1, 3, 3))(torch.zeros(1, 1, 1, 2), at(0.5)), "3x3"),
        (lambda: create_sampler("pc:snr=0"), "snr"),
    ],
)
def test_nonsense_is_refused(make, word):
    with pytest.raises(UserError, match=word) as caught:
        make()
    assert "\n" not in str(caught.value)
