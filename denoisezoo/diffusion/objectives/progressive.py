"""Progressive distillation: each round, a student learns to do in one step what its teacher does in two."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from denoisezoo.diffusion.denoiser import Denoiser
from denoisezoo.diffusion.grids import GRIDS
from denoisezoo.diffusion.network_denoiser import NetworkDenoiser
from denoisezoo.diffusion.objectives.few_calls import FewCalls, image_of, jump, predict
from denoisezoo.diffusion.objectives.objective import OBJECTIVES, Case, Loss, Step
from denoisezoo.diffusion.processes.process import DiagonalProcess
from denoisezoo.errors import UserError
from denoisezoo.nn.transfer import to_device


class Earlier(nn.Module):
    """The student as the round before left it, and how often it has been replaced.

    Args:
        denoiser: Copied, but for its process and its codec.
    """

    rounds: Tensor

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        kept = {id(part): part for part in (denoiser.process, denoiser.codec)}
        self.denoiser: Denoiser = copy.deepcopy(denoiser, kept).requires_grad_(False).eval()
        self.register_buffer("rounds", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def take(self, denoiser: Denoiser, rounds: int) -> None:
        """Become what the student is."""
        self.denoiser.load_state_dict(denoiser.state_dict())
        self.rounds.fill_(rounds)


@OBJECTIVES.register("progressive")
class ProgressiveDistillation(FewCalls):
    """Salimans and Ho 2022, arXiv 2202.00512, algorithm 2, on the grid "nested" of any diagonal process.

    A round lasts `every` optimiser steps and halves the student's steps: `steps`, `steps` / 2, ... 1. In the first one
    the run `teacher` teaches, later the averaged student that the round before left. A network that is told a second
    time keeps the numbers of steps that it has learned: every other step trains an earlier one, so that one network
    serves all. One that is not is the network of the last round's number alone, as published. Sample with `flow_map`.

    What differs from the paper: the teacher of a later round is the average, since no learning rate falls to 0 between
    rounds; errors of the network's own output weigh alike, which is the paper's SNR + 1 for v and rectified flow.

    Args:
        teacher: See `FewCalls`; `model.start_from` should be the same run.
        steps: Steps of the first student, a power of 2; its teacher takes twice as many.
        every: Optimiser steps of a round.
        solver: The teacher's in the first round: "ddim" in one call a step, or "heun" in two.
        guidance: See `FewCalls`.
        last: How many times as long the last round, that of a single step, is meant to last; it lasts to the end of
            training anyway, and what a step costs is the mean over all.
    """

    teaches = True
    needs_average = True

    def __init__(
        self,
        teacher: str | None = None,
        steps: int = 8,
        every: int = 200,
        solver: Literal["ddim", "heun"] = "ddim",
        guidance: float = 1.0,
        last: int = 1,
    ) -> None:
        super().__init__(teacher, guidance)
        if steps < 1 or steps & (steps - 1) or steps > 512:
            raise UserError(f"steps is {steps}", "give a power of 2 from 1 to 512, such as 8")
        if every < 1 or last < 1:
            raise UserError(f"every is {every} and last {last}", "give whole numbers of at least 1")
        self.steps, self.every, self.solver = steps, every, solver
        self.rounds, self.last = steps.bit_length(), last
        self.earlier: Earlier | None = None
        self._taken: int | None = None

    def modules(self, denoiser: NetworkDenoiser) -> dict[str, nn.Module]:
        """The student of the round before: no file has it."""
        self.earlier, self._taken = Earlier(denoiser), None
        return {"earlier": self.earlier}

    def count(self, number: int) -> int:
        """Steps of the student that an optimiser step trains, where one network serves all."""
        newest = min(number // self.every, self.rounds - 1)
        turn = newest if number % 2 == 0 or newest == 0 else (number // 2) % newest
        return self.steps >> turn

    def _count(self, step: Step) -> int:
        if step.denoiser.second_time:
            return self.count(step.number)
        return self.steps >> min(step.number // self.every, self.rounds - 1)

    def __call__(self, step: Step) -> Loss:
        """The loss of one batch."""
        self._renew(step)
        return self._loss(step, self._count(step))

    def _renew(self, step: Step) -> None:
        """Take in the student where a round begins. In validation the denoiser is another one, and nothing begins."""
        assert self.earlier is not None, "`modules` is called before training"
        if self._taken is None:
            self._taken = int(self.earlier.rounds)  # from a checkpoint, it may be
        begun = min(step.number // self.every, self.rounds - 1)
        if step.denoiser.training and begun > self._taken:
            self.earlier.take(step.denoiser if step.average is None else step.average, begun)
            self._taken = begun

    def _loss(self, step: Step, N: int) -> Loss:
        denoiser, process = step.denoiser, step.denoiser.process
        assert isinstance(process, DiagonalProcess), "see check"
        u_0, eps = self.draw(step)
        times = to_device(GRIDS["nested"](process, 2 * N), step.host)
        i = torch.randint(N, (len(u_0),), generator=step.host_generator, device=step.host)
        t, middle, s = (times[2 * i + part] for part in range(3))
        u_t, given = process.perturb(u_0, eps, t), step.given
        first = self.steps == N
        assert self.earlier is not None, "`modules` is called before training"
        # A network that is told one time alone learns from whatever is before it.
        told: Denoiser = self.master if first else self.earlier.denoiser
        way = u_t.double()
        for a, b in ((t, middle), (middle, s)):
            way = jump(told, way, a, b, given, heun=first and self.solver == "heun").double()
        target = image_of(process, u_t, t, way, s)
        return self.regress(step, predict(denoiser, u_t, t, s, given, step.effort), target, t)

    def cases(self, step: Step) -> Iterator[Case]:
        """By the number of steps, each by its share of all rounds: other teachers do other work."""
        total = self.every * (self.rounds - 1 + self.last)
        if step.denoiser.second_time:
            shares = Counter(self.count(number) for number in range(total))
        else:
            shares = Counter({self.steps >> turn: self.every for turn in range(self.rounds)})
            shares[1] += self.every * (self.last - 1)
        for N, steps in shares.items():
            yield Case(steps / total, partial(self._one, step, N))

    def _one(self, step: Step, N: int) -> Tensor:
        return self._loss(step, N).loss
