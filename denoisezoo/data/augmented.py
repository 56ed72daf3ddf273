"""EDM's geometric augmentation: training images are flipped, scaled, turned, stretched and moved; the network is told.

"Elucidating the Design Space of Diffusion-Based Generative Models", Karras et al. 2022, arXiv 2206.00364, appendix F.2.
Because the label of what was done enters the network, and is zero in sampling, nothing of it shows in the samples.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from denoisezoo.data.image_data import DATASETS, ImageData
from denoisezoo.data.loader import Batch, TrainLoader, mixed_seed
from denoisezoo.data.wrapped import Wrapped
from denoisezoo.errors import UserError

LABELS = ("x-flip", "y-flip", "scale", "cos - 1", "sin", "stretch x", "stretch y", "move x", "move y")
"""What each of the nine numbers of an augmentation label tells, in EDM's order."""

SYM6 = (
    *(0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633),
    *(0.4910559419267466, 0.787641141030194, 0.3379294217276218, -0.07263752278646252),
    *(-0.021060292512300564, 0.04472490177066578, 0.0017677118642428036, -0.007800708325034148),
)
"""Low-pass filter of the wavelet sym6. Orthonormal: up and down again by it is the identity."""
SHIFT = 5  # padding that leaves 2n samples of n
DELAY = sum(i * h for i, h in enumerate(SYM6)) / 2**0.5 - SHIFT
"""Pixel i lies at sample 2i + DELAY of the doubled image; EDM takes it to be at 2i + 1/2, and so turns images about a
point that is a fifth of a pixel beside their centre."""
BORDER = 3  # pixels beyond the image that the filter sees on the way down


@DATASETS.register("augmented")
class Augmented(Wrapped):
    """Images of another data set, of which training sees some transformed; batches have "augment" (B, 9), see `LABELS`.

    Args:
        data: Where the images come from; batch size and labels are its own. Its flips come first and are not told: turn
            them off, as EDM does.
        probability: Of each transform, for each image; a flip from side to side is drawn for every image.
    """

    dataset = "augmented"
    augment_dim = len(LABELS)

    def __init__(self, *, data: ImageData, probability: float = 0.12) -> None:
        super().__init__(data)
        if not 0 < probability <= 1:
            raise UserError(f"probability is {probability}", "give a number above 0 and at most 1")
        if data.cond_channels or data.augment_dim:
            raise UserError(f"{data.title} cannot be augmented", "augment images that have no condition, and once")
        self.probability = probability

    def card(self) -> dict[str, Any]:
        """See `ImageData`; with the probability."""
        return super().card() | {"augmentation": self.probability}

    def train_dataloader(self) -> TrainLoader:
        """See `ImageData`."""
        loader = super().train_dataloader()
        loader.transform = self._augment
        return loader

    def _augment(self, batch: Batch, key: tuple[int, ...]) -> Batch:
        """A training batch, transformed by draws of its number alone; in pinned memory where it came so."""
        generator = torch.Generator().manual_seed(mixed_seed(self.seed, 5, *key))
        drawn = draw(len(batch["image"]), self.probability, generator)
        found = {"image": transform(batch["image"], drawn), "augment": drawn.label()}
        return batch | (
            {key: value.pin_memory() for key, value in found.items()} if batch["image"].is_pinned() else found
        )


class Drawn(NamedTuple):
    """What is done to each image (B,); zeros where nothing is.

    Attributes:
        x_flip: 1 for a flip from side to side.
        y_flip: 1 for a flip upside down.
        scale: n of an enlargement by 2^(0.2 n).
        theta: Angle of a rotation.
        stretch: n of a stretch by 2^(0.2 n) along an axis and 2^(-0.2 n) across it.
        axis: The axis' angle.
        move_x: n of a translation by n eighths of the size.
        move_y: Likewise.
    """

    x_flip: Tensor
    y_flip: Tensor
    scale: Tensor
    theta: Tensor
    stretch: Tensor
    axis: Tensor
    move_x: Tensor
    move_y: Tensor

    def label(self) -> Tensor:
        """Augmentation labels (B, 9), see `LABELS`."""
        rotation = (self.theta.cos() - 1, self.theta.sin())
        stretch = (self.stretch * self.axis.cos(), self.stretch * self.axis.sin())
        parts = (self.x_flip, self.y_flip, self.scale, *rotation, *stretch, self.move_x, self.move_y)
        return torch.stack(parts, dim=1).float()


