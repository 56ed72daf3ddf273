"""The loss table and the propagation of errors against the Gaussian, where both are known in closed form."""

import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from denoisezoo.archs import create_backbone, get_variant
from denoisezoo.diffusion import PROCESSES, Denoiser, NetworkDenoiser, Prediction, create_sampler
from denoisezoo.diffusion.coefficients import over_images
from denoisezoo.diffusion.network_denoiser import create_denoiser
from denoisezoo.errors import UserError
from denoisezoo.nn.given import NOTHING, Given
from denoisezoo.plans import Plan, extracted, find_plan
from denoisezoo.profiling.counting import count
from denoisezoo.profiling.trajectory import counting_copy, trace
from denoisezoo.search.exact import best, exact_front
from denoisezoo.search.loss_table import LossTable, make_levels, make_plan, measure
from denoisezoo.search.propagation import Propagation


class Gaussian(Denoiser):
    """The exact denoiser of N(0, variance) per pixel, which at effort 0.5 adds a constant to its predicted image."""

    efforts = (0.5, 1.0)

    def __init__(self, process, variance, mistake):
        super().__init__()
        self.process, self.variance, self.mistake = process, variance, mistake
        self.device = torch.nn.Parameter(torch.zeros(1))

    def forward(self, u_t, t, given=NOTHING, effort=None):
        alpha, sigma = (x.to(u_t.dtype).view(-1, 1, 1, 1) for x in (self.process.alpha(t), self.process.sigma(t)))
        u_0 = alpha * self.variance * u_t / (alpha**2 * self.variance + sigma**2)
        if effort == 0.5:
            u_0 = u_0 + self.mistake
        return Prediction(u_0, (u_t - alpha * u_0) / sigma)


@pytest.mark.parametrize("name", ["edm", "vp", "flow"])
def test_the_effect_of_an_error_is_what_sampling_shows(name):
    """A mistake at one step of DDIM's walk, and what is left of it at the end, against step^2 times the propagation."""
    process, variance, mistake = PROCESSES[name](), 0.25, 0.03
    torch.manual_seed(0)
    images = variance**0.5 * torch.randn(4000, 1, 2, 2, dtype=torch.float64)
    denoiser, sampler = Gaussian(process, variance, mistake), create_sampler("ddim:time_grid=log_snr")
    steps = 400
    times = sampler.grid(process, steps)[:-1].tolist()
    levels = make_levels(times, process, steps)
    propagation = Propagation(images)
    u_T = sampler.prior(process, (1, 1, 2, 2), steps, dtype=torch.float64)
    right = sampler(denoiser, u_T, steps=steps).images
    for at in (100, 200, 300, 399):
        level = levels[at]
        efforts = [0.5 if k == at else 1.0 for k in range(steps)]
        wrong = sampler(denoiser, u_T, steps=steps, plan=make_plan(levels, efforts)).images
        expected = level.step**2 * propagation.effect(torch.full((1, 1, 2, 2), mistake), level.sigma)
        # 400 steps follow the ODE to a percent; the covariance of 4,000 draws is another.
        assert float((wrong - right).square().mean()) == pytest.approx(float(expected), rel=0.06)


def test_propagation_by_direction():
    """A direction without variance forgives all, one with variance keeps lambda / (lambda + sigma^2) of the square."""
    torch.manual_seed(0)
    images = torch.zeros(500, 1, 1, 2, dtype=torch.float64)
    images[:, 0, 0, 0] = 2 * torch.randn(500, dtype=torch.float64)
    lam = float(images[:, 0, 0, 0].var())
    propagation = Propagation(images)
    along, across = torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([[[[0.0, 1.0]]]])
    assert float(propagation.effect(along, 3.0)) == pytest.approx(0.5 * lam / (lam + 9))
    assert float(propagation.effect(across, 3.0)) == pytest.approx(0.0, abs=1e-12)
    assert float(propagation.effect(across, 0.0)) == 0.5


def test_propagation_of_fewer_images_than_numbers_is_that_of_their_covariance():
    torch.manual_seed(0)
    images, error = torch.randn(5, 1, 3, 4, dtype=torch.float64), torch.randn(2, 1, 3, 4)
    S = torch.cov(images.flatten(1).T)
    kept = S @ torch.linalg.inv(S + 4 * torch.eye(12, dtype=torch.float64))
    flat = error.flatten(1).double()
    expected = ((flat @ kept) * flat).mean(dim=1)
    torch.testing.assert_close(Propagation(images).effect(error, 2.0), expected)


