"""Time grids: where a sampler calls the denoiser."""

from __future__ import annotations

import functools
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


def level_limits(process: Process, name: str) -> tuple[ScalarProcess, float, float]:
    """A process as a scalar one, and the noise levels that its networks are trained on, but 80 for an infinite one."""
    scalar = _scalar(process, name)
    low, high = sigma_limits(scalar)
    return scalar, low, high if math.isfinite(high) else 80.0


@GRIDS.register("karras")
def karras_grid(process: Process, steps: int) -> Tensor:
    """EDM's spacing (arXiv 2206.00364, equation 5) over all noise levels of the process, rho 7."""
    return karras(process, steps)


def karras(process: Process, steps: int, rho: float = 7.0) -> Tensor:
    """The grid "karras" with its exponent."""
    scalar, low, high = level_limits(process, "karras")
    return _of_sigmas(scalar, edm_sigmas(steps, low, high, rho))


@GRIDS.register("exponential")
def exponential_grid(process: Process, steps: int) -> Tensor:
    """`log_snr` over all noise levels of the process."""
    scalar, low, high = level_limits(process, "exponential")
    return _of_sigmas(scalar, high * (low / high) ** torch.linspace(0, 1, steps, dtype=torch.float64))


@GRIDS.register("beta")
def beta_grid(process: Process, steps: int) -> Tensor:
    """Quantiles of Beta(0.6, 0.6), stretched from the smallest to the largest noise level.

    Beta sampling (arXiv 2407.12173) takes such quantiles of time, and diffusers these of sigma.
    """
    scalar, low, high = level_limits(process, "beta")
    shares = beta_quantiles(torch.linspace(1, 0, steps, dtype=torch.float64), 0.6)
    return _of_sigmas(scalar, low + shares * (high - low))


def beta_quantiles(p: Tensor, a: float) -> Tensor:
    """Quantiles of Beta(a, a) at probabilities p (n,), float64: bisection of the power series of its integral."""
    tail = torch.minimum(p, 1 - p)  # symmetric: x below 1/2, where the series is quick
    n = torch.arange(60, dtype=torch.float64)
    # (1 - a)_n / n! of the binomial series of (1 - x)^(a - 1), integrated term by term against x^(a - 1).
    terms = torch.cat([n.new_ones(1), ((n[1:] - a) / n[1:]).cumprod(0)]) / (a + n)
    whole = 2 * (terms * 0.5 ** (a + n)).sum()
    low, high = torch.zeros_like(tail), torch.full_like(tail, 0.5)
    for _ in range(60):
        middle = (low + high) / 2
        below = (terms * middle[:, None] ** (a + n)).sum(1) / whole < tail
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return torch.where(p < 0.5, high, 1 - high)


ALIGNED_STEPS = {
    "ays_sd15": (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029),
    "ays_sdxl": (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029),
    "ays_svd": (700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002),
}
"""Noise levels of ten steps that Align Your Steps (arXiv 2404.14507) has found best for Stable Diffusion 1.5, for XL,
and for Stable Video Diffusion; the last step leads from the tenth to 0."""


def aligned_grid(name: str, process: Process, steps: int) -> Tensor:
    """One of `ALIGNED_STEPS`, for any number of steps and any process.

    Its ln(sigma) is interpolated linearly, as its authors do, and stretched to all noise levels of the process, which
    they had no need of; for another model than its own it is a guess.
    """
    scalar, low, high = level_limits(process, name)
    levels = np.log(ALIGNED_STEPS[name])
    found = np.interp(np.linspace(0, 1, steps + 1), np.linspace(0, 1, len(levels)), levels)[:-1]
    share = torch.from_numpy((found - levels[-1]) / (levels[0] - levels[-1]))
    return _of_sigmas(scalar, low * (high / low) ** share)


for _name in ALIGNED_STEPS:
    GRIDS.add(_name, functools.partial(aligned_grid, _name))


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


# diffusers' multistep samplers space one index more, and leave the last out: they are to end at 0 by a step.


@GRIDS.register("multistep_linspace")
def multistep_linspace_grid(process: Process, steps: int) -> Tensor:
    """Indices evenly from T - 1 to 0, rounded, without 0: 999, 899 ... 100 for 10 steps."""
    return _distinct(process, _times_of(process, _even_indices(process, steps + 1).round()[:-1], _length(process)))


@GRIDS.register("multistep_leading")
def multistep_leading_grid(process: Process, steps: int) -> Tensor:
    """Every (T // (steps + 1))-th index above 0: 900, 810 ... 90 for 10 steps. It does not begin at the prior."""
    return multistep_offset_grid(process, steps, 0)


def multistep_offset_grid(process: Process, steps: int, steps_offset: int) -> Tensor:
    """The grid "multistep_leading", with an offset added to its indices."""
    T = _length(process)
    indices = torch.arange(steps, 0, -1, dtype=torch.float64) * (T // (steps + 1)) + steps_offset
    return _distinct(process, _times_of(process, indices, T))


OFFSET: dict[str, Callable[[Process, int, int], Tensor]] = {
    "leading": offset_grid,
    "multistep_leading": multistep_offset_grid,
}
"""Grids with an offset."""


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
