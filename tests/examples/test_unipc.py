"""A sampler of another package: found by its entry point, held to its order, equal to a second implementation."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from denoisezoo.cli import main
from denoisezoo.diffusion import GRIDS, Blurring, Denoiser, Prediction, VPDiscrete, create_denoiser
from denoisezoo.diffusion.processes.scalar import EDM, RectifiedFlow
from denoisezoo.errors import UserError
from tests.diffusion.conftest import SHAPE, GaussianTruth
from tests.diffusion.convergence import check_order, final_error

from .unipc import UniPC

SOURCE = Path(__file__).with_name("unipc.py")
ROOT = SOURCE.parents[2]


@pytest.fixture
def installed(tmp_path):
    """Runs Python where the sampler is an installed package with an entry point; its output."""
    site = tmp_path / "site-packages"
    info = site / "unipc-1.0.dist-info"
    info.mkdir(parents=True)
    shutil.copy(SOURCE, site)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: unipc\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[denoisezoo.plugins]\nunipc = unipc\n")

    def python(*words):
        command = [sys.executable, *map(str, words)]
        return subprocess.run(
            command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(site)}, capture_output=True, text=True, check=True
        ).stdout

    return python


def test_the_command_line_has_it(installed, trained, tmp_path):
    words = ["--sampler", "unipc_2:variant=bh1", "--steps", 6, "--num", 2, "--out", tmp_path / "out"]
    installed("-m", "denoisezoo", "sample", trained(), *words)
    note = json.loads((tmp_path / "out" / "samples.json").read_text())
    assert (note["sampler"], note["nfe"]) == ("unipc_2:variant=bh1", 6)
    assert len(list((tmp_path / "out").glob("00000?.png"))) == 2


def test_the_test_of_the_registry_holds_it_to_its_order(installed):
    words = ["tests/diffusion/test_convergence.py", "-k", "test_declared_order and unipc_2", "-p", "no:cacheprovider"]
    assert "1 passed" in installed("-m", "pytest", *words)


@pytest.mark.parametrize(
    ("spec", "said"),
    [("unipc_22", "did you mean unipc_2"), ("unipc_2:variant=bh3", "bh2"), ("unipc_2:correct=true", "corrector")],
)
def test_mistakes_are_one_line(trained, capsys, spec, said):
    assert main(["sample", str(trained()), "--sampler", spec, "--num", "1"]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_python_has_it():
    denoiser = create_denoiser("ddpm_digits").eval()
    samples = denoiser.sample(4, sampler=UniPC(), steps=6, progress=False)
    assert (len(samples), samples.nfe) == (4, 6)
    assert torch.equal(samples.images, denoiser.sample(4, sampler="unipc_2", steps=6, progress=False).images)


@pytest.mark.parametrize(("options", "order"), [({"variant": "bh1"}, 3), ({"corrector": False}, 2)])
def test_order(options, order):
    """That of the default is declared, and tested with the registry."""
    check_order(GaussianTruth(EDM()), UniPC(**options), order)


def test_a_start_without_signal_is_no_point_of_a_polynomial():
    assert final_error(GaussianTruth(RectifiedFlow()), UniPC(), 50) < 2e-3


def test_processes_with_several_noise_levels_are_refused():
    with pytest.raises(UserError, match="'unipc_2' cannot walk Blurring"):
        UniPC().prior(Blurring(resolution=2), (1, *SHAPE), 4)


class Toy(Denoiser):
    """Any smooth function will do for a network."""

    def __init__(self):
        super().__init__()
        self.process = VPDiscrete()

    def eps(self, u, index):
        return torch.tanh(0.7 * u + torch.sin(u.roll(1, -1)) * index / 1500)

    def forward(self, u_t, t, *told):
        eps = self.eps(u_t, self.process.time_label(t[:1]).item())
        return Prediction((u_t - self.process.sigma(t[0]) * eps) / self.process.alpha(t[0]), eps)


@pytest.mark.parametrize("variant", ["bh1", "bh2"])
@pytest.mark.parametrize("steps", [3, 10, 25])
@pytest.mark.parametrize("corrector", [True, False])
def test_steps_are_those_of_diffusers(variant, steps, corrector):
    diffusers = pytest.importorskip("diffusers", reason="the test extra brings diffusers")
    scheduler = diffusers.UniPCMultistepScheduler(
        beta_start=1e-4,
        beta_end=0.02,
        solver_type=variant,
        disable_corrector=[] if corrector else list(range(steps)),
    )
    scheduler.set_timesteps(steps)
    denoiser, u_T = Toy(), torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(7))
    expected = u_T
    for index in scheduler.timesteps[:-1]:
        expected = scheduler.step(denoiser.eps(expected, index.item()), index, expected).prev_sample
    # Their last step, to sigma 0, is this by bh2, and NaN by bh1, whose B(h) is infinite there.
    last = denoiser.eps(expected, scheduler.timesteps[-1].item())
    expected = scheduler.convert_model_output(last, sample=expected)
    times = torch.cat([scheduler.timesteps.double() + 1, torch.zeros(1, dtype=torch.float64)])
    name = f"as_unipc_{len(GRIDS)}"
    GRIDS.add(name, lambda process, steps: times)
    images = UniPC(time_grid=name, variant=variant, corrector=corrector)(denoiser, u_T, steps=steps).images
    torch.testing.assert_close(images, expected, atol=1e-4, rtol=1e-4)
