"""Guidance distillation: one call of the student is what two calls of its guided teacher come to."""

from __future__ import annotations

import torch

from denoisezoo.diffusion.network_denoiser import NetworkDenoiser
from denoisezoo.diffusion.objectives.few_calls import FewCalls
from denoisezoo.diffusion.objectives.objective import OBJECTIVES, Loss, Step
from denoisezoo.diffusion.objectives.times import Times, UniformTimes
from denoisezoo.errors import UserError


@OBJECTIVES.register("guidance_distillation")
class GuidanceDistillation(FewCalls):
    """Meng et al. 2022, arXiv 2210.03142, first stage, for one scale of guidance, which the network need not be told.

    The student is sampled as a diffusion network without guidance, at half the price; progressive distillation from it
    is the paper's second stage. Errors of the network's own output weigh alike.

    Args:
        teacher: See `FewCalls`; `model.start_from` should be the same run.
        guidance: The scale w of D + (w - 1) (D - D without label), as sampling has it.
        times: Distribution of training times; uniform unless given.
    """

    teaches = True

    def __init__(self, teacher: str | None = None, guidance: float = 2.0, times: Times | None = None) -> None:
        super().__init__(teacher, guidance)
        self.times: Times = times or UniformTimes()

    def check(self, denoiser: NetworkDenoiser) -> None:
        """Networks that know labels."""
        super().check(denoiser)
        if not denoiser.backbone.spec.num_classes:
            raise UserError("GuidanceDistillation needs a network that knows labels", "set network.num_classes")

    def advance(self, number: int) -> None:
        """As the distribution of times does."""
        self.times.advance(number)

    def __call__(self, step: Step) -> Loss:
        """The loss of one batch."""
        process = step.denoiser.process
        u_0, eps = self.draw(step)
        t = self.times(process, self.times.uniform(len(u_0), step.host_generator, step.host))
        u_t = process.perturb(u_0, eps, t)
        with torch.no_grad():
            target = self.master(u_t, t, step.given).u_0
        return self.regress(step, step.denoiser(u_t, t, step.given, step.effort), target, t)
