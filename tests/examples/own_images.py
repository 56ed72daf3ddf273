"""Data of your own: a list of arrays, a file of them, and anything with the interface of Hugging Face's `datasets`.

    dz.train("digits/ddpm", data={"class_path": "own_images.NpzImages", "init_args": {"file": "scans.npz"}})
    dz.evaluate(denoiser, HuggingFaceImages(datasets.load_dataset("mnist"), resolution=16, channels=1))

A run that was trained on such data names this module: it loads with `trust=("own_images",)`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

import denoisezoo as dz
from denoisezoo.data import Split
from denoisezoo.data.image_data import holdout_mask
from denoisezoo.data.store import TensorStore


class ArrayImages(dz.ImageData):
    """Square images that are there as arrays.

    Args:
        arrays: uint8 (H, W) or (H, W, C) each, all of one size.
        classes: Class of each; one class for all unless given.
        holdout_every: Every so many-th of each class is held out; 0 holds out none.
        **options: Of `ImageData`.
    """

    dataset = "arrays"

    def __init__(
        self,
        arrays: Sequence[np.ndarray],
        classes: Sequence[int] | None = None,
        *,
        holdout_every: int = 10,
        **options: Any,
    ) -> None:
        super().__init__(resolution=len(arrays[0]), **options)
        stacked = torch.from_numpy(np.stack(arrays))
        self.pixels = stacked[:, None] if stacked.ndim == 3 else stacked.permute(0, 3, 1, 2).contiguous()
        self.classes = torch.zeros(len(arrays)).long() if classes is None else torch.tensor(classes)
        self.channels, self.holdout_every = self.pixels.shape[1], holdout_every

    @property
    def class_names(self) -> tuple[str, ...]:
        """Their numbers."""
        return tuple(str(i) for i in range(int(self.classes.max()) + 1))

    def load(self) -> dict[str, Split]:
        """See `ImageData`."""
        held_out = holdout_mask(self.classes, self.holdout_every)
        return {name: self._part(mask) for name, mask in (("train", ~held_out), ("test", held_out))}

    def _part(self, mask: Tensor) -> Split:
        return Split(TensorStore(self.pixels[mask]), self.classes[mask])


class NpzImages(ArrayImages):
    """Arrays in a file, so that a recipe can name them.

    Args:
        file: NumPy file with "images", uint8 (N, H, W) or (N, H, W, C), and perhaps "classes" (N,).
        batch_size: Images per optimiser step.
        labels: Give class labels with the batches.
        seed: Seed of the order and of the flips.
    """

    dataset = "npz"

    def __init__(self, file: str, *, batch_size: int = 64, labels: bool = False, seed: int = 0) -> None:
        with np.load(file) as arrays:
            images, classes = arrays["images"], arrays.get("classes")
        options = {"batch_size": batch_size, "labels": labels, "seed": seed, "horizontal_flip": False}
        super().__init__(list(images), None if classes is None else classes.tolist(), **options)


class HuggingFaceImages(dz.ImageData):
    """A data set of Hugging Face's `datasets`, or anything that behaves like one.

    Args:
        splits: "train", and perhaps "test": `__len__`, `__getitem__(i)` with a PIL image and a class, and `features`.
        resolution: Pixels a side that images are scaled to.
        channels: 1 for grey, 3 for RGB.
        image: Key of the image.
        label: Key of the class.
        **options: Of `ImageData`.
    """

    dataset = "huggingface"

    def __init__(
        self,
        splits: Mapping[str, Any],
        *,
        resolution: int,
        channels: int = 3,
        image: str = "image",
        label: str = "label",
        **options: Any,
    ) -> None:
        super().__init__(resolution=resolution, **options)
        self.splits, self.channels, self.image, self.label = splits, channels, image, label

    @property
    def class_names(self) -> tuple[str, ...]:
        """As the data set knows them."""
        return tuple(self.splits["train"].features[self.label].names)

    def load(self) -> dict[str, Split]:
        """See `ImageData`."""
        return {name: self._part(self.splits.get(name, ())) for name in ("train", "test")}

    def _part(self, part: Any) -> Split:
        images = [self._pixels(part[i][self.image]) for i in range(len(part))]
        empty = torch.empty(0, self.channels, self.resolution, self.resolution, dtype=torch.uint8)
        labels = torch.tensor([part[i][self.label] for i in range(len(part))], dtype=torch.int64)
        return Split(TensorStore(torch.stack(images) if images else empty), labels)

    def _pixels(self, picture: Any) -> Tensor:
        """A PIL image as uint8 (C, H, W)."""
        fitted = picture.convert("L" if self.channels == 1 else "RGB").resize((self.resolution, self.resolution))
        return torch.from_numpy(np.array(fitted)).reshape(self.resolution, self.resolution, -1).permute(2, 0, 1)
