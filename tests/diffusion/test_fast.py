"""Fast-DDPM: training and sampling on the same few times (arXiv 2405.14802)."""

import pytest
import torch

from denoisezoo.diffusion import CLD, Blurring, GaussianOracle, Joint, MultiScale, Step, create_sampler
from denoisezoo.diffusion.capabilities import unconditioned
from denoisezoo.diffusion.grids import GRIDS
from denoisezoo.diffusion.objectives.regression import Simple
from denoisezoo.diffusion.objectives.times import FewTimes
from denoisezoo.diffusion.processes.scalar import EDM, VP
from denoisezoo.diffusion.processes.vp_discrete import VPDiscrete
from denoisezoo.errors import UserError

CHAIN = VPDiscrete()
repr_of = lambda value: value if isinstance(value, str) else type(value).__name__  # noqa: E731
LISTS = {
    ("fast_uniform", 11): [0, 99, 199, 299, 399, 499, 599, 699, 799, 899, 999],
    ("fast_even", 10): [99, 199, 299, 399, 499, 599, 699, 799, 899, 999],
    ("fast_nonuniform", 10): [0, 199, 399, 599, 699, 799, 849, 899, 949, 999],
    ("fast_rule", 10): [0, 175, 350, 525, 699, 759, 819, 879, 939, 999],
    ("fast_rule", 5): [0, 350, 699, 849, 999],
    ("fast_nonuniform", 5): [0, 350, 699, 849, 999],
    ("fast_uniform", 1): [999],
    ("fast_uniform", 6): [0, 199, 399, 599, 799, 999],
}


@pytest.mark.parametrize(("grid", "steps"), list(LISTS))
def test_lists_are_the_codes(grid, steps):
    """Indices 0 ... 999 are times 1 ... 1000 here, and networks are told the index."""
    times = GRIDS[grid](CHAIN, steps)
    assert CHAIN.time_label(times[:-1]).flip(0).tolist() == LISTS[grid, steps]
    assert times[-1] == 0


def test_no_list_misses_the_noisiest_step():
    """Whatever their number: from another a walk would begin with more noise than the network was trained on."""
    uniform = {2, 3, 5, 6, 9, 11, 21, 26, 41, 51}  # one more than the divisors of 1,000
    for steps in range(2, 60):
        for grid in ("fast_even", "fast_nonuniform", "fast_rule", *(["fast_uniform"] if steps in uniform else [])):
            assert CHAIN.time_label(GRIDS[grid](CHAIN, steps)[0]) == 999
        if steps not in uniform:
            with pytest.raises(UserError, match="fast_even"):
                GRIDS["fast_uniform"](CHAIN, steps)


@pytest.mark.parametrize("steps", [20, 50])
def test_the_rule_has_two_fifths_in_the_first_seven_tenths(steps):
    found = CHAIN.time_label(GRIDS["fast_rule"](CHAIN, steps)[:-1]).flip(0)
    assert len(found) == steps
    assert (found < 699).sum() == 2 * steps // 5
    assert (found[0], found[-1]) == (0, 999)


ABAR = {0: 0.9999, 99: 0.897, 199: 0.659, 299: 0.396, 399: 0.195, 499: 0.0786, 599: 0.0259, 699: 0.0070, 799: 0.0015}
ABAR |= {849: 0.00067, 899: 0.00028, 949: 0.00011, 999: 4.0e-5}


def test_signal_at_the_points():
    for index, expected in ABAR.items():
        found = CHAIN.alpha(torch.tensor([index + 1.0], dtype=torch.float64)) ** 2
        assert found.item() == pytest.approx(expected, rel=0.04)


def test_training_draws_the_samplers_times_in_pairs():
    for process in (CHAIN, Joint(CHAIN), VP(), EDM()):
        few = FewTimes(11)
        t = few(process, few.uniform(200, torch.Generator().manual_seed(0), torch.device("cpu")))
        grid = GRIDS["fast_uniform"](unconditioned(process), 11)[:-1]
        place = (t[:, None] - grid).abs().argmin(1)
        assert torch.equal(t, grid[place])
        assert torch.equal(place[:100] + place[100:], torch.full((100,), 10))
        assert len(place.unique()) == 11


OTHERS = [(Blurring(resolution=8), "fast_even"), (Blurring(resolution=8), "fast_nonuniform"), (CLD(), "fast_even")]
OTHERS += [(MultiScale(resolution=8, drop=False), "fast_nonuniform"), (MultiScale(resolution=8), "process")]


