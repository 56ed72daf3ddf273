"""Generalised DDIM on every process: exact for a point, of its order on Gaussian data, equal to what it generalises."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from denoisezoo.diffusion import MultiScale, create_sampler
from denoisezoo.diffusion.capabilities import stages_of
from denoisezoo.diffusion.coefficients import product, transpose
from denoisezoo.diffusion.processes.joint import Joint
from denoisezoo.diffusion.processes.scalar import VE, VP, RectifiedFlow
from denoisezoo.diffusion.processes.vp_discrete import VPDiscrete
from denoisezoo.diffusion.samplers.exponential import (
    lagrange,
    lagrange_slope,
    multistep_coefficients,
    stochastic_transition,
    transported,
)
from denoisezoo.diffusion.samplers.gddim import GDDIM
from denoisezoo.errors import UserError

from .truth import EVERY, PROCESSES, SIDE, DiagonalTruth, OneStage, at, f64, slope

each_process = pytest.mark.parametrize("name", list(PROCESSES))
every_process = pytest.mark.parametrize("name", list(EVERY))
of_a_point = pytest.mark.parametrize("name", [*EVERY, "vp_discrete"])


def process_of(name):
    return VPDiscrete() if name == "vp_discrete" else EVERY[name]


@of_a_point
def test_one_step_is_exact_for_a_point(name):
    """Whatever the size of the step: from t_max to anywhere, the state stays on A_s m + R_s eps."""
    process = process_of(name)
    truth, sampler = DiagonalTruth(process, point=True), create_sampler("gddim")
    steps = len(stages_of(process))
    u_T = sampler.prior(process, (3, *truth.shape), steps, torch.Generator().manual_seed(0))
    calls = []
    images = sampler(truth.oracle, u_T, steps=steps, generator=torch.Generator().manual_seed(1), on_step=calls.append)
    assert images.nfe == steps
    mean = process.basis.decode(truth.state(truth.mean)).expand(3, -1, -1, -1)
    # Where little signal is left the image is known to as many digits fewer.
    torch.testing.assert_close(images.images, mean, atol=1e-9, rtol=0)


class Between(GDDIM):
    """From one time to another, in steps that are short at both ends, and then to the image."""

    ends = (0.0, 0.0)

    def grid(self, process, steps):
        if steps == 2:
            return torch.tensor([*self.ends, 0.0], dtype=f64)
        wave = (1 - torch.cos(math.pi * torch.linspace(0, 1, steps, dtype=f64))) / 2
        times = self.ends[0] + (self.ends[1] - self.ends[0]) * wave
        return torch.cat([times, torch.zeros(1, dtype=f64)])


def between(process, first, last, **options):
    low, high = stages_of(process)[-1][1], min(stages_of(process)[-1][0], 10.0)
    sampler = Between(**options)
    object.__setattr__(sampler, "ends", (low + first * (high - low), low + last * (high - low)))
    return sampler


def last_stage(name, point=False):
    truth = DiagonalTruth(process_of(name), point)
    truth.oracle.process = OneStage(truth.process)
    noise = torch.randn(3, truth.process.basis.k, 4, 4, generator=torch.Generator().manual_seed(0), dtype=f64)
    return truth, noise


@of_a_point
@pytest.mark.parametrize("share", [0.9, 0.4, 0.01])
def test_any_step_is_exact_for_a_point(name, share):
    truth, noise = last_stage(name, point=True)
    sampler, calls = between(truth.process, 1.0, share), []
    u = truth.process.perturb(truth.state(truth.mean), noise, at(sampler.ends[0]))
    sampler(truth.oracle, u, steps=2, on_step=calls.append)
    expected = truth.process.perturb(truth.state(truth.mean), noise, at(sampler.ends[1]))
    torch.testing.assert_close(calls[1].u_t, expected, atol=1e-10, rtol=1e-10)


def orders(name, steps, **options):
    truth, noise = last_stage(name)
    sampler, errors = between(truth.process, 0.8, 0.1, **options), []
    u = truth.process.perturb(truth.state(truth.mean), noise, at(sampler.ends[0]))
    for n in steps:
        calls = []
        sampler(truth.oracle, u, steps=n + 1, on_step=calls.append)
        errors.append((calls[-1].u_t - truth.flow(u, *sampler.ends)).abs().max().item())
    return slope(steps, errors), errors


SMOOTH = [name for name in PROCESSES if name != "multiscale_whole"]
"""Bands that end while they stay in the state leave a kink in t, at which orders above 2 are lost."""


@pytest.mark.parametrize(("name", "q"), [(name, q) for name in SMOOTH for q in (1, 2, 3, 4)])
def test_order(name, q):
    found, errors = orders(name, {1: [48, 96], 2: [48, 96], 3: [192, 384], 4: [192, 384]}[q], q=q)
    assert abs(found - q) < 0.2, (found, errors)


@each_process
@pytest.mark.parametrize("q", [1, 2])
def test_the_corrector_adds_one_to_the_order(name, q):
    found, errors = orders(name, [48, 96], q=q, corrector=True)
    assert abs(found - q - 1) < 0.2, (found, errors)
    assert create_sampler("gddim:q=2,corrector=true").nfe(20) == 39


@each_process
@pytest.mark.parametrize("q", [1, 2])
def test_a_corrector_that_reuses_its_call_adds_as_much(name, q):
    """At no further call."""
    found, errors = orders(name, [48, 96], q=q, corrector=True, reuse=True)
    assert abs(found - q - 1) < 0.2, (found, errors)
    assert create_sampler("gddim:q=2,corrector=true,reuse=true").nfe(20) == 20


@pytest.mark.parametrize("name", ["vp", "blurring"])
def test_the_corrector_of_order_3_is_of_order_4(name):
    found, errors = orders(name, [96, 192], q=3, corrector=True)
    assert abs(found - 4) < 0.2, (found, errors)


@pytest.mark.parametrize("name", ["vp", "flow", "blurring", "cld", "multiscale"])
@pytest.mark.parametrize("q", [1, 2])
def test_order_of_a_whole_walk(name, q):
    """From the prior to the image, over all stages."""
    errors = DiagonalTruth(PROCESSES[name]).errors(f"gddim:q={q},time_grid=cosine_of_test", [96, 192])
    assert abs(slope([96, 192], errors) - q) < 0.2, errors


UNEVEN = MultiScale(SIDE, levels=1, ends=[0.4, 1.0])
"""Of unequal stages: where they are equal, an error of q = 3 changes its sign at 600 steps, which hides the slope."""


@pytest.mark.parametrize(
    "process", [VP(), PROCESSES["blurring"], PROCESSES["cld"], UNEVEN], ids=lambda p: type(p).__name__
)
@pytest.mark.parametrize("q", [3, 4])
def test_high_orders_of_a_whole_walk(process, q):
    """Every stage begins anew with orders 1, 2 ... q: the grid must begin with short steps, as this one does."""
    errors = DiagonalTruth(process).errors(f"gddim:q={q},time_grid=cosine_of_test", [384, 768])
    assert abs(slope([384, 768], errors) - q) < 0.2, errors


@every_process
def test_q_1_is_ddim(name):
    truth = DiagonalTruth(EVERY[name])
    results = []
    for spec in ("ddim", "gddim"):
        sampler = create_sampler(spec)
        u_T = sampler.prior(truth.process, (3, *truth.shape), 12, torch.Generator().manual_seed(0))
        results.append(sampler(truth.oracle, u_T, steps=12, generator=torch.Generator().manual_seed(1)).images)
    torch.testing.assert_close(results[0], results[1], atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", [n for n, p in EVERY.items() if p.basis.k == 1 and n != "flow"])
def test_lambda_1_is_ancestral_sampling(name):
    """Equal to DDPM's posterior step with the same noise, on every diagonal process."""
    truth = DiagonalTruth(EVERY[name])
    results = []
    for spec in ("ddpm:clip=false", "gddim:lam=1"):
        sampler = create_sampler(spec)
        u_T = sampler.prior(truth.process, (3, *truth.shape), 12, torch.Generator().manual_seed(0))
        results.append(sampler(truth.oracle, u_T, steps=12, generator=torch.Generator().manual_seed(1)).images)
    torch.testing.assert_close(results[0], results[1], atol=1e-9, rtol=0)


