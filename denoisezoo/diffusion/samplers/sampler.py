"""What every sampler is: a walk down a time grid, calling a denoiser."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from denoisezoo.archs import Effort
from denoisezoo.diffusion.capabilities import Halving, WithoutNoise, expand, stages_of
from denoisezoo.diffusion.conditioned import conditioned
from denoisezoo.diffusion.denoiser import Denoiser, Prediction
from denoisezoo.diffusion.grids import GRIDS, OFFSET, karras, snapped
from denoisezoo.diffusion.noise import Noise
from denoisezoo.diffusion.processes.process import Process
from denoisezoo.errors import ComputationError, UserError
from denoisezoo.nn.given import NOTHING, Given
from denoisezoo.registry import Registry


class SamplerRegistry(Registry["type[Sampler]"]):
    """Samplers by name; a class learns the name that it is registered under."""

    def add(self, name: str, item: type[Sampler], origin: str = "?") -> type[Sampler]:
        """See `Registry.add`."""
        super().add(name, item, origin)
        item.name = name
        return item


SAMPLERS = SamplerRegistry("sampler", see="denoisezoo sample --help")

History = list[Any]
"""What a sampler keeps for its next steps, as it likes; it is emptied where coefficients enter the state."""


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
        t: Its time; the noisiest where images differ.
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
        images: (B, C, H, W), decoded by process and codec, not clipped.
        grid: The time grid (steps + 1,), float64.
        nfe: Calls of the denoiser.
    """

    images: Tensor
    grid: Tensor
    nfe: int


class Caller:
    """Calls the denoiser with the plan's effort, counts, and notes which images' predictions were finite."""

    def __init__(
        self,
        denoiser: Denoiser,
        calls: int,
        plan: EffortPlan | None,
        given: Given,
        on_step: OnStep | None,
    ) -> None:
        self.denoiser, self.process, self.codec = denoiser, denoiser.process, denoiser.codec
        self.calls, self.plan, self.on_step = calls, plan, on_step
        self.given, self.nfe = given, 0
        self._finite: list[tuple[float, Tensor]] = []

    def __call__(self, u_t: Tensor, t: Tensor) -> Prediction:
        """Prediction at state `u_t` (B, C, H, W) and time `t`, () or one for each image (B,), on the CPU."""
        if self.plan is None:
            return self._call(u_t, t, None)
        efforts = [self.plan.effort(log_snr) for log_snr in self.process.log_snr(t.reshape(-1)).tolist()]
        predictions = {effort: self._call(u_t, t, effort) for effort in dict.fromkeys(efforts)}
        if len(predictions) == 1:
            return predictions[efforts[0]]
        u_0, eps = (
            torch.stack([getattr(predictions[effort], part)[i] for i, effort in enumerate(efforts)])
            for part in ("u_0", "eps")
        )
        return Prediction(u_0, eps)

    def _call(self, u_t: Tensor, t: Tensor, effort: Effort | None) -> Prediction:
        latest = float(t.max())
        times = torch.full((len(u_t),), latest, dtype=torch.float64, device="cpu") if t.ndim == 0 else t
        prediction: Prediction = self.denoiser(u_t, times, self.given, effort)
        if self.on_step is not None:
            self.on_step(StepInfo(self.nfe, self.calls, latest, effort, u_t, prediction))
        self.nfe += 1
        self._finite.append((latest, finite_images(prediction.u_0) & finite_images(prediction.eps)))
        return prediction

    def check(self, images: Tensor) -> None:
        """Refuse images (B, C, H, W) of a walk in which a number was not finite: clipping hides it, pixels have none.

        The device is waited for here, and not at every call.

        Raises:
            ComputationError: How many images, and the first call whose prediction was not finite.
        """
        if images.is_meta:
            return
        flags = torch.stack([*(flag for _, flag in self._finite), finite_images(images)]).cpu()
        if bool(flags.all()):
            return
        calls = (~flags[:-1]).any(1).nonzero().flatten().tolist()
        first = "though every prediction was"
        if calls:
            first = f"first the prediction of call {calls[0] + 1} of {self.nfe}, at t = {self._finite[calls[0]][0]:g}"
        raise ComputationError(
            f"{int((~flags.all(0)).sum())} of {len(images)} images are not finite, {first}",
            "look for NaN or huge weights, sample in float32, or take an earlier checkpoint or another sampler",
        )


def finite_images(x: Tensor) -> Tensor:
    """Which images of (B, C, H, W) hold finite numbers alone, (B,)."""
    return x.isfinite().flatten(1).all(1)


