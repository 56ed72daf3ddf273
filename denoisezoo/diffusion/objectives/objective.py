"""What every objective is: one contract for regression, adversaries, and whatever else a step may train with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from denoisezoo.archs import Effort
from denoisezoo.diffusion.denoiser import Denoiser, NetworkDenoiser
from denoisezoo.nn.given import Given
from denoisezoo.registry import Registry

OBJECTIVES: Registry[type[Objective]] = Registry("objective")

PerceptualFeatures = Callable[[Tensor], Sequence[Tensor]]
"""Images (B, C, H, W) in [-1, 1] to feature maps (B, C_k, H_k, W_k)."""


@dataclass(frozen=True)
class Step:
    """One batch of a training step, as an objective sees it.

    Attributes:
        denoiser: The denoiser in training.
        batch: "image" (B, C, H, W) in [-1, 1] and, where the network takes them, "label", "cond", "tokens", "augment".
        generator: Source of times and noise, on the device of the images.
        effort: How much of the network to train; None is all of it.
        full_error: `Loss.error` of the full network on the same batch, times and noise, detached, where its prediction
            is to take the place of the target (in-place distillation).
        number: Optimiser steps so far.
    """

    denoiser: Denoiser
    batch: Mapping[str, Tensor]
    generator: torch.Generator | None = None
    effort: Effort | None = None
    full_error: Tensor | None = None
    number: int = 0

    @property
    def given(self) -> Given:
        """What the batch tells the network besides image and noise level."""
        return Given.of(self.batch)


class Loss(NamedTuple):
    """What an objective returns.

    Attributes:
        loss: The mean to be made small, ().
        per_sample: Unweighted mean squared error of each image's noise level, (B,), for the loss by noise level.
        t: The times that were drawn, (B,), float64.
        error: The network's own output minus its target, (B, C, H, W), of those parts of the state that it puts out.
    """

    loss: Tensor
    per_sample: Tensor
    t: Tensor
    error: Tensor


class Rehearsal(NamedTuple):
    """The losses of a stage, and the share of steps that train it."""

    share: float
    losses: Callable[[], Tensor]


class Objective(ABC):
    """What training makes small. The trainer serves any of them so:

    - `check` when training is set up;
    - `features` is set before training, where `perceives`: a frozen network that sees images;
    - `modules` are built, moved, saved and restored beside the denoiser; those with weights to be trained that are no
      opponents are trained with it, by its optimiser, and may have an `after_step()` as networks of the zoo have;
    - in every step `advance`; each of the `opponents` among the modules goes backward from its `opposing_loss`, the
      objective itself goes backward into the denoiser, the modules frozen, and then all optimisers step, or none.

    Attributes:
        opponents: Names of those modules that train against the denoiser, each with an optimiser of its own.
        features: What a perceptual loss compares images by.
        vgg: File of VGG-16 weights for `features`; None for a classifier that is trained on the data.
    """

    opponents: tuple[str, ...] = ()
    features: PerceptualFeatures | None = None
    vgg: str | None = None

    @property
    def perceives(self) -> bool:
        """Whether `features` are needed."""
        return False

    def check(self, denoiser: NetworkDenoiser) -> None:
        """Refuse a denoiser that this objective cannot train."""
        return

    def modules(self, denoiser: NetworkDenoiser) -> dict[str, nn.Module]:
        """Networks that are there for training alone, freshly built and kept by the objective; none for most."""
        return {}

    def advance(self, number: int) -> None:
        """Become what the objective is after so many optimiser steps; most never change."""
        return

    @abstractmethod
    def __call__(self, step: Step) -> Loss:
        """The loss of one batch."""

    def opposing_loss(self, name: str, step: Step) -> Tensor:
        """What the opponent `name` makes small on one batch, (); no gradient reaches the denoiser."""
        raise KeyError(name)

    def rehearse(
        self, denoiser: NetworkDenoiser, batch: Mapping[str, Tensor], effort: Effort | None = None
    ) -> Iterator[Rehearsal]:
        """What a step computes on one image, once for each stage of the process: on the meta device, to be counted.

        By default one pass of the network; an objective that calls it more often, or calls other networks, says so.

        Args:
            denoiser: On the meta device.
            batch: Of one image, likewise.
            effort: How much of the network is trained; None is all.
        """
        return one_pass(denoiser, batch, effort)


def one_pass(
    denoiser: NetworkDenoiser, batch: Mapping[str, Tensor], effort: Effort | None = None
) -> Iterator[Rehearsal]:
    """One pass of the network on one image at each stage of its process; see `Objective.rehearse`."""
    stages = denoiser.process.stages
    for first, _ in stages:
        side = denoiser.process.state_shape(batch["image"].shape, first)[-1]
        x = batch["image"].new_zeros(1, denoiser.backbone.spec.in_channels, side, side)

        def output(x: Tensor = x) -> Tensor:
            return denoiser.backbone(x, x.new_zeros(1), Given.of(batch), effort).sum()

        yield Rehearsal(1 / len(stages), output)
