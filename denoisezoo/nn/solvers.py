"""Explicit Runge-Kutta solvers of dz/dtau = f(tau, z) from tau = 0 to 1.

Fixed steps are our own loop over a Butcher tableau (Hairer, Norsett, Wanner, "Solving Ordinary Differential Equations
I", section II.1): it unrolls into one graph for `torch.compile` and `torch.export`. Adaptive steps and the adjoint
method (Chen et al. 2018, arXiv 1806.07366, algorithm 1) are torchdiffeq's, imported when they are first used; adaptive
steps depend on the data, so they read numbers back from the device and cannot be exported.

The adjoint stores no intermediate state and integrates backwards once more instead: less memory, more time, and with
large steps a gradient that is not quite that of the discrete forward pass. It is off unless asked for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from denoisezoo.errors import ComputationError, UncountableError, UserError, unknown

Time = float | Tensor
"""Solver time tau: a number in the fixed-step loop, a scalar tensor in torchdiffeq."""

Derivative = Callable[[Time, Tensor], Tensor]
"""f(tau, z): the derivative of the state, of its shape."""


@dataclass(frozen=True)
class Tableau:
    """Coefficients of an explicit Runge-Kutta method.

    Attributes:
        order: The error after [0, 1] falls as the step size to this power.
        a: Row i weighs the derivatives of the stages before stage i.
        b: Weights of all stages in the step itself.
        torchdiffeq: What torchdiffeq calls the same method, for the adjoint; None if it has none.
    """

    order: int
    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    torchdiffeq: str | None = None

    @property
    def c(self) -> tuple[float, ...]:
        """Time of each stage within the step: the row sums of `a`, which makes the method consistent."""
        return tuple(float(sum(row)) for row in self.a)

    @property
    def evaluations(self) -> int:
        """Evaluations of f in one step."""
        return len(self.b)


FIXED: dict[str, Tableau] = {
    "euler": Tableau(1, ((),), (1.0,), "euler"),
    "midpoint": Tableau(2, ((), (1 / 2,)), (0.0, 1.0), "midpoint"),
    "heun": Tableau(2, ((), (1.0,)), (1 / 2, 1 / 2), "heun2"),
    "ralston": Tableau(2, ((), (2 / 3,)), (1 / 4, 3 / 4)),
    # Kutta's 3/8 rule is what torchdiffeq, and so the released network of The Missing U, means by "rk4".
    "rk4": Tableau(4, ((), (1 / 3,), (-1 / 3, 1.0), (1.0, -1.0, 1.0)), (1 / 8, 3 / 8, 3 / 8, 1 / 8), "rk4"),
    "rk4_classic": Tableau(4, ((), (1 / 2,), (0.0, 1 / 2), (0.0, 0.0, 1.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6)),
}
"""Name of a fixed-step method -> its tableau."""

ADAPTIVE = ("dopri5", "bosh3", "adaptive_heun")
"""Adaptive methods, all torchdiffeq's."""


def integrate(f: Derivative, z: Tensor, tableau: Tableau, steps: int) -> Tensor:
    """z(1) from z(0) by equal steps.

    Args:
        f: The derivative.
        z: State at tau = 0, any shape.
        tableau: The method.
        steps: Number of steps, at least 1; f is evaluated `steps * tableau.evaluations` times.
    """
    h = 1 / steps
    for n in range(steps):
        z = runge_kutta_step(f, n * h, h, z, tableau)
    return z


def runge_kutta_step(f: Derivative, tau: float, h: float, z: Tensor, tableau: Tableau) -> Tensor:
    """z(tau + h) from z(tau): k_i = f(tau + c_i h, z + h sum_j a_ij k_j), then z + h sum_i b_i k_i."""
    k: list[Tensor] = []
    for a, c in zip(tableau.a, tableau.c, strict=True):
        k.append(f(tau + c * h, _advance(z, h, a, k)))
    return _advance(z, h, tableau.b, k)


def _advance(z: Tensor, h: float, weights: Sequence[float], k: Sequence[Tensor]) -> Tensor:
    """z + h sum_i w_i k_i: one pass over memory for each weight that is not zero, into a single new tensor."""
    y = z
    for w, k_i in zip(weights, k, strict=True):
        if w:
            y = torch.add(z, k_i, alpha=h * w) if y is z else y.add_(k_i, alpha=h * w)
    return y


