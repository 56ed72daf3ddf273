"""What every sampler is: a walk down a time grid, calling a denoiser."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from denoisezoo.archs import Effort
from denoisezoo.diffusion.conditioned import conditioned
from denoisezoo.diffusion.denoiser import Denoiser, Prediction
from denoisezoo.diffusion.grids import GRIDS
from denoisezoo.diffusion.noise import Noise
from denoisezoo.diffusion.processes.process import Process
from denoisezoo.errors import UserError
from denoisezoo.nn.given import NOTHING, Given
from denoisezoo.registry import Registry

SAMPLERS: Registry[type[Sampler]] = Registry("sampler", see="denoisezoo sample --help")


class EffortPlan(Protocol):
    """What a sampler needs of a plan: how much of the network to use at a noise level."""

    def effort(self, log_snr: float) -> Effort | None:
        """Effort at a noise level given by its log-SNR; None is the full network."""


@dataclass(frozen=True)
class StepInfo:
    """One denoiser call, as `on_step` is told of it.

    Attributes:
        call: Index of the call, from 0.
        calls: Calls that the whole walk will make.
        t: Its time.
        effort: Its effort; None is the full network.
        u_t: The state that went in (B, C, H, W).
        prediction: What came out.
    """

    call: int
    calls: int
    t: float
    effort: Effort | None
    u_t: Tensor
    prediction: Prediction


OnStep = Callable[[StepInfo], None]


@dataclass(frozen=True)
class SampleResult:
    """What a sampler returns.

    Attributes:
        images: (B, C, H, W), decoded, not clipped.
        grid: The time grid (steps + 1,), float64.
        nfe: Calls of the denoiser.
    """

    images: Tensor
    grid: Tensor
    nfe: int


class Caller:
    """Calls the denoiser at one time for the whole batch, with the plan's effort, and counts."""

    def __init__(
        self,
        denoiser: Denoiser,
        calls: int,
        plan: EffortPlan | None,
        given: Given,
        on_step: OnStep | None,
    ) -> None:
        self.denoiser, self.process = denoiser, denoiser.process
        self.calls, self.plan, self.on_step = calls, plan, on_step
        self.given, self.nfe = given, 0

    def __call__(self, u_t: Tensor, t: Tensor) -> Prediction:
        """Prediction at state `u_t` (B, C, H, W) and scalar time `t` ()."""
        effort = None
        if self.plan is not None:
            effort = self.plan.effort(float(self.process.log_snr(t.reshape(1))))
        times = torch.full((len(u_t),), float(t), dtype=torch.float64, device=u_t.device)
        prediction = self.denoiser(u_t, times, self.given, effort)
        if self.on_step is not None:
            self.on_step(StepInfo(self.nfe, self.calls, float(t), effort, u_t, prediction))
        self.nfe += 1
        return prediction