def test_levels_group_calls_and_keep_their_times_apart():
    process = PROCESSES["flow"]()
    times = [1.0, 0.8, 0.8, 0.6, 0.4, 0.4, 0.2]
    levels = make_levels(times, process, 3)
    assert [level.calls for level in levels] == [(0, 1, 2), (3, 4, 5), (6,)]
    assert levels[0].edge == -np.inf
    for level, other in itertools.pairwise(levels):
        log_snr = process.log_snr(torch.tensor([times[level.calls[-1]], times[other.calls[0]]])).tolist()
        assert log_snr[0] < other.edge < log_snr[1]
    assert levels[-1].sigma == 0
    assert levels[-1].step == 1
    # sigma / alpha = t / (1 - t): from 0.6 to 0.2
    assert levels[1].step == pytest.approx(1 - 0.25 / 1.5)
    assert sum(len(level.calls) for level in make_levels(times, process, 50)) == len(times)


def test_the_table_against_the_gaussian():
    process, variance, mistake = PROCESSES["vp"](), 0.25, 0.1
    torch.manual_seed(0)
    images = variance**0.5 * torch.randn(2000, 1, 2, 2)
    levels = make_levels([0.9, 0.5, 0.2], process, 3)
    table = measure(Gaussian(process, variance, mistake), images, levels, Propagation(images), per_level=2000)
    for k, level in enumerate(levels):
        snr = np.exp(level.log_snr)
        exact = variance / (1 + snr * variance)
        assert table.loss[k, 1] == pytest.approx(exact, rel=0.05)
        # the same noise for both efforts: the difference is far more certain than the losses
        assert table.loss[k, 0] - table.loss[k, 1] == pytest.approx(mistake**2, abs=4 * table.standard_error[k, 0])
    assert (table.standard_error[:, 1] == 0).all()
    assert (table.excess[:, 1] == 0).all()


def test_the_table_of_a_network_with_stages_is_what_its_training_makes_small():
    """Each level is measured on states of its stage's size, by its stage's network."""
    torch.manual_seed(0)
    plain = {"num_classes": 0, "cond_channels": 0, "augment_dim": 0}
    net = create_backbone("multiscale_tiny", base=("slim_tiny", "slim_tiny"), **plain).eval()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.05 * torch.randn_like(p))
    denoiser, images = create_denoiser(net, "multiscale"), torch.randn(6, 3, 8, 8)
    process = denoiser.process
    times = process.grid(8)[:-1].tolist()
    levels = make_levels(times, process, 8)
    propagation = Propagation(process.basis.encode(torch.randn(50, 3, 8, 8)))
    table = measure(denoiser, images, levels, propagation, per_level=6, seed=3)
    assert {process.dropped(level.t) for level in levels} == {0, 1}
    generator = torch.Generator().manual_seed(3)
    for k, level in enumerate(levels):
        eps, t = torch.randn(6, 3, 8, 8, generator=generator), torch.full((6,), level.t, dtype=torch.float64)
        for e, effort in enumerate(net.efforts):
            with torch.no_grad():
                error, c_out = denoiser.training_error(process.basis.encode(images), eps, t, effort=effort)
            expected = (over_images(c_out, error) * error).square().mean()
            assert table.loss[k, e] == pytest.approx(float(expected), rel=1e-4)
            # Of the whole image, the smaller state is a quarter: an error there weighs as much less.
            if level.sigma == 0:
                assert table.effect[k, e] == pytest.approx(level.step**2 * table.loss[k, e], rel=1e-4)
            else:
                assert table.effect[k, e] < level.step**2 * table.loss[k, e] / 4 ** process.dropped(level.t)
    assert (table.loss[:, 0] != table.loss[:, 1]).all()


def test_a_state_that_begins_with_random_parts_is_measured_as_it_is_trained():
    """Langevin diffusion whose velocities are drawn: they are part of what there is to predict."""
    process = PROCESSES["cld"](velocity="sampled")
    images = torch.zeros(1000, 1, 2, 2)

    class Nothing(Gaussian):
        def forward(self, u_t, t, given=NOTHING, effort=None):
            return Prediction(torch.zeros_like(u_t), u_t)

    levels = make_levels([0.5], process, 1)
    table = measure(Nothing(process, 1.0, 0.0), images, levels, Propagation(torch.randn(9, 2, 2, 2)), per_level=1000)
    assert table.loss[0, 0] == pytest.approx(process.velocity_variance / 2, rel=0.1)


