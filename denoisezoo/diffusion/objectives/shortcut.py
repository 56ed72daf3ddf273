"""Shortcut models: a large step is what two steps of half its size come to, in one training."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from denoisezoo.diffusion.grids import GRIDS
from denoisezoo.diffusion.objectives.few_calls import FewCalls, image_of, predict
from denoisezoo.diffusion.objectives.objective import OBJECTIVES, Case, Loss, Step
from denoisezoo.diffusion.processes.process import DiagonalProcess
from denoisezoo.errors import UserError
from denoisezoo.nn.transfer import to_device


@OBJECTIVES.register("shortcut")
class Shortcut(FewCalls):
    """Frans, Hafner, Levine, Abbeel 2024, arXiv 2410.12557 (equation 5), on the grid "nested" of any diagonal process.

    Most images of a batch train the denoiser at times of the grid. The others have a number of steps, 1, 2, ...
    `steps`, all as often, and learn to jump as the averaged network does in two steps of half the size; the half of the
    smallest step is one along its velocity. What differs from the code: states and targets are not clipped to [-4, 4].
    Sample with `flow_map` in as many steps as one of these numbers.

    Args:
        steps: Largest number of steps that is learned, a power of 2; half of the code's 128.
        share: Share of the images that learn to jump; the paper's is 1/4, its code's 1/8.
    """

    tells_end = True
    needs_average = True

    def __init__(self, steps: int = 64, share: float = 0.25) -> None:
        super().__init__()
        if steps < 1 or steps & (steps - 1) or steps > 512:
            raise UserError(f"steps is {steps}", "give a power of 2 from 1 to 512, such as 64")
        if not 0 < share < 1:
            raise UserError(f"share is {share}", "give a number between 0 and 1")
        self.steps, self.share = steps, share

    def __call__(self, step: Step) -> Loss:
        """The loss of one batch: the first images of it jump."""
        jumping = round(self.share * len(step.batch["image"]))
        parts = ((slice(0, jumping), True), (slice(jumping, None), False))
        losses = [self._loss(step, part, jumps) for part, jumps in parts if len(step.batch["image"][part])]
        per_sample, t, error = (torch.cat(found) for found in zip(*(loss[1:] for loss in losses), strict=True))
        learned = error if step.full_error is None else error - step.full_error
        return Loss(learned.float().square().mean(), per_sample, t, error)

    def _loss(self, step: Step, part: slice, jumps: bool) -> Loss:
        """Of one part of the batch."""
        denoiser, process, generator = step.denoiser, step.denoiser.process, step.generator
        assert isinstance(process, DiagonalProcess), "see check"
        batch = {key: value[part] for key, value in step.batch.items()}
        host_generator = step.host_generator  # one for both parts
        step = Step(denoiser, batch, generator, step.effort, None, step.number, step.average)
        u_0, eps = self.draw(step)
        L, device, given = 2 * self.steps, step.host, step.given
        times = to_device(GRIDS["nested"](process, L), device)
        size = (len(u_0),)
        if not jumps:
            t = times[torch.randint(L, size, generator=host_generator, device=device)]
            u_t = process.perturb(u_0, eps, t)
            return self.regress(step, predict(denoiser, u_t, t, t, given, step.effort), u_0, t)
        half = 2 ** torch.randint(self.steps.bit_length(), size, generator=host_generator, device=device)  # of a step
        share = torch.rand(size, generator=host_generator, device=device, dtype=torch.float64)
        start = (share * (L // (2 * half))).long() * 2 * half
        t, middle, s = times[start], times[start + half], times[start + 2 * half]
        u_t = process.perturb(u_0, eps, t)
        teacher = denoiser if step.average is None else step.average
        way = u_t.double()
        with torch.no_grad():
            for a, b in ((t, middle), (middle, s)):
                found = predict(teacher, way, a, torch.where(half == 1, a, b), given, step.effort)
                way = process.perturb(found.u_0, found.eps, b)
        target = image_of(process, u_t, t, way, s)
        return self.regress(step, predict(denoiser, u_t, t, s, given, step.effort), target, t)

    def cases(self, step: Step) -> Iterator[Case]:
        """Images that jump, and those that do not."""
        for share, jumps in ((self.share, True), (1 - self.share, False)):
            yield Case(share, partial(self._one, step, jumps))

    def _one(self, step: Step, jumps: bool) -> Tensor:
        return self._loss(step, slice(None), jumps).loss
