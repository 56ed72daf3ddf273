"""Adversarial distillation: what a jump to the image makes is judged by a discriminator, and stays near a teacher's."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denoisezoo.archs.discriminator import PUBLISHED, Discriminator, DiscriminatorConfig
from denoisezoo.diffusion.denoiser import Prediction
from denoisezoo.diffusion.grids import GRIDS
from denoisezoo.diffusion.network_denoiser import NetworkDenoiser
from denoisezoo.diffusion.objectives.adversarial import opposing_loss
from denoisezoo.diffusion.objectives.few_calls import FewCalls, jump, predict
from denoisezoo.diffusion.objectives.objective import OBJECTIVES, Case, Loss, Step
from denoisezoo.errors import UserError


class Jump(NamedTuple):
    """States u_t (B, C, H, W) at times t (B,), and what the student predicts for the way to the image."""

    u_t: Tensor
    t: Tensor
    found: Prediction


@OBJECTIVES.register("adversarial_distillation")
class AdversarialDistillation(FewCalls):
    """ADD (Sauer et al. 2023, arXiv 2311.17042), as the finish of a network for few calls, on any diagonal process.

    A student jumps to the image from noised data at the times of the grid "nested" of `steps`, the prior's among them,
    all as often. Its loss is w softplus(-D(x)) and the squared error of its output against the image that a teacher
    makes of the same state by `calls` steps on the finer grid; the discriminator has R1, and one opinion of an image.

    What differs from the paper: D sees pixels, not DINOv2's features, and is UDPM's; the teacher begins from the state
    that the student began from, not from the student's image with new noise, so that nothing is lost by it. Sample with
    `consistency` in 1 or `steps` steps.

    Args:
        teacher: See `FewCalls`; `model.start_from` may be the same run.
        steps: Calls that the student is for, a power of 2.
        calls: Steps of the teacher from the prior, a multiple of `steps`; from a later time it takes fewer.
        weight: w.
        r1: gamma, the weight of gamma/2 |grad D(real)|^2.
        guidance: See `FewCalls`.
        discriminator: Sizes of the discriminator.
    """

    teaches = True
    opponents = ("adversary",)

    def __init__(
        self,
        teacher: str | None = None,
        steps: int = 1,
        calls: int = 4,
        weight: float = 0.1,
        r1: float = 0.1,
        guidance: float = 1.0,
        discriminator: DiscriminatorConfig = PUBLISHED,
    ) -> None:
        super().__init__(teacher, guidance)
        if steps < 1 or steps & (steps - 1) or steps > 512:
            raise UserError(f"steps is {steps}", "give a power of 2 from 1 to 512, such as 1")
        if calls < steps or calls % steps or calls > 1024:
            raise UserError(f"calls is {calls}", f"give a multiple of steps, {steps}, up to 1024")
        if not (weight > 0 and r1 >= 0 and math.isfinite(weight + r1)):
            raise UserError(f"weight {weight} or r1 {r1} is out of range", "give 0.1 and 0.1")
        discriminator.validate()
        self.steps, self.calls, self.weight, self.r1, self.discriminator = steps, calls, weight, r1, discriminator
        self.adversary: nn.Module | None = None

    def modules(self, denoiser: NetworkDenoiser) -> dict[str, nn.Module]:
        """The discriminator."""
        self.adversary = Discriminator(self.discriminator, denoiser.backbone.spec)
        return {"adversary": self.adversary}

    def __call__(self, step: Step) -> Loss:
        """The loss of one batch, all of it at one time of the grid."""
        return self._loss(step, self._index(step))

    def opposing_loss(self, name: str, step: Step) -> Tensor:
        """The discriminator's; see `Objective`."""
        with torch.no_grad():
            made = self._jump(step, self._index(step))
        real = step.batch["image"]
        return opposing_loss(partial(self._judge, step), real, self._pixels(step, made.found.u_0), self.r1)

    def _index(self, step: Step) -> int:
        """Which time of the grid."""
        return int(torch.randint(self.steps, (), generator=step.host_generator, device="cpu"))

    def _jump(self, step: Step, index: int) -> Jump:
        u_0, eps = self.draw(step)
        process = step.denoiser.process
        t = GRIDS["nested"](process, self.steps)[index].to(step.host).expand(len(u_0))
        u_t = process.perturb(u_0, eps, t)
        return Jump(u_t, t, predict(step.denoiser, u_t, t, torch.zeros_like(t), step.given, step.effort))

    def _loss(self, step: Step, index: int) -> Loss:
        u_t, t, found = self._jump(step, index)
        judged = self._judge(step, self._pixels(step, found.u_0))
        target = u_t.double()
        grid = GRIDS["nested"](step.denoiser.process, self.calls)[index * self.calls // self.steps :].to(t.device)
        for a, b in itertools.pairwise(grid):
            target = jump(self.master, target, a.expand(len(t)), b.expand(len(t)), step.given).double()
        plain = self.regress(step, found, target, t)
        return plain._replace(loss=plain.loss + self.weight * F.softplus(-judged).mean())

    def _pixels(self, step: Step, u_0: Tensor) -> Tensor:
        return step.denoiser.process.basis.to_pixels(u_0)

    def _judge(self, step: Step, image: Tensor) -> Tensor:
        """What the discriminator says of images (B, C, H, W), (B,)."""
        assert self.adversary is not None, "`modules` is called before training"
        blind = torch.zeros(len(image), device=image.device)
        judged: Tensor = self.adversary(image, blind, step.batch.get("label"))
        return judged

    def cases(self, step: Step) -> Iterator[Case]:
        """By the time of the grid: from the prior the teacher takes the most steps."""
        for index in range(self.steps):
            yield Case(1 / self.steps, partial(self._one, step, index))

    def _one(self, step: Step, index: int) -> Tensor:
        assert self.adversary is not None, "`modules` is called before"
        self.adversary.requires_grad_(False)  # as in a step of training
        loss = self._loss(step, index).loss
        self.adversary.requires_grad_(True)
        return loss + self.opposing_loss("adversary", step)
