"""Consistency functions: f(u_t, t) is the image at the end of the probability flow through u_t.

Song, Dhariwal, Chen, Sutskever 2023, arXiv 2303.01469, and Song and Dhariwal 2023, arXiv 2310.14189 (iCT). The denoiser
itself is f: it is the identity at time 0 wherever its output then counts for nothing, as EDM's and that of networks
that predict noise or velocity. (The papers move that end to sigma_min.) Sample with `consistency`.
"""

from __future__ import annotations

import contextlib
import math
from abc import abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor

from denoisezoo.diffusion.coefficients import beside, over_images
from denoisezoo.diffusion.denoiser import Denoiser
from denoisezoo.diffusion.grids import GRIDS
from denoisezoo.diffusion.network_denoiser import NetworkDenoiser
from denoisezoo.diffusion.objectives.few_calls import FewCalls, jump, predict
from denoisezoo.diffusion.objectives.objective import OBJECTIVES, Loss, Step
from denoisezoo.diffusion.objectives.times import Times
from denoisezoo.diffusion.processes.process import Process
from denoisezoo.errors import UserError
from denoisezoo.nn.transfer import to_device


class Consistency(FewCalls):
    """f at a time t is to be what f, without a gradient, is at an earlier time r of the same path.

    Both have the same noise and the same dropout. Where r is 0, the target is the state itself and no network.

    Args:
        huber: c of the pseudo-Huber distance sqrt(|f - f'|^2 + c^2) - c of an image; 0 is the distance itself.
        teacher: See `FewCalls`; with one, the state at r is a step of its solver from that at t (consistency
            distillation), without, it is made of the same image and noise as that at t (consistency training).
        guidance: See `FewCalls`.
        heun: Whether that step is one of Heun, as published.
        averaged: Whether the target is that of the averaged weights, in evaluation mode, as first published.
    """

    def __init__(
        self,
        huber: float,
        teacher: str | None = None,
        guidance: float = 1.0,
        heun: bool = True,
        averaged: bool = False,
    ) -> None:
        super().__init__(teacher, guidance)
        if not 0 <= huber < math.inf:
            raise UserError(f"huber is {huber}", "give a number of at least 0")
        self.huber, self.heun, self.needs_average = huber, heun, averaged

    def check(self, denoiser: NetworkDenoiser) -> None:
        """Networks that put out the image directly have no end at which f is the identity."""
        super().check(denoiser)
        end = torch.full((1,), denoiser.process.t_min, dtype=torch.float64, device="cpu")
        if float(denoiser.preconditioning.c_out(denoiser.process, end).max()) > 0.5:
            raise UserError(
                f"{type(denoiser.preconditioning).__name__} makes no consistency function: it is not the identity at "
                "time 0",
                "use EDMPreconditioning, Velocity or V",
            )

    @abstractmethod
    def pairs(self, step: Step, number: int) -> tuple[Tensor, Tensor]:
        """Times t > r of `number` images, (B,), float64, on `step.host`; r may be 0."""

    @abstractmethod
    def weight(self, t: Tensor, r: Tensor) -> Tensor:
        """Weight of the distance of an image, (B,)."""

    def __call__(self, step: Step) -> Loss:
        """The loss of one batch."""
        process, given = step.denoiser.process, step.given
        u_0, eps = self.draw(step)
        t, r = self.pairs(step, len(u_0))
        zero = torch.zeros_like(t)
        u_t = process.perturb(u_0, eps, t)
        if self.source is None:
            u_r = process.perturb(u_0, eps, r)
        else:
            u_r = jump(self.master, u_t.double(), t, r, given, heun=self.heun).to(u_t.dtype)
        target: Denoiser = step.denoiser if step.average is None else step.average
        with torch.no_grad(), same_dropout(u_t.device):
            inside = r.clamp(min=process.t_min)
            there = predict(target, u_r, inside, zero, given, step.effort).u_0
            there = torch.where(over_images(r > 0, u_r) > 0, there, u_r)
        found = predict(step.denoiser, u_t, t, zero, given, step.effort)
        plain = self.regress(step, found, there, t)
        gap = (found.u_0 - there).float()
        if step.full_error is not None:
            gap = gap - over_images(step.denoiser.output_scale(t), gap) * step.full_error
        # The root of 0 has no derivative; 1e-12 is far below what float32 tells apart.
        c = math.sqrt(self.huber**2 + 1e-12)
        distance = (gap.square().flatten(1).sum(1) + c**2).sqrt() - c
        return plain._replace(loss=(beside(self.weight(t, r), distance) * distance).mean())


