"""Time grids: where a sampler calls the denoiser."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from denoisezoo.diffusion.capabilities import chain_length, nearest_time, stages_of
from denoisezoo.diffusion.processes.process import Process, ScalarProcess
from denoisezoo.errors import UserError
from denoisezoo.registry import Registry

Grid = Callable[[Process, int], Tensor]
GRIDS: Registry[Grid] = Registry("time grid")

SAME = 1e-6
"""Relative distance within which two times or two noise levels are one: the same limit by two formulas differs by
rounding, and where one of them is a float32 number by 1e-7."""


def within(values: Tensor, low: float, high: float) -> Tensor:
    """Whether times or noise levels lie from `low` to `high`, both included, whatever their rounding (`SAME`)."""
    return (values >= low * (1 - SAME)) & (values <= high * (1 + SAME))


def snapped(process: Process, times: Tensor) -> Tensor:
    """`times`, but exactly that of the prior, or of the beginning of a stage, where they are it up to rounding.

    Else a walk would begin with 1e-16 of a signal that is not there, or step across a stage.
    """
    for first, _ in stages_of(process):
        times = torch.where(within(times, first, first), first, times)
    return times


def edm_sigmas(steps: int, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> Tensor:
    """EDM's noise levels (steps,), float64, from sigma_max to sigma_min; equation 5 without the final zero."""
    ramp = torch.arange(steps, dtype=torch.float64) / max(steps - 1, 1)
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return (high + ramp * (low - high)) ** rho


def sigma_limits(process: ScalarProcess) -> tuple[float, float]:
    """Relative noise levels (smallest, largest) that networks of a process are trained on.

    The smallest is that of the first time of training, which may lie below `t_min`, the last of sampling.
    """
    first = process.sample_times(torch.zeros(1, dtype=torch.float64, device="cpu"))
    low, high = process.edm_sigma(torch.cat([first, first.new_tensor([process.t_max])])).tolist()
    return low, high


def clamped_limits(process: ScalarProcess, sigma_min: float, sigma_max: float) -> tuple[float, float]:
    """`sigma_min` and `sigma_max` clamped to what the process supports.

    Raises:
        UserError: Nothing is left between them.
    """
    low, high = sigma_limits(process)
    found = max(sigma_min, low), min(sigma_max, high)
    if not found[0] < found[1]:
        raise UserError(
            f"sigma_min {sigma_min:g} is not below sigma_max {sigma_max:g} within the network's noise levels",
            f"give sigma_min < sigma_max from {low:g} to {high:g}",
        )
    return found


@GRIDS.register("process")
def process_grid(process: Process, steps: int) -> Tensor:
    """The process's own grid."""
    return process.grid(steps)


@GRIDS.register("nested")
def nested_grid(process: Process, steps: int) -> Tensor:
    """Every so-many-th time of the process's own finest grid: a grid holds the times of that with half as many steps.

    So one step of a network that was distilled is two steps of its teacher, whatever the process.
    """
    finest = min(1024, 2 ** int(math.log2(chain_length(process) or 1024)))
    if steps > finest:
        raise UserError(f"the nested grid has {finest} steps, and {steps} are asked for", "use time_grid=process")
    indices = (torch.arange(steps + 1, dtype=torch.float64) * finest / steps).round().long()
    return process.grid(finest)[indices]


@GRIDS.register("edm")
def edm_grid(process: Process, steps: int) -> Tensor:
    """EDM's noise levels, 80 to 0.002 within the process's limits, as times of the process."""
    scalar = _scalar(process, "edm")
    return _of_sigmas(scalar, edm_sigmas(steps, *clamped_limits(scalar, 0.002, 80.0)))


@GRIDS.register("log_snr")
def log_snr_grid(process: Process, steps: int) -> Tensor:
    """Evenly spaced in log-SNR between the same limits (DPM-Solver, arXiv 2206.00927)."""
    scalar = _scalar(process, "log_snr")
    low, high = clamped_limits(scalar, 0.002, 80.0)
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
    return _of_sigmas(scalar, high * (low / high) ** ramp)


@GRIDS.register("quadratic")
def quadratic_grid(process: Process, steps: int) -> Tensor:
    """Evenly spaced in sqrt(t), as DDIM uses for CIFAR-10 (arXiv 2010.02502, appendix D.2)."""
    return _power_grid(process, steps, 2.0)


@GRIDS.register("three_halves")
def three_halves_grid(process: Process, steps: int) -> Tensor:
    """Evenly spaced in t^(2/3), between the even grid and the quadratic one: for blurring by a quarter of the image."""
    return _power_grid(process, steps, 1.5)


def _power_grid(process: Process, steps: int, power: float) -> Tensor:
    ends = process.t_max ** (1 / power), process.t_min ** (1 / power)
    return _distinct(process, torch.linspace(*ends, steps, dtype=torch.float64) ** power)


LIST_LENGTH = 1000
"""Steps of the chain that lists of indices are written for; on other processes they are shares of the time axis."""