def test_the_standard_error_of_a_plans_excess_is_the_spread_over_other_images_and_noise():
    process, variance = PROCESSES["vp"](), 0.25
    torch.manual_seed(0)
    levels = make_levels([0.9, 0.5, 0.2], process, 3)
    denoiser, propagation = Gaussian(process, variance, 0.1), Propagation(torch.randn(500, 1, 2, 2) * variance**0.5)
    tables = [
        measure(denoiser, variance**0.5 * torch.randn(192, 1, 2, 2), levels, propagation, per_level=64, seed=seed)
        for seed in range(100)
    ]
    spread = np.std([table.excess[:, 0].sum() for table in tables])
    # 100 draws know their spread to 7 %.
    assert np.mean([table.excess_error([0, 0, 0]) for table in tables]) == pytest.approx(spread, rel=0.2)
    assert tables[0].excess_error([1, 1, 1]) == 0
    assert tables[0].excess_error([0, 1, 1]) == pytest.approx(float(tables[0].effect_error[0, 0]))


def test_too_few_images():
    process = PROCESSES["vp"]()
    levels = make_levels([0.9], process, 1)
    with pytest.raises(UserError, match="standard error"):
        measure(Gaussian(process, 1.0, 0.0), torch.zeros(1, 1, 2, 2), levels, Propagation(torch.randn(4, 1, 2, 2)))


def test_a_table_gives_the_plans_of_its_front():
    process = PROCESSES["vp"]()
    levels = tuple(make_levels([0.9, 0.5, 0.2, 0.1], process, 4))
    effect = np.array([[0.1, 0.0], [0.2, 0.0], [3.0, 0.0], [4.0, 0.0]])
    table = LossTable((0.5, 1.0), levels, effect, np.zeros_like(effect), effect, np.zeros_like(effect), 10)
    choice = best(exact_front(table.excess, table.costs(np.tile([1.0, 4.0], (4, 1)))), 10.0)
    plan = table.plan(choice.efforts)
    assert [plan.effort(level.log_snr) for level in levels] == [0.5, 0.5, 1.0, 1.0]
    assert plan.edges == (levels[2].edge,)
    assert {row["effort"] for row in table.to_rows()} == {0.5, 1.0}


def test_presets():
    assert find_plan("uniform:effort=0.5") == Plan((0.5,))
    assert find_plan("two_segment:noisy=0.5,clean=1") == Plan((0.5, 1.0), (0.0,))
    for text, told in (
        ("unifrom:effort=1", "uniform"),
        ("uniform:width=1", "effort"),
        ("uniform", "needs effort"),
        ("uniform:effort=x", "'x'"),
        ("nothing.json", "there is no plan"),
    ):
        with pytest.raises(UserError, match=told):
            find_plan(text)


def test_the_published_plan_at_its_thousand_steps():
    """EnVision-Research/DDSM, eval/search.txt: counts of widths, and 3,098 MMAC = 6.20 GFLOPs on average.

    DDSM's counts of each width, 6,070, 3,420, 1,520 and 382.5 MMAC, leave the products of attention out.
    """
    plan, process = find_plan("ddsm_cifar10"), PROCESSES["vp_discrete"]()
    log_snr = process.log_snr(torch.arange(1, 1001, dtype=torch.float64)).tolist()
    used = [plan.effort(level) for level in log_snr]
    assert {w: used.count(w) for w in (1.0, 0.75, 0.5, 0.25)} == {1.0: 274, 0.75: 181, 0.5: 534, 0.25: 11}
    assert used[:266] == [1.0] * 266
    assert used[266:429] == [0.75] * 163
    assert used[470:] == [0.5] * 530
    with torch.device("meta"):
        net = create_backbone("slim_ddpm_cifar10").eval()
        given = torch.empty(1, 3, 32, 32), torch.empty(1)
    counts = {w: count(lambda w=w: net(*given, effort=w)) for w in net.efforts}
    for w, published in {1.0: 6070, 0.75: 3420, 0.5: 1520, 0.25: 382.5}.items():
        assert counts[w].macs - counts[w].macs_attention == pytest.approx(1e6 * published, rel=0.01)
    mean = sum(counts[w].macs for w in used) / 1000
    without = sum(counts[w].macs - counts[w].macs_attention for w in used) / 1000
    assert without == pytest.approx(3098e6, rel=0.005)
    assert 2 * without == pytest.approx(6.20e9, rel=0.005)
    # docs/plans.md says both
    assert (round(mean / 1e6), round(without / 1e6)) == (3203, 3089)


def test_a_walk_says_how_much_of_its_price_attention_is():
    net = create_backbone("slim_tiny", num_classes=0, cond_channels=0, augment_dim=0).eval()
    given = torch.zeros(1, 3, 8, 8), torch.zeros(1)
    denoiser, sampler = create_denoiser(net), create_sampler("ddim")
    u_T = sampler.prior(denoiser.process, (1, 3, 8, 8), 4, dtype=torch.float32)
    calls = trace(counting_copy(denoiser), sampler, u_T, steps=4, plan=Plan((0.5, 1.0), (0.0,)), timed=False).calls
    assert {call.effort for call in calls} == {0.5, 1.0}
    for call in calls:
        expected = count(lambda call=call: net(*given, effort=call.effort))
        assert 0 < call.macs_attention == expected.macs_attention < call.macs == expected.macs


