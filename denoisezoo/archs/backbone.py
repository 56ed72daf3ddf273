"""What every backbone is: a raw map (x, c_noise, ...) -> tensor that knows nothing of noise schedules."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from denoisezoo.errors import UserError
from denoisezoo.nn.given import NOTHING, Given
from denoisezoo.recorded import Recorded

Effort = float
"""How much of a backbone to use. Its meaning is the family's: width, solver steps, exit depth."""

_READS_WEIGHTS = ContextVar("reads_weights", default=True)


def reads_weights() -> bool:
    """Whether a network that is built reads the pretrained weights that its configuration names."""
    return _READS_WEIGHTS.get()


@contextmanager
def without_pretrained_weights() -> Iterator[None]:
    """Networks that are built meanwhile read none: all of their weights are about to be replaced by a checkpoint's."""
    token = _READS_WEIGHTS.set(False)
    try:
        yield
    finally:
        _READS_WEIGHTS.reset(token)


FORMAT = 2
"""What weights mean. Raised when the weights of some network begin to mean something else; see `changed_since`."""


@dataclass(frozen=True)
class ImageSpec:
    """The tensors that a backbone takes and returns.

    Attributes:
        in_channels: Channels C of the noisy image x.
        out_channels: Channels of the output; more than C where the network also predicts a variance.
        resolution: Height and width in pixels that the network is built for: those of the image, and of its output.
        num_classes: Class labels; 0 for an unconditional network.
        cond_channels: Channels of the conditioning image; 0 for none.
        augment_dim: Length of the augmentation label; 0 for none.
        scale: How many times the output is larger than the noisy image, in height and width.
        token_dim: Length D of a context token; 0 for a network that takes none.
        tokens: Context tokens L that it is priced with; it takes any number.
        second_time: Whether it is told a second time, as flow maps are.
    """

    in_channels: int = 3
    out_channels: int = 3
    resolution: int = 32
    num_classes: int = 0
    cond_channels: int = 0
    augment_dim: int = 0
    scale: int = 1
    token_dim: int = 0
    tokens: int = 0
    second_time: bool = False

    @property
    def learned_variance(self) -> bool:
        """Whether it puts out a variance after its prediction, as many channels again (improved DDPM)."""
        return self.out_channels == 2 * self.in_channels

    @property
    def input_resolution(self) -> int:
        """Height and width of the largest noisy image."""
        return self.resolution // self.scale


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """Base of each family's configuration: the image part. Families add their sizes; every field has a default.

    Attributes:
        second_time: Whether the network is told a second time, as flow maps are: see `denoisezoo.nn.embeddings`. Fresh
            weights ignore it, so that a network trained without one goes on from its weights.
    """

    in_channels: int = 3
    out_channels: int = 3
    resolution: int = 32
    num_classes: int = 0
    cond_channels: int = 0
    augment_dim: int = 0
    second_time: bool = False

    @property
    def spec(self) -> ImageSpec:
        """The image part as an `ImageSpec`."""
        return ImageSpec(
            self.in_channels,
            self.out_channels,
            self.resolution,
            self.num_classes,
            self.cond_channels,
            self.augment_dim,
            second_time=self.second_time,
        )

    @property
    def efforts(self) -> tuple[Effort, ...]:
        """Efforts in the order of their cost; the last is the full network. Networks without a choice have one, 1.0."""
        return (1.0,)

    def changed_since(self, format: int) -> str | None:
        """What this network does otherwise with weights of an earlier `FORMAT`; None if nothing. Families extend it."""
        return None

    def validate(self) -> None:
        """Refuse an impossible configuration with a `UserError`; families extend it."""
        for name in ("in_channels", "out_channels", "resolution"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}", "give a whole number of at least 1")
        for name in ("num_classes", "cond_channels", "augment_dim"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} is {getattr(self, name)}", "give 0 for none, or a positive whole number")

    def require_halvings(self, halvings: int) -> None:
        """Refuse a resolution that cannot be halved `halvings` times."""
        factor = 2**halvings
        if self.resolution % factor:
            good = max(factor, round(self.resolution / factor) * factor)
            raise UserError(
                f"resolution {self.resolution} cannot be halved {halvings} times",
                f"use a multiple of {factor}, such as {good}",
            )


