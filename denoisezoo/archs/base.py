"""What every backbone is: a raw map (x, c_noise, ...) -> tensor that knows nothing of noise schedules."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn

from denoisezoo.errors import UserError

Effort = float
"""How much of a backbone to use. Its meaning is the family's: width, solver steps, exit depth."""

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
    """

    in_channels: int = 3
    out_channels: int = 3
    resolution: int = 32
    num_classes: int = 0
    cond_channels: int = 0
    augment_dim: int = 0
    scale: int = 1

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
    """Base of each family's configuration: the image part. Families add their sizes; every field has a default."""

    in_channels: int = 3
    out_channels: int = 3
    resolution: int = 32
    num_classes: int = 0
    cond_channels: int = 0
    augment_dim: int = 0

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


class Backbone(nn.Module):
    """A raw network F of the zoo.

    Attributes:
        spec: The tensors that it takes and returns.
        efforts: Efforts that `forward` accepts, in the order of their cost; the last is the full network.
    """

    spec: ImageSpec
    efforts: tuple[Effort, ...]

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

    @abstractmethod
    def forward(
        self,
        x: Tensor,
        c_noise: Tensor,
        *,
        label: Tensor | None = None,
        cond: Tensor | None = None,
        augment: Tensor | None = None,
        effort: Effort | None = None,
    ) -> Tensor:
        """Evaluate F.

        Args:
            x: Scaled noisy image (B, C, H, W), H and W of `spec.input_resolution`.
            c_noise: What the network is told about the noise level, (B,); its unit is the preconditioning's.
            label: Class labels (B,), int64; None or -1 means no label (a zero class embedding).
            cond: Conditioning image (B, Cc, H, W), if the spec has condition channels.
            augment: Augmentation labels (B, A); None means none was applied (zeros).
            effort: One of `efforts`; None means the full network.

        Returns:
            (B, out_channels, scale H, scale W).
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

    def forward(
        self,
        x: Tensor,
        c_noise: Tensor,
        *,
        label: Tensor | None = None,
        cond: Tensor | None = None,
        augment: Tensor | None = None,
        effort: Effort | None = None,
    ) -> Tensor:
        """See `Backbone.forward`."""
        self.check_effort(effort)
        y: Tensor = self.network(x, c_noise, label=label, cond=cond, augment=augment, effort=self.inner)
        return y
