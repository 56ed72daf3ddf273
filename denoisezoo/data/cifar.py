"""CIFAR-10 as torchvision keeps it on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from denoisezoo.data.image_data import DATASETS, ImageData, Split
from denoisezoo.data.store import TensorStore
from denoisezoo.errors import UserError
from denoisezoo.files import local_path

FOLDER = "cifar-10-batches-py"


@DATASETS.register("cifar10")
class Cifar10(ImageData):
    """CIFAR-10 (Krizhevsky 2009): 50,000 training and 10,000 test photographs in ten classes, 32x32, RGB.

    Args:
        root: The folder that holds, or shall hold, `cifar-10-batches-py`.
        download: Fetch the data set (170 MB) if it is not there; it is never fetched unasked.
        batch_size: Images per optimiser step, over all devices together.
        horizontal_flip: Mirror each training image with probability one half.
        labels: Give class labels with the batches.
        seed: Seed of the order and of the flips.
    """

    dataset = "cifar10"
    channels = 3

    def __init__(
        self,
        root: str = "data",
        *,
        download: bool = False,
        batch_size: int = 128,
        horizontal_flip: bool = True,
        labels: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(
            resolution=32, batch_size=batch_size, horizontal_flip=horizontal_flip, labels=labels, seed=seed
        )
        self.root, self.download = root, download

    @property
    def class_names(self) -> tuple[str, ...]:
        """The ten classes, in the order of the labels."""
        return ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

    def prepare_data(self) -> None:
        """Fetch the data set, if that is asked for and it is not there.

        Raises:
            UserError: It cannot be fetched.
        """
        if not self.download:
            return
        from torchvision.datasets import CIFAR10

        try:
            CIFAR10(local_path(self.root), download=True)
        except (OSError, RuntimeError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(
                f"CIFAR-10 cannot be fetched into {self.root}: {reason}", f"put {FOLDER} there yourself, or try again"
            ) from error

    def load(self) -> dict[str, Split]:
        """See `ImageData`."""
        if not (folder := local_path(self.root) / FOLDER).is_dir():
            raise UserError(f"CIFAR-10 is not at {folder}", f"pass download=true, or as root the folder with {FOLDER}")
        return {"train": self._split(train=True), "test": self._split(train=False)}

    def _split(self, *, train: bool) -> Split:
        data = self._open(train)
        images = torch.from_numpy(data.data).permute(0, 3, 1, 2).contiguous()
        return Split(TensorStore(images), torch.tensor(data.targets))

    def _open(self, train: bool) -> Any:
        """torchvision's data set, which checks the MD5 of every file before it unpickles one."""
        from torchvision.datasets import CIFAR10

        try:
            return CIFAR10(self.root, train=train)
        except RuntimeError as error:
            raise UserError(
                f"CIFAR-10 at {Path(self.root) / FOLDER} is damaged or incomplete",
                "delete it and pass download=true, or unpack the archive again",
            ) from error