@dataclass(frozen=True)
class Solver:
    """How a block is integrated; see `FIXED` and `ADAPTIVE`.

    Attributes:
        method: Name of the method.
        rtol: Relative tolerance of each step of an adaptive method.
        atol: Absolute tolerance of it.
        min_step: Steps of an adaptive method are never smaller; one of this size is taken whatever its error.
        max_num_steps: More attempts than that are refused (adaptive methods).
        adjoint: Whether gradients come from the adjoint equation instead of back-propagation.
    """

    method: str = "rk4"
    rtol: float = 1e-3
    atol: float = 1e-3
    min_step: float = 0.0
    max_num_steps: int = 1000
    adjoint: bool = False

    @property
    def adaptive(self) -> bool:
        """Whether the method chooses its own steps."""
        return self.method in ADAPTIVE

    @property
    def unrolls(self) -> bool:
        """Whether our own loop runs, which compiles and exports."""
        return not self.adaptive and not self.adjoint

    def validate(self) -> None:
        """Refuse an unknown method, impossible numbers, and an adjoint that does not exist.

        Raises:
            UserError: Says which.
        """
        if self.method not in (*FIXED, *ADAPTIVE):
            raise unknown("solver", self.method, [*FIXED, *ADAPTIVE])
        for name in ("rtol", "atol", "max_num_steps"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name} is {getattr(self, name)}", "give a positive number")
        if not 0 <= self.min_step < 1:
            raise UserError(f"min_step is {self.min_step}", "give a number of at least 0 and below 1")
        if self.adjoint and not self.adaptive and FIXED[self.method].torchdiffeq is None:
            raise UserError(f"there is no adjoint of {self.method}", "use rk4, heun or midpoint, or adjoint=False")


class SolverError(ComputationError):
    """An integration that cannot go on; the message names the block, the noise level, the step and the cures."""


@dataclass
class Failure:
    """Makes the errors of one integration.

    Attributes:
        solver: What integrates.
        block: Path of the block in its network.
        c_noise: Noise levels of the batch (B,), if known.
    """

    solver: Solver
    block: str
    c_noise: Tensor | None = None

    def error(self, why: str, cure: str, bad: Tensor | None = None) -> SolverError:
        """The error for what went wrong; `bad` (B,) tells which samples it concerns."""
        where = f"block {self.block}, {self._noise(bad)}"
        return SolverError(f"solver {self.solver.method} failed in {where}: {why}", cure)

    def _noise(self, bad: Tensor | None) -> str:
        if self.c_noise is None:
            return "c_noise not given"
        levels = self.c_noise if bad is None or len(bad) != len(self.c_noise) else self.c_noise[bad]
        low, high = float(levels.min()), float(levels.max())
        return f"c_noise {low:.4g}" if low == high else f"c_noise {low:.4g} to {high:.4g}"


STIFF = (
    "raise rtol and atol, set min_step, take a fixed-step solver such as rk4, "
    "or train with weight decay, which keeps fields smooth"
)
DIVERGED = "look at the input and the weights, clip gradients or lower the learning rate, or take a fixed-step solver"


@dataclass
class Watched:
    """f as torchdiffeq sees it: it reports every attempt at a step, and what cannot end well is refused.

    Attributes:
        f: The derivative.
        failure: Makes the errors.
        attempts: Steps tried in the forward solve and, with the adjoint, in the backward one.
    """

    f: Derivative
    failure: Failure
    attempts: Counter[str] = field(default_factory=Counter)

    def __call__(self, tau: Tensor, z: Tensor) -> Tensor:
        """Evaluate f."""
        return self.f(tau, z)

    def callback_step(self, tau: Tensor, z: Tensor, h: Tensor) -> None:
        """Called by torchdiffeq before it tries a step from tau by h; see `check`."""
        self.check("forward", tau, z, h)

    def callback_step_adjoint(self, tau: Tensor, z: tuple[Tensor, ...], h: Tensor) -> None:
        """The same in the backward solve, where the state is at index 1, before its adjoint."""
        self.check("backward", tau, z[1], h)

    def check(self, direction: str, tau: Tensor, z: Tensor, h: Tensor) -> None:
        """Refuse a step; torchdiffeq itself stops with a bare assertion, or never.

        Raises:
            SolverError: The state is not finite, the step vanishes beside tau, or there were too many attempts.
        """

        def at() -> str:
            return f"at solver time {tau.item():.4g} with step {h.item():.3g} of the {direction} solve"

        self.check_finite(z, at)
        if not bool(tau + h > tau):
            raise self.failure.error(f"step underflow {at()}: the field is stiff, not smooth or not finite", STIFF)
        self.attempts[direction] += 1
        limit = self.failure.solver.max_num_steps
        if self.attempts[direction] > limit:
            raise self.failure.error(f"more than max_num_steps={limit} attempts, {at()}", f"raise it, or {STIFF}")

    def check_finite(self, z: Tensor, at: Callable[[], str]) -> None:
        """Refuse a state (B, ...) that is not finite."""
        bad = ~z.isfinite().reshape(len(z), -1).all(dim=1)
        if bool(bad.any()):
            raise self.failure.error(f"the state is NaN or infinite {at()}", DIVERGED, bad)


