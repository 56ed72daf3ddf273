"""Real images that come with scikit-learn: nothing to download, the same everywhere."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from denoisezoo.errors import UserError
from denoisezoo.train.data.base import DATASETS, ImageData, Split, holdout_mask
from denoisezoo.train.data.store import TensorStore


@DATASETS.register("digits")
class Digits(ImageData):
    """1,797 scans of handwritten digits, 8x8 with 17 grey levels (Alpaydin and Kaynak 1998), shown larger by bicubic
    interpolation. Every tenth scan of each class is held out: 1,621 train, 176 test.

    Args:
        resolution: 8, 16, 32 or 64 pixels.
        batch_size: Images per optimiser step, over all devices together.
        horizontal_flip: Mirror each training image with probability one half; a mirrored digit is rarely a digit.
        labels: Give class labels (the digit) with the batches.
        seed: Seed of the order and of the flips.
    """

    dataset = "digits"
    channels = 1

    def __init__(
        self,
        *,
        resolution: int = 16,
        batch_size: int = 128,
        horizontal_flip: bool = False,
        labels: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(
            resolution=resolution, batch_size=batch_size, horizontal_flip=horizontal_flip, labels=labels, seed=seed
        )
        if resolution not in (8, 16, 32, 64):
            raise UserError(f"digits cannot be shown at resolution {resolution}", "use 8, 16, 32 or 64")

    @property
    def class_names(self) -> tuple[str, ...]:
        """The ten digits."""
        return tuple("0123456789")

    def load(self) -> dict[str, Split]:
        """See `ImageData`."""
        from sklearn.datasets import load_digits

        bunch = load_digits()
        images = enlarge_digits(torch.from_numpy(bunch.images), self.resolution)
        labels = torch.from_numpy(bunch.target).long()
        held_out = holdout_mask(labels, 10)
        return {
            name: Split(TensorStore(images[mask].contiguous()), labels[mask])
            for name, mask in (("train", ~held_out), ("test", held_out))
        }


def enlarge_digits(scans: Tensor, resolution: int) -> Tensor:
    """uint8 (N, 1, resolution, resolution) of scans (N, 8, 8) with values 0..16.

    In float64 every bicubic weight at a scale of 2, 4 or 8 is a binary fraction, so the result is exact and its hash is
    the same on every machine.
    """
    x = scans.double()[:, None] / 16
    if resolution != x.shape[-1]:
        x = interpolate(x, size=(resolution, resolution), mode="bicubic", align_corners=False)
    return (x.clamp(0, 1) * 255).round().to(torch.uint8)
