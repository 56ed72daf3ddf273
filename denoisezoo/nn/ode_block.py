"""Blocks that integrate an ordinary differential equation dz/dtau = f(tau, z; c) over [0, 1] (neural ODE, Chen et al.
2018, arXiv 1806.07366), with c from the noise level.

Same weights, any solver: the solver is a field of the network's configuration, and `with_solver` gives a network its
weights under another one. The number of solver steps is an argument of `forward`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from denoisezoo.nn.blocks import Init, Stage, conv, kaiming
from denoisezoo.nn.solvers import FIXED, Failure, Solver, Time, integrate, integrate_with_torchdiffeq


@dataclass(frozen=True)
class ApproximatorStyle:
    """What sets the function approximators of one design apart from another's.

    Attributes:
        norm: Makes the norm for a number of channels.
        activation: Activation, on (B, C, H, W).
        norms: 2: before each convolution. 1: before the first only, a pass over memory less.
        closes: Whether an activation follows the second convolution, too.
        last_gain: Initial gain of the second convolution; 0 starts the field at zero, and the block as the identity.
        conditioned: Whether c scales and shifts after the last norm.
        timed: Whether solver time does, too.
        init: Initialisation of the convolutions.
    """

    norm: Callable[[int], nn.Module]
    activation: Callable[[Tensor], Tensor]
    norms: int = 2
    closes: bool = False
    last_gain: float = 0.0
    conditioned: bool = True
    timed: bool = False
    init: Init = kaiming


class Approximator(nn.Module):
    """Norm, convolution, activation, norm, scale and shift, convolution: (B, C, H, W) -> (B, out_channels, H, W).

    Attributes:
        c_width: Conditioning values that it takes, 0 for none.
    """

    def __init__(self, channels: int, out_channels: int, style: ApproximatorStyle) -> None:
        super().__init__()
        self.style = style
        self.c_width = 2 * channels if style.conditioned else 0
        self.norm0 = style.norm(channels)
        self.conv0 = conv(channels, channels, 3, style.init)
        self.norm1 = style.norm(channels) if style.norms == 2 else None
        self.conv1 = conv(channels, out_channels, 3, style.init, gain=style.last_gain)
        self.drift = nn.Parameter(torch.zeros(2 * channels)) if style.timed else None

    def forward(self, tau: Time, z: Tensor, c: Tensor) -> Tensor:
        """Approximate at solver time tau, with conditioning c (B, c_width)."""
        h = self.norm0(z)
        if self.norm1 is None:
            h = self.modulate(tau, h, c)
        h = self.style.activation(self.conv0(h))
        if self.norm1 is not None:
            h = self.modulate(tau, self.norm1(h), c)
        h = self.conv1(h)
        return self.style.activation(h) if self.style.closes else h

    def modulate(self, tau: Time, h: Tensor, c: Tensor) -> Tensor:
        """Scale and shift h by c, which drifts linearly with solver time."""
        if self.drift is not None:
            drift = (2 * tau - 1) * self.drift
            c = c + drift if self.c_width else drift[None]
        if not c.shape[1]:
            return h
        scale, shift = c[:, :, None, None].chunk(2, dim=1)
        return torch.addcmul(shift, h, scale + 1)


class VectorField(nn.Module):
    """dz/dtau = f(tau, z; c), of z's shape. Each evaluation is a call of this module, and profilers count the calls.

    Args:
        channels: Channels of the state.
        style: Of its function approximator.
    """

    is_vector_field = True

    def __init__(self, channels: int, style: ApproximatorStyle) -> None:
        super().__init__()
        self.approximator = Approximator(channels, self.unknowns(channels), style)
        self.c_width = self.approximator.c_width

    @staticmethod
    def unknowns(channels: int) -> int:
        """Channels that the approximator has to give for a state of `channels`."""
        return channels

    def forward(self, tau: Time, z: Tensor, c: Tensor) -> Tensor:
        """The derivative at solver time tau of the state z (B, C, H, W), with conditioning c (B, c_width)."""
        raise NotImplementedError


class FirstOrder(VectorField):
    """dz/dtau = F(tau, z; c)."""

    def forward(self, tau: Time, z: Tensor, c: Tensor) -> Tensor:
        """See `VectorField`."""
        return self.approximator(tau, z, c)


class Growing(VectorField):
    """dz/dtau = F(tau, z; c) + z, the released network's field; left to itself the state grows by a factor of e."""

    def forward(self, tau: Time, z: Tensor, c: Tensor) -> Tensor:
        """See `VectorField`."""
        return self.approximator(tau, z, c) + z


class SecondOrder(VectorField):
    """x'' = F(tau, x, x'; c) as a first-order system in z = [x, v]: x' = v, v' = F. Half of the channels are x."""

    @staticmethod
    def unknowns(channels: int) -> int:
        """See `VectorField.unknowns`: the acceleration only."""
        return channels // 2

    def forward(self, tau: Time, z: Tensor, c: Tensor) -> Tensor:
        """See `VectorField`."""
        v = z[:, z.shape[1] // 2 :]
        return torch.cat([v, self.approximator(tau, z, c)], dim=1)


class ODEBlock(Stage):
    """Integrates a vector field over [0, 1]: (B, C, H, W) -> (B, C, H, W).

    Args:
        field: The vector field.
        solver: How.
        name: Path of the block in its network, for error messages.
        most_steps: Where the field is smooth or dear, more steps than these are never taken.
    """

    def __init__(self, field: VectorField, solver: Solver, name: str = "?", most_steps: int | None = None) -> None:
        super().__init__()
        self.field, self.solver, self.name, self.most_steps = field, solver, name, most_steps
        self.c_width, self.c_parts = field.c_width, 2

    def forward(self, x: Tensor, c: Tensor, steps: int = 1, c_noise: Tensor | None = None) -> Tensor:
        """z(1) from z(0) = x with conditioning c (B, c_width).

        Args:
            x: The state at solver time 0.
            c: Conditioning of the field.
            steps: Solver steps; without meaning to an adaptive solver.
            c_noise: Noise level (B,), for error messages.

        Raises:
            SolverError: An adaptive solver cannot go on.
            UserError: The solver cannot be exported.
        """

        def f(tau: Time, z: Tensor) -> Tensor:
            derivative: Tensor = self.field(tau, z, c)
            return derivative

        steps = steps if self.most_steps is None else min(steps, self.most_steps)
        if self.solver.unrolls:
            return integrate(f, x, FIXED[self.solver.method], steps)
        solve = integrate_with_torchdiffeq
        if torch.compiler.is_dynamo_compiling():  # traced, it would fall into some fifty graphs
            solve = torch.compiler.disable(solve)
        return solve(f, x, Failure(self.solver, self.name, c_noise), steps, [*self.field.parameters(), c])


class UntiedBlock(Stage):
    """The discrete twin of `ODEBlock`: as many Euler steps as there are fields, each with weights of its own.

    Args:
        fields: One vector field for each step.
    """

    def __init__(self, fields: list[VectorField]) -> None:
        super().__init__()
        self.fields = nn.ModuleList(fields)
        self.c_width = sum(field.c_width for field in fields)

    def forward(self, x: Tensor, c: Tensor, steps: int = 1, c_noise: Tensor | None = None) -> Tensor:
        """See `ODEBlock.forward`; it has no choice of steps."""
        h = 1 / len(self.fields)
        for n, (field, c_n) in enumerate(zip(self.fields, c.chunk(len(self.fields), dim=1), strict=True)):
            x = torch.add(x, field(n * h, x, c_n), alpha=h)
        return x
