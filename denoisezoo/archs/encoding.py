"""What networks can that are autoencoders: a capability beside `Backbone`, which codecs ask for."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor


class Encoding(ABC):
    """A backbone that goes by way of latents: its `forward` is `decode` of the mean of `encode`.

    Attributes:
        latent_channels: Channels C' of latents.
        factor: How many times smaller latents are than images, f, in height and width.
        latent_mean: Mean (C', 1, 1) of each channel of latents, a buffer; 0 until it is measured.
        latent_std: Its standard deviation, likewise; 1 until it is measured.
    """

    latent_channels: int
    factor: int
    latent_mean: Tensor
    latent_std: Tensor

    @abstractmethod
    def encode(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        """Mean and log-variance of the latents of images (B, C, H, W) in [-1, 1], each (B, C', H / f, W / f).

        The log-variance is None where latents are the mean, as those of a quantiser. They are as the network made them,
        before anything is done by `latent_mean` and `latent_std`.
        """

    @abstractmethod
    def decode(self, z: Tensor) -> Tensor:
        """Images (B, C, H, W), not clipped, of latents (B, C', H / f, W / f)."""

    @abstractmethod
    def share_encoder(self, other: Encoding) -> None:
        """Take over the encoder of another one, with the statistics of its latents, and freeze it.

        Raises:
            UserError: Its encoder has other sizes.
        """
