"""UniPC, DEIS and DPM-Solver++(3M) against closed forms; beside diffusers' they are in tests/interop."""

import json

import pytest
import torch

from denoisezoo.cli import main
from denoisezoo.diffusion import Blurring, create_sampler
from denoisezoo.diffusion.processes.scalar import EDM, VP, RectifiedFlow, VPCosine
from denoisezoo.errors import UserError

from .conftest import SHAPE
from .convergence import check_order, final_error
from .truth import DiagonalTruth

f64 = torch.float64


@pytest.mark.parametrize(
    ("spec", "order"),
    [
        ("unipc:order=1", 2),
        ("unipc:order=3", 4),
        ("unipc:variant=bh1", 3),
        ("unipc:corrector=false", 2),
        ("unipc:predicted=noise", 3),
        ("deis:order=1", 1),
        ("deis:order=3", 3),
        ("dpmpp_2m:solver_type=heun", 2),
        ("dpmpp_3m:exact=true", 3),
    ],
)
def test_order(gaussian, spec, order):
    """Those of the defaults are declared, and tested with the registry."""
    check_order(gaussian(EDM()), create_sampler(spec), order)


@pytest.mark.parametrize("process", [VP(), VPCosine(), RectifiedFlow()], ids=["vp", "vp_cosine", "flow"])
def test_order_on_other_processes(gaussian, process):
    check_order(gaussian(process), create_sampler("unipc:time_grid=edm"), 3)


@pytest.mark.parametrize("spec", ["unipc:order=3", "dpmpp_3m", "deis:order=3"])
def test_a_start_without_signal_is_no_point_of_a_polynomial(gaussian, spec):
    assert final_error(gaussian(RectifiedFlow()), create_sampler(spec), 50) < 3e-3


@pytest.mark.parametrize("spec", ["deis:order=3", "unipc:order=3,predicted=noise", "unipc:order=3", "dpmpp_3m"])
def test_a_single_point_is_reached_exactly(spec):
    """Its image and its noise do not change along a path."""
    truth, sampler = DiagonalTruth(VP(), point=True), create_sampler(spec)
    u_T = sampler.prior(truth.process, (2, *truth.shape), 5, torch.Generator().manual_seed(0))
    images = sampler(truth.oracle, u_T, steps=5).images
    torch.testing.assert_close(images, truth.mean.expand_as(images), rtol=0, atol=1e-10)


@pytest.mark.parametrize("h", [1e-3, 0.5, 4.0, 20.0])
def test_integrals(h):
    """Of e^-(h - x) (x / h)^j over 0 ... h, and with the other sign: by parts from those of j = 0."""
    h = torch.tensor(h, dtype=f64)
    for spec, sign in (("unipc:order=3", -1), ("deis:order=3", 1)):
        found = create_sampler(spec).moments(h, 2)
        # b_j = (j b_(j-1) / h - 1) / sign, where b_0 is the whole: no cancellation matters to 1e-9 here.
        b_1 = sign * (create_sampler(spec).whole(h) / h - 1)
        b_2 = sign * (2 * b_1 / h - 1)
        torch.testing.assert_close(found, torch.stack([b_1, b_2]), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("spec", ["deis", "unipc:predicted=noise", "unipc", "dpmpp_3m", "ddim"])
@pytest.mark.parametrize("grid", ["multistep_linspace", "process"])
def test_a_walk_may_end_at_the_smallest_noise_level(spec, grid):
    """By a step to it, or where it is with a grid that has it already; the flow of a single point is exact."""
    truth = DiagonalTruth(VP(), point=True)
    sampler = create_sampler(f"{spec}{',' if ':' in spec else ':'}last=sigma_min,time_grid={grid}")
    u_T = sampler.prior(truth.process, (2, *truth.shape), 5, torch.Generator().manual_seed(0))
    found = sampler(truth.oracle, u_T, steps=5)
    assert found.nfe == 5
    torch.testing.assert_close(found.images, truth.flow(u_T, 1.0, VP().t_min), rtol=0, atol=1e-10)


def test_processes_with_several_noise_levels_are_refused():
    for name in ("unipc", "deis", "dpmpp_3m"):
        with pytest.raises(UserError, match=f"'{name}' cannot walk Blurring.*use gddim"):
            create_sampler(name).prior(Blurring(resolution=2), (1, *SHAPE), 4)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("unipc:order=4", "order is 4; give 1, 2 or 3"),
        ("deis:order=0", "order is 0"),
        ("unipc:variant=bh3", "bh2"),
        ("deis:last=zero", "denoised"),
        ("dpmpp_3m:longest=-1", "longest is -1"),
        ("dpmpp_2m:order=3", "unknown option of sampler dpmpp_2m 'order'"),
        ("unipc:rho=5", "rho is 5, and time_grid 'process' has none"),
        ("unipc:time_grid=karas", "did you mean karras"),
    ],
)
def test_mistakes_are_one_line(capsys, spec, said):
    assert main(["profile", "ddpm_digits", "--counts-only", "--sampler", spec, "--steps", "3"]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_the_price_has_one_call_for_each_step(tmp_path):
    words = ["--counts-only", "--sampler", "unipc:order=3", "--steps", "7", "--json", str(tmp_path / "rows.json")]
    assert main(["profile", "ddpm_digits", *words]) == 0
    row = json.loads((tmp_path / "rows.json").read_text())
    row = row[0] if isinstance(row, list) else row["rows"][0]
    assert row["nfe"] == 7 == len(row["trajectory"])
    assert row["macs_per_image"] == 7 * row["macs"]
