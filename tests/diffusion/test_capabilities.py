"""The core of a process is small, and what callers ask for beside it is answered for every process."""

import re
from pathlib import Path

import pytest
import torch

from denoisezoo.diffusion import (
    EDM,
    PROCESSES,
    VP,
    DownSampling,
    Joint,
    Measured,
    MixtureOracle,
    MultiScale,
    Process,
    VPDiscrete,
    apply_blocks,
    capabilities,
    create_denoiser,
    create_sampler,
)
from denoisezoo.diffusion.capabilities import (
    advance,
    chain_length,
    clean_state,
    dropped_at,
    expand,
    given_channels,
    nearest_time,
    shown,
    stages_of,
    state_shape,
    unconditioned,
)
from denoisezoo.diffusion.coefficients import scalar_blocks

EVERY = {name: cls.for_images(8) for name, cls in PROCESSES.items()}
CONTRIBUTING = Path(__file__).parents[2] / "CONTRIBUTING.md"
f64 = torch.float64


def test_the_core_is_small():
    core = {
        name
        for kind in Process.__mro__  # methods that are inherited count too
        for name, member in vars(kind).items()
        if not name.startswith("_") and (callable(member) or isinstance(member, property | classmethod | staticmethod))
    }
    assert {"psi", "noise", "for_images"} <= core
    assert len(core) <= 14


class Bare(Process):
    """The core and nothing beside: VP with alpha = cos(t), sigma = sin(t)."""

    default_preconditioning = "eps"
    t_min, t_max = 0.01, 1.5

    def psi(self, s, t):
        return scalar_blocks(s.cos() / t.cos())

    def noise(self, t):
        return scalar_blocks(t.sin())

    def rates(self, t):
        return scalar_blocks(-t.sin()), scalar_blocks(t.cos())

    def log_snr(self, t):
        return -2 * t.tan().log()

    def time_label(self, t):
        return 999 * t

    def grid(self, steps):
        return torch.cat([torch.linspace(self.t_max, self.t_min, steps, dtype=f64), torch.zeros(1, dtype=f64)])


def test_the_abstract_methods_are_all_that_a_process_needs():
    point = torch.full((1, 1, 2, 2), 0.3, dtype=f64)
    oracle = MixtureOracle(Bare(), point, torch.zeros(1, 4, 4))
    for spec in ("gddim:q=2", "ddim", "heun", "euler", "rk45", "gddim:lam=1"):
        sampler = create_sampler(spec)
        u_T = sampler.prior(oracle.process, (2, 1, 2, 2), 8, torch.Generator().manual_seed(0))
        images = sampler(oracle, u_T, steps=8, generator=torch.Generator().manual_seed(1)).images
        torch.testing.assert_close(images, point.expand(2, -1, -1, -1))


def test_a_process_without_capabilities_has_the_defaults():
    process, before, u, t = Bare(), vars(Bare()), torch.randn(2, 3, 8, 8), torch.tensor([0.3, 0.4])
    assert stages_of(process) == ((1.5, 0.01),)
    assert dropped_at(process, 1.0) == 0
    assert state_shape(process, (2, 3, 8, 8), 1.5) == (2, 3, 8, 8)
    assert expand(process, u, torch.tensor(1.0)) is u
    assert nearest_time(process, t) is t
    assert chain_length(process) is None
    assert unconditioned(process) is process
    assert given_channels(process) == 0
    assert clean_state(process, u, None, torch.zeros(2, 1, 8, 8)) is u
    assert shown(process, u, t) is u
    advance(process, 10)
    assert vars(process) == before


@pytest.mark.parametrize("name", EVERY)
def test_stages_divide_the_times_and_halve_the_state_one_by_one(name):
    process = EVERY[name]
    stages = stages_of(process)
    assert (stages[0][0], stages[-1][1]) == (process.t_max, process.t_min)
    assert [dropped_at(process, first) - dropped_at(process, stages[-1][0]) for first, _ in stages] == [
        *reversed(range(len(stages)))
    ]
    u = process.prior((2, 3, 8, 8), torch.Generator().manual_seed(0))
    assert u.shape == state_shape(process, (2, 3, 8, 8), process.t_max)


def test_what_is_around_a_chain_is_a_chain_and_what_is_not_is_not():
    t = torch.tensor([1.3, 7.8], dtype=f64)
    for process in (VPDiscrete(T=10), Joint(VPDiscrete(T=10)), Measured(VPDiscrete(T=10))):
        assert chain_length(process) == 10
        assert nearest_time(process, t).tolist() == [1, 8]
    for process in (VP(), Joint(VP()), Measured()):
        assert chain_length(process) is None
        assert nearest_time(process, t) is t
    assert chain_length(DownSampling(8)) == 3
    assert nearest_time(DownSampling(8), t).tolist() == [1, 3]


def test_a_condition_is_taken_by_those_that_say_so():
    taken = {name: given_channels(process) for name, process in EVERY.items() if given_channels(process)}
    assert taken == {"joint": 3, "drift": 3, "measured": 4}
    x = EDM()
    assert unconditioned(Joint(x)) is x
    assert unconditioned(Measured(x)) is x
    image, cond = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    assert torch.equal(clean_state(Joint(x), image, None, cond), torch.cat([image, cond], 1))
    assert torch.equal(clean_state(Measured(x), image, None, cond), image)


def test_what_enters_is_noise_of_its_level():
    process = MultiScale(8, levels=1)
    t = torch.tensor(process.stages[1][0], dtype=f64)
    u = torch.randn(2000, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=f64)
    grown = expand(process, u, t, torch.Generator().manual_seed(1))
    assert torch.equal(grown[..., :4, :4], u)
    sigma = apply_blocks(process.noise(t.reshape(1)), torch.ones(1, 1, 8, 8, dtype=f64))[..., 4:, 4:]
    assert float(grown[..., 4:, 4:].std()) == pytest.approx(float(sigma.mean()), rel=0.02)


def test_the_process_of_the_contributors_page_is_right(monkeypatch):
    (block,) = re.findall(r"```python\n(.*?)```", CONTRIBUTING.read_text(), re.S)
    monkeypatch.setattr(PROCESSES, "_items", dict(PROCESSES._items))
    exec(compile(block, CONTRIBUTING.name, "exec"), {"__name__": "contributed"})
    process = PROCESSES["slow_first"].for_images(16)
    t = torch.linspace(process.t_min, 1, 7, dtype=f64).requires_grad_()
    assert (process.log_snr(t).diff() < 0).all()
    for f, derivative in zip((process.alpha, process.sigma), process.derivatives(t), strict=True):
        (expected,) = torch.autograd.grad(f(t).sum((1, 2, 3)).sum(), t)
        torch.testing.assert_close(derivative.sum((1, 2, 3)), expected)
    alpha = process.alpha(t.detach())[3, 0]
    assert alpha[0, 0] == alpha.max()
    assert alpha[-1, -1] == alpha.min()
    denoiser = create_denoiser("ddpm_tiny", "slow_first", resolution=16, cond_channels=0)
    images = denoiser.sample(2, sampler="gddim:q=2", steps=3, progress=False).images
    assert images.shape == (2, *denoiser.image_shape)
    assert images.isfinite().all()


def test_the_contributors_table_has_every_capability():
    listed = set(re.findall(r"^\| `(\w+)` \|", CONTRIBUTING.read_text(), re.M))
    there = {
        name
        for name, kind in vars(capabilities).items()
        if isinstance(kind, type) and kind.__module__ == capabilities.__name__
    }
    assert there - {"Conditioned"} <= listed
