"""Image-to-image tasks: what is left of an image as a condition, from which it is to be found again.

A task takes images (B, C, H, W) in [-1, 1] of any data set and gives a `Pair`: x, y of x's size, a mask or an operator,
and with them its measure of consistency. One with a `random` condition draws it from the generator that it is given.
"""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from denoisezoo.data.edges import canny
from denoisezoo.data.pairs import Pair, check_mask
from denoisezoo.errors import UserError, unknown
from denoisezoo.files import local_path
from denoisezoo.recorded import Recorded
from denoisezoo.registry import Registry


class Task(Recorded, ABC):
    """A way to lose a part of an image."""

    random: bool = False
    """Whether the condition depends on more than the image."""

    classified: ClassVar[bool] = False
    """Whether samples are also judged by what a classifier takes them for, where the data have classes."""

    binary: ClassVar[bool] = False
    """Whether x is 1 or -1 at every pixel, so that samples are also judged by intersection over union."""

    @property
    @abstractmethod
    def title(self) -> str:
        """What a result card calls it, with its options."""

    def check(self, channels: int, resolution: int) -> None:
        """Refuse images that the task cannot take.

        Raises:
            UserError: Naming why.
        """
        return

    def check_images(self, image: Tensor) -> None:
        """Refuse data that the options do not describe.

        Args:
            image: Some training images (N, C, H, W) in [-1, 1].

        Raises:
            UserError: Naming why.
        """
        return

    def cond_channels(self, channels: int) -> int:
        """Channels of y for images of some channels."""
        return channels

    def target_channels(self, channels: int) -> int:
        """Channels of x for images of some channels."""
        return channels

    def target(self, image: Tensor) -> Tensor:
        """What is to be found, x; the image itself for most."""
        return image

    @abstractmethod
    def __call__(self, image: Tensor, generator: torch.Generator | None = None) -> Pair:
        """Images (B, C, H, W) in [-1, 1] and their conditions, on the CPU.

        Args:
            image: The images.
            generator: Source of what is random; torch's own where None.
        """


TASKS: Registry[type[Task]] = Registry("task")


def shrink(image: Tensor, factor: int) -> Tensor:
    """Bicubic, with the filter widened by the factor; (B, C, H/factor, W/factor)."""
    return F.interpolate(image, scale_factor=1 / factor, mode="bicubic", antialias=True).clamp(-1, 1)


@TASKS.register("super_resolution")
class SuperResolution(Task):
    """The image from a smaller one: bicubic down, and by repetition back to its size (arXiv 2111.13606).

    Args:
        factor: How much smaller.
    """

    def __init__(self, factor: int = 4) -> None:
        if factor < 2:
            raise UserError(f"factor is {factor}", "give a whole number of at least 2")
        self.factor = factor

    @property
    def title(self) -> str:
        """See `Task`."""
        return f"super_resolution {self.factor}x"

    def check(self, channels: int, resolution: int) -> None:
        """The factor must divide the resolution."""
        if resolution % self.factor:
            raise UserError(f"factor {self.factor} does not divide {resolution} pixels", "give a divisor of it")

    def __call__(self, image: Tensor, generator: torch.Generator | None = None) -> Pair:
        """See `Task`."""
        y = shrink(image, self.factor).repeat_interleave(self.factor, -1).repeat_interleave(self.factor, -2)
        return Pair(image, y, operator=lambda x: shrink(x, self.factor))


@TASKS.register("inpainting")
class Inpainting(Task):
    """The image from a part of it; what is missing is black in y.

    Args:
        kind: "square": one square of the area `missing`, anywhere; "pixels": each pixel by itself; "file": `mask`.
        missing: Share of the pixels that are missing.
        mask: An image file of the data's size, white where pixels are known and black elsewhere.
        show_mask: Give the mask (1 known, -1 missing) as one more channel of y.
    """

    random = True

    def __init__(
        self,
        kind: Literal["square", "pixels", "file"] = "square",
        missing: float = 0.25,
        mask: str | None = None,
        show_mask: bool = False,
    ) -> None:
        if not 0 < missing < 1:
            raise UserError(f"missing is {missing}", "give a share above 0 and below 1")
        if (kind == "file") != (mask is not None):
            raise UserError(f"kind {kind} with mask {mask}", "give a mask with kind file, and none otherwise")
        self.kind, self.missing, self.path, self.show_mask = kind, missing, mask, show_mask
        self.known = None if mask is None else read_mask(mask)

    @property
    def title(self) -> str:
        """See `Task`."""
        what = f"{self.missing:g}" if self.known is None else f"{Path(str(self.path)).name} {pixels_hash(self.known)}"
        return f"inpainting {self.kind} {what}" + (" with mask" if self.show_mask else "")

    def check(self, channels: int, resolution: int) -> None:
        """A mask of a file must have the image's size."""
        if self.known is not None and self.known.shape != (resolution, resolution):
            size = "x".join(map(str, self.known.shape))
            raise UserError(f"mask {self.path} is {size}", f"give one of {resolution}x{resolution}")

    def cond_channels(self, channels: int) -> int:
        """One more with the mask."""
        return channels + self.show_mask

    def _mask(self, image: Tensor, generator: torch.Generator | None) -> Tensor:
        B, _, H, W = image.shape
        if self.known is not None:
            return self.known.expand(B, 1, H, W)
        if self.kind == "pixels":
            return (torch.rand(B, 1, H, W, generator=generator) >= self.missing).float()
        side = max(1, round(self.missing**0.5 * H))
        corner = torch.rand(2, B, generator=generator)
        top, left = ((corner * (H - side + 1)).floor().long())[:, :, None, None]
        rows, columns = torch.arange(H)[:, None], torch.arange(W)[None]
        inside = (rows >= top) & (rows < top + side) & (columns >= left) & (columns < left + side)
        return (~inside).float()[:, None]

    def __call__(self, image: Tensor, generator: torch.Generator | None = None) -> Pair:
        """See `Task`."""
        mask = self._mask(image, generator)
        y = torch.where(mask > 0, image, -1.0)
        return Pair(image, torch.cat([y, 2 * mask - 1], 1) if self.show_mask else y, mask=mask)


