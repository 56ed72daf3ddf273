"""MeanFlow: the mean velocity between two times, from the network's own derivative along the flow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from denoisezoo.diffusion.coefficients import over_images
from denoisezoo.diffusion.denoiser import Prediction, slope
from denoisezoo.diffusion.network_denoiser import NetworkDenoiser
from denoisezoo.diffusion.objectives.few_calls import Drawn, FewCalls
from denoisezoo.diffusion.objectives.objective import OBJECTIVES, Case, Loss, Step
from denoisezoo.diffusion.objectives.times import LogitNormalTimes, Times
from denoisezoo.errors import UserError
from denoisezoo.nn.forward_mode import pushed_forward
from denoisezoo.nn.transfer import to_device

Velocity = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(u_t, t, s) -> the mean velocity, like u_t."""


@OBJECTIVES.register("mean_flow")
class MeanFlow(FewCalls):
    """Geng et al. 2025, arXiv 2505.13447: u = v - (t - s) du/dt, the right side held fixed (equations 6, 9 to 11).

    v is the velocity of the sample, or the teacher's where there is one; du/dt is the derivative of the network along
    (v, 1, 0) in (u_t, t, s). The weight of an image is 1 / (error + c)^p (equation 22). The network is told t and s; it
    should see t in a small unit, for its derivative sees that of its features (`Velocity` under `RectifiedFlow` tells
    999 t, and 10 t with a `time_scale` of 0.01). Sample with `flow_map`.

    With guidance (section 4.2) v becomes w v + kappa u(u_t, t, t; label) + (1 - w - kappa) u(u_t, t, t; no label), so
    that the network learns the field guided by w / (1 - kappa).

    Args:
        times: Where the two times are drawn from; the later one is t.
        share: Share of the images that have two; the others learn the velocity itself, s = t.
        one_call: Share of those that learn the whole way, from the prior to the image, which else has no probability.
        power: p.
        c: c.
        w: See above; 1, with a kappa of 0, is no guidance. Labels must be dropped in training (`model.label_dropout`).
        kappa: See above.
        tangent: Along which velocity du/dt is taken: v itself, "sample", or "network", the network's own u(u_t, t, t),
            by which the loss is a regression on v (improved MeanFlow, arXiv 2512.02012, without its further head).
        derivative: "jvp", or "difference": central differences of step `step`, dearer by two calls without a gradient
            and cheaper than a JVP, for networks that have none.
        step: Of the difference, in the process's time.
        teacher: See `FewCalls`; optional.
        guidance: See `FewCalls`; of the teacher.
    """

    tells_end = True

    def __init__(
        self,
        times: Times | None = None,
        share: float = 0.75,
        one_call: float = 0.0,
        power: float = 0.75,
        c: float = 1e-3,
        w: float = 1.0,
        kappa: float = 0.0,
        tangent: Literal["sample", "network"] = "sample",
        derivative: Literal["jvp", "difference"] = "jvp",
        step: float = 1e-3,
        teacher: str | None = None,
        guidance: float = 1.0,
    ) -> None:
        super().__init__(teacher, guidance)
        for name, value in (("share", share), ("one_call", one_call), ("kappa", kappa)):
            if not 0 <= value <= 1:
                raise UserError(f"{name} is {value}", "give a number from 0 to 1")
        if not (c > 0 and power >= 0 and step > 0):
            raise UserError(f"c {c}, power {power} or step {step} is out of range", "give 1e-3, 0.75 and 1e-3")
        self.times, self.share, self.one_call = times or LogitNormalTimes(mean=-0.6, std=1.6), share, one_call
        self.power, self.c, self.w, self.kappa = power, c, w, kappa
        self.tangent, self.derivative, self.step = tangent, derivative, step

    def check(self, denoiser: NetworkDenoiser) -> None:
        """Straight paths: processes whose coefficients are linear in t."""
        super().check(denoiser)
        process = denoiser.process
        ends = torch.tensor([process.t_min, (process.t_min + process.t_max) / 2], dtype=torch.float64, device="cpu")
        if any(not torch.allclose(rate[0], rate[-1]) for rate in process.rates(ends)):
            raise UserError(
                f"MeanFlow needs paths that are straight in time, and those of {type(process).__name__} are not",
                "use RectifiedFlow or EDM",
            )
        if (self.w, self.kappa) != (1.0, 0.0) and not denoiser.backbone.spec.num_classes:
            raise UserError(f"w is {self.w} and kappa {self.kappa}, and the network knows no labels", "leave them out")

    def advance(self, number: int) -> None:
        """As the distribution of times does."""
        self.times.advance(number)

    def __call__(self, step: Step) -> Loss:
        """The loss of one batch: the first images of it have two times."""
        drawn, t = self.draw(step), self._times(step)
        apart = round(self.share * len(drawn.u_0))
        losses = [
            self._loss(step, part, drawn, t, two)
            for part, two in ((slice(0, apart), True), (slice(apart, None), False))
            if len(drawn.u_0[part])
        ]
        joined = (torch.cat(parts) for parts in zip(*(loss[1:] for loss in losses), strict=True))
        per_sample, times, error = joined
        weight = (per_sample + self.c) ** -self.power
        learned = error if step.full_error is None else error - step.full_error
        total = (weight * learned.float().square().flatten(1).mean(1)).mean()
        return Loss(total, per_sample, times, error)

    def _times(self, step: Step) -> tuple[Tensor, Tensor]:
        """t and s <= t (B,)."""
        process, number = step.denoiser.process, len(step.batch["image"])
        first, second = (
            self.times(process, self.times.uniform(number, step.host_generator, step.host)) for _ in range(2)
        )
        t, s = torch.maximum(first, second), torch.minimum(first, second)
        if self.one_call:
            whole = torch.rand(number, generator=step.host_generator, device=step.host) < self.one_call
            t, s = torch.where(whole, process.t_max, t), torch.where(whole, 0.0, s)
        return t, s

    def _loss(self, step: Step, part: slice, drawn: Drawn, times: tuple[Tensor, Tensor], two: bool) -> Loss:
        """Of one part of the batch; `loss` is not looked at."""
        denoiser, process = step.denoiser, step.denoiser.process
        u_0, eps, t, s = (x[part] for x in (*drawn, *times))
        s = s if two else t
        given = step.given.take(part)
        u_t = process.perturb(u_0, eps, t)
        v = self._velocity(step, part, u_0, eps, u_t, t)

        def mean_velocity(u_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
            return denoiser.velocity(u_t, t, given._replace(until=s), step.effort)

        if not two:
            u = mean_velocity(u_t, t, s)
            target = v
        else:
            with torch.no_grad():
                direction = v if self.tangent == "sample" else mean_velocity(u_t, t, t)
            if self.derivative == "jvp":
                # Tangents of coefficients do not cross from the CPU.
                there = to_device(t, u_t.device), to_device(s, u_t.device)
                along = (direction, torch.ones_like(there[0]), torch.zeros_like(there[1]))  # s stands still
                u, du_dt = pushed_forward(mean_velocity, (u_t, *there), along)
            else:
                u = mean_velocity(u_t, t, s)
                with torch.no_grad():
                    du_dt = self._difference(mean_velocity, u_t, direction, t, s, process.t_max)
            target = v - over_images(t - s, v) * du_dt
        error = u - target.detach()
        return Loss(error.sum(), error.float().square().flatten(1).mean(1).detach(), t, error)

    def _difference(self, of: Velocity, u_t: Tensor, v: Tensor, t: Tensor, s: Tensor, t_max: float) -> Tensor:
        """d/dt along the flow; from one side where a time on the other is beyond s or the prior."""
        ahead, behind = (t + self.step).clamp(max=t_max), torch.maximum(t - self.step, s)
        after = of(u_t + over_images(ahead - t, u_t) * v, ahead, s)
        before = of(u_t + over_images(behind - t, u_t) * v, behind, s)
        return (after - before) / over_images((ahead - behind).clamp(min=1e-9), v)

    @torch.no_grad()
    def _velocity(self, step: Step, part: slice, u_0: Tensor, eps: Tensor, u_t: Tensor, t: Tensor) -> Tensor:
        """v of one part of the batch."""
        given, process = step.given.take(part), step.denoiser.process
        if self.source is not None:
            return self.master.velocity(u_t, t, given)
        v = slope(process, Prediction(u_0, eps), t)
        if (self.w, self.kappa) == (1.0, 0.0) or given.label is None:
            return v
        labelled, free = given._replace(until=t), given._replace(until=t, label=torch.full_like(given.label, -1))
        of_label = step.denoiser.velocity(u_t, t, labelled, step.effort)
        of_none = step.denoiser.velocity(u_t, t, free, step.effort)
        mixed = self.w * v + self.kappa * of_label + (1 - self.w - self.kappa) * of_none
        return torch.where(over_images(given.label >= 0, v) > 0, mixed, v)

    def cases(self, step: Step) -> Iterator[Case]:
        """Images with two times, and those with one."""
        for share, two in ((self.share, True), (1 - self.share, False)):
            if share:
                yield Case(share, partial(self._one, step, two))

    def _one(self, step: Step, two: bool) -> Tensor:
        return self._loss(step, slice(None), self.draw(step), self._times(step), two).loss
