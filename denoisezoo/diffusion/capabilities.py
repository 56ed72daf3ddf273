"""What some processes can besides the core of `Process`: mixins, and functions that answer for all processes.

A process has a capability by deriving from its class, beside `Process`. Callers ask for the capability, never for a
concrete process, and where most processes have none of it, by a function of this file: one stage, no condition, any
time.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from denoisezoo.diffusion.coefficients import apply_blocks
from denoisezoo.diffusion.noise import Noise, standard_normal

if TYPE_CHECKING:
    from denoisezoo.diffusion.processes.process import Process, ScalarProcess

Stages = tuple[tuple[float, float], ...]
"""First and last time of each stage, the noisiest stage first."""


class Staged(ABC):
    """Coefficients leave the state as time goes on, by which its height and width are halved.

    The state of a *stage* is the top left crop of the whole. What leaves is pure noise, unless the process is `Halving`
    too; walking back, `expand` lets it in again as fresh noise.
    """

    @property
    @abstractmethod
    def stages(self) -> Stages:
        """First and last time of each stage, the noisiest stage first."""

    @abstractmethod
    def dropped(self, t: float) -> int:
        """How often height and width of the state at time t have been halved, 0 for the whole state."""


class Halving(Staged):
    """Every step halves the image: what leaves the state is signal, and networks return it at twice the size.

    With H the filter that halves, x_l = alpha_l H x_(l-1) + sigma_l eps. The preconditioning is one that `enlarges`.

    Attributes:
        levels: Halvings L, at the times 1 ... L.
        abar: Factor of H^l x_0 in x_l for l = 0 ... L.
        std: Standard deviation of the noise in x_l, likewise.
        sampler: Name of the sampler that walks it back.
    """

    levels: int
    abar: tuple[float, ...]
    std: tuple[float, ...]
    sampler: str

    @abstractmethod
    def down(self, u: Tensor, times: int = 1) -> Tensor:
        """H^times: states (B, C, H, W) to (B, C, H / 2^times, W / 2^times)."""

    @abstractmethod
    def posterior(self, u: Tensor, u_0: Tensor, level: int) -> tuple[Tensor, Tensor]:
        """Mean (B, C, 2H, 2W) and standard deviation of x_(l-1), given x_l (B, C, H, W) and H^(l-1) x_0."""


class Discrete(ABC):
    """A chain of steps, defined at some times only."""

    @property
    @abstractmethod
    def chain_length(self) -> int | None:
        """Steps of the chain; None in continuous time, as a process around another may be after all."""

    @abstractmethod
    def nearest_time(self, t: Tensor) -> Tensor:
        """The nearest time at which the process is defined."""


class Evolving(ABC):
    """A process that changes as training goes on."""

    @abstractmethod
    def advance(self, step: int) -> None:
        """Become what the process is after so many optimiser steps."""

    @property
    @abstractmethod
    def changing(self) -> tuple[float, ...]:
        """What of it changes: what is kept for the process holds for these values alone."""


class WithoutNoise:
    """A process that leaves images as they are: there is nothing to sample, and its networks are no denoisers.

    They are autoencoders, which are judged by what they make of images, and are codecs of denoisers.
    """


class Conditioned(ABC):
    """A process that takes the condition itself: networks are not told of it as an image beside the state.

    Attributes:
        x: The process of the image alone, which samplers walk once a condition is given.
        given_channels: Channels that the condition has when it is given.
    """

    x: Process
    given_channels: int


class ConditionInState(Conditioned):
    """The condition y is part of the state, beside the image x, and may be noisy: the state at t is (x_t, y_t)."""

    @abstractmethod
    def join(self, image: Tensor, cond: Tensor | None, generator: torch.Generator | None = None) -> Tensor:
        """A clean state to train on: the image with its condition (B, given_channels, H, W).

        Raises:
            UserError: There is no condition, or it does not fit the image.
        """

    @abstractmethod
    def begin(self, cond: Tensor, noise: Noise = None) -> Tensor:
        """The clean y of sampling, of a condition that is given; as many channels as it has in the state."""

    @abstractmethod
    def diffuse(self, y: Tensor, t: Tensor, noise: Noise = None) -> Tensor:
        """A fresh y_t ~ p(y_t | y) at times t (B,) for clean y."""

    @abstractmethod
    def check_outputs(self, channels: int) -> None:
        """Refuse a network that puts out so many channels, where they cannot be parts of the state.

        Raises:
            UserError: Naming the number that would do.
        """

    def shown(self, u: Tensor, t: Tensor) -> Tensor:
        """What networks are shown of a state (B, C, H, W) at times t (B,), before it is scaled: most, the state."""
        return u


class ConditionIsMeasurement(Conditioned):
    """The condition is a measurement y = x + s n: networks know none, and are asked at the noise that y leaves.

    Attributes:
        x: See `Conditioned`; with one noise level for all coefficients.
    """

    x: ScalarProcess

    @abstractmethod
    def combine(self, u_t: Tensor, t: Tensor, cond: Tensor) -> tuple[Tensor, Tensor]:
        """What u_t and a measurement tell of x together: a state of the process, and its times (B,)."""

    @abstractmethod
    def check_condition(self, cond: Tensor) -> None:
        """Refuse conditions (B, given_channels, H, W) that are no measurement.

        Raises:
            UserError: Saying why.
        """


def stages_of(process: Process) -> Stages:
    """Its stages; one, from the prior to the smallest time, where nothing leaves the state."""
    return process.stages if isinstance(process, Staged) else ((process.t_max, process.t_min),)


def dropped_at(process: Process, t: float) -> int:
    """How often height and width of the state at time t have been halved; 0 where nothing leaves the state."""
    return process.dropped(t) if isinstance(process, Staged) else 0


def state_shape(process: Process, image_shape: torch.Size | tuple[int, ...], t: float = 0.0) -> tuple[int, ...]:
    """Shape of the state at time t for images of a shape (B, C, H, W)."""
    B, C, H, W = image_shape
    halvings = dropped_at(process, t)
    return B, process.basis.state_channels(C), H >> halvings, W >> halvings


def expand(process: Process, u: Tensor, t: Tensor, generator: Noise = None) -> Tensor:
    """The state `u` with the coefficients that enter at time t (()), walking back, as fresh noise.

    Args:
        process: The process.
        u: The state as it was just above t.
        t: A time at which stages meet; at other times nothing enters.
        generator: Source of the noise.
    """
    if process.resolution is None or not dropped_at(process, process.t_max):
        return u
    if u.shape[-1] == (side := process.resolution >> dropped_at(process, float(t))):
        return u
    eps = standard_normal((*u.shape[:2], side, side), generator, u.device, u.dtype)
    entered = apply_blocks(process.noise(t.reshape(1)), eps)
    entered[..., : u.shape[-2], : u.shape[-1]] = u
    return entered


def nearest_time(process: Process, t: Tensor) -> Tensor:
    """The nearest time at which the process is defined; any in continuous time."""
    return process.nearest_time(t) if isinstance(process, Discrete) else t


def chain_length(process: Process) -> int | None:
    """Steps of the chain that a discrete process is; None in continuous time."""
    return process.chain_length if isinstance(process, Discrete) else None


def advance(process: Process, step: int) -> None:
    """Let a process become what it is after so many optimiser steps; most never change."""
    if isinstance(process, Evolving):
        process.advance(step)


def unconditioned(process: Process) -> Process:
    """The process of what samplers walk: of all of the state, but for a condition that is given."""
    return process.x if isinstance(process, Conditioned) else process


def given_channels(process: Process) -> int:
    """Channels of the condition that the process takes itself; 0 where conditions are none of its business."""
    return process.given_channels if isinstance(process, Conditioned) else 0


def clean_state(
    process: Process, image: Tensor, generator: torch.Generator | None = None, cond: Tensor | None = None
) -> Tensor:
    """A clean state u_0 to train on, with what is drawn at random of it, and the condition where it is part.

    Args:
        process: The process.
        image: Images (B, C, H, W) in [-1, 1].
        generator: Source of what is random.
        cond: Conditions (B, Cy, H, W).

    Raises:
        UserError: The condition is part of the state, and is missing or does not fit.
    """
    if isinstance(process, ConditionInState):
        return process.join(image, cond, generator)
    return process.basis.draw(image, generator)


def shown(process: Process, u: Tensor, t: Tensor) -> Tensor:
    """What networks are shown of a state (B, k*C, H, W) at times t (B,), before it is scaled: most, the state."""
    return process.shown(u, t) if isinstance(process, ConditionInState) else u