@pytest.mark.parametrize("spec", ["gddim:lam=1,clip=true", "dpmpp_2m_sde:clip=true"])
def test_clipped_predictions_are_those_of_ancestral_sampling(spec):
    """Images far outside of [-1, 1] are clipped in every step; without that the walks differ."""
    truth = DiagonalTruth(PROCESSES["blurring"])
    truth.oracle.means.mul_(5)
    found = []
    for name in ("ddpm", spec, spec.replace("true", "false")):
        sampler = create_sampler(f"{name},time_grid=process" if ":" in name else name)
        u_T = sampler.prior(truth.process, (3, *truth.shape), 2, torch.Generator().manual_seed(0))
        found.append(sampler(truth.oracle, u_T, steps=2, generator=torch.Generator().manual_seed(1)).images)
    torch.testing.assert_close(found[0], found[1], atol=1e-9, rtol=0)
    assert (found[0] - found[2]).abs().max() > 0.1
    assert found[1].abs().max() <= 1 + 1e-12


@pytest.mark.parametrize("lam", [0.3, 1.0])
def test_stochastic_steps_of_vp_are_theorem_1(lam):
    """Variance (1-a_s) [1 - ((1-a_s)/(1-a_t))^(lam^2) (a_t/a_s)^(lam^2)], and the mean's coefficient of eps."""
    process, t, s = VP(), at(0.7), at(0.4)
    a_t, a_s = process.alpha(t) ** 2, process.alpha(s) ** 2
    variance = (1 - a_s) * (1 - ((1 - a_s) / (1 - a_t)) ** lam**2 * (a_t / a_s) ** lam**2)
    of_eps = (1 - a_s - variance).sqrt() - (1 - a_t).sqrt() * (a_s / a_t).sqrt()
    Psihat = stochastic_transition(process, s[0], t[0], lam)
    carried = product(Psihat, process.noise(t))
    torch.testing.assert_close(process.noise(s).flatten() ** 2 - carried.flatten() ** 2, variance, rtol=1e-12, atol=0)
    found = carried - process.psi(s, t) * process.noise(t)
    torch.testing.assert_close(found.flatten(), of_eps, rtol=1e-12, atol=0)


