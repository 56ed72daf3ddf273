"""Deterministic samplers converge at their order on Gaussian data, in float64; NFE equals its formula."""

import pytest
import torch

from denoisezoo.diffusion import SAMPLERS, create_sampler
from denoisezoo.diffusion.processes.scalar import EDM, VP, RectifiedFlow, VPCosine

from .convergence import check_declared_order, check_order, final_error

PROCESSES = {"vp": VP(), "vp_cosine": VPCosine(), "edm": EDM(), "flow": RectifiedFlow()}


@pytest.mark.parametrize("name", [name for name, cls in SAMPLERS.items() if cls.convergence and not cls.adaptive])
def test_declared_order(name):
    """Of every registered sampler, those of plugins too."""
    check_declared_order(name)


@pytest.mark.parametrize("process", list(PROCESSES))
@pytest.mark.parametrize(
    ("spec", "order"),
    [("ddim", 1), ("euler:time_grid=edm", 1), ("heun:time_grid=edm", 2), ("dpmpp_2m:time_grid=log_snr", 2)],
)
def test_order(gaussian, process, spec, order):
    if process == "flow":
        # Its own grid is even in t, from the state without any signal to the image itself; there the first steps in
        # log-SNR stay long however many there are, so that DPM-Solver++ is given the grid that it is made for.
        spec = spec if spec.startswith("dpmpp") else spec.split(":")[0]
    sampler = create_sampler(spec)
    assert sampler.convergence == order
    check_order(gaussian(PROCESSES[process]), sampler, order)


@pytest.mark.parametrize(
    "spec", ["edm", "edm:solver=euler", "edm:alpha=0.6667", "edm:schedule=vp,scaling=vp,last=denoised"]
)
def test_order_of_the_generalised_sampler(gaussian, spec):
    check_order(gaussian(EDM()), create_sampler(spec), 1 if "euler" in spec else 2)


@pytest.mark.parametrize("process", list(PROCESSES))
def test_edm_sampler_runs_any_process(gaussian, process):
    """EDM's ODE is the same whatever the process that the network was trained on; 400 Heun steps nearly solve it."""
    assert final_error(gaussian(PROCESSES[process]), create_sampler("edm"), 400) < 1e-4


@pytest.mark.parametrize(("spec", "nfe"), [("ddim", 18), ("euler", 18), ("heun", 35), ("dpmpp_2m", 18), ("ddpm", 18)])
def test_nfe(gaussian, spec, nfe):
    truth, sampler = gaussian(EDM()), create_sampler(spec)
    calls = []
    result = sampler(truth.oracle, truth.start(sampler, 18), steps=18, on_step=calls.append)
    assert result.nfe == nfe == len(calls) == sampler.nfe(18)
    assert [c.call for c in calls] == list(range(nfe))
    assert create_sampler("edm").nfe(40) == 79
    assert create_sampler("edm").nfe(256) == 511


@pytest.mark.parametrize("spec", ["ddim", "euler", "heun", "dpmpp_2m", "unipc", "deis", "ddpm:clip=false"])
@pytest.mark.parametrize("process", list(PROCESSES))
def test_one_step_is_one_denoising(gaussian, process, spec):
    truth, sampler = gaussian(PROCESSES[process]), create_sampler(spec)
    u_T = truth.start(sampler, 1)
    expected = truth.oracle(u_T, torch.full((len(u_T),), truth.process.t_max, dtype=torch.float64)).u_0
    result = sampler(truth.oracle, u_T, steps=1)
    torch.testing.assert_close(result.images, expected, atol=1e-12, rtol=0)
    assert result.nfe == 1
