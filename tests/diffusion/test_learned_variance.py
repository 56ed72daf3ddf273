"""Ancestral sampling with a variance that the network has learned, against guided-diffusion.

Figures: openai/guided-diffusion at 22e0df8, `SpacedDiffusion(space_timesteps(1000, N), ...).p_mean_variance` with
`LEARNED_RANGE` and clipping, of the network below on `X`: mean and log variance.
"""

import pytest
import torch

from denoisezoo.archs import create_backbone
from denoisezoo.diffusion import Denoiser, Given, Guided, Prediction, create_denoiser, create_sampler
from denoisezoo.diffusion.grids import GRIDS
from denoisezoo.diffusion.processes.vp_discrete import VPDiscrete
from denoisezoo.errors import UserError

f64 = torch.float64
X = torch.tensor([[[[0.5, -1.0], [0.25, 1.5]]]], dtype=f64)


class Toy(Denoiser):
    """eps = tanh(0.7 x + i / 1000) and v = sin(3 x - i / 1000) at index i."""

    def __init__(self, schedule):
        super().__init__()
        self.process = VPDiscrete(schedule)

    def forward(self, u_t, t, *told):
        alpha, sigma = self.process.alpha(t[:1]), self.process.sigma(t[:1])
        index = self.process.time_label(t[:1]) / 1000
        eps = torch.tanh(0.7 * u_t + index)
        return Prediction((u_t - sigma * eps) / alpha, eps, torch.sin(3 * u_t - index))


@pytest.mark.parametrize(
    ("schedule", "t", "s", "mean", "log_variance"),
    [
        (
            *("linear", 2, 1),
            [0.49730249, -0.99517748, 0.24860617, 1.2273542],
            [-9.0297016, -9.4779195, -9.1544154, -9.807788],
        ),
        (
            *("linear", 501, 500),
            [0.49525799, -0.99716238, 0.24546802, 1.4942145],
            [-4.5992601, -4.5994706, -4.5995149, -4.5999457],
        ),
        (
            *("linear", 21, 1),  # the second step of 50, whose beta is that of the respaced chain
            [0.47388946, -0.95687879, 0.23572821, 1.0079566],
            [-5.0973582, -7.4085093, -5.7779993, -9.1707217],
        ),
        (
            *("cosine", 511, 490),
            [0.45296699, -0.99447138, 0.20384568, 1.4479035],
            [-2.7505679, -2.7659321, -2.7698846, -2.8017797],
        ),
        (
            *("cosine", 1000, 980),
            [-0.030373963, -0.03274375, -0.030768927, 0.033533679],
            [-0.00025498591, -0.0001209715, -0.00060805784, -0.00065920838],
        ),
    ],
)
def test_a_step_has_their_mean_and_variance(schedule, t, s, mean, log_variance):
    grid = torch.tensor([t, s], dtype=f64)
    name = f"learned_{len(GRIDS)}"
    GRIDS.add(name, lambda process, steps: grid)
    sampler = create_sampler(f"ddpm:variance=learned,time_grid={name}")
    found = sampler(Toy(schedule), X, steps=1, generator=torch.Generator().manual_seed(0)).images
    z = torch.randn(X.shape, generator=torch.Generator().manual_seed(0)).double()
    expected = torch.tensor(mean, dtype=f64) + (torch.tensor(log_variance, dtype=f64) / 2).exp() * z.flatten()
    torch.testing.assert_close(found.flatten(), expected, atol=2e-6, rtol=2e-6)  # theirs has float32 coefficients


@pytest.mark.parametrize("wrap", [lambda denoiser: denoiser, lambda denoiser: Guided(denoiser, 2.0)])
def test_networks_of_twice_the_channels_carry_it(wrap):
    torch.manual_seed(0)
    net = create_backbone("adm_tiny", out_channels=6, cond_channels=0, augment_dim=0).eval()
    torch.nn.init.normal_(net.head.weight, std=0.1)  # begins at zero
    denoiser = wrap(create_denoiser(net, "vp_discrete"))
    told = Given(label=torch.zeros(2, dtype=torch.int64) if net.spec.num_classes else None)
    R = net.spec.resolution
    x, t = torch.randn(2, 3, R, R), torch.full((2,), 500.0, dtype=f64)
    outputs = net(x, torch.full((2,), 499.0), told)
    assert torch.equal(denoiser(x, t, told).variance, outputs[:, 3:])
    drawn = {}
    for variance in ("small", "learned"):
        sampler = create_sampler(f"ddpm:variance={variance}")
        u_T = sampler.prior(denoiser.process, x.shape, 3, torch.Generator().manual_seed(0), dtype=torch.float32)
        drawn[variance] = sampler(denoiser, u_T, steps=3, given=told, generator=torch.Generator().manual_seed(0)).images
    assert drawn["learned"].isfinite().all()
    assert not torch.equal(drawn["small"], drawn["learned"])


def test_networks_without_it_are_refused():
    net = create_backbone("adm_tiny", out_channels=3, cond_channels=0, augment_dim=0, num_classes=0).eval()
    sampler, denoiser = create_sampler("ddpm:variance=learned"), create_denoiser(net, "vp_discrete")
    u_T = sampler.prior(denoiser.process, (1, 3, net.spec.resolution, net.spec.resolution), 2, dtype=torch.float32)
    with pytest.raises(UserError, match=r"variance is 'learned'.*out_channels") as caught:
        sampler(denoiser, u_T, steps=2)
    assert "\n" not in str(caught.value)
