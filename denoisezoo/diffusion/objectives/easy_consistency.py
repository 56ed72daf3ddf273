"""Easy consistency tuning: a diffusion network becomes a consistency function by a ratio of times that grows to 1."""

from __future__ import annotations

import torch
from torch import Tensor

from denoisezoo.diffusion.capabilities import chain_length
from denoisezoo.diffusion.network_denoiser import NetworkDenoiser
from denoisezoo.diffusion.objectives.consistency import Consistency
from denoisezoo.diffusion.objectives.objective import OBJECTIVES, Step
from denoisezoo.diffusion.objectives.times import Times, UniformTimes
from denoisezoo.errors import UserError


@OBJECTIVES.register("easy_consistency")
class EasyConsistency(Consistency):
    """ECT (Geng et al. 2024, arXiv 2406.14548), from the weights of a trained network (`model.start_from`).

    r = t (1 - n(t) / q^(a + 1)), n(t) = 1 + k sigmoid(-b t), and 0 where that is negative; a is raised every `every`
    optimiser steps. At first r is 0, which is ordinary denoising. The loss is |f(u_t, t) - f(u_r, r)| / (t - r), not
    squared, with the same noise and dropout on both sides. t is the process's own: EDM's is sigma.

    With a `teacher` in Python (`learn_from`) the state at r is a step of its solver; the paper has none.

    Args:
        times: Where t is drawn; the paper's is LogNormalSigma(-1.1, 2.0).
        q: By how much the gap shrinks in a stage: 2 for CIFAR-10, 4 for ImageNet-64, 256 for one stage alone.
        every: Optimiser steps of a stage.
        stages: Number of stages; the last ratio is 1 - n(t) / q^stages.
        k: See above.
        b: See above.
        huber: See `Consistency`.
    """

    def __init__(
        self,
        times: Times | None = None,
        q: float = 2.0,
        every: int = 25_000,
        stages: int = 8,
        k: float = 8.0,
        b: float = 1.0,
        huber: float = 0.0,
    ) -> None:
        super().__init__(huber)
        if not q > 1 or every < 1 or stages < 1:
            raise UserError(f"q {q}, every {every} or stages {stages} is out of range", "give 2, 25000 and 8")
        if not (k >= 0 and b >= 0):
            raise UserError(f"k {k} or b {b} is out of range", "give 8 and 1")
        self.times, self.q, self.every, self.stages, self.k, self.b = times or UniformTimes(), q, every, stages, k, b

    def check(self, denoiser: NetworkDenoiser) -> None:
        """Continuous time: r is any."""
        super().check(denoiser)
        if chain_length(denoiser.process) is not None:
            raise UserError(
                f"EasyConsistency needs continuous time, and {type(denoiser.process).__name__} is a chain",
                "use ConsistencyTraining, or a process in continuous time, such as EDM",
            )

    def advance(self, number: int) -> None:
        """As the distribution of times does."""
        self.times.advance(number)

    def earlier(self, t: Tensor, number: int) -> Tensor:
        """r for times t (B,) at an optimiser step."""
        a = min(number // self.every, self.stages - 1)
        gap = (1 + self.k * torch.sigmoid(-self.b * t)) / self.q ** (a + 1)
        return t * (1 - gap).clamp(min=0)

    def pairs(self, step: Step, number: int) -> tuple[Tensor, Tensor]:
        """t, and r by the ratio of the stage; r below the smallest time of the process is 0."""
        process = step.denoiser.process
        t = self.times(process, self.times.uniform(number, step.host_generator, step.host))
        r = self.earlier(t, step.number)
        return t, torch.where(r < process.t_min, 0.0, r)

    def weight(self, t: Tensor, r: Tensor) -> Tensor:
        """1 / (t - r)."""
        return 1 / (t - r)
