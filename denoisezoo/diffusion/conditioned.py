"""Denoisers of an image whose condition is part of the state, or a measurement of it: how they are sampled."""

from __future__ import annotations

import torch
from torch import Tensor

from denoisezoo.archs import Effort
from denoisezoo.diffusion.capabilities import Conditioned, ConditionInState, ConditionIsMeasurement
from denoisezoo.diffusion.coefficients import over_images
from denoisezoo.diffusion.denoiser import Denoiser, Prediction
from denoisezoo.diffusion.noise import Noise
from denoisezoo.errors import UserError
from denoisezoo.nn.given import NOTHING, Given


class OfCondition(Denoiser):
    """A denoiser of (x, y) as one of x alone, for a y that is given: every call draws y_t ~ p(y_t | y) afresh.

    CDE, CDiffE and CMDE (Batzolis et al. 2021, arXiv 2111.13606): the x block of the score of (x_t, y_t) stands for
    the score of x_t given y.

    Args:
        denoiser: Of a process that has a condition in its state.
        cond: The condition, encoded if there is a codec, (B, Cy, H, W).
        noise: Source of the noise of y_t.
    """

    def __init__(self, denoiser: Denoiser, cond: Tensor, noise: Noise = None) -> None:
        super().__init__()
        joint = denoiser.process
        if not isinstance(joint, ConditionInState):
            raise UserError(f"{type(joint).__name__} has no condition in its state", "use a process that has, as Joint")
        self.denoiser, self.joint, self.noise = denoiser, joint, noise
        self.process, self.efforts, self.codec = joint.x, denoiser.efforts, denoiser.codec
        self.second_time = denoiser.second_time
        self.y = joint.begin(cond, noise)

    def forward(self, u_t: Tensor, t: Tensor, given: Given = NOTHING, effort: Effort | None = None) -> Prediction:
        """Denoise x_t (B, C, H, W); see `Denoiser.forward`."""
        _check_sizes(self.y, u_t)
        u = torch.cat([u_t, self.joint.diffuse(self.y.to(u_t), t, self.noise)], dim=1)
        found: Prediction = self.denoiser(u, t, given._replace(image=None), effort)
        C = u_t.shape[1]
        return Prediction(found.u_0[:, :C], found.eps[:, :C])


class Matched(Denoiser):
    """An unconditional denoiser as one of x given a measurement y = x + s n: see `processes.measured`.

    Args:
        denoiser: Of a scalar process whose condition is a measurement.
        cond: y and ln s, (B, C + 1, H, W).

    Raises:
        UserError: Conditions with other channels, or with several noise levels in an image.
    """

    def __init__(self, denoiser: Denoiser, cond: Tensor) -> None:
        super().__init__()
        measured = denoiser.process
        if not isinstance(measured, ConditionIsMeasurement):
            raise UserError(f"{type(measured).__name__} takes no measurement", "use a process that does, as Measured")
        measured.check_condition(cond)
        self.denoiser, self.measured, self.cond = denoiser, measured, cond
        self.process, self.efforts, self.codec = measured.x, denoiser.efforts, denoiser.codec
        self.second_time = denoiser.second_time

    def forward(self, u_t: Tensor, t: Tensor, given: Given = NOTHING, effort: Effort | None = None) -> Prediction:
        """The image from u_t and y together, and the noise that it leaves in u_t."""
        _check_sizes(self.cond, u_t)
        v, t_c = self.measured.combine(u_t, t, self.cond)
        u_0 = self.denoiser(v, t_c, given._replace(image=None), effort).u_0
        alpha, sigma = (over_images(part, u_t) for part in self.measured.x.alpha_sigma(t))
        return Prediction(u_0, (u_t - alpha * u_0) / sigma)


def _check_sizes(y: Tensor, u_t: Tensor) -> None:
    if y.shape[-2:] != u_t.shape[-2:] or len(y) != len(u_t):
        raise UserError(
            f"the condition is {_size(y)} and the image {_size(u_t)}", "give one condition per image, of its size"
        )


def _size(x: Tensor) -> str:
    return f"{len(x)} of {x.shape[-2]}x{x.shape[-1]}"


def conditioned(denoiser: Denoiser, given: Given, noise: Noise) -> tuple[Denoiser, Given]:
    """The denoiser to sample x with, and what it has to be told at every call: not y, where y is part of the state.

    Args:
        denoiser: The denoiser.
        given: What the images are told, the conditioning image encoded if there is a codec.
        noise: Source of the noise of y_t.
    """
    cond = given.image
    if cond is None or not isinstance(denoiser.process, Conditioned):
        return denoiser, given
    if isinstance(denoiser.process, ConditionIsMeasurement):
        return Matched(denoiser, cond), given._replace(image=None)
    return OfCondition(denoiser, cond, noise), given._replace(image=None)