def integrate_with_torchdiffeq(
    f: Derivative, z: Tensor, failure: Failure, steps: int, parameters: Iterable[Tensor]
) -> Tensor:
    """z(1) from z(0) by an adaptive method, or by any method with the adjoint's gradients.

    Args:
        f: The derivative.
        z: State at tau = 0, (B, ...). An adaptive method meets its tolerance in every sample of the batch, but its
            steps are those of the hardest sample, so that results depend on the batch, within the tolerance.
        failure: The solver, and what its errors name.
        steps: Number of steps of a fixed-step method.
        parameters: Tensors that f depends on and whose gradients the adjoint shall bring.

    Raises:
        SolverError: See `Watched.check`; half precision with an adaptive method.
        UserError: The solver cannot run here: in an export, or without numbers.
    """
    solver = failure.solver
    z = _check_possible(z, failure)
    import torchdiffeq

    # Times are float64, whatever the state is: small steps would vanish in float32. MPS has no float64.
    dtype = torch.float32 if z.device.type == "mps" else torch.float64
    ends = torch.tensor([0.0, 1.0], dtype=dtype, device=z.device)
    watched = Watched(f, failure)
    method: str | None
    options: dict[str, Any]
    if solver.adaptive:
        # Left alone it steps beyond the end and interpolates back, with an error that nothing controls.
        options = {"min_step": solver.min_step, "norm": worst_sample, "dtype": dtype, "step_t": ends}
        method = solver.method
    else:
        method, options = FIXED[solver.method].torchdiffeq, {"grid_constructor": partial(_grid, steps=steps)}
    solve = torchdiffeq.odeint
    if solver.adjoint:
        solve = partial(torchdiffeq.odeint_adjoint, adjoint_params=tuple(parameters))
    func = watched if solver.adaptive else f
    y: Tensor = solve(func, z, ends, rtol=solver.rtol, atol=solver.atol, method=method, options=options)[-1]
    if solver.adaptive:
        watched.check_finite(y, lambda: "at the end")
    return y


def worst_sample(z: Tensor) -> Tensor:
    """Largest root mean square of any sample of z (B, ...): an error norm that no batch can average away."""
    return z.reshape(len(z), -1).square().mean(dim=1).max().sqrt()


def _grid(_f: Derivative, _z: Tensor, ends: Tensor, steps: int) -> Tensor:
    """Equal steps between two times, forwards or backwards."""
    return torch.linspace(float(ends[0]), float(ends[-1]), steps + 1, dtype=ends.dtype, device=ends.device)


def _check_possible(z: Tensor, failure: Failure) -> Tensor:
    """The state in a type that the solver can work with, or an error."""
    solver = failure.solver
    what = f"solver {solver.method}{' with the adjoint' if solver.adjoint else ''} of block {failure.block}"
    if torch.compiler.is_exporting():
        cure = "export with_solver(net, 'rk4', adjoint=False), which has the same weights"
        raise UserError(f"{what} cannot be exported", cure)
    if z.is_meta and solver.adaptive:
        raise UncountableError(f"{what} costs what the data make it cost", "run it, or count a fixed-step solver")
    if z.is_meta:  # torchdiffeq looks at the values of times
        raise UncountableError(f"{what} cannot be counted without computing", "run it, or count it without the adjoint")
    if not solver.adaptive:
        return z
    if z.dtype in (torch.float16, torch.bfloat16):
        if not torch.is_autocast_enabled(z.device.type):
            name = str(z.dtype).removeprefix("torch.")
            cure = "keep the weights in float32 and use autocast, or take a fixed-step solver such as rk4"
            raise failure.error(f"{name} cannot tell errors near the tolerance from its own rounding", cure)
        z = z.float()
    return z
