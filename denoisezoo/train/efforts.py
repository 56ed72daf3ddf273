"""Which efforts of an elastic network a training step trains, and what that costs.

The sandwich (Yu and Huang 2019, arXiv 1903.05134; DDSM, arXiv 2310.03337, as its code has it): the full network, the
cheapest, and some drawn at random, each with a loss of its own; their gradients are summed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch

from denoisezoo.archs import Effort
from denoisezoo.diffusion import Loss, NetworkDenoiser, Objective, Step
from denoisezoo.diffusion.objectives.objective import network_alone, observe
from denoisezoo.errors import UserError
from denoisezoo.profiling.counting import count
from denoisezoo.profiling.trajectory import encoding_macs

Mode = Literal["full", "random", "sandwich"]


@dataclass(frozen=True)
class Sandwich:
    """What a sandwich is made of.

    Args:
        between: Efforts drawn at random, besides the full and the cheapest one.
        shared_noise: Whether all passes see the same times and noise; DDSM draws anew for each.
        distill: Whether the others learn the full network's prediction instead of the target (in-place distillation);
            needs shared noise.
    """

    between: int = 1
    shared_noise: bool = False
    distill: bool = False

    def check(self) -> None:
        """Refuse what contradicts itself.

        Raises:
            UserError: Distillation between passes of different noise, or a negative number.
        """
        if self.between < 0:
            raise UserError(f"sandwich.between is {self.between}", "give a whole number of at least 0")
        if self.distill and not self.shared_noise:
            raise UserError("sandwich.distill needs predictions of the same noise", "set sandwich.shared_noise true")


DDSM = Sandwich()


def check_mode(mode: Mode, efforts: Sequence[Effort], sandwich: Sandwich, name: str) -> None:
    """Refuse to train efforts that are not there.

    Raises:
        UserError: A sandwich of a network with one effort, or one that contradicts itself.
    """
    sandwich.check()
    if mode == "sandwich" and len(efforts) < 2:
        raise UserError(f"{name} has one effort, which makes no sandwich", "set model.effort full, or choose another")


def choose(mode: Mode, efforts: Sequence[Effort], sandwich: Sandwich, seed: int) -> list[Effort]:
    """The efforts of one step, the full one first if it is among them; they depend on the seed alone."""
    if mode == "full":
        return [efforts[-1]]
    if mode == "random":
        return [efforts[seed % len(efforts)]]
    middle = efforts[1:-1]
    order = torch.randperm(len(middle), generator=torch.Generator().manual_seed(seed)).tolist()
    return [efforts[-1], efforts[0], *(middle[i] for i in order[: sandwich.between])]


class Passes(NamedTuple):
    """What one step trains: the same batch at several efforts.

    Attributes:
        step: Denoiser, batch and number of the step.
        efforts: From `choose`.
        sandwich: What passes share.
        generator: Gives a generator for the number of a pass, the same one for the same number.
    """

    step: Step
    efforts: Sequence[Effort]
    sandwich: Sandwich
    generator: Callable[[int], torch.Generator]


def losses_of(objective: Objective, passes: Passes) -> list[Loss]:
    """The loss of each pass; the gradient of their sum is the sum of their gradients."""
    losses: list[Loss] = []
    for index, effort in enumerate(passes.efforts):
        # What the others distil is the full network's error, since all errors have the same target.
        full_error = losses[0].error.detach() if passes.sandwich.distill and index else None
        source = passes.generator(0 if passes.sandwich.shared_noise else index)
        losses.append(objective(replace(passes.step, generator=source, effort=effort, full_error=full_error)))
    return losses


def training_macs(denoiser: NetworkDenoiser, effort: Effort | None = None, objective: Objective | None = None) -> int:
    """Multiply-adds of training on one image, the mean over the stages of its process: encode, forward and backward.

    Args:
        denoiser: Counted without computing anything.
        effort: How much of it is trained; None is all.
        objective: What is trained with, which says what its step costs; None is one pass of the network.

    Raises:
        UncountableError: They depend on the data.
    """
    return _macs_of_pass(denoiser, effort, objective) + encoding_macs(denoiser)


def _macs_of_pass(denoiser: NetworkDenoiser, effort: Effort | None, objective: Objective | None) -> int:
    """The same, of images that are encoded."""

    def macs(call: Callable[[], object]) -> int:
        return count(call).macs

    if objective is None:
        return observe(network_alone, denoiser, macs, effort)
    return objective.cost(denoiser, macs, effort)


def expected_macs(denoiser: NetworkDenoiser, mode: Mode, sandwich: Sandwich, objective: Objective | None = None) -> int:
    """Multiply-adds of training on one image, on average over the efforts that a step draws; see `training_macs`."""
    if mode == "full":
        return training_macs(denoiser, None, objective)
    macs, encoding = [_macs_of_pass(denoiser, e, objective) for e in denoiser.efforts], encoding_macs(denoiser)
    if mode == "random":
        return round(sum(macs) / len(macs)) + encoding
    middle = macs[1:-1]
    drawn = min(sandwich.between, len(middle))
    return encoding + macs[-1] + macs[0] + (round(drawn * sum(middle) / len(middle)) if drawn else 0)
