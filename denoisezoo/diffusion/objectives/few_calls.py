"""What objectives share that train a denoiser to jump along the probability flow, so that few calls make an image.

A prediction at (u_t, t) is a jump to any time s, u_s = A_s u_0 + R_s eps: a step of DDIM, exact where the prediction is
that of the flow map. A network that is told a second time (`Given.until`) learns a jump for each pair of times, one
that is not, a jump for each t. Errors are those of the network's own output, as those of `Regression` are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from denoisezoo.archs import Effort
from denoisezoo.diffusion.capabilities import Conditioned, clean_state, stages_of
from denoisezoo.diffusion.coefficients import aligned, over_images
from denoisezoo.diffusion.denoiser import Denoiser, Prediction, slope
from denoisezoo.diffusion.guidance import check_guide, guided
from denoisezoo.diffusion.network_denoiser import NetworkDenoiser
from denoisezoo.diffusion.objectives.objective import Loss, Objective, Step
from denoisezoo.diffusion.processes.process import DiagonalProcess, times_for
from denoisezoo.errors import UserError
from denoisezoo.nn.given import Given


class Drawn(NamedTuple):
    """Clean states and noise of a batch, (B, C, H, W)."""

    u_0: Tensor
    eps: Tensor


def predict(
    denoiser: Denoiser, u_t: Tensor, t: Tensor, s: Tensor, given: Given, effort: Effort | None = None
) -> Prediction:
    """The prediction for states at times t (B,) of a denoiser that is told, where it takes that, to go to s (B,)."""
    told = given._replace(until=s) if denoiser.second_time else given._replace(until=None)
    found: Prediction = denoiser(u_t, t, told, effort)
    return found


def jump(denoiser: Denoiser, u_t: Tensor, t: Tensor, s: Tensor, given: Given, *, heun: bool = False) -> Tensor:
    """States at s from those at t > s, without a gradient.

    Args:
        denoiser: Its jump, where it is told a second time; elsewhere one step of a solver of its probability flow.
        u_t: States (B, C, H, W).
        t: Times (B,), float64, on the CPU or where the states are.
        s: Times (B,), likewise; 0 is the image.
        given: What else the network is told.
        heun: Whether that step is one of Heun, in two calls, and not one of DDIM; to the image it is one of DDIM.
    """
    process = denoiser.process
    with torch.no_grad():
        found = predict(denoiser, u_t, t, s, given)
        u_s = process.perturb(found.u_0, found.eps, s)
        if denoiser.second_time or not heun:
            return u_s
        inside = s.clamp(min=process.t_min)
        mean = (slope(process, found, t) + slope(process, predict(denoiser, u_s, inside, s, given), inside)) / 2
        return torch.where(over_images(s > 0, u_t) > 0, u_t + over_images(s - t, u_t) * mean, u_s)


def image_of(process: DiagonalProcess, u_t: Tensor, t: Tensor, u_s: Tensor, s: Tensor) -> Tensor:
    """The u_0 whose jump from (u_t, t) ends at (u_s, s), in double precision, in which the difference is one.

    u_0 = (u_s - r u_t) / (alpha_s - r alpha_t), r = sigma_s / sigma_t (arXiv 2202.00512, appendix G).
    """
    t, s = (times_for(process, u_t, time) for time in (t, s))
    alpha_t, sigma_t, alpha_s, sigma_s = aligned(*process.alpha_sigma(t), *process.alpha_sigma(s))
    r = sigma_s / sigma_t
    det = alpha_s - r * alpha_t
    u_t, u_s = u_t.double(), u_s.double()
    return over_images(1 / det, u_s) * u_s - over_images(r / det, u_t) * u_t


class FewCalls(Objective):
    """Base of the objectives for few calls.

    Args:
        teacher: Path of the run that is learned from, or FORMAT:PATH of a checkpoint of other code; in Python
            `learn_from` takes a denoiser.
        guidance: Scale of classifier-free guidance that the teacher has; 1 is none. The student learns the guided flow,
            and needs no guidance of its own.
    """

    teaches = False
    """Whether a teacher is needed."""
    tells_end = False
    """Whether the network must be told a second time."""

    def __init__(self, teacher: str | None = None, guidance: float = 1.0) -> None:
        self.teacher, self.guidance = teacher, guidance

    def check(self, denoiser: NetworkDenoiser) -> None:
        """Processes whose coefficients are independent and stay; a second time, where it is needed."""
        process, name = denoiser.process, type(self).__name__
        if not isinstance(process, DiagonalProcess) or len(stages_of(process)) > 1 or isinstance(process, Conditioned):
            raise UserError(
                f"{name} cannot train a denoiser of {type(process).__name__}",
                "use a process of one stage and independent coefficients, such as EDM, VP or RectifiedFlow",
            )
        if self.tells_end and not denoiser.second_time:
            raise UserError(f"{name} needs a network that is told a second time", "set network.second_time to true")

    def setup(self, denoiser: NetworkDenoiser, data: Any, folder: Path) -> None:
        """Refuse a teacher that does not fit."""
        name = type(self).__name__
        if self.source is None:
            if self.teaches:
                raise UserError(f"{name} learns from a teacher, and none is given", "set objective.teacher to a run")
            return
        try:
            check_guide(denoiser, self.source)
        except UserError as error:
            raise UserError(error.what.replace("the guide", "the teacher"), "take a teacher that fits") from error

    @property
    def master(self) -> Denoiser:
        """The teacher, guided."""
        assert self.source is not None, "see setup"
        return guided(self.source, None if self.guidance == 1 else self.guidance)

    def draw(self, step: Step) -> Drawn:
        """Clean states of a batch, and noise."""
        image, generator = step.batch["image"], step.generator
        u_0 = clean_state(step.denoiser.process, image, generator, step.given.image)
        return Drawn(u_0, torch.empty_like(u_0).normal_(generator=generator))

    def regress(self, step: Step, found: Prediction, target: Tensor, t: Tensor) -> Loss:
        """The squared error of the network's output for an image, `target`, that it should have predicted at t (B,)."""
        scale = over_images(step.denoiser.output_scale(times_for(step.denoiser.process, target, t)), target)
        error = ((found.u_0 - target) / scale).to(found.u_0.dtype)
        squared = error.float().square()
        learned = squared if step.full_error is None else (error - step.full_error).float().square()
        return Loss(learned.mean(), squared.flatten(1).mean(1).detach(), t, error)
