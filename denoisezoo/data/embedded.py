"""Real images that come with scikit-learn: nothing to download, the same everywhere."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from denoisezoo.data.image_data import DATASETS, ImageData, Split, holdout_mask, require_not_negative, require_positive
from denoisezoo.data.store import TensorStore
from denoisezoo.errors import UserError

TEST_COLUMNS = 128
"""Columns at the right of each photograph that only held-out crops may touch."""


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


@DATASETS.register("photos")
class Photos(ImageData):
    """Square crops of scikit-learn's two photographs, a Chinese temple and a flower (427x640, RGB).

    Training crops come from the left 512 columns of each photograph, held-out crops from the right 128, so that no
    pixel is in both. The crops depend on `crop_seed` alone: runs with different `seed` train on the same images.

    Args:
        resolution: 16 to 128 pixels.
        batch_size: Images per optimiser step, over all devices together.
        horizontal_flip: Mirror each training image with probability one half.
        labels: Give class labels (which photograph) with the batches.
        seed: Seed of the order and of the flips.
        zoom: A crop is `zoom` times `resolution` wide, at most 128 pixels, and averaged down. None is the largest zoom,
            which shows most of the scene; 1 keeps the photographs' own pixels, and many crops are plain sky then.
        num_train: Training crops.
        num_test: Held-out crops.
        crop_seed: Seed of the places of the crops.
    """

    dataset = "photos"
    channels = 3

    def __init__(
        self,
        *,
        resolution: int = 32,
        batch_size: int = 128,
        horizontal_flip: bool = True,
        labels: bool = False,
        seed: int = 0,
        zoom: int | None = None,
        num_train: int = 4096,
        num_test: int = 512,
        crop_seed: int = 0,
    ) -> None:
        super().__init__(
            resolution=resolution, batch_size=batch_size, horizontal_flip=horizontal_flip, labels=labels, seed=seed
        )
        zoom = max(1, TEST_COLUMNS // resolution) if zoom is None else zoom
        require_positive("zoom", zoom)
        require_positive("num_train", num_train)
        require_not_negative("num_test", num_test)
        require_not_negative("crop_seed", crop_seed)
        if resolution < 16 or resolution * zoom > TEST_COLUMNS:
            raise UserError(
                f"photos cannot be cropped at resolution {resolution} with zoom {zoom}",
                f"use a resolution of at least 16, with resolution times zoom at most {TEST_COLUMNS}",
            )
        self.zoom, self.num_train, self.num_test, self.crop_seed = zoom, num_train, num_test, crop_seed

    @property
    def class_names(self) -> tuple[str, ...]:
        """The two photographs."""
        return ("china", "flower")

    def load(self) -> dict[str, Split]:
        """See `ImageData`."""
        from sklearn.datasets import load_sample_images

        photos = torch.stack([torch.from_numpy(np.array(image)) for image in load_sample_images().images])
        photos = photos.permute(0, 3, 1, 2)
        # RandomState, because numpy promises that its streams never change.
        random = np.random.RandomState(self.crop_seed)
        return {
            "train": self._crops(photos[..., :-TEST_COLUMNS], self.num_train, random),
            "test": self._crops(photos[..., -TEST_COLUMNS:], self.num_test, random),
        }

    def _crops(self, photos: Tensor, count: int, random: np.random.RandomState) -> Split:
        """`count` crops of photos (2, 3, H, W), each photograph in turn."""
        side, zoom = self.resolution * self.zoom, self.zoom
        labels = torch.arange(count) % len(photos)
        tops, lefts = (torch.from_numpy(random.randint(0, size - side + 1, count)) for size in photos.shape[2:])
        windows = photos.unfold(2, side, 1).unfold(3, side, 1)  # a view: (2, 3, tops, lefts, side, side)
        parts = []
        for index in torch.arange(count).split(256):
            crops = windows[labels[index], :, tops[index], lefts[index]]
            sums = crops.unflatten(3, (-1, zoom)).unflatten(2, (-1, zoom)).sum((3, 5), dtype=torch.int32)
            parts.append(((sums + zoom * zoom // 2) // (zoom * zoom)).to(torch.uint8))
        empty = torch.empty(0, 3, self.resolution, self.resolution, dtype=torch.uint8)
        return Split(TensorStore(torch.cat([empty, *parts])), labels)