@settings(deadline=None, max_examples=30)
@given(st.sampled_from(sorted(PROCESSES)), st.floats(0, 1.5), st.floats(0.05, 0.95), st.floats(0.05, 0.9))
def test_the_covariance_of_a_stochastic_step_is_positive(name, lam, at_t, share):
    process = PROCESSES[name]
    first, last = stages_of(process)[-1]
    t = last + at_t * (first - last)
    s = last + share * (t - last)
    carried = product(stochastic_transition(process, at(s)[0], at(t)[0], lam), process.noise(at(t)))
    R = process.noise(at(s))
    P = (product(R, transpose(R)) - product(carried, transpose(carried))).movedim((1, 2), (-2, -1))
    assert torch.linalg.eigvalsh((P + P.mT) / 2).min() > -1e-12
    torch.testing.assert_close(P, P.mT, atol=1e-12, rtol=0)


@each_process
@pytest.mark.parametrize("lam", [0.5, 1.0])
def test_stochastic_steps_reproduce_the_covariance(name, lam):
    """Six steps on data that are a point, where they are exact: N(A m, Sigma), within 4.5 standard errors of each."""
    truth, _ = last_stage(name, point=True)
    n, process, calls = 20_000, truth.process, []
    generator = torch.Generator().manual_seed(0)
    sampler = between(process, 1.0, 0.02, lam=lam)
    noise = torch.randn(n, process.basis.k, 4, 4, generator=generator, dtype=f64)
    u = process.perturb(truth.state(truth.mean), noise, at(sampler.ends[0]))
    sampler(truth.oracle, u, steps=7, generator=generator, on_step=calls.append)
    u, t = calls[-1].u_t, calls[-1].t
    gap = (u - truth.mean_at(t, u)).flatten(1)
    S = matrix(truth.covariance(t))
    assert (gap.mean(0) / (S.diagonal() / n).sqrt()).abs().max() < 4.5
    spread = ((S**2 + S.diagonal()[:, None] * S.diagonal()) / n).sqrt()
    assert ((gap.T @ gap / n - S) / spread).abs().max() < 4.5


def matrix(blocks):
    """Blocks (1, k, k, C, H, W) as a matrix (k C H W, k C H W)."""
    k, n = blocks.shape[1], blocks[0, 0, 0].numel()
    parts = blocks[0].flatten(2)
    return torch.stack([torch.cat([torch.diag(parts[i, j]) for j in range(k)], 1) for i in range(k)]).reshape(
        k * n, k * n
    )


@each_process
@pytest.mark.parametrize(("lam", "image"), [(0.0, False), (0.0, True), (0.5, True), (1.0, True)])
def test_coefficients_sum_to_those_of_one_step(name, lam, image):
    """Quadrature against the identity: all C_j but the first by integrals, the first by its own.

    The sum is R_s - psi(s, t) R_t where the noise is interpolated, and A_s - Psihat(s, t) A_t where the image is.
    """
    process = PROCESSES[name]
    first, last = stages_of(process)[-1]
    nodes = torch.tensor([0.5, 0.62, 0.75, 0.9], dtype=f64) * (first - last) + last
    s = torch.tensor(0.4 * (first - last) + last, dtype=f64)
    total = sum(multistep_coefficients(process, s, nodes, lam, image))
    # C_0 by the definition, with the derivative of W by central differences in the middle of short pieces.
    tau = torch.linspace(float(nodes[0]), float(s), 20_001, dtype=f64)
    W = torch.cat([transported(process, s.reshape(1), part, lam, image) for part in tau.split(64)])
    weights = lagrange(nodes, 0, (tau[1:] + tau[:-1]) / 2).reshape(-1, *[1] * (W.ndim - 1))
    C_0 = (weights * W.diff(dim=0)).sum(0, keepdim=True)
    if image:
        Psihat = stochastic_transition(process, s, nodes[0], lam)
        expected = process.signal(s.reshape(1)) - product(Psihat, process.signal(nodes[:1]))
    else:
        expected = process.noise(s.reshape(1)) - product(process.psi(s.reshape(1), nodes[:1]), process.noise(nodes[:1]))
    torch.testing.assert_close(C_0 + total, expected, atol=2e-7, rtol=2e-7)