@contextlib.contextmanager
def same_dropout(device: torch.device) -> Iterator[None]:
    """Whatever is drawn within it from the default generators is drawn again after it."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices, enabled=device.type != "meta"):
        yield


def neighbours(process: Process, points: int, uniform: Tensor, times: Times | None) -> tuple[Tensor, Tensor]:
    """Times t > r that follow each other on the process's own grid of `points` times and 0.

    Args:
        process: The process.
        points: Times of the grid but 0, at least 1.
        uniform: Uniform numbers (B,), float64.
        times: How often each pair is drawn: as often as a time between its two; all alike for None.
    """
    grid = to_device(GRIDS["process"](process, points).to(uniform.dtype), uniform.device)
    if times is None:
        upper = (uniform * points).long().clamp(max=points - 1)
    else:
        rising = grid[:-1].flip(0).contiguous()
        upper = points - 1 - torch.searchsorted(rising, times(process, uniform)).clamp(max=points - 1)
    return grid[upper], grid[upper + 1]


@OBJECTIVES.register("consistency_distillation")
class ConsistencyDistillation(Consistency):
    """Consistency distillation (arXiv 2303.01469, algorithm 2): neighbours on a grid are a step of the teacher apart.

    The distance is the pseudo-Huber one of iCT instead of LPIPS; it weighs 1, as published.

    Args:
        teacher: See `FewCalls`; `model.start_from` should be the same run.
        points: Times of the process's own grid: 18 for CIFAR-10, 40 for ImageNet-64.
        huber: See `Consistency`; iCT's is 0.00054 times the root of the number of values in an image.
        heun: See `Consistency`.
        averaged: See `Consistency`.
        guidance: See `FewCalls`.
    """

    teaches = True

    def __init__(
        self,
        teacher: str | None = None,
        points: int = 18,
        huber: float = 0.03,
        heun: bool = True,
        averaged: bool = True,
        guidance: float = 1.0,
    ) -> None:
        super().__init__(huber, teacher, guidance, heun, averaged)
        if points < 2:
            raise UserError(f"points is {points}", "give a grid of at least 2 times, such as 18")
        self.points = points

    def pairs(self, step: Step, number: int) -> tuple[Tensor, Tensor]:
        """Neighbours, all as often."""
        uniform = torch.rand(number, generator=step.host_generator, device=step.host, dtype=torch.float64)
        return neighbours(step.denoiser.process, self.points, uniform, None)

    def weight(self, t: Tensor, r: Tensor) -> Tensor:
        """1."""
        return torch.ones_like(t)


@OBJECTIVES.register("consistency_training")
class ConsistencyTraining(Consistency):
    """Improved consistency training, iCT (arXiv 2310.14189): no teacher, and a grid that becomes finer.

    It has N(k) = min(s0 2^floor(k / K'), s1) + 1 times at step k, K' = floor(K / (log2(s1 / s0) + 1)) (equation 7),
    drawn with `times`, weighed by 1 / (t - r). The target has no average. t is the process's own: EDM's is sigma.

    Args:
        total: K, optimiser steps of the training, by which the grid grows.
        times: Where t is drawn; the paper's is LogNormalSigma(-1.1, 2.0), and uniform over the grid unless given.
        s0: Intervals at first.
        s1: Intervals at last.
        huber: See `Consistency`.
    """

    def __init__(
        self, total: int, times: Times | None = None, s0: int = 10, s1: int = 1280, huber: float = 0.03
    ) -> None:
        super().__init__(huber)
        if not 1 <= s0 <= s1:
            raise UserError(f"s0 is {s0} and s1 {s1}", "give 1 <= s0 <= s1, such as 10 and 1280")
        if total < 1:
            raise UserError(f"total is {total}", "give the number of steps of the training")
        self.total, self.times, self.s0, self.s1 = total, times, s0, s1

    def points(self, number: int) -> int:
        """N(k) at step k."""
        per_stage = max(1, int(self.total / (math.log2(self.s1 / self.s0) + 1)))
        return min(self.s0 << min(number // per_stage, 32), self.s1) + 1

    def pairs(self, step: Step, number: int) -> tuple[Tensor, Tensor]:
        """Neighbours on the grid of the step."""
        uniform = torch.rand(number, generator=step.host_generator, device=step.host, dtype=torch.float64)
        return neighbours(step.denoiser.process, self.points(step.number), uniform, self.times)

    def weight(self, t: Tensor, r: Tensor) -> Tensor:
        """1 / (t - r)."""
        return 1 / (t - r)