@pytest.mark.parametrize(("process", "time_grid"), OTHERS, ids=repr_of)
def test_any_process_trains_and_samples_on_the_same_few_times(process, time_grid):
    """Blurring, multi-scale and Langevin diffusion: the lists are shares of the time axis, the noisiest among them."""
    k, few = process.basis.k, FewTimes(10, time_grid)
    oracle = GaussianOracle(process, torch.zeros(k, 8, 8), 0.3 * torch.eye(64 * k))
    found = Simple(few)(Step(oracle, {"image": torch.randn(64, 1, 8, 8)}, torch.Generator().manual_seed(0)))
    sampler, seen, generator = create_sampler(f"gddim:time_grid={time_grid}"), [], torch.Generator().manual_seed(0)
    u_T = sampler.prior(process, (4, 1, 8, 8), 10, generator)
    images = sampler(oracle, u_T, steps=10, generator=generator, on_step=lambda info: seen.append(float(info.t))).images
    assert images.isfinite().all()
    assert sorted(set(found.t.tolist())) == pytest.approx(sorted(seen))
    assert max(seen) == pytest.approx(process.t_max)
    assert found.loss.isfinite()


def test_a_process_with_stages_is_not_sampled_across_their_beginnings():
    process = MultiScale(resolution=8)
    oracle, sampler = (
        GaussianOracle(process, torch.zeros(1, 8, 8), torch.eye(64)),
        create_sampler("gddim:time_grid=fast_even"),
    )
    with pytest.raises(UserError, match="time_grid=process"):
        sampler(oracle, sampler.prior(process, (1, 1, 8, 8), 10), steps=10)


def test_any_grid_can_be_trained_on():
    few = FewTimes(4, "process", antithetic=False)
    t = few(EDM(), torch.linspace(0, 0.999, 64, dtype=torch.float64))
    assert torch.equal(t.unique(), EDM().grid(4)[:-1].flip(0))


def test_a_sum_over_pixels_is_so_many_means():
    oracle = GaussianOracle(CHAIN, torch.zeros(1, 4, 4), torch.eye(16))
    batch = {"image": torch.randn(8, 1, 4, 4)}
    mean, total = (
        Simple(FewTimes(), reduction)(Step(oracle, batch, torch.Generator().manual_seed(0))).loss
        for reduction in ("mean", "sum")
    )
    torch.testing.assert_close(total, 16 * mean)


def test_the_walk_is_ddim_over_the_list():
    """x_next = sqrt(abar_next) x_0 + sqrt(1 - abar_next) eps, to abar 1 in the end."""
    oracle = GaussianOracle(CHAIN, torch.full((1, 2, 2), 0.3), 0.2 * torch.eye(4))
    x = torch.randn(3, 1, 2, 2, dtype=torch.float64)
    sampler = create_sampler("ddim:time_grid=fast_nonuniform")
    result = sampler(oracle, x, steps=10)
    index = [-1, 0, 199, 399, 599, 699, 799, 849, 899, 949, 999]
    abar = torch.cat([torch.ones(1, dtype=torch.float64), torch.cumprod(1 - CHAIN.betas, 0)])
    for i in range(10, 0, -1):
        now, later = abar[index[i] + 1], abar[index[i - 1] + 1]
        eps = oracle(x, torch.full((3,), index[i] + 1.0, dtype=torch.float64)).eps
        x_0 = (x - (1 - now).sqrt() * eps) / now.sqrt()
        x = later.sqrt() * x_0 + (1 - later).sqrt() * eps
    torch.testing.assert_close(result.images, x, rtol=1e-9, atol=1e-9)
    assert result.nfe == 10


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: FewTimes(0), "steps is 0"),
        (lambda: FewTimes(10, "fast_unifrom"), "fast_uniform"),
        (lambda: GRIDS["fast_uniform"](CHAIN, 61), "63 times where 61"),
        (lambda: GRIDS["fast_uniform"](CHAIN, 10), "10 steps ends at 998 and misses 999; use 11, or fast_even"),
        (lambda: GRIDS["fast_even"](VPDiscrete(T=5), 10), "discrete"),
    ],
)
def test_nonsense_is_refused(make, word):
    with pytest.raises(UserError, match=word):
        make()