def pixels_hash(mask: Tensor) -> str:
    """Eight digits that tell a mask (H, W) of 0 and 1 from others of the same file name."""
    size = "x".join(map(str, mask.shape))
    return hashlib.sha256(size.encode() + mask.to(torch.uint8).numpy().tobytes()).hexdigest()[:8]


def read_mask(path: str | os.PathLike[str]) -> Tensor:
    """A mask (H, W) of 0 and 1 from an image file of black and white.

    Raises:
        UserError: It cannot be read, or holds other greys.
    """
    from PIL import Image

    try:
        with Image.open(local_path(path)) as file:
            mask = torch.from_numpy(np.array(file.convert("L"))).float() / 255
    except OSError as error:
        raise UserError(f"mask {path} cannot be read", "give an image file of black and white") from error
    check_mask(mask)
    return mask


@TASKS.register("edges")
class Edges(Task):
    """The image from its edges, -1 and 1 in one channel (Canny).

    Args:
        low: Gradient, of the largest possible, above which an edge may go on.
        high: Gradient at which one may begin.
    """

    def __init__(self, low: float = 0.1, high: float = 0.2) -> None:
        if not 0 < low <= high < 1:
            raise UserError(f"low {low} and high {high} are out of order", "give 0 < low <= high < 1")
        self.low, self.high = low, high

    @property
    def title(self) -> str:
        """See `Task`."""
        return f"edges {self.low:g} {self.high:g}"

    def cond_channels(self, channels: int) -> int:
        """1."""
        return 1

    def edges(self, image: Tensor) -> Tensor:
        """-1 and 1, (B, 1, H, W)."""
        return 2 * canny(image, self.low, self.high).float() - 1

    def __call__(self, image: Tensor, generator: torch.Generator | None = None) -> Pair:
        """See `Task`."""
        return Pair(image, self.edges(image), operator=self.edges)


@TASKS.register("denoising")
class Denoising(Task):
    """The image from one with Gaussian noise. A fresh noise tells nothing of an image: consistency is the PSNR.

    Args:
        sigma: Standard deviation of the noise, for images in [-1, 1].
    """

    random = True

    def __init__(self, sigma: float = 0.5) -> None:
        if sigma <= 0:
            raise UserError(f"sigma is {sigma}", "give a positive number")
        self.sigma = sigma

    @property
    def title(self) -> str:
        """See `Task`."""
        return f"denoising {self.sigma:g}"

    def __call__(self, image: Tensor, generator: torch.Generator | None = None) -> Pair:
        """See `Task`."""
        return Pair(image, image + self.sigma * torch.randn(image.shape, generator=generator))


def relief(image: Tensor) -> Tensor:
    """Lit from the top left: half the difference of neighbours along the diagonal."""
    padded = F.pad(image, (1, 1, 1, 1), mode="replicate")
    return (padded[..., 2:, 2:] - padded[..., :-2, :-2]) / 2


def posterise(image: Tensor) -> Tensor:
    """Three levels: -1, 0, 1."""
    return image.round()


RENDERINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "plain": lambda image: image,
    "negative": lambda image: -image,
    "relief": relief,
    "posterised": posterise,
}
"""Ways to show one scene, aligned pixel by pixel."""
_INVERSE = {"plain": RENDERINGS["plain"], "negative": RENDERINGS["negative"]}


@TASKS.register("translation")
class Translation(Task):
    """One rendering of a scene from another: plain, negative, relief, posterised.

    Consistency renders the sample as y; where that is impossible, because x does not determine the scene, it is PSNR.

    Args:
        source: What y shows.
        into: What x shows.
    """

    def __init__(self, source: str = "relief", into: str = "plain") -> None:
        for name in (source, into):
            if name not in RENDERINGS:
                raise unknown("rendering", name, RENDERINGS)
        if source == into:
            raise UserError(f"source and into are both {source}", "give two renderings")
        self.source, self.into = source, into

    @property
    def title(self) -> str:
        """See `Task`."""
        return f"translation {self.source} to {self.into}"

    def target(self, image: Tensor) -> Tensor:
        """The rendering `into`."""
        return RENDERINGS[self.into](image)

    def __call__(self, image: Tensor, generator: torch.Generator | None = None) -> Pair:
        """See `Task`."""
        render, back = RENDERINGS[self.source], _INVERSE.get(self.into)
        operator = None if back is None else lambda x: render(back(x))
        return Pair(self.target(image), render(image), operator=operator)
