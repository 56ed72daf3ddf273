"""Data sets as torchvision keeps them on disk: CIFAR-100, STL-10, CelebA, MNIST and its kin."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch

from denoisezoo.data.decoding import Decoder, pixels_of_arrays
from denoisezoo.data.image_data import DATASETS, ImageData, Split
from denoisezoo.data.sources import FolderSource
from denoisezoo.data.store import TensorStore
from denoisezoo.errors import UserError, unknown
from denoisezoo.files import local_path

Name = Literal["cifar100", "stl10", "celeba", "mnist", "fashion_mnist", "kmnist"]


@dataclass(frozen=True)
class _Kept:
    """How torchvision keeps a data set.

    Attributes:
        class_name: Of its data set class.
        folder: Where it lies below the root.
        resolution: Height and width of its images; of CelebA, what they are commonly made.
        channels: C.
        parts: Its names of training and held-out images, where they are not a flag `train`.
        num_classes: Classes.
        images: Folder of the image files, where it does not keep arrays.
    """

    class_name: str
    folder: str
    resolution: int
    channels: int = 3
    parts: tuple[str, str] | None = None
    num_classes: int = 10
    images: str | None = None


_KEPT: dict[str, _Kept] = {
    "cifar100": _Kept("CIFAR100", "cifar-100-python", 32, num_classes=100),
    "stl10": _Kept("STL10", "stl10_binary", 96, parts=("train", "test")),
    "celeba": _Kept("CelebA", "celeba", 64, parts=("train", "test"), num_classes=0, images="img_align_celeba"),
    "mnist": _Kept("MNIST", "MNIST", 28, 1),
    "fashion_mnist": _Kept("FashionMNIST", "FashionMNIST", 28, 1),
    "kmnist": _Kept("KMNIST", "KMNIST", 28, 1),
}


@DATASETS.register("torchvision")
class Torchvision(ImageData):
    """A data set that torchvision keeps on disk, with its own split in training and held-out images.

    CelebA's 178x218 photographs are cut to the middle square; the others have their own size unless one is asked for.

    Args:
        name: Which one.
        root: The folder that holds, or shall hold, the data set's own folder, as torchvision has it.
        download: Fetch the data set if it is not there; it is never fetched unasked.
        resolution: Height and width in pixels to which images are resized (Lanczos); their own unless given, and 64 for
            CelebA.
        channels: 3 for RGB, 1 for grey; as the images are unless given.
        batch_size: Images per optimiser step, over all devices together.
        horizontal_flip: Mirror each training image with probability one half; of RGB images unless given.
        labels: Give class labels with the batches.
        seed: Seed of the order and of the flips.
        memory_limit_gb: CelebA's decoded images, where larger than this, are decoded batch by batch instead.
    """

    dataset = "torchvision"

    def __init__(
        self,
        name: Name,
        root: str = "data",
        *,
        download: bool = False,
        resolution: int | None = None,
        channels: Literal[1, 3] | None = None,
        batch_size: int = 128,
        horizontal_flip: bool | None = None,
        labels: bool = False,
        seed: int = 0,
        memory_limit_gb: float = 4.0,
    ) -> None:
        if name not in _KEPT:
            raise unknown("data set of torchvision", name, get_args(Name))
        kept = _KEPT[name]
        super().__init__(
            resolution=kept.resolution if resolution is None else resolution,
            batch_size=batch_size,
            horizontal_flip=kept.channels == 3 if horizontal_flip is None else horizontal_flip,
            labels=labels,
            seed=seed,
            memory_limit_gb=memory_limit_gb,
        )
        if labels and not kept.num_classes:
            raise UserError(f"{name} has no classes", "leave `data.labels` out")
        if channels not in (None, 1, 3):
            raise UserError(f"channels is {channels}", "give 3 for RGB or 1 for grey")
        self.name, self.root, self.download, self.kept = name, root, download, kept
        self.channels = kept.channels if channels is None else channels

    @property
    def title(self) -> str:
        """Registry name and the data set's."""
        return f"{self.dataset}:{self.name}"

    @property
    def class_names(self) -> tuple[str, ...]:
        """As torchvision has them, where they are known without reading; else their numbers."""
        known = getattr(self._class(), "classes", ())
        numbers = map(str, range(max(1, self.kept.num_classes)))
        return tuple(known) if len(known) == self.kept.num_classes and known else tuple(numbers)

    def prepare_data(self) -> None:
        """Fetch the data set, if that is asked for and it is not there.

        Raises:
            UserError: It cannot be fetched.
        """
        if not self.download:
            return
        try:
            for part in (True, False):
                self._open(part, download=True)
        except (OSError, RuntimeError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            what = f"{self.name} cannot be fetched into {self.root}: {reason}"
            raise UserError(what, f"put {self.kept.folder} there yourself, or try again") from error

    def load(self) -> dict[str, Split]:
        """See `ImageData.load`.

        Raises:
            UserError: The data set is not there, or is damaged or incomplete.
        """
        folder = local_path(self.root) / self.kept.folder
        if not folder.is_dir():
            cure = f"pass `data.download=true`, or as `data.root` the folder with {self.kept.folder}"
            raise UserError(f"{self.name} is not at {folder}", cure)
        try:
            parts = {part: self._open(part == "train") for part in ("train", "test")}
        except Exception as error:  # torchvision raises nearly anything on damaged bytes
            what = f"{self.name} at {folder} is damaged or incomplete"
            raise UserError(what, "delete it and pass `data.download=true`, or unpack the archive again") from error
        return {name: self._split(part, folder) for name, part in parts.items()}

    def _class(self) -> Any:
        import torchvision.datasets

        return getattr(torchvision.datasets, self.kept.class_name)

    def _open(self, train: bool, download: bool = False) -> Any:
        """torchvision's data set, which checks the MD5 of what it reads (of MNIST it checks what it fetches)."""
        parts = self.kept.parts
        which = {"train": train} if parts is None else {"split": parts[0 if train else 1]}
        return self._class()(local_path(self.root), **which, download=download)

    def _split(self, part: Any, folder: Path) -> Split:
        if self.kept.images is not None:
            decoder = Decoder(FolderSource(folder / self.kept.images), self.resolution, self.channels, resize=True)
            return Split(self.store(list(part.filename), decoder), torch.zeros(len(part.filename), dtype=torch.int64))
        images = np.asarray(part.data)
        images = images.transpose(0, 2, 3, 1) if images.ndim == 4 and images.shape[1] == 3 else images  # STL-10
        pixels = pixels_of_arrays(images, self.resolution, self.channels, True, f"{self.name} at {folder}")
        labels = getattr(part, "targets", None)
        return Split(TensorStore(pixels), torch.as_tensor(part.labels if labels is None else labels).long())
