"""The smallest denoiser of every process, with a batch to train it on: what placement is tried with."""

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from denoisezoo.archs import Backbone, BackboneConfig, Effort
from denoisezoo.diffusion import OBJECTIVES, PRECONDITIONINGS, PROCESSES, NetworkDenoiser, Objective, Process
from denoisezoo.diffusion.capabilities import ConditionInState, Halving, given_channels
from denoisezoo.nn.given import NOTHING, Given

SIDE = 8


class SmallNet(Backbone):
    """One convolution that is told the noise level; it answers at `scale` times the size."""

    def __init__(self, in_channels: int, out_channels: int, scale: int = 1) -> None:
        super().__init__(BackboneConfig(in_channels=in_channels, out_channels=out_channels, resolution=SIDE))
        self.spec = replace(self.spec, scale=scale)
        self.conv = torch.nn.Conv2d(in_channels, out_channels, 3, padding=1)

    def forward(self, x: Tensor, c_noise: Tensor, given: Given = NOTHING, effort: Effort | None = None) -> Tensor:
        """See `Backbone.forward`."""
        h = self.conv(x) + 0.01 * c_noise[:, None, None, None]
        return F.interpolate(h, scale_factor=self.spec.scale) if self.spec.scale > 1 else h


def small_denoiser(process: str | Process, preconditioning: str | None = None, channels: int = 1) -> NetworkDenoiser:
    """A denoiser of a process, by name with its defaults for 8 x 8 pixels, and its preconditioning.

    Raises:
        UserError: They do not fit.
    """
    if isinstance(process, str):
        made = PROCESSES[process]
        process = made(channels=channels, cond_channels=channels) if issubclass(made, ConditionInState) else (
            made(channels=channels) if process == "measured" else made.for_images(SIDE)
        )  # fmt: skip
    chosen = PRECONDITIONINGS[preconditioning or process.default_preconditioning]()
    states = process.basis.state_channels(channels)
    outputs = channels if chosen.of_image or isinstance(process, ConditionInState) else states
    torch.manual_seed(0)
    net = SmallNet(states, outputs, 2 if isinstance(process, Halving) else 1)
    return NetworkDenoiser(net, process, chosen)


def small_objective(name: str, denoiser: NetworkDenoiser) -> Objective:
    """An objective by its name, ready to train a denoiser.

    Raises:
        UserError: It cannot.
    """
    options: dict[str, Any] = {}
    if name == "udpm":
        weights = [1.0] * getattr(denoiser.process, "levels", 3)
        zeros = [0.0] * len(weights)
        options = {"l1": weights, "perceptual": zeros, "adversarial": zeros, "r1": zeros}
    objective = OBJECTIVES[name](**options)
    objective.check(denoiser)
    if not objective.opponents:
        objective.modules(denoiser)
    return objective


def small_batch(denoiser: NetworkDenoiser, size: int = 6, device: str = "cpu") -> dict[str, Tensor]:
    """Images, and conditions where the process takes them into its state."""
    generator = torch.Generator().manual_seed(1)
    channels = denoiser.latent_shape[0]
    batch = {"image": torch.rand(size, channels, SIDE, SIDE, generator=generator) * 2 - 1}
    if isinstance(denoiser.process, ConditionInState):
        batch["cond"] = torch.rand(size, given_channels(denoiser.process), SIDE, SIDE, generator=generator)
    return {key: value.to(device) for key, value in batch.items()}
