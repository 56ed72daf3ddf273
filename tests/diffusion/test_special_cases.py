"""Processes that another one contains: the same walks, sampler by sampler, on data whose pixels are correlated."""

import itertools
import math

import pytest
import torch

from denoisezoo.diffusion import Blurring, Diagonal, GaussianOracle, LogSNRProcess, create_sampler
from denoisezoo.diffusion.processes.geometric import GeometricVE
from denoisezoo.diffusion.processes.scalar import EDM, VE, VP
from denoisezoo.diffusion.transforms import dct

from .truth import SIDE, at, f64

SAMPLERS = ["ddim", "gddim:q=3", "gddim:q=2,corrector=true", "heun"]
each_sampler = pytest.mark.parametrize("spec", SAMPLERS)


def data():
    """Mean (1, 4, 4) and covariance (16, 16) of images."""
    generator = torch.Generator().manual_seed(0)
    mean, root = torch.randn(1, SIDE, SIDE, generator=generator, dtype=f64), torch.randn(16, 16, generator=generator)
    return mean / 2, root.double() @ root.double().T / 16


def images(process, spec, u_T, steps, *, mean, covariance):
    return create_sampler(spec)(GaussianOracle(process, mean, covariance), u_T, steps=steps).images


class Unblurred(LogSNRProcess):
    """Variance-preserving diffusion in pixels, by the schedule that blurring diffusion has."""

    t_min, t_max = 1e-3, 1.0

    def log_snrs(self, t):
        low, high = math.atan(math.exp(-5)), math.atan(math.exp(5))
        return -2 * torch.log(torch.tan(t * (high - low) + low))


def noise_at(process):
    eps = torch.randn(4, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(1), dtype=f64)
    return process.noise(at(process.t_max)).flatten()[0] * eps


@each_sampler
def test_no_blur_is_plain_diffusion(spec):
    """The state is the cosine transform of the pixels', from the first step to the image."""
    blurring, plain = Blurring(0.0, resolution=SIDE), Unblurred()
    mean, covariance = data()
    C = dct(torch.eye(16, dtype=f64).reshape(16, SIDE, SIDE)).reshape(16, 16)  # rows: transforms of single pixels
    u_T = noise_at(plain)
    expected = images(plain, spec, u_T, 12, mean=mean, covariance=covariance)
    found = images(blurring, spec, dct(u_T), 12, mean=dct(mean), covariance=C.T @ covariance @ C)
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=0)


def test_one_step_without_blur_is_ddim_as_written():
    """u_s = (a_s / a_t) (u - sigma_t eps) + sigma_s eps, with a = cos and sigma = sin of one angle."""
    mean, covariance = data()
    process, u, calls = Unblurred(), noise_at(Unblurred()), []
    oracle = GaussianOracle(process, mean, covariance)
    create_sampler("ddim")(oracle, u, steps=12, on_step=calls.append)
    low, high = math.atan(math.exp(-5)), math.atan(math.exp(5))
    for call, after in itertools.pairwise(calls):
        phi_t, phi_s = (float(x.t) * (high - low) + low for x in (call, after))
        eps = oracle(u, at(call.t).expand(len(u))).eps
        u = math.cos(phi_s) / math.cos(phi_t) * (u - math.sin(phi_t) * eps) + math.sin(phi_s) * eps
        torch.testing.assert_close(after.u_t, u, atol=1e-12, rtol=0)


def knots(process, n):
    """Times (n,) that divide [t_min, 1] evenly, and the log-SNR of a process there."""
    t = torch.linspace(process.t_min, 1.0, n, dtype=f64)
    return t, process.log_snr(t).tolist()


@pytest.mark.parametrize(
    ("other", "variance"),
    [(VP(), "preserving"), (VE(0.1, 1.0), "exploding"), (EDM(0.05, 1.0), "exploding")],
    ids=lambda x: x if isinstance(x, str) else type(x).__name__,
)
@pytest.mark.parametrize("spec", ["ddim", "gddim", "ddpm:clip=false"])
def test_diagonal_through_their_knots_is_vp_ve_and_edm(other, variance, spec):
    """What looks at the knots alone walks a piecewise linear curve as it walks the curve itself."""
    t, curve = knots(other, 13)
    diagonal = Diagonal([curve], variance=variance, t_min=other.t_min)
    for mine, theirs in ((diagonal.alpha, other.alpha), (diagonal.sigma, other.sigma)):
        torch.testing.assert_close(mine(t), theirs(t), rtol=1e-11, atol=1e-12)
    mean, covariance = data()
    walks = []
    for process in (diagonal, other):
        sampler, oracle = create_sampler(spec), GaussianOracle(process, mean, covariance)
        object.__setattr__(sampler, "grid", lambda process, steps: torch.cat([t.flip(0), torch.zeros(1, dtype=f64)]))
        walks.append(sampler(oracle, noise_at(other), steps=13, generator=torch.Generator().manual_seed(2)).images)
    torch.testing.assert_close(walks[0], walks[1], atol=1e-10, rtol=0)


@each_sampler
def test_diagonal_on_a_line_is_the_geometric_exploding_process(spec):
    """Its log-SNR is linear, so that they agree at all times, and every sampler walks both alike."""
    other = GeometricVE(0.01, 20.0)
    diagonal = Diagonal([knots(other, 2)[1]], variance="exploding", t_min=other.t_min)
    t = torch.linspace(other.t_min, 1.0, 9, dtype=f64)
    for mine, theirs in zip(diagonal.derivatives(t), other.derivatives(t), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-11, atol=1e-12)
    mean, covariance = data()
    u_T = noise_at(other)
    found, expected = (images(p, spec, u_T, 12, mean=mean, covariance=covariance) for p in (diagonal, other))
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=0)