class Backbone(Recorded, nn.Module):
    """A raw network F of the zoo.

    Attributes:
        spec: The tensors that it takes and returns.
        efforts: Efforts that `forward` accepts, in the order of their cost; the last is the full network.
    """

    spec: ImageSpec
    efforts: tuple[Effort, ...]
    factor: int = 1
    """What height and width of x must be divisible by."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        config.validate()
        self.config = config
        self.spec = config.spec
        self.efforts = config.efforts

    @property
    def resolutions(self) -> tuple[int, ...]:
        """Sizes of the images that it has networks for, largest first; more than one where stages differ in size."""
        return (self.spec.resolution,)

    def __call__(self, x: Tensor, c_noise: Tensor, given: Given = NOTHING, effort: Effort | None = None) -> Tensor:
        """`forward`, after `check_inputs`: a look from outside, which is no part of what is compiled."""
        self.check_inputs(x, given)
        y: Tensor = super().__call__(x, c_noise, given, effort)
        return y

    def check_inputs(self, x: Tensor, given: Given) -> None:
        """Refuse what the network cannot take, with one line instead of a shape error deep inside.

        Raises:
            UserError: Wrong channels or size, something that the network is never told, or something that it needs.
        """
        spec = self.spec
        if x.shape[1] != spec.in_channels:
            raise UserError(f"input has {x.shape[1]} channels", f"this network takes {spec.in_channels}")
        if x.shape[2] % self.factor or x.shape[3] % self.factor:
            raise UserError(f"input size {_size(x)} is not divisible by {self.factor}", "pad or crop the images")
        _check_length("the conditioning image", given.image, spec.cond_channels, "channels")
        if given.image is not None and given.image.shape[-2:] != x.shape[-2:]:
            raise UserError(
                f"the conditioning image is {_size(given.image)} and the input {_size(x)}",
                "give a condition of the image's size",
            )
        if given.augment is not None:
            _check_length("augment", given.augment, spec.augment_dim, "channels")
        if given.tokens is not None:
            _check_length("a token", given.tokens.mT, spec.token_dim, "numbers")
        if given.until is not None and not spec.second_time:
            raise UserError(
                "a second time was given to a network that is never told one", "set network.second_time to true"
            )
        if given.label is not None:
            check_label(given.label, spec.num_classes)

    @abstractmethod
    def forward(self, x: Tensor, c_noise: Tensor, given: Given = NOTHING, effort: Effort | None = None) -> Tensor:
        """Evaluate F.

        Args:
            x: Scaled noisy image (B, C, H, W), H and W of `spec.input_resolution`.
            c_noise: What the network is told about the noise level, (B,); its unit is the preconditioning's.
            given: What else it is told. A label of None or -1 is none (a zero class embedding, or one of its own), and
                augmentation labels of None mean that none was applied (zeros).
            effort: One of `efforts`; None means the full network.

        Returns:
            (B, out_channels, scale H, scale W).
        """

    def after_step(self) -> None:
        """Bring the weights back to where the family keeps them: called after each optimiser step that changed them.

        Most families let them go where the optimiser takes them. Weights may be shares of those of several processes,
        divided along their first dimension.
        """

    def num_params(self, effort: Effort | None = None) -> int:
        """How many parameters a call at an effort uses; for None, how many there are."""
        return sum(p.numel() for p in self.parameters())

    def extract(self, effort: Effort) -> Backbone:
        """A network that is this one at one effort, made for speed: what a plan calls at its noise levels.

        It shares this one's weights, unless the family can do better.

        Raises:
            UserError: The network does not have that effort.
        """
        return Extracted(self, self.spec, self.check_effort(effort), effort)

    def check_effort(self, effort: Effort | None) -> Effort:
        """`effort`, or the full one for None.

        Raises:
            UserError: The network does not have that effort.
        """
        if effort is None:
            return self.efforts[-1]
        if effort not in self.efforts:
            raise UserError(f"effort {effort} is not offered by this network", f"use one of {self.efforts}")
        return effort


class Extracted(Backbone):
    """A network at a single effort, by which it goes on being called.

    Args:
        network: Called with the effort `inner`.
        spec: What it takes and returns.
        effort: What it is called by.
        inner: The network's own name for it.
    """

    def __init__(self, network: nn.Module, spec: ImageSpec, effort: Effort, inner: Effort) -> None:
        nn.Module.__init__(self)
        self.network, self.spec, self.efforts, self.inner = network, spec, (effort,), inner

    def check_inputs(self, x: Tensor, given: Given) -> None:
        """The network within looks itself."""

    def forward(self, x: Tensor, c_noise: Tensor, given: Given = NOTHING, effort: Effort | None = None) -> Tensor:
        """See `Backbone.forward`."""
        self.check_effort(effort)
        y: Tensor = self.network(x, c_noise, given, self.inner)
        return y


def _size(image: Tensor) -> str:
    return f"{image.shape[-2]}x{image.shape[-1]}"


def _check_length(what: str, tensor: Tensor | None, expected: int, unit: str) -> None:
    length = 0 if tensor is None else tensor.shape[1]
    if length != expected:
        raise UserError(f"{what} has {length} {unit}", f"this network takes {expected}")


def check_label(label: Tensor, num_classes: int) -> None:
    """Refuse labels that the network has no class for. Their range is read on the CPU only: elsewhere it would stall.

    Raises:
        UserError: The network is unconditional, or a label is outside -1 ... num_classes - 1.
    """
    if num_classes == 0:
        raise UserError("a label was given to an unconditional network", "create it with num_classes=...")
    if label.device.type == "cpu" and not torch.compiler.is_compiling():
        low, high = int(label.min()), int(label.max())
        if low < -1 or high >= num_classes:
            raise UserError(f"labels range from {low} to {high}", f"give -1 (none) to {num_classes - 1}")
