"""Images as one array in a file of numpy: the reference batches of guided-diffusion, and samples as many write them."""

from __future__ import annotations

import contextlib
import os
import zipfile
import zlib
from collections.abc import Iterator
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from denoisezoo.data.decoding import pixels_of_arrays
from denoisezoo.data.image_data import DATASETS, ImageData, Split, holdout_mask, require_not_negative
from denoisezoo.data.store import TensorStore
from denoisezoo.errors import UserError
from denoisezoo.files import local_path, printable, sha256

IMAGES, LABELS = "arr_0", "arr_1"
"""What `numpy.savez` calls arrays without names, and so guided-diffusion images and their classes."""


def read_npz(path: str | os.PathLike[str], *names: str) -> dict[str, np.ndarray]:
    """The arrays of an .npz file, or those of them with these names; nothing in it is unpickled.

    Raises:
        UserError: There is no such file, or it is damaged or of another kind.
    """
    with _opened(path) as found:
        return {name: found[name] for name in found.files if name in names or not names}


def names_in_npz(path: str | os.PathLike[str]) -> list[str]:
    """Names of the arrays of an .npz file, none of which is read; errors are those of `read_npz`."""
    with _opened(path) as found:
        return list(found.files)


@contextlib.contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[np.lib.npyio.NpzFile]:
    file = local_path(path)
    if not file.is_file():
        raise UserError(f"{file} is not a file" if file.exists() else f"there is no {file}", "give an .npz file")
    try:
        with open(file, "rb") as content:
            found = np.load(content, allow_pickle=False)
            if not isinstance(found, np.lib.npyio.NpzFile):
                raise UserError(f"{file} is one array and no .npz file", "write it with numpy.savez")
            with found:
                yield found
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error, KeyError) as error:
        if isinstance(error, UserError):
            raise
        what = f"{file} is no .npz file, or is damaged"
        raise UserError(what, "fetch it again, or write it with numpy.savez") from error


@DATASETS.register("image_npz")
class ImageNpz(ImageData):
    """An .npz file of images, `arr_0` uint8 (N, H, W, C) or (N, H, W), and perhaps of classes, `arr_1` (N,).

    So guided-diffusion keeps its reference batches and samples. All images are in memory, whatever their number.

    Args:
        path: The file.
        resolution: Height and width in pixels.
        test_path: Such a file of held-out images.
        holdout_every: Without `test_path`, every so-many-th image of each class is held out; 0 holds out none.
        resize: Cut the middle square from each image and resize it, instead of refusing any size but `resolution`.
        channels: 3 for RGB (grey images are converted), 1 for grey.
        image: Name of the array of images.
        label: Name of that of classes.
        batch_size: Images per optimiser step, over all devices together.
        horizontal_flip: Mirror each training image with probability one half.
        labels: Give class labels with the batches.
        seed: Seed of the order and of the flips.
    """

    dataset = "image_npz"

    def __init__(
        self,
        path: str,
        *,
        resolution: int,
        test_path: str | None = None,
        holdout_every: int = 20,
        resize: bool = False,
        channels: Literal[1, 3] = 3,
        image: str = IMAGES,
        label: str = LABELS,
        batch_size: int = 128,
        horizontal_flip: bool = True,
        labels: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(
            resolution=resolution, batch_size=batch_size, horizontal_flip=horizontal_flip, labels=labels, seed=seed
        )
        require_not_negative("holdout_every", holdout_every)
        if channels not in (1, 3):
            raise UserError(f"channels is {channels}", "give 3 for RGB or 1 for grey")
        self.path, self.test_path, self.holdout_every = path, test_path, holdout_every
        self.resize, self.channels, self.image, self.label = resize, channels, image, label

    @property
    def title(self) -> str:
        """Registry name and the name of the file."""
        return f"{self.dataset}:{printable(local_path(self.path).resolve().name)}"

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """The numbers of the classes, from 0 to the largest of the training images."""
        labels = read_npz(self.path, self.label).get(self.label)
        last = 0 if labels is None else int(self._classes(labels, self.path).max())
        return tuple(map(str, range(max(last, 0) + 1)))

    def load(self) -> dict[str, Split]:
        """See `ImageData.load`.

        Raises:
            UserError: A file is missing or damaged, lacks an array, or one is of another shape, size or range.
        """
        images, labels = self._read(self.path)
        if self.test_path is not None:
            held_out, their_labels = self._read(self.test_path)
            return {"train": Split(TensorStore(images), labels), "test": Split(TensorStore(held_out), their_labels)}
        mask = holdout_mask(labels, self.holdout_every)
        parts = {"train": ~mask, "test": mask}
        return {name: Split(TensorStore(images[part]), labels[part]) for name, part in parts.items()}

    def _read(self, path: str) -> tuple[Tensor, Tensor]:
        arrays = read_npz(path)
        held = ", ".join(arrays) or "nothing"
        if self.image not in arrays:
            raise UserError(f"{path} holds {held}, and no {self.image}", "give `data.image`, its array of images")
        images = arrays[self.image]
        if not images.size:
            raise UserError(f"{path} holds no images", "give at least one")
        pixels = pixels_of_arrays(images, self.resolution, self.channels, self.resize, f"{self.image} of {path}")
        if self.label not in arrays:
            if self.with_labels:
                cure = "leave `data.labels` out, or give `data.label`, its array of classes"
                raise UserError(f"{path} holds {held}, and no classes {self.label}", cure)
            return pixels, torch.zeros(len(pixels), dtype=torch.int64)
        labels = self._classes(arrays[self.label], path)
        if len(labels) != len(pixels):
            raise UserError(f"{path} holds {len(labels)} labels of {len(pixels)} images", "give one for each image")
        low, high, last = int(labels.min()), int(labels.max()), len(self.class_names) - 1
        if self.with_labels and not 0 <= low <= high <= last:
            raise UserError(f"labels of {path} range from {low} to {high}", f"give numbers from 0 to {last}")
        return pixels, labels

    def _classes(self, labels: np.ndarray, path: str) -> Tensor:
        if labels.ndim != 1 or not labels.size or labels.dtype.kind not in "iu":
            what = f"{self.label} of {path} is {labels.dtype} {labels.shape}"
            raise UserError(what, "give whole numbers, one for each image")
        return torch.from_numpy(labels.astype(np.int64))

    def content_hash(self) -> str:
        """Of the file."""
        return sha256(local_path(self.path))

    def fingerprint(self) -> str:
        """Of the file or files."""
        files = [self.path, *([] if self.test_path is None else [self.test_path])]
        return " ".join(sha256(local_path(file)) for file in files)

    def card(self) -> dict[str, Any]:
        """See `ImageData`; `test_sha256` is the hash of `test_path`, None where there is none."""
        return super().card() | {"test_sha256": self.test_path and sha256(local_path(self.test_path))}