def draw(num: int, probability: float, generator: torch.Generator | None = None) -> Drawn:
    """What to do to `num` images: each transform is on with a probability, by itself.

    The flip from side to side is always on, and does something to half of the images (EDM's multiplier 1e8).
    """

    def rand() -> Tensor:
        return torch.rand(num, generator=generator)

    def on() -> Tensor:
        return (rand() < probability).float()

    def randn() -> Tensor:
        return torch.randn(num, generator=generator)

    x_flip, y_flip = ((rand() < 0.5).float() for _ in range(2))
    moves = on()
    return Drawn(
        x_flip=x_flip,
        y_flip=y_flip * on(),
        scale=randn() * on(),
        theta=math.pi * (2 * rand() - 1) * on(),
        stretch=randn() * on(),
        axis=math.pi * (2 * rand() - 1) * (rand() < 0.5),
        move_x=randn() * moves,
        move_y=randn() * moves,
    )


def transform(image: Tensor, drawn: Drawn) -> Tensor:
    """Images (B, C, H, W), H = W, with what was drawn done to them."""
    x_flip, y_flip = (flip[:, None, None, None].bool() for flip in (drawn.x_flip, drawn.y_flip))
    image = torch.where(x_flip, image.flip(-1), image)
    image = torch.where(y_flip, image.flip(-2), image)
    warps = (drawn.scale != 0) | (drawn.theta != 0) | (drawn.stretch != 0) | (drawn.move_x != 0) | (drawn.move_y != 0)
    if warps.any():
        image[warps] = warp(image[warps], inverse_map(Drawn(*(part[warps] for part in drawn)), image.shape[-1]))
    return image


def inverse_map(drawn: Drawn, size: int) -> Tensor:
    """Where each pixel of the result comes from: float64 matrices (B, 3, 3) on (x, y, 1), the centre at (0, 0).

    The inverses of scale, rotation, stretch and translation, multiplied in this order.
    """
    scale, theta, stretch, axis, move_x, move_y = (part.double() for part in drawn[2:])
    one, zero = torch.ones_like(scale), torch.zeros_like(scale)

    def matrix(*rows: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        return torch.stack([torch.stack(row, -1) for row in (*rows, (zero, zero, one))], -2)

    def turn(angle: Tensor) -> Tensor:
        return matrix((angle.cos(), -angle.sin(), zero), (angle.sin(), angle.cos(), zero))

    def shrink(x: Tensor, y: Tensor) -> Tensor:
        return matrix((2 ** (-0.2 * x), zero, zero), (zero, 2 ** (-0.2 * y), zero))

    move = matrix((one, zero, -move_x * size / 8), (zero, one, -move_y * size / 8))
    return shrink(scale, scale) @ turn(theta) @ turn(-axis) @ shrink(stretch, -stretch) @ turn(axis) @ move


def warp(image: Tensor, inverse: Tensor) -> Tensor:
    """Images (B, C, H, W) seen through `inverse_map`: reflected beyond their borders, and resampled at twice their size
    between the low-pass filters of an orthonormal wavelet, so that what stays in place stays as it is.
    """
    B, C, H, W = image.shape
    corners = torch.tensor([[x, y, 1.0] for x in (-W / 2, W / 2) for y in (-H / 2, H / 2)], dtype=torch.float64)
    reach = (inverse @ corners.T)[:, :2].abs().amax().item()
    margin = min(max(math.ceil(reach - H / 2) + 2 * BORDER, 0), H - 1)  # a reflection has no more
    h = torch.tensor(SYM6, dtype=image.dtype)
    down, across = h.view(1, 1, -1, 1), h.view(1, 1, 1, -1)

    padded = F.pad(image, (margin,) * 4, mode="reflect").reshape(B * C, 1, H + 2 * margin, W + 2 * margin)
    doubled = F.conv_transpose2d(padded, 2**0.5 * down, stride=(2, 1), padding=(SHIFT, 0))
    doubled = F.conv_transpose2d(doubled, 2**0.5 * across, stride=(1, 2), padding=(0, SHIFT))
    doubled = doubled.view(B, C, *doubled.shape[-2:])

    # Sample k of a doubled image of side n lies at (k - DELAY - (n - 1)) / 2 from its centre.
    y, x = ((torch.arange(-2 * BORDER, 2 * (n + BORDER), dtype=torch.float64) + 1 - DELAY - n) / 2 for n in (H, W))
    grid = torch.stack([*torch.meshgrid(x, y, indexing="xy"), torch.ones(len(y), len(x), dtype=torch.float64)], -1)
    source = torch.einsum("bij,hwj->bhwi", inverse, grid)[..., :2]
    source = (source + (DELAY - 0.5) / 2) / torch.tensor([W / 2 + margin, H / 2 + margin], dtype=torch.float64)
    warped = F.grid_sample(doubled, source.to(image.dtype), mode="bilinear", align_corners=False)

    halved = F.conv2d(warped.reshape(B * C, 1, *warped.shape[-2:]), down / 2**0.5, stride=(2, 1), padding=(SHIFT, 0))
    halved = F.conv2d(halved, across / 2**0.5, stride=(1, 2), padding=(0, SHIFT))
    return halved[..., BORDER:-BORDER, BORDER:-BORDER].reshape(B, C, H, W)
