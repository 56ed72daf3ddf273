"""A flow map of your own: a network that is told two times, an objective that needs a derivative, a sampler that jumps.

MeanFlow (Geng et al. 2025, arXiv 2505.13447): the network learns the mean velocity u(z_t, s, t) of the flow from t to
an earlier s, so that one call goes the whole way, z_s = z_t - (t - s) u. Its own derivative tells it how:

    u = v - (t - s) du/dt,  du/dt = d/dt u(z_t, s, t) along the flow, a Jacobian-vector product (equation 6).

    run = dz.fit(dz.create_denoiser("flow_map_tiny", "flow"), OwnMeanFlow(), dz.data.Digits(batch_size=64), steps=400)
    run.denoiser.sample(16, sampler="jump", steps=1)

A recipe asks for it by `imports: [flow_map]`; what it trained is loaded with `--trust flow_map`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import denoisezoo as dz
from denoisezoo.diffusion import NOTHING, OBJECTIVES, SAMPLERS, LogitNormalTimes, Loss, Step, Times
from denoisezoo.diffusion.denoiser import slope
from denoisezoo.diffusion.samplers.sampler import Caller, History


@dataclass(frozen=True, kw_only=True)
class FlowMapConfig(dz.BackboneConfig):
    """Sizes; see `BackboneConfig`.

    Attributes:
        width: Channels inside the network.
    """

    in_channels: int = 1
    out_channels: int = 1
    resolution: int = 16
    width: int = 8

    @property
    def spec(self) -> dz.ImageSpec:
        """With the second time."""
        return replace(super().spec, second_time=True)


class FlowMapNet(dz.Backbone):
    """Three convolutions that are told t and s; without s, s = t, where the mean velocity is the velocity."""

    def __init__(self, config: FlowMapConfig) -> None:
        super().__init__(config)
        width = config.width
        self.first = nn.Conv2d(config.in_channels, width, 3, padding=1)
        self.times = nn.Sequential(nn.Linear(2, width), nn.SiLU(), nn.Linear(width, width))
        self.middle = nn.Conv2d(width, width, 3, padding=1)
        self.last = nn.Conv2d(width, config.out_channels, 3, padding=1)

    def forward(self, x: Tensor, c_noise: Tensor, given: dz.Given = NOTHING, effort: float | None = None) -> Tensor:
        """See `Backbone.forward`."""
        self.check_effort(effort)
        until = c_noise if given.until is None else given.until
        # Times as numbers of about 1: what d/dt sees of a steep embedding drowns the rest (appendix of the paper).
        level = self.times(torch.stack([c_noise, c_noise - until], dim=1).to(x.dtype) / 1000)
        h = F.silu(self.first(x) + level[:, :, None, None])
        return self.last(h + F.silu(self.middle(h)))


FAMILY = dz.Family("flow_map", FlowMapNet, "Mean Flows for One-step Generative Modeling", "You", 2026, "2505.13447")
FAMILY.variant("flow_map_tiny", FlowMapConfig(), dz.Cost(833, 184_400))


@OBJECTIVES.register("own_mean_flow")
class OwnMeanFlow(dz.Objective):
    """The network's mean velocity against what its own derivative makes of the velocity, which is held fixed.

    Args:
        times: Where the two times are drawn from; the later one is t.
        share: Share of the images that have two; the others learn the velocity itself, s = t.
        power: Exponent p of the adaptive weight 1 / (error + 0.001)^p of each image; 0 is the plain square.
    """

    def __init__(self, times: Times | None = None, share: float = 0.75, power: float = 0.75) -> None:
        if not 0 <= share <= 1:
            raise dz.UserError(f"share is {share}", "give a number from 0 to 1")
        self.times, self.share, self.power = times or LogitNormalTimes(mean=-0.6, std=1.6), share, power

    def check(self, denoiser: dz.Denoiser) -> None:
        """Networks that are told a second time."""
        if not denoiser.backbone.spec.second_time:
            raise dz.UserError("OwnMeanFlow needs a network with a second time", "choose one, such as flow_map_tiny")

    def __call__(self, step: Step) -> Loss:
        """See `Objective`."""
        image, generator, process = step.batch["image"], step.generator, step.denoiser.process
        device = image.device
        drawn = [self.times(process, self.times.uniform(len(image), generator, device)) for _ in range(2)]
        t = torch.maximum(*drawn)
        apart = torch.rand(len(image), generator=generator, device=device) < self.share
        s = torch.where(apart, torch.minimum(*drawn), t)
        u_0 = process.basis.encode(image)
        eps = torch.empty_like(u_0).normal_(generator=generator)
        v = slope(process, dz.Prediction(u_0, eps), t)

        def mean_velocity(u_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
            return step.denoiser.velocity(u_t, t, step.given._replace(until=s), step.effort)

        along = (v, torch.ones_like(t), torch.zeros_like(s))  # s stands still
        u, du_dt = torch.func.jvp(mean_velocity, (process.perturb(u_0, eps, t), t, s), along)
        span = (t - s).to(u.dtype)[:, None, None, None]
        error = u - (v - span * du_dt).detach()
        per_sample = error.float().square().mean((1, 2, 3))
        weight = (per_sample.detach() + 1e-3) ** -self.power
        return Loss((weight * per_sample).mean(), per_sample.detach(), t, error)


@SAMPLERS.register("jump")
@dataclass(frozen=True)
class Jump(dz.Sampler):
    """Goes from time to time by mean velocities; exact in a single step where the flow map is. NFE = N."""

    def step(self, call: Caller, u: Tensor, t: Tensor, s: Tensor, history: History, generator: object) -> Tensor:
        """u_s = u_t - (t - s) u(u_t, s, t)."""
        call.given = call.given._replace(until=torch.full((len(u),), float(s), dtype=torch.float64, device=u.device))
        return u - (t - s).to(u.dtype) * slope(call.process, call(u, t), t)

    def end(self, call: Caller, u: Tensor, t: Tensor, generator: object) -> Tensor:
        """The last step is one like the others."""
        return self.step(call, u, t, torch.zeros_like(t), [], generator)
