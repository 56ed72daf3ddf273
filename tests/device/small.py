"""The smallest denoiser of every process, with a batch to train it on: what placement is tried with."""

import copy
import functools
import inspect
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from denoisezoo.archs import Backbone, BackboneConfig, Effort
from denoisezoo.archs.discriminator import DiscriminatorConfig
from denoisezoo.archs.small_autoencoder import SmallAutoencoder
from denoisezoo.diffusion import (
    OBJECTIVES,
    PRECONDITIONINGS,
    PROCESSES,
    NetworkDenoiser,
    Noiseless,
    Objective,
    Process,
    Unscaled,
)
from denoisezoo.diffusion.capabilities import ConditionInState, ConditionIsMeasurement, Halving, given_channels
from denoisezoo.nn.given import NOTHING, Given

SIDE = 8
JUDGE = DiscriminatorConfig(channels=8, widths=(8,), dropout=0.0)


CLASSES = 1
AUTOENCODER = "autoencoder"
"""In the place of a process: the network that is no denoiser, whose process has no name."""


class SmallNet(Backbone):
    """One convolution that is told the noise level, a class and a second time; it answers at `scale` times the size."""

    def __init__(self, in_channels: int, out_channels: int, scale: int = 1) -> None:
        sizes = {"in_channels": in_channels, "out_channels": out_channels, "resolution": SIDE}
        super().__init__(BackboneConfig(**sizes, num_classes=CLASSES, second_time=True))
        self.spec = replace(self.spec, scale=scale)
        self.conv = torch.nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.label = torch.nn.Embedding(CLASSES + 1, out_channels)

    def forward(self, x: Tensor, c_noise: Tensor, given: Given = NOTHING, effort: Effort | None = None) -> Tensor:
        """See `Backbone.forward`."""
        h = self.conv(x) + 0.01 * c_noise[:, None, None, None]
        if given.label is not None:
            h = h + self.label(given.label + 1)[:, :, None, None]
        if given.until is not None:  # not linear in the two times together
            h = h * (1 + 0.01 * given.until[:, None, None, None].to(h.dtype)).cos()
        return F.interpolate(h, scale_factor=self.spec.scale) if self.spec.scale > 1 else h


@functools.cache
def small_process(name: str, channels: int = 1) -> Process:
    """A process by name with its defaults for 8 x 8 pixels; some take long to build."""
    made: Any = PROCESSES[name]
    if issubclass(made, ConditionInState):
        return made(channels=channels, cond_channels=channels)
    if issubclass(made, ConditionIsMeasurement):
        return made(channels=channels)
    return made.for_images(SIDE)


def small_denoiser(process: str | Process, preconditioning: str | None = None, channels: int = 1) -> NetworkDenoiser:
    """A denoiser of a process, with the customary preconditioning unless another is named.

    Raises:
        UserError: They do not fit.
    """
    if process == AUTOENCODER:
        torch.manual_seed(0)
        sizes = {"resolution": SIDE, "in_channels": channels, "latent_channels": 2, "channels": 4}
        return NetworkDenoiser(SmallAutoencoder(**sizes), Noiseless(), Unscaled())
    if isinstance(process, str):
        process = small_process(process, channels)
    chosen = PRECONDITIONINGS[preconditioning or process.default_preconditioning]()
    states = process.basis.state_channels(channels)
    outputs = channels if chosen.of_image or isinstance(process, ConditionInState) else states
    torch.manual_seed(0)
    net = SmallNet(states, outputs, 2 if isinstance(process, Halving) else 1)
    return NetworkDenoiser(net, process, chosen)


def small_objective(name: str, denoiser: NetworkDenoiser) -> Objective:
    """An objective by its name, ready to train a denoiser; where it needs a teacher, from a copy of that.

    Raises:
        UserError: It cannot.
    """
    known = inspect.signature(OBJECTIVES[name]).parameters
    options: dict[str, Any] = {"discriminator": JUDGE} if "discriminator" in known else {}
    options |= {"pairs": 8, "steps": 2} if name == "reflow" else {}
    options |= {"adversarial": 1.0} if name == "autoencoding" else {}
    if name == "udpm":
        weights = [1.0] * getattr(denoiser.process, "levels", 3)
        options |= {"l1": weights, "perceptual": [0.0] * len(weights), "adversarial": weights, "r1": weights}
    needed = [x.name for x in known.values() if x.default is x.empty and x.kind is x.POSITIONAL_OR_KEYWORD]
    options |= dict.fromkeys(needed, 10)  # steps
    objective = OBJECTIVES[name](**options)
    objective.check(denoiser)
    if getattr(objective, "teaches", False):
        objective.learn_from(small_copy(denoiser))
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        objective.setup(denoiser, None, Path(folder))
    objective.modules(denoiser)
    return objective


def small_copy(denoiser: NetworkDenoiser) -> NetworkDenoiser:
    """A teacher, or an average: other weights for the same process."""
    return copy.deepcopy(denoiser, {id(denoiser.process): denoiser.process}).requires_grad_(False).eval()


def small_batch(denoiser: NetworkDenoiser, size: int = 6, device: str = "cpu") -> dict[str, Tensor]:
    """Images with labels, and conditions where the process takes them into its state."""
    generator = torch.Generator().manual_seed(1)
    channels = denoiser.latent_shape[0]
    batch = {"image": torch.rand(size, channels, SIDE, SIDE, generator=generator) * 2 - 1}
    batch["label"] = torch.arange(size) % (CLASSES + 1) - 1
    if isinstance(denoiser.process, ConditionInState):
        batch["cond"] = torch.rand(size, given_channels(denoiser.process), SIDE, SIDE, generator=generator)
    return {key: value.to(device) for key, value in batch.items()}


def small_condition(denoiser: NetworkDenoiser, size: int = 2) -> Tensor | None:
    """What images are sampled given, where the process takes a condition itself."""
    if isinstance(denoiser.process, ConditionIsMeasurement):
        y = small_batch(denoiser, size)["image"]
        return torch.cat([y, torch.full_like(y[:, :1], -1.0)], 1)
    return small_batch(denoiser, size).get("cond")
