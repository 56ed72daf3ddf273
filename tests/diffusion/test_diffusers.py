"""A second implementation: DDPM, DDIM, Euler and DPM-Solver++ steps, and grids, agree with diffusers' schedulers."""

import pytest
import torch

from denoisezoo.diffusion import Denoiser, Prediction, create_sampler
from denoisezoo.diffusion.grids import GRIDS
from denoisezoo.diffusion.processes.vp_discrete import VPDiscrete
from denoisezoo.diffusion.samplers.dpmpp_2m import DPMSolverPP2M
from denoisezoo.diffusion.samplers.first_order import DDIM, DDPM
from denoisezoo.errors import UserError

diffusers = pytest.importorskip("diffusers", reason="the test extra brings diffusers")
SHAPE = (5, 3, 8, 8)
CHAIN = {"num_train_timesteps": 1000, "beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}


def eps_model(x, index):
    """Any smooth function will do for a network."""
    return torch.tanh(0.7 * x + torch.sin(x.roll(1, -1)) * index / 1500)


class Toy(Denoiser):
    def __init__(self):
        super().__init__()
        self.process = VPDiscrete()

    def forward(self, u_t, t, *given):
        eps = eps_model(u_t, self.process.time_label(t[:1]).item())
        alpha, sigma = self.process.alpha(t[0]), self.process.sigma(t[0])
        return Prediction((u_t - sigma * eps) / alpha, eps)


def run_diffusers(scheduler, steps, dtype=torch.float32, **kwargs):
    scheduler.set_timesteps(steps)
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(SHAPE, generator=generator).to(dtype)
    for index in scheduler.timesteps:
        x = scheduler.step(eps_model(x, index.item()), index, x, generator=generator, **kwargs).prev_sample
    return x, torch.cat([scheduler.timesteps.double() + 1, torch.zeros(1, dtype=torch.float64)])


def run_ours(sampler_class, grid, dtype=torch.float32, **options):
    name = f"as_diffusers_{len(GRIDS)}"
    GRIDS.add(name, lambda process, steps: grid)
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(SHAPE, generator=generator).to(dtype)
    return sampler_class(time_grid=name, **options)(Toy(), x, steps=len(grid) - 1, generator=generator).images


def step_of_ours(sampler_class, x, t, s, generator, **options):
    name = f"as_diffusers_{len(GRIDS)}"
    GRIDS.add(name, lambda process, steps: torch.tensor([t, s], dtype=torch.float64))
    return sampler_class(time_grid=name, **options)(Toy(), x, steps=1, generator=generator).images


@pytest.mark.parametrize("steps", [1000, 50])
@pytest.mark.parametrize(("variance", "theirs"), [("small", "fixed_small"), ("large", "fixed_large")])
@pytest.mark.parametrize("clip", [True, False])
def test_every_tenth_ddpm_step(steps, variance, theirs, clip):
    scheduler = diffusers.DDPMScheduler(**CHAIN, variance_type=theirs, clip_sample=clip)
    # Theirs is a float32 table; at the noisy end its rounding alone is 1.4e-5 of the unclipped image.
    scheduler.betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    scheduler.alphas = 1 - scheduler.betas
    scheduler.alphas_cumprod = scheduler.alphas.cumprod(0)
    scheduler.set_timesteps(steps)
    for index in [*scheduler.timesteps[::10].tolist(), 0]:
        previous = index - 1000 // steps
        x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(index + 1))
        theirs_next = scheduler.step(
            eps_model(x, index), index, x, generator=torch.Generator().manual_seed(index)
        ).prev_sample
        generator = torch.Generator().manual_seed(index)
        found = step_of_ours(DDPM, x, index + 1, max(previous, -1) + 1, generator, variance=variance, clip=clip)
        torch.testing.assert_close(found, theirs_next, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("variance", "theirs"), [("small", "fixed_small"), ("large", "fixed_large")])
def test_a_whole_ddpm_chain(variance, theirs):
    expected, grid = run_diffusers(diffusers.DDPMScheduler(**CHAIN, variance_type=theirs, clip_sample=True), 50)
    torch.testing.assert_close(run_ours(DDPM, grid, variance=variance, clip=True), expected, atol=1e-5, rtol=1e-5)


class NoiseOfOurs:
    """A scheduler of diffusers in float64 with our noise, which is drawn in float32 whatever the state."""

    def __init__(self, scheduler):
        self.scheduler = scheduler

    def __getattr__(self, name):
        return getattr(self.scheduler, name)

    def step(self, eps, index, x, generator, eta):
        noise = torch.randn(SHAPE, generator=generator).to(x) if eta else None
        return self.scheduler.step(eps, index, x, eta=eta, variance_noise=noise)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("steps", [10, 50])
