"""Walks of few calls: by a map that jumps from time to time, and by one that jumps to the image and goes back.

Both are for networks that were trained to jump; see `denoisezoo.diffusion.objectives.few_calls`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from denoisezoo.diffusion.capabilities import nearest_time, stages_of
from denoisezoo.diffusion.denoiser import Prediction
from denoisezoo.diffusion.grids import within
from denoisezoo.diffusion.noise import Noise, normal_like
from denoisezoo.diffusion.processes.process import DiagonalProcess, Process, ScalarProcess
from denoisezoo.diffusion.samplers.sampler import SAMPLERS, Caller, GridSampler, History, transfer
from denoisezoo.errors import UserError


def jump(call: Caller, u: Tensor, t: Tensor, s: Tensor) -> Prediction:
    """The prediction for the state `u` at t of a network that is told, where it takes that, to go to s."""
    if call.denoiser.second_time:
        call.given = call.given._replace(until=torch.full((len(u),), float(s), dtype=torch.float64, device="cpu"))
    return call(u, t)


@SAMPLERS.register("flow_map")
@dataclass(frozen=True)
class FlowMap(GridSampler):
    """u_s = A_s u_0 + R_s eps with what is predicted for the way from t to s: one call for each step, from 1 to N.

    Exact in any number of steps where the network is the flow map. A network that is told one time alone is taken as
    the map of the grid that it was distilled for (progressive distillation); on others this is DDIM, of order 1.
    """

    order: ClassVar[int | None] = 1
    time_grid: str = "nested"

    def step(self, call: Caller, u: Tensor, t: Tensor, s: Tensor, history: History, generator: Noise) -> Tensor:
        """From t to s."""
        return transfer(call.process, jump(call, u, t, s), s)

    def end(self, call: Caller, u: Tensor, t: Tensor, generator: Noise) -> Tensor:
        """From t to the image."""
        return jump(call, u, t, torch.zeros_like(t)).u_0


@SAMPLERS.register("consistency")
@dataclass(frozen=True)
class Consistency(GridSampler):
    """To the image in one call, back to the next time with fresh noise, and so on (arXiv 2303.01469, algorithm 1).

    The function is the identity at time 0, and not at the paper's sigma_min, so that the noise of the next level is
    whole. NFE = N.

    Attributes:
        sigmas: Noise levels, relative to the image, of the calls after the first, falling, as "0.821" for two calls or
            "2/0.5" for three; the times of `time_grid` unless given.
    """

    time_grid: str = "nested"
    sigmas: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._sigmas()

    def _sigmas(self) -> list[float]:
        try:
            found = [float(text) for text in self.sigmas.split("/") if self.sigmas]
        except ValueError as error:
            raise UserError(f"sigmas is {self.sigmas!r}", "give numbers, such as 2/0.5") from error
        if found != sorted({*found}, reverse=True) or not all(0 < sigma < float("inf") for sigma in found):
            raise UserError(f"sigmas is {self.sigmas!r}", "give positive numbers that fall, such as 2/0.5")
        return found

    def check(self, process: Process) -> None:
        """Diagonal processes whose state keeps its size."""
        if not isinstance(process, DiagonalProcess) or len(stages_of(process)) > 1:
            raise UserError(
                f"sampler {self.name!r} cannot walk {type(process).__name__}: it jumps from the image to any time",
                "use gddim, which walks every process",
            )
        if self.sigmas and not isinstance(process, ScalarProcess):
            raise UserError(f"sigmas is {self.sigmas!r}, and coefficients differ in noise level", "use time_grid")

    def grid(self, process: Process, steps: int) -> Tensor:
        """The prior's time and those of `sigmas`, or the chosen grid, (steps + 1,)."""
        levels = self._sigmas()
        if not levels:
            return super().grid(process, steps)
        if steps != len(levels) + 1:
            raise UserError(f"steps is {steps}, and sigmas has {len(levels)}", f"give {len(levels) + 1} steps")
        assert isinstance(process, ScalarProcess), "see check"
        times = nearest_time(process, process.t_of_sigma(torch.tensor(levels, dtype=torch.float64)))
        if not bool(within(times, process.t_min, process.t_max).all()) or bool((times >= process.t_max).any()):
            raise UserError(f"sigmas is {self.sigmas!r}", "give noise levels that the network was trained on")
        return torch.cat([times.new_tensor([process.t_max]), times, times.new_zeros(1)])

    def step(self, call: Caller, u: Tensor, t: Tensor, s: Tensor, history: History, generator: Noise) -> Tensor:
        """u_s = A_s u_0 + R_s z."""
        u_0 = jump(call, u, t, torch.zeros_like(t)).u_0
        return call.process.perturb(u_0, normal_like(u_0, generator), s.reshape(1))

    def end(self, call: Caller, u: Tensor, t: Tensor, generator: Noise) -> Tensor:
        """The last jump."""
        return jump(call, u, t, torch.zeros_like(t)).u_0