class Sampler(ABC):
    """Walks the reverse process. Instances hold the sampler's options; classes are found by name in `SAMPLERS`."""

    name: ClassVar[str] = ""
    order: ClassVar[int | None] = None
    """Order of convergence of a deterministic sampler; None for stochastic ones."""
    adaptive: ClassVar[bool] = False
    """Whether tolerances decide how many calls are made, and not the steps."""

    def __call__(
        self,
        denoiser: Denoiser,
        u_T: Tensor,
        *,
        steps: int,
        plan: EffortPlan | None = None,
        given: Given = NOTHING,
        generator: Noise = None,
        on_step: OnStep | None = None,
    ) -> SampleResult:
        """Sample.

        Args:
            denoiser: The denoiser; its process gives the time axis.
            u_T: States at the first time of the grid (B, C, H, W), from `prior`. Its dtype is the iterates'.
            steps: Solver steps N, at least 1. NFE follows from it (`nfe`).
            plan: How much of the network to use at each noise level.
            given: What the images are told: label, conditioning image, ...
            generator: Source of the noise of stochastic samplers.
            on_step: Called after every denoiser call.

        Returns:
            Images, time grid and number of calls.

        Raises:
            UserError: Fewer than one step, or a process that the sampler cannot walk.
        """
        denoiser, given = conditioned(denoiser, given, generator)
        process = denoiser.process
        grid = self.checked_grid(process, steps)
        call = Caller(denoiser, self.nfe(steps), plan, given, on_step)
        with torch.inference_mode():
            u_0 = self.walk(call, u_T, grid, generator)
            images = process.decode(u_0)
        return SampleResult(images, grid, call.nfe)

    def prior(
        self,
        process: Process,
        shape: torch.Size | tuple[int, ...],
        steps: int,
        generator: Noise = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float64,
    ) -> Tensor:
        """A draw of the state that a walk of `steps` steps starts from, for images of `shape` (B, C, H, W)."""
        self._check(process)
        start = float(self.grid(process, steps)[0])
        return process.prior(shape, generator, t=start, device=device, dtype=dtype)

    def check(self, process: Process) -> None:
        """Refuse a process that this sampler cannot walk; the default takes all."""
        return

    def _check(self, process: Process) -> None:
        if process.sampler not in (None, self.name):
            raise UserError(
                f"sampler {self.name!r} cannot walk {type(process).__name__}",
                f"use --sampler {process.sampler} --steps {len(process.stages)}",
            )
        self.check(process)

    def checked_grid(self, process: Process, steps: int) -> Tensor:
        """The time grid of a walk, as `grid` has it.

        Raises:
            UserError: A walk that cannot be: of this process, with this number of steps, or on this grid.
        """
        if steps < 1:
            raise UserError(f"steps is {steps}", "give a whole number of at least 1")
        self._check(process)
        grid = self.grid(process, steps)
        check_stages(process, grid)
        return grid

    def fewest(self, process: Process) -> int:
        """The smallest number of steps that a walk of a process can have."""
        return len(process.stages)

    def grid(self, process: Process, steps: int) -> Tensor:
        """Falling times (steps + 1,), float64, the last 0; the process's own unless a sampler has another."""
        return process.grid(steps)

    def nfe(self, steps: int) -> int:
        """Denoiser calls of a walk of `steps` steps."""
        return steps

    @abstractmethod
    def walk(self, call: Caller, u: Tensor, grid: Tensor, generator: Noise) -> Tensor:
        """Carry the state `u` (B, C, H, W) from grid[0] to grid[-1] = 0 and return u_0.

        Before each step from a time t, `process.expand` lets in what enters the state at t.

        The grid stays on the CPU: numbers of it steer the loop and scale tensors on any device, without a wait.
        """


@dataclass(frozen=True)
class GridSampler(Sampler):
    """A sampler whose time grid is an option.

    Attributes:
        time_grid: A name in `GRIDS`; "process" is the process's own.
    """

    time_grid: str = "process"

    def grid(self, process: Process, steps: int) -> Tensor:
        """The chosen grid (steps + 1,), float64."""
        return GRIDS[self.time_grid](process, steps)


def check_stages(process: Process, grid: Tensor) -> None:
    """Refuse a grid that steps across a time at which coefficients enter the state.

    Raises:
        UserError: Naming the time.
    """
    for first, _ in process.stages[1:]:
        if not bool((grid == first).any()):
            raise UserError(
                f"the time grid has no step at t = {first:g}, where a stage of {type(process).__name__} begins",
                "use time_grid=process",
            )


def transfer(process: Process, prediction: Prediction, s: Tensor) -> Tensor:
    """The state at time s (()) that has the predicted image and noise: A_s u_0 + R_s eps.

    With u_t = A_t u_0 + R_t eps this is one step of generalised DDIM, psi(s,t) u_t + (R_s - psi(s,t) R_t) eps
    (gDDIM, arXiv 2206.05564, q = 1), in a form that also holds where A_t is singular.
    """
    return process.perturb(prediction.u_0, prediction.eps, s.reshape(1))
