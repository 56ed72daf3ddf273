"""Predictor and corrector: one step of the reverse SDE, after some of Langevin dynamics at the same noise level."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from denoisezoo.diffusion.coefficients import apply_blocks
from denoisezoo.diffusion.noise import Noise, normal_like
from denoisezoo.diffusion.processes.process import DiagonalProcess, Process
from denoisezoo.diffusion.samplers.first_order import require_diagonal
from denoisezoo.diffusion.samplers.sampler import SAMPLERS, Caller, GridSampler, History
from denoisezoo.errors import UserError


@SAMPLERS.register("pc")
@dataclass(frozen=True)
class PredictorCorrector(GridSampler):
    """Song et al. 2021, arXiv 2011.13456, algorithms 2 and 4, as arXiv 2111.13606 uses them; any diagonal process.

    The corrector x <- x + e s + sqrt(2e) z with e = 2 (snr |z|/|s|)^2 uses the norms of each image, where the authors
    take their means over the batch: an image here depends on its own seed alone. In x = u/alpha, where noise explodes,
    the predictor is x <- x + G^2 s + G z with G^2 = sigma_t^2 - sigma_s^2; the last one has no noise. NFE = 2N.

    Attributes:
        snr: Signal-to-noise ratio of the corrector's steps.
        correct: Corrector steps before each predictor step; 0 is the predictor alone, with NFE = N.
    """

    snr: float = 0.15
    correct: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.snr <= 0 or self.correct < 0:
            raise UserError(
                f"snr {self.snr} or correct {self.correct} is out of range", "give snr > 0 and correct >= 0"
            )

    def check(self, process: Process) -> None:
        """Diagonal processes only."""
        require_diagonal(process, self.name)

    def nfe(self, steps: int) -> int:
        """One call for the predictor and one for each corrector."""
        return (1 + self.correct) * steps

    def checked_grid(self, process: Process, steps: int) -> Tensor:
        """See `Sampler.checked_grid`.

        Raises:
            UserError: It begins where no signal is left, too: x = u/alpha is infinite there.
        """
        grid = super().checked_grid(process, steps)
        if not bool((process.signal(grid[:1]) > 0).all()):
            raise UserError(
                f"sampler {self.name!r} cannot begin {type(process).__name__} at t = {float(grid[0]):g}, "
                "where no signal is left",
                "use gddim:lam=1, or a grid that begins later, such as time_grid=edm",
            )
        return grid

    def step(self, call: Caller, u: Tensor, t: Tensor, s: Tensor, history: History, generator: Noise) -> Tensor:
        """Correct at t, then alpha_s (x + G^2 score + G z), the score of x = u/alpha_t being -eps / sigma."""
        process = require_diagonal(call.process, self.name)
        u = self._corrected(call, process, u, t, generator)
        eps = call(u, t).eps
        (alpha_t, R_t), (alpha_s, R_s) = ((process.signal(x.reshape(1)), process.noise(x.reshape(1))) for x in (t, s))
        sigma_t, sigma_s = R_t / alpha_t, R_s / alpha_s
        G2 = (sigma_t**2 - sigma_s**2).clamp(min=0)
        u = apply_blocks(alpha_s / alpha_t, u) - apply_blocks(alpha_s * G2 / sigma_t, eps)
        return u + apply_blocks(alpha_s * G2.sqrt(), normal_like(u, generator))

    def end(self, call: Caller, u: Tensor, t: Tensor, generator: Noise) -> Tensor:
        """What is predicted once more is corrected."""
        process = require_diagonal(call.process, self.name)
        return super().end(call, self._corrected(call, process, u, t, generator), t, generator)

    def _corrected(self, call: Caller, process: DiagonalProcess, u: Tensor, t: Tensor, generator: Noise) -> Tensor:
        for _ in range(self.correct):
            score = -apply_blocks(1 / process.noise(t.reshape(1)), call(u, t).eps)
            z = normal_like(u, generator)
            length = norm(score)
            # A score of zero, as of a network that is only counted, says nothing of a step's length: there is none.
            e = torch.where(length > 0, 2 * (self.snr * norm(z) / length) ** 2, 0.0)
            u = u + e * score + (2 * e).sqrt() * z
        return u


def norm(u: Tensor) -> Tensor:
    """Of each image, (B, 1, 1, 1)."""
    return u.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
