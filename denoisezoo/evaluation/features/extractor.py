"""What images are compared by: the interface of feature extractors, and their registry."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from denoisezoo.errors import UserError
from denoisezoo.pixels import check_images, to_uint8
from denoisezoo.registry import Registry


class Features(ABC):
    """A map from images to vectors.

    Attributes:
        name: Registry name, with the options that change what is computed: `efflite0:size=64`.
        options: Option -> type, of those that may be written behind the name.
        leading: The option that may be written first without its own name; "" for none.
        distance_name: What the Frechet distance in these features is called: `fid` for Inception-v3 alone.
        weights_sha256: Hash of the file of weights, None where there are no weights.
        device: Where `extract` computes and leaves the features.
    """

    name: str
    options: ClassVar[Mapping[str, Any]] = {}
    leading: ClassVar[str] = ""
    weights_sha256: str | None = None
    device: torch.device = torch.device("cpu")

    @property
    def distance_name(self) -> str:
        """See the class."""
        return "fd_" + re.sub(r"\W+", "_", self.name.replace("size=", ""))

    def to(self, device: str | torch.device) -> Features:
        """Compute on `device` from now on; returns itself."""
        self.device = torch.device(device)
        return self

    def check(self, shape: tuple[int, ...]) -> None:  # noqa: B027 (most serve all)
        """Refuse images of a shape (C, H, W) that these features do not serve."""

    @abstractmethod
    def __call__(self, pixels: Tensor) -> Tensor:
        """Features (B, D) of images, uint8 (B, C, H, W), which are on `device`."""

    def extract(self, images: Tensor, batch_size: int = 256) -> Tensor:
        """Features (N, D) of all images, batch by batch.

        Args:
            images: uint8, or float in [-1, 1], (N, C, H, W). Floats become pixels first, as a saved image would.
            batch_size: Images at a time.

        Raises:
            UserError: They are neither.
        """
        check_images(images)
        with torch.inference_mode():
            return torch.cat([self(to_uint8(part).to(self.device)) for part in images.split(batch_size)])


FEATURES: Registry[type[Features]] = Registry("feature extractor")
"""Registry name -> class; `create_features` builds one."""


class NetworkFeatures(Features):
    """What a network of images makes, after its input was brought to the network's size.

    Images are resized to `size` x `size` whole, with a bicubic filter that widens where it makes them smaller
    (antialias), from uint8 and without rounding to uint8 again; values beyond 0..255, which such a filter makes at
    edges, are clipped. Grey images are repeated in three channels.

    Attributes:
        network: (B, 3, size, size) -> (B, D), in evaluation mode.
        size: Height and width of its input.
        mean: What is subtracted from each channel, on 0..255.
        std: What the difference is then divided by.
    """

    def __init__(self, network: nn.Module, size: int, mean: Sequence[float], std: Sequence[float]) -> None:
        self.network = network.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        self.size = size
        self.mean, self.std = (torch.tensor(values, dtype=torch.float32)[:, None, None] for values in (mean, std))

    def to(self, device: str | torch.device) -> Features:
        """See `Features`."""
        self.network.to(device)
        self.mean, self.std = self.mean.to(device), self.std.to(device)
        return super().to(device)

    def check(self, shape: tuple[int, ...]) -> None:
        """See `Features`; grey or RGB."""
        check_channels(self.name, shape)

    def __call__(self, pixels: Tensor) -> Tensor:
        """See `Features`."""
        rgb, size = as_rgb(pixels).float(), (self.size, self.size)
        if rgb.shape[-2:] != size:
            rgb = interpolate(rgb, size=size, mode="bicubic", antialias=True).clamp_(0, 255)
        return self.network(((rgb - self.mean) / self.std).contiguous(memory_format=torch.channels_last))


def check_channels(name: str, shape: tuple[int, ...]) -> None:
    """Refuse images (C, H, W) that are neither grey nor RGB.

    Raises:
        UserError: See above.
    """
    if shape[0] not in (1, 3):
        raise UserError(
            f"{name} takes grey or RGB images, and these have {shape[0]} channels", "use pixels or pixels16"
        )


def as_rgb(pixels: Tensor) -> Tensor:
    """Three channels (B, 3, H, W) of grey or RGB images."""
    return pixels.expand(-1, 3, -1, -1) if pixels.shape[1] == 1 else pixels
