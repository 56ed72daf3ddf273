"""What every objective is: one contract for regression, adversaries, and whatever else a step may train with."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from denoisezoo.archs import Effort
from denoisezoo.diffusion.capabilities import Conditioned, stages_of, state_shape
from denoisezoo.diffusion.denoiser import Denoiser
from denoisezoo.diffusion.network_denoiser import NetworkDenoiser
from denoisezoo.diffusion.noise import host_generator
from denoisezoo.diffusion.processes.process import Process
from denoisezoo.errors import UncountableError
from denoisezoo.nn.given import Given
from denoisezoo.recorded import Recorded
from denoisezoo.registry import Registry

OBJECTIVES: Registry[type[Objective]] = Registry("objective")

Count = Callable[[Callable[[], object]], int]
"""Runs a function and returns how many multiply-adds that took."""


@dataclass(frozen=True)
class Step:
    """One batch of a training step, as an objective sees it.

    Attributes:
        denoiser: The denoiser in training.
        batch: "image" (B, C, H, W) in [-1, 1] and, where the network takes them, "label", "cond", "tokens", "augment";
            of a denoiser with a codec, "image" and "cond" are latents (`Codec.to_batch`).
        generator: Source of noise, on the device of the images; of times by way of `host_generator`.
        effort: How much of the network to train; None is all of it.
        full_error: `Loss.error` of the full network on the same batch, times and noise, detached, where its prediction
            is to take the place of the target (in-place distillation).
        number: Optimiser steps so far.
        average: The denoiser with averaged weights (EMA), in evaluation mode and without gradients, where the objective
            `needs_average`; None elsewhere. In validation the denoiser itself has them.
    """

    denoiser: Denoiser
    batch: Mapping[str, Tensor]
    generator: torch.Generator | None = None
    effort: Effort | None = None
    full_error: Tensor | None = None
    number: int = 0
    average: Denoiser | None = None

    @cached_property
    def host_generator(self) -> torch.Generator | None:
        """Source of the numbers that the host decides by, on the CPU: `generator` itself where that is."""
        return host_generator(self.generator)

    @property
    def host(self) -> torch.device:
        """Where times are drawn: on the CPU; without values for images without values."""
        image = self.batch["image"]
        return image.device if image.is_meta else torch.device("cpu")

    @property
    def given(self) -> Given:
        """What the batch tells the network besides image and noise level."""
        return Given.of(self.batch)


class Loss(NamedTuple):
    """What an objective returns.

    Attributes:
        loss: The mean to be made small, ().
        per_sample: Unweighted mean squared error of each image's noise level, (B,), for the loss by noise level.
        t: The times that were drawn, (B,), float64, on the CPU or where the images are.
        error: The network's own output minus its target, (B, C, H, W), of those parts of the state that it puts out.
    """

    loss: Tensor
    per_sample: Tensor
    t: Tensor
    error: Tensor


class Case(NamedTuple):
    """What a step may come to: the share of steps that do, and the sum of the losses that go backward in them, ()."""

    share: float
    losses: Callable[[], Tensor]


class Objective(Recorded, ABC):
    """What training makes small. The trainer serves any of them so:

    - `check` when training is set up;
    - `setup` and `modules` before it begins; what `modules` returns is saved and restored beside the denoiser, and
      every network that is an attribute moves to its device; those of `modules` with weights to be trained that are no
      opponents are trained with the denoiser, by its optimiser, and may have an `after_step()` as networks of the zoo;
    - `cost` is what a step is priced at;
    - in every step `advance`; each of the `opponents` among the modules goes backward from its `opposing_loss`, the
      objective itself goes backward into the denoiser, the modules frozen, and then all optimisers step, or none;
    - before a checkpoint, `calibrate`.

    Attributes:
        opponents: Names of those modules that train against the denoiser, each with an optimiser of its own.
        needs_average: Whether `Step.average` is looked at.
        calibrates: Whether `calibrate` does something.
        perceptual_title: What a perceptual loss compares images by, as result cards tell it; None where there is none.
        teacher: Path of the run that the denoiser learns from; None where there is none. The trainer reads it before
            `setup`, and hands it to `learn_from`. Checkpoints hold the hash of its file, and not its weights.
        source: That teacher, or another that was given in Python: frozen, in evaluation mode.
    """

    opponents: tuple[str, ...] = ()
    needs_average: bool = False
    calibrates: bool = False
    perceptual_title: str | None = None
    teacher: str | None = None
    source: Denoiser | None = None

    def learn_from(self, teacher: Denoiser) -> Self:
        """Take a denoiser as the teacher; it is frozen.

        Args:
            teacher: Of the process of the denoiser that is trained, and of the size of its images.
        """
        self.source = teacher.requires_grad_(False).eval()
        return self

    def check(self, denoiser: NetworkDenoiser) -> None:
        """Refuse a denoiser that this objective cannot train."""
        return

    def setup(self, denoiser: NetworkDenoiser, data: Any, folder: Path) -> None:
        """Make ready what training needs besides the denoiser: a teacher, features, pairs. Most need nothing.

        Args:
            denoiser: The denoiser to be trained.
            data: The data module, read.
            folder: The run folder, to keep what takes long to make: a resumed run calls this again.

        Raises:
            UserError: Something is missing.
        """
        return

    def modules(self, denoiser: NetworkDenoiser) -> dict[str, nn.Module]:
        """Networks that are there for training alone, freshly built and kept by the objective; none for most."""
        return {}

    def to(self, device: torch.device | str) -> None:
        """Move the networks that are attributes."""
        for value in vars(self).values():
            if isinstance(value, nn.Module):
                value.to(device)

    def advance(self, number: int) -> None:
        """Become what the objective is after so many optimiser steps; most never change."""
        return

    def calibrate(self, denoiser: NetworkDenoiser, data: Any) -> None:
        """Measure what belongs to weights and is not trained, such as statistics; most need nothing.

        The trainer calls it before it writes a checkpoint, for the weights of the optimiser and for their average.

        Args:
            denoiser: Its buffers take what is measured.
            data: The data module.
        """
        return

    @abstractmethod
    def __call__(self, step: Step) -> Loss:
        """The loss of one batch."""

    def opposing_loss(self, name: str, step: Step) -> Tensor:
        """What the opponent `name` makes small on one batch, (); no gradient reaches the denoiser."""
        raise KeyError(name)

    def cost(self, denoiser: NetworkDenoiser, count: Count, effort: Effort | None = None) -> int:
        """Multiply-adds of a training step on one image, by observing one: on the meta device nothing is computed.

        All that the networks do counts, forward, backward and along tangents, of teachers, averages and opponents as
        well. The transforms of a process are no networks, and are left out, as they are from the price of an image.

        Args:
            denoiser: What is trained; it stays as it is.
            count: See `Count`, such as `denoisezoo.profiling.counting.count` with `.macs` of what it returns.
            effort: How much of it is trained; None is all.

        Raises:
            UncountableError: It depends on the data.
        """
        return observe(self._cases_on_meta, denoiser, count, effort, self.needs_average)

    def cases(self, step: Step) -> Iterator[Case]:
        """What a step on one image may come to: by default one case, its own call and those of its opponents.

        Tensors on the meta device have no values. An objective whose work depends on what it draws gives each case.

        Args:
            step: On the meta device.
        """
        yield Case(1.0, lambda: self(step).loss + sum(self.opposing_loss(name, step) for name in self.opponents))

    def _cases_on_meta(self, step: Step) -> Iterator[Case]:
        """Those of a copy whose networks have no weights."""
        shadow = copy.copy(self)
        assert isinstance(step.denoiser, NetworkDenoiser)
        with torch.device("meta"):
            shadow.modules(step.denoiser)
        for name, value in list(vars(shadow).items()):
            if isinstance(value, nn.Module):
                setattr(shadow, name, copied := copy.deepcopy(value).to("meta"))
                if isinstance(copied, Denoiser):
                    copied.process = step.denoiser.process  # without the work of its transforms
        return shadow.cases(step)


def network_alone(step: Step) -> Iterator[Case]:
    """One pass of the network at each stage of its process: what an objective costs that does no more."""
    denoiser, image, given = step.denoiser, step.batch["image"], step.given
    assert isinstance(denoiser, NetworkDenoiser)
    if isinstance(denoiser.process, Conditioned):  # it takes the condition itself
        given = given._replace(image=None)
    stages = stages_of(denoiser.process)
    for first, _ in stages:
        side = state_shape(denoiser.process, image.shape, first)[-1]
        x = image.new_zeros(1, denoiser.backbone.spec.in_channels, side, side)

        def output(x: Tensor = x) -> Tensor:
            return denoiser.backbone(x, x.new_zeros(1), given, step.effort).sum()

        yield Case(1 / len(stages), output)


def observe(
    cases: Callable[[Step], Iterable[Case]],
    denoiser: NetworkDenoiser,
    count: Count,
    effort: Effort | None = None,
    needs_average: bool = False,
) -> int:
    """Multiply-adds of the cases of a step on one image, backward passes included, each by its share.

    Args:
        cases: Given a step on the meta device.
        denoiser: Copied without weights.
        count: See `Count`.
        effort: How much of it is trained; None is all.
        needs_average: Whether the step shall have an averaged denoiser.

    Raises:
        UncountableError: They depend on the data.
    """
    shadow = copy.deepcopy(denoiser).to("meta").train()
    shadow.process = _untransformed(shadow.process)
    told = shadow.blank(1, "meta")
    batch = {"image": torch.zeros(1, *denoiser.image_shape, device="meta")}
    batch |= {} if told.image is None else {"cond": told.image}
    batch |= {} if told.tokens is None else {"tokens": told.tokens}
    batch = dict(shadow.codec.to_batch(batch))
    average = copy.deepcopy(shadow).requires_grad_(False).eval() if needs_average else None
    step = Step(shadow, batch, effort=effort, average=average)
    try:
        with torch.random.fork_rng(devices=[]):
            return round(sum(case.share * count(partial(_backward, case)) for case in cases(step)))
    except (NotImplementedError, RuntimeError) as error:
        if "meta tensor" not in str(error):
            raise
        raise UncountableError(
            "the cost of a step depends on what it draws", "give its cases, see Objective"
        ) from error


def _backward(case: Case) -> None:
    case.losses().backward()


def _untransformed(process: Process) -> Process:
    """A process whose state is the image: orthonormal transforms keep shapes, and are no work of a network."""
    process, basis = copy.copy(process), copy.copy(process.basis)
    for name in ("to_pixels", "from_pixels"):
        setattr(basis, name, lambda u: u)
    process.basis = basis
    return process