def test_extraction_samples_as_the_network_does():
    torch.manual_seed(0)
    net = create_backbone("slim_ddpm_digits").eval().double()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.05 * torch.randn_like(p))
    denoiser, sampler = create_denoiser(net), create_sampler("ddim")
    plan = Plan((0.75, 1.0, 0.5), (-1.0, 2.0))
    fast = extracted(denoiser, plan.efforts)
    assert isinstance(fast, NetworkDenoiser)
    assert fast.efforts == (0.5, 0.75, 1.0)
    u_T = sampler.prior(denoiser.process, (2, 1, 16, 16), 8, torch.Generator().manual_seed(0))
    expected = sampler(denoiser, u_T, steps=8, plan=plan).images
    torch.testing.assert_close(sampler(fast, u_T, steps=8, plan=plan).images, expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(UserError, match=r"effort 0\.25"):
        fast(u_T, torch.full((2,), 1.0, dtype=torch.float64), effort=0.25)
    with pytest.raises(UserError, match=r"effort 0\.3"):
        extracted(denoiser, [0.3])


def test_two_threads_sampling_at_different_widths_agree_with_serial_runs():
    torch.manual_seed(0)
    net = create_backbone("slim_tiny", num_classes=0, cond_channels=0, augment_dim=0).eval()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.05 * torch.randn_like(p))
    denoiser, sampler = create_denoiser(net), create_sampler("ddim")
    u_T = sampler.prior(denoiser.process, (2, 3, 8, 8), 10, torch.Generator().manual_seed(0), dtype=torch.float32)

    def sample(effort):
        return sampler(denoiser, u_T, steps=10, plan=Plan((effort,))).images

    serial = {effort: sample(effort) for effort in net.efforts}
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda effort: (effort, sample(effort)), net.efforts * 4))
    assert all(torch.equal(images, serial[effort]) for effort, images in found)
    assert not torch.equal(serial[0.5], serial[1.0])


def test_compiled_networks_answer_as_eager_ones_in_every_shape_they_are_asked(monkeypatch):
    monkeypatch.setenv("CI", "true")  # with which torch's compiler refuses what it else does by itself
    smallest = create_backbone("ddpm_tiny", multipliers=(1,), blocks=1, attention=())
    monkeypatch.setattr(type(get_variant("slim_tiny").config), "build_base", lambda config: smallest)
    backbone = create_backbone("slim_tiny").eval()
    for parameter in backbone.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    denoiser = create_denoiser(backbone.to(memory_format=torch.channels_last))
    assert not denoiser.training  # as its backbone; else its copies would drop out
    eager, compiled = (extracted(denoiser, {0.5}, compile=compile) for compile in (False, True))
    given = Given(augment=torch.randn(2, 2), image=torch.randn(2, 1, 8, 8), label=torch.tensor([1, -1]))
    with torch.inference_mode():
        u = torch.randn(2, 3, 8, 8)
        for n, layout in ((2, torch.channels_last), (1, torch.contiguous_format)):
            x, t = u[:n].contiguous(memory_format=layout), torch.full((n,), 0.5)
            some = given.take(slice(n))
            torch.testing.assert_close(compiled(x, t, some).u_0, eager(x, t, some).u_0, atol=1e-5, rtol=1e-5)


def test_networks_that_cannot_be_exported_are_compiled_as_they_run(monkeypatch):
    def refuse(*args):
        raise torch._dynamo.exc.Unsupported("a loop whose end the data decide")

    monkeypatch.setattr(torch.export, "export", refuse)
    backbone = create_backbone("ddpm_tiny", multipliers=(1,), blocks=1, attention=()).eval()
    for parameter in backbone.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    eager, compiled = (extracted(create_denoiser(backbone), {1.0}, compile=compile) for compile in (False, True))
    given = Given(augment=torch.randn(2, 2), image=torch.randn(2, 1, 8, 8), label=torch.tensor([1, -1]))
    x, t = torch.randn(2, 3, 8, 8), torch.full((2,), 0.5)
    with torch.inference_mode():
        found, truth = compiled(x, t, given).u_0, eager(x, t, given).u_0
    torch.testing.assert_close(found, truth, atol=1e-5, rtol=1e-5)
    assert len(compiled.backbone.compiled._calls) == 1