@dataclass(frozen=True)
class Sampler:
    """Walks the reverse process. Instances hold the sampler's options; classes are found by name in `SAMPLERS`.

    A one-step or multistep method is its options as fields, the `convergence` that it declares, and `step`. One that is
    no walk down a grid has its own `walk`.
    """

    name: ClassVar[str] = ""
    """What it is registered as."""
    convergence: ClassVar[int | None] = None
    """Order of convergence of a deterministic sampler with its default options; None for stochastic ones."""
    adaptive: ClassVar[bool] = False
    """Whether tolerances decide how many calls are made, and not the steps."""

    def __post_init__(self) -> None:
        """Refuse options that are NaN, or infinite where the default is not; samplers add what else they cannot take.

        Raises:
            UserError: Naming the option.
        """
        for option in dataclasses.fields(self):
            value = getattr(self, option.name)
            if isinstance(value, float) and not math.isfinite(value) and value != option.default:
                raise UserError(f"{option.name} of sampler {self.name} is {value}", "give a finite number")

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
            given: What the images are told: label, conditioning image, ... The image is encoded here, to the mean of
                the codec's posterior.
            generator: Source of the noise of stochastic samplers.
            on_step: Called after every denoiser call.

        Returns:
            Images, time grid and number of calls.

        Raises:
            UserError: Fewer than one step, or a process that the sampler cannot walk.
            ComputationError: See `Caller.check`.
        """
        codec = denoiser.codec
        if given.image is not None:
            given = given._replace(image=codec.to_latents(given.image))
        denoiser, given = conditioned(denoiser, given, generator)
        process = denoiser.process
        grid = self.checked_grid(process, steps)
        call = Caller(denoiser, self.nfe(steps), plan, given, on_step)
        with torch.inference_mode():
            u_0 = self.walk(call, u_T, grid, generator)
            images = codec.to_images(process.basis.decode(u_0))
            call.check(images)
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
        """A draw of the state that a walk of `steps` steps starts from, for latents of `shape` (B, C, H, W)."""
        start = float(self.checked_grid(process, steps)[0])
        return process.prior(shape, generator, t=start, device=device, dtype=dtype)

    def check(self, process: Process) -> None:
        """Refuse a process that this sampler cannot walk; the default takes all."""
        return

    def _check(self, process: Process) -> None:
        if isinstance(process, WithoutNoise):
            raise UserError(
                "this is an autoencoder, and makes no images out of noise",
                "evaluate it, or use it as the codec of a denoiser, autoencoder:path=RUN",
            )
        if isinstance(process, Halving) and process.sampler != self.name:
            raise UserError(
                f"sampler {self.name!r} cannot walk {type(process).__name__}",
                f"use sampler {process.sampler!r} with {process.levels} steps",
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
        grid = snapped(process, self.grid(process, steps))
        if not bool(grid.isfinite().all()) or bool((grid.diff() > 0).any()):
            raise UserError(f"the times of sampler {self.name!r} do not fall", "change the options of its grid")
        check_stages(process, grid)
        return grid

    def fewest(self, process: Process) -> int:
        """The smallest number of steps that a walk of a process can have."""
        return len(stages_of(process))

    def grid(self, process: Process, steps: int) -> Tensor:
        """Falling times (steps + 1,), float64, the last 0; the process's own unless a sampler has another."""
        return process.grid(steps)

    def nfe(self, steps: int) -> int:
        """Denoiser calls of a walk of `steps` steps."""
        return steps

    def walk(self, call: Caller, u: Tensor, grid: Tensor, generator: Noise) -> Tensor:
        """Carry the state `u` (B, C, H, W) from grid[0] to grid[-1] = 0, and return u_0: step by step, then `end`.

        The grid stays on the CPU: numbers of it steer the loop and scale tensors on any device, without a wait.
        """
        history: History = []
        for t, s in itertools.pairwise(grid):
            before, u = u, expand(call.process, u, t, generator)
            if u.shape != before.shape:
                history.clear()
            if s == 0:
                return self.end(call, u, t, generator)
            u = self.step(call, u, t, s, history, generator)
        return u

    def step(self, call: Caller, u: Tensor, t: Tensor, s: Tensor, history: History, generator: Noise) -> Tensor:
        """One step, from t to s with t > s > 0.

        Args:
            call: The denoiser: `call(u, t)` is its `Prediction` for a state at a time.
            u: The state at t (B, C, H, W), with all that enters there.
            t: Where the step begins, (), float64, on the CPU.
            s: Where it ends, likewise.
            history: A list to keep things in for the next steps; empty in the first, and where coefficients entered.
            generator: Source of noise, for `normal_like`.

        Returns:
            The state at s, in the dtype of `u`.
        """
        raise NotImplementedError(f"{type(self).__name__} has neither a step nor a walk of its own")

    def predict(self, call: Caller, u: Tensor, t: Tensor) -> Prediction:
        """What is predicted for the state `u` at t; samplers that clip say so here."""
        return call(u, t)

    def end(self, call: Caller, u: Tensor, t: Tensor, generator: Noise) -> Tensor:
        """u_0 from the state `u` at the last time of the grid before 0: what is predicted there."""
        return self.predict(call, u, t).u_0


@dataclass(frozen=True)
class GridSampler(Sampler):
    """A sampler whose time grid is an option.

    Attributes:
        time_grid: A name in `GRIDS`; "process" is the process's own.
        steps_offset: Added to the indices of the grids "leading", as some of diffusers' configurations have it.
        rho: Exponent of the grid "karras"; larger puts more steps near the image.
    """

    time_grid: str = "process"
    steps_offset: int = 0
    rho: float = 7.0

    def grid(self, process: Process, steps: int) -> Tensor:
        """The chosen grid (steps + 1,), float64.

        Raises:
            UserError: An unknown grid, one that the process has not, or an option of another one.
        """
        if self.steps_offset and self.time_grid not in OFFSET:
            raise UserError(
                f"steps_offset is {self.steps_offset}, and time_grid {self.time_grid!r} has none",
                "use time_grid=leading",
            )
        if self.rho != 7 and self.time_grid != "karras":
            raise UserError(f"rho is {self.rho:g}, and time_grid {self.time_grid!r} has none", "use time_grid=karras")
        if self.steps_offset:
            return OFFSET[self.time_grid](process, steps, self.steps_offset)
        return karras(process, steps, self.rho) if self.rho != 7 else GRIDS[self.time_grid](process, steps)


def check_stages(process: Process, grid: Tensor) -> None:
    """Refuse a grid that steps across a time at which coefficients enter the state.

    Raises:
        UserError: Naming the time.
    """
    for first, _ in stages_of(process)[1:]:
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
