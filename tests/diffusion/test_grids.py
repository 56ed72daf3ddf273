"""Time grids of noise levels, and those of diffusers' multistep samplers."""

import math

import pytest
import torch

from denoisezoo.diffusion import GRIDS, create_sampler
from denoisezoo.diffusion.grids import ALIGNED_STEPS, beta_quantiles, edm_sigmas
from denoisezoo.diffusion.processes.scalar import EDM, VE, VP, RectifiedFlow, VPCosine
from denoisezoo.diffusion.processes.vp_discrete import VPDiscrete
from denoisezoo.errors import UserError

f64 = torch.float64
LEVELS = ["karras", "exponential", "beta", *ALIGNED_STEPS]


@pytest.mark.parametrize("a", [0.3, 0.6, 1.0, 2.5])
def test_quantiles_of_the_beta_distribution(a):
    scipy_stats = pytest.importorskip("scipy.stats")
    p = torch.cat([torch.linspace(0, 1, 101, dtype=f64), torch.tensor([1e-9, 1 - 1e-9], dtype=f64)])
    expected = torch.from_numpy(scipy_stats.beta.ppf(p.numpy(), a, a))
    torch.testing.assert_close(beta_quantiles(p, a), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", LEVELS)
@pytest.mark.parametrize("process", [VP(), VPCosine(), VE(), EDM(), RectifiedFlow(), VPDiscrete()], ids=type)
def test_grids_fall_from_the_largest_level_to_0(name, process):
    for steps in (1, 2, 13):
        grid = GRIDS[name](process, steps)
        assert grid.shape == (steps + 1,)
        assert bool((grid.diff() < 0).all())
        assert grid[-1] == 0
    first = process.edm_sigma(grid[:1]).item()
    largest = process.edm_sigma(torch.tensor([process.t_max], dtype=f64)).item()
    assert first == pytest.approx(largest if math.isfinite(largest) else 80)


def test_karras_has_an_exponent():
    found = create_sampler("ddim:time_grid=karras,rho=5").grid(VE(), 9)[:-1].sqrt()
    torch.testing.assert_close(found, edm_sigmas(9, 0.02, 100.0, 5.0))


@pytest.mark.parametrize("name", ALIGNED_STEPS)
def test_aligned_steps_are_those_of_their_own_model(name):
    """On its own limits ten steps are the table itself, and 20 go through it."""
    levels = torch.tensor(ALIGNED_STEPS[name], dtype=f64)
    process = EDM(sigma_min=levels[-1].item(), sigma_max=levels[0].item())
    torch.testing.assert_close(GRIDS[name](process, 10)[:-1], levels[:-1])
    finer = GRIDS[name](process, 20)[:-1]
    torch.testing.assert_close(finer[::2], levels[:-1])
    torch.testing.assert_close(finer[1::2], (levels[:-1] * levels[1:]).sqrt())


@pytest.mark.parametrize("spacing", ["linspace", "leading", "trailing"])
def test_multistep_grids_have_the_indices_of_diffusers(spacing):
    diffusers = pytest.importorskip("diffusers", reason="the test extra brings diffusers")
    scheduler = diffusers.DEISMultistepScheduler(timestep_spacing=spacing, steps_offset=1)
    grid, offset = ("trailing", "") if spacing == "trailing" else (f"multistep_{spacing}", "")
    if spacing == "leading":
        offset = ",steps_offset=1"
    sampler = create_sampler(f"deis:order=1,time_grid={grid}{offset}")
    for steps in (1, 2, 3, 7, 10, 15, 20, 25, 33, 50, 99, 100, 250):
        scheduler.set_timesteps(steps)
        assert sampler.grid(VPDiscrete(), steps).tolist() == [*(scheduler.timesteps + 1).tolist(), 0]


def test_an_option_of_another_grid_is_refused():
    with pytest.raises(UserError, match=r"steps_offset is 1, and time_grid 'karras' has none"):
        create_sampler("deis:time_grid=karras,steps_offset=1").grid(VPDiscrete(), 9)


def test_a_chain_between_its_times():
    """Networks are told the index by ln(sigma); nothing is rounded but what they are told."""
    times = torch.tensor([1.0, 1.6, 7.3, 999.7, 1000.0], dtype=f64)
    told = {name: VPDiscrete(between=name) for name in ("never", "fraction", "nearest", "below")}
    assert told["never"].nearest_time(times).tolist() == [1, 2, 7, 1000, 1000]
    assert told["nearest"].nearest_time(times).tolist() == times.tolist()
    assert told["below"].time_label(times).tolist() == [0, 0, 6, 998, 999]
    low = times.floor().clamp(max=999)
    below, here, above = (told["never"].edm_sigma(t).log() for t in (low, times, low + 1))
    torch.testing.assert_close(told["fraction"].time_label(times), low - 1 + (here - below) / (above - below))
    assert told["nearest"].time_label(times).tolist() == told["fraction"].time_label(times).round().tolist()
    levels = told["nearest"].edm_sigma(create_sampler("unipc:time_grid=karras").grid(told["nearest"], 60)[:-1])
    torch.testing.assert_close(levels, edm_sigmas(60, levels[-1].item(), levels[0].item()))
