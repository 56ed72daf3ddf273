"""Reflow: a network learns the straight paths between noise and what its teacher makes of it."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from denoisezoo.diffusion.denoiser import Denoiser
from denoisezoo.diffusion.grids import GRIDS
from denoisezoo.diffusion.network_denoiser import NetworkDenoiser
from denoisezoo.diffusion.objectives.few_calls import FewCalls, jump
from denoisezoo.diffusion.objectives.objective import OBJECTIVES, Loss, Step
from denoisezoo.diffusion.objectives.times import Times, UniformTimes
from denoisezoo.errors import UserError
from denoisezoo.files import atomic_path
from denoisezoo.nn.given import Given

FILE = "pairs.safetensors"
"""In the run folder."""


class Pairs(nn.Module):
    """Noise and the clean states that a teacher makes of it, (N, C, H, W), and labels (N,), -1 for none."""

    eps: Tensor
    u_0: Tensor
    label: Tensor

    def __init__(self, eps: Tensor, u_0: Tensor, label: Tensor) -> None:
        super().__init__()
        for name, value in (("eps", eps), ("u_0", u_0), ("label", label)):
            self.register_buffer(name, value, persistent=False)


@OBJECTIVES.register("reflow")
class Reflow(FewCalls):
    """Rectified flow's second round (Liu, Gong, Liu 2022, arXiv 2209.03003, algorithm 1) on any diagonal process.

    Pairs of noise and image are made once, by Heun's method on the process's own grid, and kept in the run folder; a
    run that goes on reads them. The images of the data are not looked at, but for their number in a batch. The loss is
    that of `Simple`. From another run of this objective as the teacher it is the next round.

    Args:
        teacher: See `FewCalls`; `model.start_from` should be the same run.
        pairs: How many; the paper's are millions.
        steps: Steps of the teacher, two calls in each.
        times: Distribution of training times; uniform unless given.
        from_noise: Share of the images at the time of the prior alone, where a single call begins: 1 is the paper's
            distillation into one step.
        seed: Of the pairs.
        guidance: See `FewCalls`.
    """

    teaches = True

    def __init__(
        self,
        teacher: str | None = None,
        pairs: int = 20_000,
        steps: int = 18,
        times: Times | None = None,
        from_noise: float = 0.0,
        seed: int = 0,
        guidance: float = 1.0,
    ) -> None:
        super().__init__(teacher, guidance)
        if pairs < 1 or steps < 1:
            raise UserError(f"pairs is {pairs} and steps {steps}", "give whole numbers of at least 1")
        if not 0 <= from_noise <= 1:
            raise UserError(f"from_noise is {from_noise}", "give a number from 0 to 1")
        self.number, self.steps, self.from_noise, self.seed = pairs, steps, from_noise, seed
        self.times: Times = times or UniformTimes()
        self.pairs: Pairs | None = None

    def check(self, denoiser: NetworkDenoiser) -> None:
        """Networks that are told nothing but labels: of other conditions there are no pairs."""
        super().check(denoiser)
        if denoiser.cond_shape is not None or denoiser.backbone.spec.token_dim:
            raise UserError(
                "Reflow makes pairs without conditions, and the network takes some", "use another objective"
            )

    def setup(self, denoiser: NetworkDenoiser, data: Any, folder: Path) -> None:
        """Make the pairs, or read them."""
        super().setup(denoiser, data, folder)
        file = folder / FILE
        if file.is_file():
            self.pairs = Pairs(**load_file(file))
            return
        device = "cuda" if torch.cuda.is_available() else "cpu"
        made = self.make(self.master.to(device), denoiser.latent_shape, denoiser.backbone.spec.num_classes, device)
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(file) as temporary:
            save_file({name: value.contiguous() for name, value in made.named_buffers()}, temporary)
        self.pairs = made

    def make(self, teacher: Denoiser, shape: tuple[int, int, int], classes: int, device: str = "cpu") -> Pairs:
        """Pairs for latents of a shape (C, H, W), with labels where there are classes."""
        process, parts = teacher.process, []
        generator = torch.Generator().manual_seed(self.seed)
        grid = GRIDS["process"](process, self.steps)
        C, H, W = shape
        for first in range(0, self.number, 256):
            size = min(256, self.number - first)
            eps = torch.randn(size, process.basis.state_channels(C), H, W, generator=generator)
            label = torch.randint(classes, (size,), generator=generator) if classes else torch.full((size,), -1)
            told = Given(label=label.to(device) if classes else None)
            noise = eps.to(device)
            u = process.perturb(torch.zeros_like(noise), noise, torch.full((size,), process.t_max).double().to(device))
            for t, s in itertools.pairwise(grid.to(device)):
                u = jump(teacher, u, t.expand(size), s.expand(size), told, heun=True)
            parts.append((eps, u.cpu(), label))
        return Pairs(*(torch.cat(found) for found in zip(*parts, strict=True)))

    def advance(self, number: int) -> None:
        """As the distribution of times does."""
        self.times.advance(number)

    def __call__(self, step: Step) -> Loss:
        """The loss of one batch."""
        image, generator, process = step.batch["image"], step.generator, step.denoiser.process
        n, device = len(image), image.device
        if self.pairs is None:  # what a step costs does not depend on them
            u_0, eps = self.draw(step)
            given = step.given
        else:
            index = torch.randint(len(self.pairs.eps), (n,), generator=generator, device=device)
            u_0, eps = self.pairs.u_0[index].to(image), self.pairs.eps[index].to(image)
            given = Given(label=None if step.given.label is None else self.pairs.label[index])
        t = self.times(process, self.times.uniform(n, step.host_generator, step.host))
        if self.from_noise:
            begins = torch.rand(n, generator=step.host_generator, device=step.host) < self.from_noise
            t = torch.where(begins, process.t_max, t)
        given = given._replace(until=t if step.denoiser.second_time else None)
        error, _ = step.denoiser.training_error(u_0, eps, t, given, step.effort)
        squared = error.float().square()
        learned = squared if step.full_error is None else (error - step.full_error).float().square()
        return Loss(learned.mean(), squared.flatten(1).mean(1).detach(), t, error)