def test_ddim(steps, eta):
    """In float64, their table too: over 50 steps rounding alone is 1e-5 on some machines."""
    scheduler = diffusers.DDIMScheduler(**CHAIN, clip_sample=False, set_alpha_to_one=True)
    scheduler.alphas_cumprod = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)
    expected, grid = run_diffusers(NoiseOfOurs(scheduler), steps, torch.float64, eta=eta)
    torch.testing.assert_close(run_ours(DDIM, grid, torch.float64, eta=eta), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("use_clipped", "eps"), [(False, "kept"), (True, "recomputed")])
@pytest.mark.parametrize("eta", [0.0, 0.5])
def test_ddim_with_a_clipped_image(eta, use_clipped, eps):
    """Their default keeps the network's noise beside the clipped image; both of theirs have a name here."""
    scheduler = diffusers.DDIMScheduler(**CHAIN, clip_sample=True)
    scheduler.alphas_cumprod = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)
    scheduler.set_timesteps(20)
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(7)).double()
    generator = torch.Generator().manual_seed(8)
    expected = x
    for index in scheduler.timesteps:
        noise = torch.randn(SHAPE, generator=generator).double() if eta else None
        expected = scheduler.step(
            eps_model(expected, index.item()), index, expected, eta, use_clipped, variance_noise=noise
        ).prev_sample
    sampler = create_sampler(f"ddim:eta={eta},clip=true,clipped_eps={eps},time_grid=leading")
    found = sampler(Toy(), x, steps=20, generator=torch.Generator().manual_seed(8)).images
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
def test_grids_have_their_indices(spacing):
    """The same at all numbers of steps, but for those at which rounding gives theirs one index too many."""
    process, longer = VPDiscrete(), []
    for steps in range(1, 1001):
        scheduler = diffusers.DDIMScheduler(**CHAIN, timestep_spacing=spacing)
        scheduler.set_timesteps(steps)
        grid = GRIDS[spacing](process, steps)
        assert grid.tolist() == [*(scheduler.timesteps + 1).tolist()[:steps], 0]
        if len(scheduler.timesteps) > steps:
            longer.append(steps)
    assert not longer or spacing == "trailing"


def test_a_leading_grid_has_their_offset():
    scheduler = diffusers.DDIMScheduler(**CHAIN, timestep_spacing="leading", steps_offset=1)
    scheduler.set_timesteps(50)
    sampler = create_sampler("ddim:time_grid=leading,steps_offset=1")
    assert sampler.grid(VPDiscrete(), 50).tolist() == [*(scheduler.timesteps + 1).tolist(), 0]
    with pytest.raises(UserError, match="time_grid=leading"):
        create_sampler("ddim:steps_offset=1").grid(VPDiscrete(), 50)


@pytest.mark.parametrize(
    ("spacing", "grid", "steps"),
    [("linspace", "linspace_fractional", 20), ("linspace", "linspace_fractional", 7), ("trailing", "trailing", 20)],
)
def test_euler_between_the_steps_of_a_chain(spacing, grid, steps):
    """Their Euler in sigma is DDIM; its `linspace` is not rounded, and the network is told a fraction of an index."""
    scheduler = diffusers.EulerDiscreteScheduler(**CHAIN, timestep_spacing=spacing)
    scheduler.alphas_cumprod = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)
    scheduler.set_timesteps(steps)
    start = torch.randn(SHAPE, generator=torch.Generator().manual_seed(7)).double()
    expected = start * scheduler.sigmas[0].double()
    for index in scheduler.timesteps:
        eps = eps_model(scheduler.scale_model_input(expected, index), index.item())
        expected = scheduler.step(eps, index, expected).prev_sample.double()
    denoiser, sampler = Toy(), create_sampler(f"ddim:time_grid={grid}")
    first = sampler.grid(denoiser.process, steps)[:1]
    found = sampler(denoiser, start * denoiser.process.sigma(first), steps=steps).images
    # Between steps they interpolate sigma, and ours ln(1 + sigma^2); the rest is their float32 table.
    assert (found - expected).abs().max() < 1e-5 * expected.std()  # of about 85


@pytest.mark.parametrize("steps", [10, 25])
def test_dpmpp_2m(steps):
    scheduler = diffusers.DPMSolverMultistepScheduler(
        **CHAIN,
        algorithm_type="dpmsolver++",
        solver_order=2,
        solver_type="midpoint",
        final_sigmas_type="zero",
        lower_order_final=True,
    )
    expected, grid = run_diffusers(scheduler, steps)
    torch.testing.assert_close(run_ours(DPMSolverPP2M, grid), expected, atol=1e-4, rtol=1e-4)


def test_options_are_parsed_and_checked():
    sampler = create_sampler("ddim:eta=0.5,time_grid=edm,clip=true")
    assert (sampler.eta, sampler.time_grid, sampler.clip) == (0.5, "edm", True)
