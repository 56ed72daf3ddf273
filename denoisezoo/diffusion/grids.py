"""Time grids: where a sampler calls the denoiser."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from denoisezoo.diffusion.process import Process, ScalarProcess
from denoisezoo.errors import UserError
from denoisezoo.registry import Registry

Grid = Callable[[Process, int], Tensor]
GRIDS: Registry[Grid] = Registry("time grid")


def edm_sigmas(steps: int, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> Tensor:
    """EDM's noise levels (steps,), float64, from sigma_max to sigma_min; equation 5 without the final zero."""
    ramp = torch.arange(steps, dtype=torch.float64) / max(steps - 1, 1)
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return (high + ramp * (low - high)) ** rho


def sigma_limits(process: ScalarProcess) -> tuple[float, float]:
    """Relative noise levels (smallest, largest) that networks of a process are trained on."""
    t = torch.tensor([process.t_min, process.t_max], dtype=torch.float64)
    low, high = process.edm_sigma(t).tolist()
    return low, high


def clamped_limits(process: ScalarProcess, sigma_min: float, sigma_max: float) -> tuple[float, float]:
    """`sigma_min` and `sigma_max` clamped to what the process supports."""
    low, high = sigma_limits(process)
    return max(sigma_min, low), min(sigma_max, high)


@GRIDS.register("process")
def process_grid(process: Process, steps: int) -> Tensor:
    """The process's own grid."""
    return process.grid(steps)


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
    times = torch.linspace(process.t_max**0.5, process.t_min**0.5, steps, dtype=torch.float64) ** 2
    return _distinct(process, times)


def _scalar(process: Process, name: str) -> ScalarProcess:
    if not isinstance(process, ScalarProcess):
        raise UserError(f"grid {name!r} needs one noise level for all coefficients", "use grid=process")
    return process


def _of_sigmas(process: ScalarProcess, sigmas: Tensor) -> Tensor:
    return _distinct(process, process.t_of_sigma(sigmas))


def _distinct(process: Process, times: Tensor) -> Tensor:
    """`times` at which the process is defined, strictly falling, and a final 0."""
    times = process.nearest_time(times)
    if len(times) > 1 and bool((times.diff() >= 0).any()):
        raise UserError(
            f"{len(times)} steps fall on the same times of a discrete process", "use fewer steps or grid=process"
        )
    return torch.cat([times, times.new_zeros(1)])
