"""The velocity of the probability flow: exact for oracles, differentiable forward for networks."""

import pytest
import torch
import torch.nn.functional as F

from denoisezoo.archs import create_backbone
from denoisezoo.diffusion import (
    CLD,
    EDM,
    VE,
    VP,
    Blurring,
    GaussianOracle,
    NetworkDenoiser,
    NextScale,
    RectifiedFlow,
    create_denoiser,
)
from denoisezoo.diffusion.coefficients import apply_blocks
from denoisezoo.diffusion.processes.downsampling import DownSampling
from denoisezoo.errors import UserError
from denoisezoo.nn.forward_mode import attention_for, has_tangent
from denoisezoo.nn.given import Given

PROCESSES = [RectifiedFlow(), VP(), EDM(), VE(), Blurring(resolution=4), CLD()]


@pytest.mark.parametrize("process", PROCESSES, ids=lambda process: type(process).__name__)
def test_exact_flows_move_with_it(process):
    """States of data N(0, C) at rest flow along the root of their own covariance; here C commutes with A and R.

    For k = 1 and C = c I the flow is u_t = S_t z with S_t^2 = c A_t^2 + R_t^2. For all: the law of the flow keeps the
    covariance A C A' + R R', so that with du/dt = V u the derivative of it is V S + S V'.
    """
    C, channels = 0.49, 1
    D = 16 * process.basis.k
    mean, cov = (
        torch.zeros(process.basis.k * channels, 4, 4, dtype=torch.float64),
        C * torch.eye(D, dtype=torch.float64),
    )
    oracle, t = GaussianOracle(process, mean, cov), 0.3 * process.t_max
    unit = torch.eye(D, dtype=torch.float64).reshape(D, process.basis.k, 4, 4)
    V = oracle.velocity(unit, torch.full((D,), t, dtype=torch.float64)).reshape(D, D).T  # the flow is linear in u

    def covariance(t):
        time = torch.tensor([t], dtype=torch.float64)
        A, R = (apply_blocks(b, unit).reshape(D, D).T for b in (process.signal(time), process.noise(time)))
        return C * A @ A.T + R @ R.T

    h = 1e-5 * process.t_max
    slope, S = (covariance(t + h) - covariance(t - h)) / (2 * h), covariance(t)
    torch.testing.assert_close(V @ S + S @ V.T, slope, rtol=1e-6, atol=1e-6 * float(slope.abs().max()))


@pytest.mark.parametrize(
    ("process", "name", "h", "tolerance"),
    [(RectifiedFlow(), "ddpm_digits", 1e-5, 3e-3), (VP(), "adm_digits", 1e-5, 3e-3), (EDM(), "adm_digits", 1e-2, 1e-6)],
    ids=["flow", "vp", "edm"],
)
def test_networks_are_pushed_forward(process, name, h, tolerance):
    """Through attention, group norm and SiLU. Embeddings are float32, and steep where they are told 999 t."""
    torch.manual_seed(0)
    denoiser = create_denoiser(create_backbone(name), process).double().eval()
    u, v = torch.randn(2, 2, 1, 16, 16, dtype=torch.float64)
    t = torch.tensor([0.4, 0.7], dtype=torch.float64) * process.t_max

    def differs(h, still):
        move = torch.zeros_like(t) if still else torch.ones_like(t)
        value, found = torch.func.jvp(denoiser.velocity, (u, t), (v, move))
        torch.testing.assert_close(value, denoiser.velocity(u, t), rtol=1e-5, atol=1e-7)  # another attention kernel
        ahead, behind = (denoiser.velocity(u + x * v, t + x * move) for x in (h, -h))
        expected = (ahead - behind) / (2 * h)
        return float((found - expected).norm() / expected.norm())

    with torch.no_grad():
        for weight in denoiser.parameters():
            weight.add_(0.03 * torch.randn_like(weight))  # no layer is zero
        assert differs(1e-4, still=True) < 1e-7
        assert differs(h, still=False) < tolerance


def test_the_plain_attention_is_for_tangents_alone():
    q = torch.randn(1, 1, 4, 4)
    assert not has_tangent(q, None)
    kernels = []

    def attend(q):
        assert has_tangent(q)
        with attention_for(q):
            kernels.append(torch.backends.cuda.flash_sdp_enabled())
            return F.scaled_dot_product_attention(q, q, q)

    torch.func.jvp(attend, (q,), (q,))
    with attention_for(q):
        kernels.append(torch.backends.cuda.flash_sdp_enabled())
    assert kernels == [False, True]


def test_states_that_jump_have_no_velocity():
    process = DownSampling(16, alphas=[0.5, 0.2], sigmas=[0.1, 0.2])
    backbone = create_backbone("udpm_tiny", resolution=16)
    denoiser = NetworkDenoiser(backbone, process, NextScale())
    told, one = Given(image=torch.randn(1, 1, 8, 8)), torch.ones(1, dtype=torch.float64)
    with pytest.raises(UserError, match="no velocity"):
        denoiser.velocity(torch.randn(1, backbone.spec.in_channels, 8, 8), one, told)


def test_a_second_time_is_refused_where_none_is_told():
    denoiser, t = create_denoiser("ddpm_digits", RectifiedFlow()), torch.ones(1, dtype=torch.float64)
    with pytest.raises(UserError, match="second time"):
        denoiser.velocity(torch.randn(1, 1, 16, 16), t, Given(until=t))
