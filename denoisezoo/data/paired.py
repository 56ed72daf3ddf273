"""Any data set as an image-to-image task."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor

from denoisezoo.data.image_data import DATASETS, ImageData, Split, SplitName
from denoisezoo.data.loader import Batch, EvalLoader, TrainLoader, mixed_seed
from denoisezoo.data.pairs import Pair
from denoisezoo.data.tasks import Task
from denoisezoo.errors import UserError
from denoisezoo.pixels import to_float, to_uint8

CHECKED = 1024
"""Training images at most that the task looks at before it takes the data."""
EVAL_SEED = 1
"""Random conditions of images that are evaluated depend on this and on the image's place alone."""


@DATASETS.register("paired")
class Paired(ImageData):
    """Images with conditions: batches are those of another data set with "image" x and "cond" y of a task.

    Args:
        data: Where the images come from; batch size, flips and labels are its own.
        task: What is left of them as a condition.
        seed: Seed of the order, the flips and of random conditions; that of `data` unless given.
    """

    dataset = "paired"

    def __init__(self, *, data: ImageData, task: Task, seed: int | None = None) -> None:
        super().__init__(
            resolution=data.resolution,
            batch_size=data.batch_size,
            horizontal_flip=data.horizontal_flip,
            labels=data.with_labels,
            seed=data.seed if seed is None else seed,
            memory_limit_gb=data.memory_limit_gb,
        )
        if data.augment_dim:
            raise UserError(f"{data.title} is augmented", "give the data that are augmented: conditions would not fit")
        task.check(data.channels, data.resolution)
        self.data, self.task, self.channels = data, task, task.target_channels(data.channels)
        self.cond_channels = task.cond_channels(data.channels)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Those of the data."""
        return self.data.class_names

    @property
    def title(self) -> str:
        """The data and the task."""
        return f"{self.data.title}, {self.task.title}"

    def content_hash(self) -> str:
        """Of the data and the task's title."""
        return hashlib.sha256(f"{self.data.content_hash()} {self.task.title}".encode()).hexdigest()

    def fingerprint(self) -> str:
        """That of the data: the task is a setting, which may be another one when a run is evaluated."""
        return self.data.fingerprint()

    def prepare_data(self) -> None:
        """Fetch the data, where they fetch themselves."""
        self.data.prepare_data()

    def load(self) -> dict[str, Split]:
        """Those of the data.

        Raises:
            UserError: Options of the task do not describe them.
        """
        splits = {name: self.data.split(name) for name in ("train", "test")}
        images = splits["train"].images
        some = torch.arange(0, len(images), max(1, len(images) // CHECKED))[:CHECKED]
        self.task.check_images(to_float(images.take(some)))
        return splits

    def images(self, split: SplitName = "train") -> Tensor:
        """What is to be found, x, as pixels."""
        found = super().images(split)
        if split == "all" or type(self.task).target is Task.target:
            return found
        return torch.cat([to_uint8(self.task.target(to_float(part))) for part in found.split(1024)])

    def pairs(self, split: SplitName = "test", limit: int | None = None) -> Pair:
        """Images of a split, in their order, with conditions that are always the same."""
        if split == "all":
            train = len(self.split("train").images)
            parts = [self.pairs("train", limit), self.pairs("test", None if limit is None else max(0, limit - train))]
            return joined([part for part in parts if len(part)])
        images = self.split(split).images
        index = torch.arange(len(images) if limit is None else min(limit, len(images)))
        first = 0 if split == "train" else len(self.split("train").images)
        parts = [self._pair(to_float(images.take(some)), some + first) for some in index.split(256)]
        return joined(parts) if parts else self.pairs("train", 1).take(torch.arange(0))

    def held_out_pairs(self, limit: int | None = None) -> Pair:
        """Pairs of the test split, or of the training split where nothing is held out."""
        return self.pairs("test" if len(self.split("test").images) else "train", limit)

    def _pair(self, image: Tensor, place: Tensor) -> Pair:
        if not self.task.random:
            return self.task(image)
        generators = (torch.Generator().manual_seed(mixed_seed(EVAL_SEED, i)) for i in place.tolist())
        return joined([self.task(one[None], g) for one, g in zip(image, generators, strict=True)])

    def card(self) -> dict[str, Any]:
        """See `ImageData`; with the task."""
        return super().card() | {"task": self.task.title, "cond_channels": self.cond_channels}

    def train_dataloader(self) -> TrainLoader:
        """See `ImageData`."""
        loader = super().train_dataloader()
        loader.transform = self._condition
        return loader

    def val_dataloader(self) -> EvalLoader | list[EvalLoader]:
        """See `ImageData`."""
        loader = super().val_dataloader()
        if isinstance(loader, EvalLoader):
            loader.transform = self._held_out
        return loader

    def _condition(self, batch: Batch, key: tuple[int, ...]) -> Batch:
        """A training batch with conditions drawn by its number."""
        generator = torch.Generator().manual_seed(mixed_seed(self.seed, *key))
        return with_pair(batch, self.task(batch["image"], generator))

    def _held_out(self, batch: Batch, place: Tensor) -> Batch:
        """A held-out batch with the conditions that `pairs` gives."""
        return with_pair(batch, self._pair(batch["image"], place + len(self.split("train").images)))


def with_pair(batch: Batch, pair: Pair) -> Batch:
    """A batch of x and y; in pinned memory where CUDA is used, as it came."""
    found = {"image": pair.x, "cond": pair.y}
    return batch | ({key: value.pin_memory() for key, value in found.items()} if batch["image"].is_pinned() else found)


def joined(pairs: list[Pair]) -> Pair:
    """One after another."""
    masks = [pair.mask for pair in pairs if pair.mask is not None]
    return Pair(
        torch.cat([pair.x for pair in pairs]),
        torch.cat([pair.y for pair in pairs]),
        torch.cat(masks) if masks else None,
        pairs[0].operator,
    )
