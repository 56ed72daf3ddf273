"""The walk back through a down-sampling process: denoise, double the size, add the noise of the level below."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from denoisezoo.diffusion.capabilities import Halving
from denoisezoo.diffusion.noise import Noise, normal_like
from denoisezoo.diffusion.processes.process import Process
from denoisezoo.diffusion.samplers.sampler import SAMPLERS, Caller, History, Sampler
from denoisezoo.errors import UserError


@SAMPLERS.register("udpm")
@dataclass(frozen=True)
class UDPMSampler(Sampler):
    """UDPM (arXiv 2305.16269, algorithm 2): one call for each level, the last of which returns the image.

    Its noise is L maps, the start and one for each level above the first: the latent of the image.
    """

    def check(self, process: Process) -> None:
        """Processes whose steps back double the size only."""
        _halving(process)

    def step(self, call: Caller, u: Tensor, t: Tensor, s: Tensor, history: History, generator: Noise) -> Tensor:
        """x_(l-1) ~ q(x_(l-1) | x_l, prediction)."""
        process = _halving(call.process)
        mean, std = process.posterior(u, call(u, t).u_0, int(t))
        return mean + std * normal_like(mean, generator)


def _halving(process: Process) -> Halving:
    if not isinstance(process, Halving):
        raise UserError(
            f"sampler 'udpm' cannot walk {type(process).__name__}, whose steps keep the size",
            "use gddim, or the process DownSampling",
        )
    return process
