"""Exponential multistep methods in lambda = ln(alpha / sigma), for processes with one alpha and one sigma at a time.

Along the probability flow, exactly,

    u_s = sigma_s/sigma_t u_t + alpha_s * integral of e^-(lambda_s - lambda) u_0(lambda) over lambda_t ... lambda_s
        = alpha_s/alpha_t u_t - sigma_s * integral of e^+(lambda_s - lambda) eps(lambda)

(DPM-Solver++, arXiv 2211.01095, proposition 4.1; DPM-Solver, arXiv 2206.00927, proposition 3.1), where u_0 and eps are
what is predicted at lambda, and u = alpha u_0 + sigma eps. DPM-Solver++, UniPC and DEIS put the polynomial through the
last predictions in place of u_0 or eps. They differ in which of the two that is, in what they take for some of the
integrals, and in whether a step is taken again from the prediction at its end. `gddim` is the same for any process,
with polynomials in t and quadrature in place of these integrals.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from denoisezoo.diffusion.noise import Noise
from denoisezoo.diffusion.processes.process import Process, ScalarProcess
from denoisezoo.diffusion.samplers.first_order import Last, require_scalar, without_last
from denoisezoo.diffusion.samplers.sampler import Caller, GridSampler, transfer
from denoisezoo.errors import UserError

Predicted = Literal["image", "noise"]
LONGEST = 2.0
"""A multistep in lambda does not extrapolate what changed over a step less than half as long: the error, and with noise
that of the step before, would grow with the ratio. Even times end with such a step; without the limit the variance of
Gaussian data is 3 to 8 times as wrong after 10 to 20 steps of VP (tests/diffusion/test_nonuniform_samplers.py)."""
SHORT_WALK = 15
"""Steps below which walks of DPM-Solver++ and DEIS end with lower orders, as their authors advise."""
_Y, _WEIGHTS = (torch.from_numpy(part) / 2 for part in np.polynomial.legendre.leggauss(48))
"""Of the quadrature over a step: where, from -1/2 to 1/2, and with what weight."""


@dataclass(frozen=True)
class ExponentialMultistep(GridSampler):
    """What these samplers share. NFE = N.

    The first steps are of orders 1, 2 ...; a start without any signal, at lambda = -infinity, is a step of order 1 that
    no polynomial reaches back to. Where images are extrapolated, a step over `longest` times the one before is of order
    1 too. The noise is not so limited: it hardly changes over the long step that even times end with. On Gaussian data
    in 20 steps of VP the error of `deis` would be three times as large with the limit, and that of `unipc` 2.7 times as
    large without it.

    Attributes:
        longest: See above; 0 is no limit, as others have it.
        lower_order_final: End with lower orders, 2 before the last step and 1 in it: short walks are steadier so.
        last: The last step: the predicted image itself ("denoised"), or a step to the smallest noise level of the
            process, whose noise stays in the image ("sigma_min").
    """

    longest: float = LONGEST
    lower_order_final: bool = True
    last: Last = "denoised"

    lowered_below: ClassVar[int | None] = SHORT_WALK
    """Steps below which `lower_order_final` means anything; None for any number."""

    @property
    def nodes(self) -> int:
        """Predictions that a step extrapolates from, at most."""
        raise NotImplementedError

    @property
    def predicted(self) -> Predicted:
        """What the polynomial goes through."""
        return "image"

    @property
    def corrector(self) -> bool:
        """Whether a step is taken again once the prediction at its end is there; that costs no call."""
        return False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.longest < 0:
            raise UserError(f"longest is {self.longest}", "give a ratio of two steps above 0, or 0 for no limit")

    def check(self, process: Process) -> None:
        """Scalar processes only."""
        require_scalar(process, self.name)

    def walk(self, call: Caller, u: Tensor, grid: Tensor, generator: Noise) -> Tensor:
        """See `Sampler.walk`; without the last step if it is one to the smallest noise level."""
        return super().walk(call, u, without_last(call.process, grid) if self.last == "sigma_min" else grid, generator)

    def step(self, call: Caller, u: Tensor, t: Tensor, s: Tensor, history: list[_Step], generator: Noise) -> Tensor:
        """Correct the step before, which is the history, and take the next."""
        process, last = require_scalar(call.process, self.name), history.pop() if history else None
        left = call.calls - call.nfe  # steps from here, this one with them
        prediction = self.predict(call, u, t)
        v = prediction.u_0 if self.predicted == "image" else prediction.eps
        lambda_t, lambda_s = process.log_snr(torch.stack([t, s])) / 2
        here, h = (lambda_t, v), lambda_s - lambda_t
        if torch.isinf(h):
            return transfer(process, prediction, s)
        if last is not None and self.corrector:
            u = last.end(here)
        nodes = [here, *(last.nodes if last else [])]
        too_long = last is not None and self.predicted == "image" and bool(h > (self.longest or math.inf) * last.h)
        most = 1 if too_long else self._order(call.calls, left)
        step = _Step(self, process, (t, s), h, u, nodes[: self.nodes], min(most, len(nodes)))
        history.append(step)
        return step.end()

    def _order(self, steps: int, left: int) -> int:
        """Predictions that a step may use when so many steps are left."""
        short = self.lowered_below is None or steps < self.lowered_below
        return min(self.nodes, left) if short and self.lower_order_final else self.nodes

    def moments(self, h: Tensor, n: int) -> Tensor:
        """Integrals (n,) over x in 0 ... h of e^-(h - x) (x / h)^j for j = 1 ... n; with e^+(h - x) for noise.

        A method that takes something else for one of them says so here.

        Args:
            h: Size of the step in lambda, ().
            n: Nodes besides the one where the step begins.
        """
        y = _Y + 0.5
        weights = h * _WEIGHTS * torch.exp(self._sign * h * (1 - y))
        return torch.stack([(weights * y**j).sum() for j in range(1, n + 1)])

    def whole(self, h: Tensor) -> Tensor:
        """The same integral for j = 0."""
        return self._sign * torch.expm1(self._sign * h)

    @property
    def _sign(self) -> int:
        return -1 if self.predicted == "image" else 1


Node = tuple[Tensor, Tensor]
"""lambda (()) and what is predicted there."""


@dataclass(frozen=True)
class _Step:
    """A step from t to s: u_s = kept u_t + scale (whole v_0 + sum over k >= 1 of w_k (v_k - v_0)).

    Attributes:
        method: The sampler.
        process: The process.
        span: t and s.
        h: Its size in lambda.
        u: The state at t (B, C, H, W).
        nodes: Predictions, the first where the step begins, then older ones.
        order: How many of them are used.
    """

    method: ExponentialMultistep
    process: ScalarProcess
    span: tuple[Tensor, Tensor]
    h: Tensor
    u: Tensor
    nodes: list[Node]
    order: int

    def end(self, *ahead: Node) -> Tensor:
        """The state at s; with the node at s, if it is there, among those that are interpolated."""
        of_image, (t, s) = self.method.predicted == "image", self.span
        kept, scale = (self.process.sigma, self.process.alpha) if of_image else (self.process.alpha, self.process.sigma)
        weight = scale(s) if of_image else -scale(s)
        (lambda_t, v_0), *others = self.nodes[: self.order]
        u = _times(kept(s) / kept(t), self.u) + _times(weight * self.method.whole(self.h), v_0)
        nodes = [*others, *ahead]
        if not nodes or self.h == 0:
            return u
        # The polynomial through v_0 and v_k at r_k has coefficients c_j with sum over j of r_k^j c_j = v_k - v_0.
        r = torch.stack([(lambda_k - lambda_t) / self.h for lambda_k, _ in nodes])
        powers = r ** torch.arange(1, len(nodes) + 1, dtype=r.dtype, device=r.device)[:, None]
        w = torch.linalg.solve(powers, self.method.moments(self.h, len(nodes)))
        for w_k, (_, v_k) in zip(w, nodes, strict=True):
            u = u + _times(weight * w_k, v_k - v_0)
        return u


def _times(factor: Tensor, u: Tensor) -> Tensor:
    return factor.to(u.dtype) * u


def check_order(order: int) -> None:
    """Refuse an order other than 1, 2 or 3.

    Raises:
        UserError: Naming it.
    """
    if not 1 <= order <= 3:
        raise UserError(f"order is {order}", "give 1, 2 or 3")
