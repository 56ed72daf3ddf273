"""Schedulers of diffusers: the sampler, grid and steps that are read from a configuration end where theirs ends."""

import json

import pytest
import torch

from denoisezoo.diffusion import Denoiser, Prediction, VPDiscrete, create_sampler
from denoisezoo.errors import UserError
from denoisezoo.interop.diffusers_scheduler import read_scheduler

diffusers = pytest.importorskip("diffusers", reason="the test extra brings diffusers")
SHAPE = (5, 3, 8, 8)


def eps_model(x, index):
    """Any smooth function will do for a network."""
    return torch.tanh(0.7 * x + torch.sin(x.roll(1, -1)) * index / 1500)


class Toy(Denoiser):
    def __init__(self, process):
        super().__init__()
        self.process = process

    def forward(self, u_t, t, *given):
        eps = eps_model(u_t, self.process.time_label(t[:1]).item())
        alpha, sigma = self.process.alpha(t[0]), self.process.sigma(t[0])
        return Prediction((u_t - sigma * eps) / alpha, eps)


def written(folder, name, fields):
    scheduler = getattr(diffusers, name)(**fields)
    scheduler.save_pretrained(folder)
    return scheduler, folder / "scheduler_config.json"


def walked_by_theirs(scheduler, betas, start, steps):
    """Where it ends from a state `start` of unit variance, asked as its pipelines ask it, with a table in float64."""
    torch.testing.assert_close(scheduler.betas, betas.float(), rtol=1e-4, atol=1e-6)
    scheduler.alphas_cumprod = (1 - betas).cumprod(0)
    scheduler.set_timesteps(steps)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)  # two steps may have one index, by which it would else look for the first
    u = start * (scheduler.sigmas[0].double() ** 2 + 1).sqrt() if "Euler" in type(scheduler).__name__ else start
    for index in scheduler.timesteps:
        eps = eps_model(scheduler.scale_model_input(u, index), index.item())
        u = scheduler.step(eps, index, u).prev_sample.double()
    return u


M, U, E, D = ("DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "EulerDiscreteScheduler", "DDIMScheduler")
S = "DEISMultistepScheduler"
CASES = {
    "2M": (M, {}, 25),
    "2M of Stable Diffusion": (M, {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}, 20),
    "2M by Heun's rule, leading": (M, {"solver_type": "heun", "timestep_spacing": "leading", "steps_offset": 1}, 12),
    "2M, Karras": (M, {"use_karras_sigmas": True}, 20),
    "2M, Karras, cosine": (M, {"use_karras_sigmas": True, "beta_schedule": "squaredcos_cap_v2"}, 20),
    "2M, even in lambda": (M, {"use_lu_lambdas": True}, 15),
    "1": (M, {"solver_order": 1, "timestep_spacing": "trailing"}, 10),
    "3M": (M, {"solver_order": 3}, 25),
    "3M, short": (M, {"solver_order": 3, "timestep_spacing": "trailing"}, 8),
    "3M, of a configuration of UniPC": (M, {"solver_order": 3, "solver_type": "bh2"}, 25),
    "3M, beta": (M, {"solver_order": 3, "use_beta_sigmas": True}, 15),
    "3M to the smallest level": (M, {"solver_order": 3, "final_sigmas_type": "sigma_min"}, 20),
    "3M, never of lower order": (
        M,
        {"solver_order": 3, "lower_order_final": False, "final_sigmas_type": "sigma_min"},
        8,
    ),
    "UniPC": (U, {}, 20),
    # By bh1 their step to the image itself is NaN.
    "UniPC, bh1": (U, {"solver_type": "bh1", "final_sigmas_type": "sigma_min"}, 10),
    "UniPC, order 3, Karras": (U, {"solver_order": 3, "use_karras_sigmas": True}, 20),
    "UniPC, order 3, exponential": (U, {"solver_order": 3, "use_exponential_sigmas": True}, 20),
    "UniPC of order 1 to the smallest level": (U, {"solver_order": 1, "final_sigmas_type": "sigma_min"}, 10),
    "UniPC of noise": (U, {"predict_x0": False, "solver_order": 3, "final_sigmas_type": "sigma_min"}, 20),
    "DEIS": (S, {}, 25),
    "DEIS, order 3, short": (S, {"solver_order": 3}, 10),
    "DEIS, order 3, leading": (S, {"solver_order": 3, "timestep_spacing": "leading"}, 20),
    "DEIS, Karras": (S, {"use_karras_sigmas": True}, 12),
    "Euler": (E, {}, 20),
    "Euler, Karras": (E, {"use_karras_sigmas": True}, 20),
    "Euler, trailing": (E, {"timestep_spacing": "trailing"}, 20),
    "DDIM that ends at the smallest level": (D, {"set_alpha_to_one": False, "steps_offset": 1}, 20),
    "DDIM, clipped": (D, {}, 20),
}


@pytest.mark.parametrize("case", CASES)
def test_walks_end_as_theirs(case, tmp_path):
    name, fields, steps = CASES[case]
    scheduler, file = written(tmp_path, name, fields)
    found = read_scheduler(file, learned_variance=False)
    denoiser, sampler = Toy(VPDiscrete(**found.process["init_args"])), create_sampler(found.sampler)
    start = torch.randn(SHAPE, generator=torch.Generator().manual_seed(7)).double()
    expected = walked_by_theirs(scheduler, denoiser.process.betas, start, steps)
    assert sampler.nfe(steps) == steps == len(scheduler.timesteps)
    images = sampler(denoiser, start, steps=steps).images
    # Their levels are float32, from which third differences are taken.
    assert (images - expected).abs().max() < 2e-5 * expected.std()


WRONG = {
    "solver_order": (M, 4, "has solver_order 4"),
    "algorithm_type": (M, "sde-dpmsolver++", "only 'dpmsolver\\+\\+' is known"),
    "lambda_min_clipped": (M, -5.1, "has lambda_min_clipped"),
    "final_sigmas_type": (U, "last", "has final_sigmas_type 'last'"),
    "disable_corrector": (U, [0], r"has disable_corrector \[0\]"),
    "solver_type": (U, "bh3", "solver_type 'bh3'"),
    "steps_offset": (S, -1, "has steps_offset -1"),
    "interpolation_type": (E, "log_linear", "only 'linear' is known"),
}


@pytest.mark.parametrize("key", WRONG)
def test_what_is_not_known_is_refused(key, tmp_path):
    name, value, said = WRONG[key]
    _, file = written(tmp_path, name, {})
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
    with pytest.raises(UserError, match=said):
        read_scheduler(file, learned_variance=False)
