"""Dense prediction: a map of the size of the image from the image, which is the condition here."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from denoisezoo.data.edges import canny
from denoisezoo.data.pairs import Pair
from denoisezoo.data.tasks import TASKS, Task
from denoisezoo.errors import UserError


class DenseMap(Task):
    """Base of the tasks that ask for a map, in one channel: y is the image, x what it shows at each pixel.

    Args:
        noise: Standard deviation of Gaussian noise that y has beside the image.
    """

    def __init__(self, noise: float = 0.0) -> None:
        if not 0 <= noise < math.inf:
            raise UserError(f"noise is {noise}", "give a number of at least 0")
        self.noise, self.random = noise, noise > 0

    name: ClassVar[str]

    @property
    def title(self) -> str:
        """See `Task`."""
        return " ".join([self.name, *self.options()]) + (f" of noise {self.noise:g}" if self.noise else "")

    def options(self) -> list[str]:
        """What the title says besides the name."""
        return []

    def target_channels(self, channels: int) -> int:
        """1."""
        return 1

    @abstractmethod
    def target(self, image: Tensor) -> Tensor:
        """The map (B, 1, H, W) in [-1, 1] of images (B, C, H, W)."""

    def __call__(self, image: Tensor, generator: torch.Generator | None = None) -> Pair:
        """See `Task`."""
        y = image + self.noise * torch.randn(image.shape, generator=generator) if self.noise else image
        return Pair(self.target(image), y)


@TASKS.register("edge_map")
class EdgeMap(DenseMap):
    """The edges of an image (Canny), 1 where there is one and -1 elsewhere: the reverse of `Edges`.

    Args:
        low: See `Edges`.
        high: See `Edges`.
        noise: See `DenseMap`.
    """

    name = "edge_map"
    binary = True

    def __init__(self, low: float = 0.1, high: float = 0.2, noise: float = 0.0) -> None:
        super().__init__(noise)
        if not 0 < low <= high < 1:
            raise UserError(f"low {low} and high {high} are out of order", "give 0 < low <= high < 1")
        self.low, self.high = low, high

    def options(self) -> list[str]:
        """See `DenseMap`."""
        return [f"{self.low:g}", f"{self.high:g}"]

    def target(self, image: Tensor) -> Tensor:
        """See `DenseMap`."""
        return 2 * canny(image, self.low, self.high).float() - 1


@TASKS.register("stroke_mask")
class StrokeMask(DenseMap):
    """Segmentation by brightness: 1 where the image, without noise, is brighter than a level, and -1 elsewhere.

    Args:
        level: Brightness, the mean over channels, in [-1, 1].
        noise: See `DenseMap`; without it every pixel tells its own class.
    """

    name = "stroke_mask"
    binary = True

    def __init__(self, level: float = 0.0, noise: float = 0.5) -> None:
        super().__init__(noise)
        if not -1 < level < 1:
            raise UserError(f"level is {level}", "give a number above -1 and below 1")
        self.level = level

    def options(self) -> list[str]:
        """See `DenseMap`."""
        return [f"{self.level:g}"]

    def target(self, image: Tensor) -> Tensor:
        """See `DenseMap`."""
        return 2 * (image.mean(1, keepdim=True) > self.level).float() - 1


@TASKS.register("blurred_map")
class BlurredMap(DenseMap):
    """Brightness seen through a Gaussian, as smooth as a map of depth.

    Args:
        sigma: Its standard deviation in pixels.
        noise: See `DenseMap`.
    """

    name = "blurred_map"

    def __init__(self, sigma: float = 1.5, noise: float = 0.0) -> None:
        super().__init__(noise)
        if not 0 < sigma < math.inf:
            raise UserError(f"sigma is {sigma}", "give a positive number")
        self.sigma = sigma

    def check(self, channels: int, resolution: int) -> None:
        """The Gaussian, cut at 3 sigma, must fit into the image."""
        if math.ceil(3 * self.sigma) >= resolution:
            raise UserError(f"sigma is {self.sigma:g}, for {resolution} pixels", f"give less than {resolution / 3:g}")

    def options(self) -> list[str]:
        """See `DenseMap`."""
        return [f"{self.sigma:g}"]

    def target(self, image: Tensor) -> Tensor:
        """See `DenseMap`."""
        reach = math.ceil(3 * self.sigma)
        place = torch.arange(-reach, reach + 1, dtype=image.dtype)
        line = torch.exp(-(place**2) / (2 * self.sigma**2))
        line = line / line.sum()
        padded = F.pad(image.mean(1, keepdim=True), (reach,) * 4, mode="reflect")
        return F.conv2d(F.conv2d(padded, line[None, None, None]), line[None, None, :, None]).clamp(-1, 1)