def test_transitions_to_one_time_from_many_are_those_from_each():
    """The shorter solution of the quadrature against the longer one of a single step."""
    process, tau = PROCESSES["cld"], torch.linspace(0.9, 0.31, 64, dtype=f64)
    many = stochastic_transition(process, at(0.3)[0], tau, 0.5)[::21]
    each = torch.cat([stochastic_transition(process, at(0.3)[0], t, 0.5) for t in tau[::21]])
    torch.testing.assert_close(many, each, atol=1e-10, rtol=1e-10)


def test_lagrange_polynomials():
    nodes, tau = torch.tensor([0.9, 0.7, 0.4], dtype=f64), torch.linspace(0.1, 0.8, 7, dtype=f64)
    for j in range(3):
        assert torch.equal(lagrange(nodes, j, nodes), torch.eye(3, dtype=f64)[j])
        h = 1e-6
        slopes = (lagrange(nodes, j, tau + h) - lagrange(nodes, j, tau - h)) / (2 * h)
        torch.testing.assert_close(lagrange_slope(nodes, j, tau), slopes, atol=1e-8, rtol=0)


@pytest.mark.parametrize("name", [n for n, p in PROCESSES.items() if len(stages_of(p)) == 1])
def test_images_that_are_pure_noise_need_no_history(name):
    """A chain of whole times is walked, too, and a walk repeats its cached coefficients."""
    process = PROCESSES[name]
    truth, sampler = DiagonalTruth(process), create_sampler("gddim:q=3")
    u_T = sampler.prior(process, (2, *truth.shape), 9, torch.Generator().manual_seed(0))
    first = sampler(truth.oracle, u_T, steps=9).images
    assert torch.equal(sampler(truth.oracle, u_T, steps=9).images, first)
    assert first.isfinite().all()


def test_discrete_chains_are_walked():
    process = VPDiscrete()
    truth, sampler = DiagonalTruth(process), create_sampler("gddim:q=2")
    u_T = sampler.prior(process, (4, *truth.shape), 500, torch.Generator().manual_seed(0))
    assert (sampler(truth.oracle, u_T, steps=500).images - truth.walked(u_T)).abs().max() < 2e-3


@pytest.mark.parametrize(
    ("spec", "steps", "word"),
    [
        ("gddim:q=3", 2, "q 3 is larger than steps 2"),
        ("gddim:q=5", 9, "q 5"),
        ("gddim:q=two", 9, "whole number"),
        ("gddim:lam=-1", 9, "lam -1"),
        ("gddim:reuse=true", 9, "reuse without a corrector"),
    ],
)
def test_nonsense_is_refused(spec, steps, word):
    truth = DiagonalTruth(VP())
    with pytest.raises(UserError, match=word):
        create_sampler(spec)(truth.oracle, torch.zeros(1, *truth.shape), steps=steps)


@pytest.mark.parametrize("q", [1, 2, 3])
def test_a_corrected_step_from_pure_noise_interpolates_the_image(q):
    """Quadrature of the noise's coefficients would give a number that depends on its points alone: psi is infinite."""
    process = RectifiedFlow()
    ahead = torch.tensor([1.0, 0.9, 0.8], dtype=f64)[:, None]
    W = transported(process, ahead[1], torch.cat([ahead[0], ahead[1]]), 0.0, image=True)
    assert W.isfinite().all()
    truth = DiagonalTruth(process)
    errors = truth.errors(f"gddim:q={q},corrector=true,reuse=true", [20, 40, 80])
    plain = truth.errors(f"gddim:q={q}", [20, 40, 80])
    assert all(error < before for error, before in zip(errors, plain, strict=True)), (errors, plain)


def test_coefficients_are_not_kept_when_a_process_changes_in_training():
    process = Joint(VE(), sigma_max=1.0, falls_to=0.02, falls_in=10)
    nodes, s = torch.tensor([0.8, 0.9], dtype=f64), torch.tensor(0.7, dtype=f64)
    before = multistep_coefficients(process, s, nodes)
    process.advance(10)
    (after,) = multistep_coefficients(process, s, nodes)
    fresh = Joint(VE(), sigma_max=1.0, falls_to=0.02, falls_in=10)
    fresh.advance(10)
    assert torch.equal(after, multistep_coefficients(fresh, s, nodes)[0])
    assert not torch.equal(after, before[0])