def uniform_indices(steps: int) -> list[int]:
    """0 and every so-many-th index: 0, 99, 199 ... 999 for 11 steps (Fast-DDPM's code; one more than it says).

    Raises:
        UserError: The code's whole-numbered stride gives another number of indices, or ends before 999, where a walk
            that begins with noise alone has to begin. It does neither where `steps` - 1 divides 1,000.
    """
    if steps == 1:
        return [LIST_LENGTH - 1]
    found = list(range(-1, LIST_LENGTH, LIST_LENGTH // (steps - 1)))
    if len(found) != steps:
        raise UserError(f"fast_uniform has {len(found)} times where {steps} are asked for", "use 11, or fast_even")
    if found[-1] != LIST_LENGTH - 1:
        raise UserError(f"fast_uniform of {steps} steps ends at {found[-1]} and misses 999", "use 11, or fast_even")
    return [0, *found[1:]]


def even_indices(steps: int) -> list[int]:
    """Every so-many-th index without 0: 99, 199 ... 999 for 10 steps."""
    return [round(LIST_LENGTH * i / steps) - 1 for i in range(1, steps + 1)]


def rule_indices(steps: int) -> list[int]:
    """Two fifths of the indices spread over 0 ... 699, the others over 699 ... 999, rounded up.

    The code rounds both parts of `steps` down and so loses one where 5 does not divide it; here the second has it.
    """
    if steps == 1:
        return [LIST_LENGTH - 1]
    early = 2 * steps // 5
    late = steps - early
    first = [-(-699 * i // early) for i in range(early)]
    return first + [699 - (-300 * i // (late - 1)) for i in range(late)]


def nonuniform_indices(steps: int) -> list[int]:
    """As the code has it: a list of its own for 10 steps, the rule for all others."""
    return [0, 199, 399, 599, 699, 799, 849, 899, 949, 999] if steps == 10 else rule_indices(steps)


def _listed(indices: Callable[[int], list[int]], process: Process, steps: int) -> Tensor:
    """The times of indices 0 ... 999 along the time axis of a process: index + 1 on DDPM's chain."""
    if steps < 1:
        raise UserError(f"steps is {steps}", "give a whole number of at least 1")
    return _distinct(process, _times_of(process, torch.tensor(indices(steps)[::-1], dtype=torch.float64), LIST_LENGTH))


def _times_of(process: Process, indices: Tensor, length: int) -> Tensor:
    """Times of indices 0 ... `length` - 1, along the time axis of a process."""
    return process.t_min + (process.t_max - process.t_min) * indices / max(length - 1, 1)


@GRIDS.register("fast_uniform")
def fast_uniform_grid(process: Process, steps: int) -> Tensor:
    """Fast-DDPM's uniform list (arXiv 2405.14802); see `uniform_indices`."""
    return _listed(uniform_indices, process, steps)


@GRIDS.register("fast_even")
def fast_even_grid(process: Process, steps: int) -> Tensor:
    """Fast-DDPM's uniform list without index 0; see `even_indices`."""
    return _listed(even_indices, process, steps)


@GRIDS.register("fast_nonuniform")
def fast_nonuniform_grid(process: Process, steps: int) -> Tensor:
    """Fast-DDPM's non-uniform list; see `nonuniform_indices`."""
    return _listed(nonuniform_indices, process, steps)


@GRIDS.register("fast_rule")
def fast_rule_grid(process: Process, steps: int) -> Tensor:
    """Fast-DDPM's rule for non-uniform lists, also for 10 steps; see `rule_indices`."""
    return _listed(rule_indices, process, steps)


# Timestep spacings by the names of arXiv 2305.08891, table 2. Index i is our step i + 1. Ties are rounded to even in
# numpy's arithmetic, so that indices are those of diffusers.


@GRIDS.register("linspace")
def linspace_grid(process: Process, steps: int) -> Tensor:
    """Indices evenly from T - 1 to 0, both included, rounded; index 0 alone for one step."""
    return _distinct(process, _times_of(process, _even_indices(process, steps).round(), _length(process)))


@GRIDS.register("linspace_fractional")
def fractional_grid(process: Process, steps: int) -> Tensor:
    """`linspace` without rounding: discrete networks are asked between their steps, as diffusers' Euler asks them."""
    times = _times_of(process, _even_indices(process, steps), _length(process))
    return torch.cat([times, times.new_zeros(1)])


@GRIDS.register("trailing")
def trailing_grid(process: Process, steps: int) -> Tensor:
    """T - 1 and every (T / steps)-th index below it, rounded: 999, 979 ... 19 for 50 steps."""
    T = _length(process)
    indices = torch.from_numpy(np.arange(T, 0, -T / steps)[:steps])  # rounding leaves one too many at times
    return _distinct(process, _times_of(process, indices.round() - 1, T))


@GRIDS.register("leading")
def leading_grid(process: Process, steps: int) -> Tensor:
    """0 and every (T // steps)-th index above it: 980, 960 ... 0 for 50 steps. It does not begin at the prior."""
    return offset_grid(process, steps, 0)


def offset_grid(process: Process, steps: int, steps_offset: int) -> Tensor:
    """The grid "leading", with an offset added to its indices."""
    T = _length(process)
    indices = torch.arange(steps - 1, -1, -1, dtype=torch.float64) * (T // steps) + steps_offset
    return _distinct(process, _times_of(process, indices, T))


def _even_indices(process: Process, steps: int) -> Tensor:
    return torch.from_numpy(np.linspace(0, _length(process) - 1, steps)).flip(0)


def _length(process: Process) -> int:
    return chain_length(process) or LIST_LENGTH


def _scalar(process: Process, name: str) -> ScalarProcess:
    if not isinstance(process, ScalarProcess):
        raise UserError(f"grid {name!r} needs one noise level for all coefficients", "use time_grid=process")
    return process


def _of_sigmas(process: ScalarProcess, sigmas: Tensor) -> Tensor:
    return _distinct(process, process.t_of_sigma(sigmas))


def _distinct(process: Process, times: Tensor) -> Tensor:
    """`times` at which the process is defined, strictly falling, and a final 0."""
    times = snapped(process, nearest_time(process, times))
    if len(times) > 1 and bool((times.diff() >= 0).any()):
        raise UserError(
            f"{len(times)} steps fall on the same times of a discrete process", "use fewer steps or time_grid=process"
        )
    return torch.cat([times, times.new_zeros(1)])
