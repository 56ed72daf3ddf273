"""Generalised DDIM (gDDIM: Zhang, Tao, Chen 2022, arXiv 2206.05564): exponential multistep integration on any process.

With eps constant along the path, u(s) = psi(s, t) u(t) + (R_s - psi(s, t) R_t) eps solves the probability flow of any
process exactly, which is what one call does for data that are a single point. A polynomial through the last q values of
eps makes it a method of order q.

With noise, u(s) = Psihat(s, t) u(t) + (A_s - Psihat(s, t) A_t) u_0 + noise is exact in law for such data, and the
polynomial goes through the last q predicted images: eps holds the fresh noise of every step, and is not smooth in time.
So it does in a step from where no signal is left, as flows have it: psi from there is infinite.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from denoisezoo.diffusion.coefficients import apply_blocks, product, square_root, transpose
from denoisezoo.diffusion.denoiser import Prediction
from denoisezoo.diffusion.noise import Noise, normal_like
from denoisezoo.diffusion.processes.process import Process
from denoisezoo.diffusion.samplers.exponential import multistep_coefficients, stochastic_transition
from denoisezoo.diffusion.samplers.first_order import clip_prediction
from denoisezoo.diffusion.samplers.sampler import SAMPLERS, Caller, GridSampler, transfer
from denoisezoo.errors import UserError

Node = tuple[Tensor, Prediction]
"""A time (()) and what is predicted there."""


@SAMPLERS.register("gddim")
@dataclass(frozen=True)
class GDDIM(GridSampler):
    """Order q, deterministic or stochastic, with or without a corrector. The last step is the predicted image.

    NFE = N; with a corrector that makes calls of its own 2N - 1. The first steps, and those after a stage begins, are
    of orders 1, 2 ... q: the error of the first is of second order, but small at the noisy end, where eps hardly
    changes. On a grid of even steps it is what remains in the end of q = 3 and 4; where the first steps shrink as 1/N^2
    whole walks are of order q. With noise the covariance is of order 1 for q = 1, and of order 2 for any other q.

    Attributes:
        q: Calls that a step extrapolates from, 1 to 4; 1 is DDIM. (The authors' `deis_order` is q - 1.)
        lam: lambda; 0 is deterministic, 1 has the noise of the reverse SDE.
        corrector: Take each step again, with the same noise, from a call at its end among the nodes (Adams and
            Moulton), which adds one to the order without noise.
        reuse: That call is also the next step's, and is not repeated where the corrector ends: NFE stays N.
        clip: Clip every predicted image to [-1, 1], as ancestral sampling does; the noise is what then belongs to u_t.
    """

    convergence: ClassVar[int | None] = 1
    q: int = 1
    lam: float = 0.0
    corrector: bool = False
    reuse: bool = False
    clip: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.q <= 4 or self.lam < 0:
            raise UserError(f"q {self.q} or lam {self.lam} is out of range", "give q from 1 to 4 and lam >= 0")
        if self.reuse and not self.corrector:
            raise UserError("reuse without a corrector", "give corrector=true,reuse=true")

    def nfe(self, steps: int) -> int:
        """N, or 2N - 1 with a corrector that does not reuse its call."""
        return 2 * steps - 1 if self.corrector and not self.reuse else steps

    def fewest(self, process: Process) -> int:
        """As many as it extrapolates from."""
        return max(self.q, super().fewest(process))

    def grid(self, process: Process, steps: int) -> Tensor:
        """The chosen grid.

        Raises:
            UserError: q larger than the steps.
        """
        if self.q > steps:
            raise UserError(f"q {self.q} is larger than steps {steps}", f"give q of at most {max(1, steps)}")
        return super().grid(process, steps)

    def predict(self, call: Caller, u: Tensor, t: Tensor) -> Prediction:
        """Clipped, if so set."""
        prediction = call(u, t)
        return clip_prediction(prediction, call, u, t) if self.clip else prediction

    def step(self, call: Caller, u: Tensor, t: Tensor, s: Tensor, history: list[_Step], generator: Noise) -> Tensor:
        """Section 4 of the paper; the history is the step before, with its nodes."""
        process, last = call.process, history.pop() if history else None
        here = (t, self.predict(call, u, t))
        carry = self._carry(process, s, t)
        base = self._base(process, here[1], (s, t), carry, generator)
        if self.reuse and carry is not None and last is not None:
            base = base + apply_blocks(carry, last.end(here) - u)
        nodes = [here, *(last.nodes if last else [])][: self.q]
        step = _Step(process, s, self.lam, self.lam > 0 or no_signal(process, t), base, nodes)
        history.append(step)
        u = step.end()
        if self.corrector and not self.reuse:
            return step.end((s, self.predict(call, u, s)))
        return u

    def _carry(self, process: Process, s: Tensor, t: Tensor) -> Tensor | None:
        """What carries a change of the state at t to s, psi or with noise Psihat; None where nothing is carried."""
        if self.lam:
            return stochastic_transition(process, s, t, self.lam)
        return process.psi(s.reshape(1), t.reshape(1)) if self.reuse else None

    def _base(
        self,
        process: Process,
        prediction: Prediction,
        span: tuple[Tensor, Tensor],
        carry: Tensor | None,
        generator: Noise,
    ) -> Tensor:
        """The state at s of first order; with noise of covariance Sigma_s - Psihat Sigma_t Psihat^T (proposition 6)."""
        s, _ = span
        if carry is None or not self.lam:
            return transfer(process, prediction, s)
        R_s, R_t = (process.noise(x.reshape(1)) for x in span)
        carried = product(carry, R_t)
        P = product(R_s, transpose(R_s)) - product(carried, transpose(carried))
        mean = apply_blocks(process.signal(s.reshape(1)), prediction.u_0) + apply_blocks(carried, prediction.eps)
        return mean + apply_blocks(square_root(P), normal_like(mean, generator))


def no_signal(process: Process, t: Tensor) -> bool:
    """Whether nothing of the image is left at a time (()): psi from there is infinite."""
    return not process.signal(t.reshape(1)).any()


@dataclass(frozen=True)
class _Step:
    """A step to s with its noise drawn: base + sum over j >= 1 of C_j (v_j - v_0), C_0 taken from the sum of all C_j.

    Attributes:
        process: The process.
        s: Where it ends, ().
        lam: Noise.
        image: Whether v is the predicted image; else it is the predicted noise.
        base: The state at s of first order (B, C, H, W).
        nodes: Predictions, the first where the step begins, then older ones.
    """

    process: Process
    s: Tensor
    lam: float
    image: bool
    base: Tensor
    nodes: list[Node]

    def end(self, *ahead: Node) -> Tensor:
        """The state at s; with the node at s, if it is there, among those that are interpolated."""
        nodes = [self.nodes[0], *ahead, *self.nodes[1:]]
        times, u = torch.stack([time for time, _ in nodes]), self.base
        v_0, *others = (prediction.u_0 if self.image else prediction.eps for _, prediction in nodes)
        coefficients = multistep_coefficients(self.process, self.s, times, self.lam, self.image)
        for C_j, v_j in zip(coefficients, others, strict=True):
            u = u + apply_blocks(C_j, v_j - v_0)
        return u
