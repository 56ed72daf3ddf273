"""Adaptive Runge-Kutta on the probability flow of any process: the solver of score SDEs (arXiv 2011.13456)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from denoisezoo.diffusion.capabilities import stages_of
from denoisezoo.diffusion.noise import Noise
from denoisezoo.diffusion.processes.process import Process
from denoisezoo.diffusion.samplers.probability_flow import slope
from denoisezoo.diffusion.samplers.sampler import SAMPLERS, Caller, History, Sampler
from denoisezoo.errors import ComputationError, UserError
from denoisezoo.nn.transfer import to_device

# Dormand and Prince 1980: nodes, rows of the tableau (the last is the fifth-order solution), error weights.
C = (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
A = (
    (),
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
E = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)

MOST_STEPS = 10_000
Field = Callable[[Tensor, Tensor], Tensor]


@SAMPLERS.register("rk45")
@dataclass(frozen=True)
class RK45(Sampler):
    """Dormand and Prince's 5(4) on the probability flow from t_max to t_min, stage by stage; then the predicted image.

    The tolerances decide how many calls are made, six for each step and one more at every start; `steps` only sets the
    first step, and `nfe` is what equal steps of that size would take. Every image has steps of its own, so that it does
    not depend on its batch, whose calls go on until the last image has arrived; a plan with several efforts calls the
    whole batch once for each that its images are at.

    Attributes:
        rtol: Relative tolerance of a step.
        atol: Absolute tolerance of a step.
    """

    convergence: ClassVar[int | None] = 5
    adaptive: ClassVar[bool] = True
    rtol: float = 1e-5
    atol: float = 1e-5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rtol < 0 or self.atol <= 0:
            raise UserError(f"rtol {self.rtol} or atol {self.atol} is out of range", "give rtol >= 0 and atol > 0")

    def nfe(self, steps: int) -> int:
        """Calls if every step had the size of the first."""
        return 6 * steps + 2

    def grid(self, process: Process, steps: int) -> Tensor:
        """Ends of the stages, and 0."""
        stages = stages_of(process)
        ends = [stages[0][0], *(last for _, last in stages), 0.0]
        return torch.tensor(ends, dtype=torch.float64)

    def step(self, call: Caller, u: Tensor, t: Tensor, s: Tensor, history: History, generator: Noise) -> Tensor:
        """All of a stage, in as many steps as its tolerances ask for."""
        process, steps = call.process, max(1, (call.calls - 2) // 6)
        stages = stages_of(process)
        first, last = stages[0][0], stages[-1][1]

        def field(t: Tensor, u: Tensor) -> Tensor:
            return slope(process, call(u, t), t)

        return self._integrate(field, u, t, s, (t - s).clamp(max=(first - last) / steps))

    def _integrate(self, field: Field, u: Tensor, start: Tensor, end: Tensor, first: Tensor) -> Tensor:
        """From `start` back to `end` (()), the first step of a size (()); later ones differ between images."""
        t, h = start.repeat(len(u)), first.repeat(len(u))
        k = field(t, u)
        for _ in range(MOST_STEPS):
            h = torch.minimum(h, t - end)  # 0 for an image that has arrived, which then stands still
            candidate, slopes = advance(field, u, t, k, -h)
            error = sum((e * k for e, k in zip(E, slopes, strict=True)), torch.zeros_like(u)) * _over(h, u)
            scale = self.atol + self.rtol * torch.maximum(u.abs(), candidate.abs())
            ratio = (error / scale).square().flatten(1).mean(1).sqrt().to(t)
            if not bool(ratio.isfinite().all()):
                worst = int((~ratio.isfinite()).int().argmax())
                raise ComputationError(
                    f"rk45's error is {float(ratio[worst])} in a step from t = {float(t[worst]):g}",
                    "look for what is not finite in the network",
                )
            accepted = ratio <= 1
            taken = _over(accepted, u) > 0
            u, k = torch.where(taken, candidate, u), torch.where(taken, slopes[-1], k)
            t = torch.where(accepted, torch.where(h == t - end, end, t - h), t)
            if bool((t == end).all()):
                return u
            h = h * (0.9 * ratio.clamp(min=1e-10) ** -0.2).clamp(0.2, 5.0)
        raise ComputationError(f"rk45 took {MOST_STEPS} steps", "raise rtol and atol, or use gddim")


def advance(field: Field, u: Tensor, t: Tensor, k: Tensor, h: Tensor) -> tuple[Tensor, list[Tensor]]:
    """One step of signed sizes h (B,) from t (B,): the new states, and the seven slopes, the last at the new states."""
    slopes, new = [k], u
    for c, row in zip(C[1:], A[1:], strict=True):
        new = u + _over(h, u) * sum((a * k for a, k in zip(row, slopes, strict=True) if a), torch.zeros_like(u))
        slopes.append(field(t + c * h, new))
    return new, slopes


def _over(values: Tensor, u: Tensor) -> Tensor:
    """One number (B,) for each image, as a factor of states like `u`."""
    return to_device(values.to(u.dtype), u.device).reshape(-1, 1, 1, 1)
