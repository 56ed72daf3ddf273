"""What every data set is: a Lightning data module of square images, with a training and a held-out split."""

from __future__ import annotations

import hashlib
import sys
from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from denoisezoo.data.identity import Identity, difference
from denoisezoo.data.loader import EvalLoader, TrainLoader
from denoisezoo.data.store import Decode, ImageStore, LazyStore, Source, TensorStore, decode_all
from denoisezoo.diffusion.codecs import Codec
from denoisezoo.errors import UserError
from denoisezoo.ranks import ranks
from denoisezoo.recorded import Recorded
from denoisezoo.registry import Registry

SplitName = Literal["train", "test", "all"]


@dataclass(frozen=True)
class Split:
    """One part of a data set.

    Attributes:
        images: The images, uint8 (C, H, W) each.
        labels: Class of each, (N,) int64.
    """

    images: ImageStore
    labels: Tensor


@dataclass(frozen=True)
class Items:
    """The images of a split one by one; a `Source`.

    Attributes:
        split: The images.
        classes: Names of the classes.
        sha256: What tells the data set from others.
    """

    split: Split
    classes: tuple[str, ...]
    sha256: str

    def __len__(self) -> int:
        return len(self.split.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Image uint8 (C, H, W) and label; negative places count from the end.

        Raises:
            IndexError: There is no such item.
        """
        place = range(len(self))[index]
        return {"image": self.split.images.take(torch.tensor([place]))[0], "label": int(self.split.labels[place])}

    def fingerprint(self) -> str:
        """That of the data set."""
        return self.sha256


class ImageData(Recorded, LightningDataModule):
    """Base of all data sets. Batches are `{"image": float32 (B, C, H, W) in [-1, 1]}`, with `labels` also
    `"label": int64 (B,)`.

    Images are decoded once, into one uint8 tensor, unless that would take more than `memory_limit_gb`. Nothing is read
    before `setup`, except that `num_classes` and `class_names` may list names.

    Args:
        resolution: Height and width in pixels.
        batch_size: Images per optimiser step, over all devices and accumulated batches together.
        horizontal_flip: Mirror each training image with probability one half.
        labels: Give class labels with the batches, and report `num_classes`.
        seed: Seed of the order and of the flips.
        memory_limit_gb: Decoded images larger than this are decoded batch by batch instead.
    """

    dataset: ClassVar[str] = ""
    """Registry name."""
    channels: int = 3
    """Channels C: 1 is grey, 3 is RGB."""
    cond_channels: int = 0
    """Channels of the condition "cond" of each image; 0 where there is none (see `Paired`)."""
    augment_dim: int = 0
    """Length of the augmentation label "augment" of each training image; 0 where there is none (see `Augmented`)."""
    trained_on: Identity | None = None
    """What a run remembers of the data; `setup` warns where these are others."""
    changed: str | None = None
    """How they differ, once they are read; None where they do not."""

    def __init__(
        self,
        *,
        resolution: int,
        batch_size: int = 128,
        horizontal_flip: bool = True,
        labels: bool = False,
        seed: int = 0,
        memory_limit_gb: float = 4.0,
    ) -> None:
        super().__init__()
        require_positive("resolution", resolution)
        require_positive("batch_size", batch_size)
        require_not_negative("seed", seed)
        require_not_negative("memory_limit_gb", memory_limit_gb)
        self.resolution, self.batch_size, self.horizontal_flip = resolution, batch_size, horizontal_flip
        self.with_labels, self.seed, self.memory_limit_gb = labels, seed, memory_limit_gb
        self._splits: dict[str, Split] | None = None

    # What a data set defines.

    @abstractmethod
    def load(self) -> dict[str, Split]:
        """Read the splits "train" and "test"; a test split without images means that nothing is held out."""

    @property
    @abstractmethod
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the labels."""

    @property
    def title(self) -> str:
        """What a result card calls the data."""
        return self.dataset

    def content_hash(self) -> str:
        """SHA-256 that identifies the data: of the decoded arrays here; of the file or files where there are some."""
        return self._arrays_sha256

    @cached_property
    def _arrays_sha256(self) -> str:
        digest = hashlib.sha256()
        for part in ("train", "test"):
            split = self.split(part)
            digest.update(split.images.all().numpy().tobytes())
            digest.update(split.labels.numpy().tobytes())
        return digest.hexdigest()

    def fingerprint(self) -> str:
        """A hash that tells the data from others, at no more cost than `setup` has; `content_hash` where that is so."""
        return self.content_hash()

    # What everything else uses.

    @property
    def num_classes(self) -> int:
        """Classes that a network for these batches must know: 0 unless labels are on."""
        return len(self.class_names) if self.with_labels else 0

    def setup(self, stage: str | None = None) -> None:
        """Read and decode the images, once.

        Raises:
            UserError: The data are missing, damaged, of the wrong size, or fewer than one batch.
        """
        if self._splits is not None:
            return
        splits = self.load()
        if (n := len(splits["train"].images)) < self.batch_size:
            raise UserError(
                f"batch_size {self.batch_size} is larger than the training split of {self.title} ({n} images)",
                f"use a batch_size of at most {n}",
            )
        self._splits = splits
        if self.trained_on and (what := difference(self.trained_on, self.identity())):
            self.changed = what
            if ranks()[0] == 0:
                print(f"warning: {self.title} is not what the run was trained on: {what}", file=sys.stderr)

    def encode_with(self, codec: Codec, device: torch.device | str) -> int:
        """Encode beforehand what training would encode in each step; here nothing.

        Args:
            codec: The denoiser's.
            device: Where training will be.

        Returns:
            How many images were encoded, by whomever; 0 where batches hold images.
        """
        return 0

    def identity(self) -> Identity:
        """What a run remembers of the data, in plain values: fingerprint, names of the classes, numbers of images."""
        sizes = {f"num_{name}": len(self.split(name).images) for name in ("train", "test")}
        return {"sha256": self.fingerprint(), "class_names": list(self.class_names), **sizes}

    def split(self, name: str) -> Split:
        """The split "train" or "test", fetched and read when it is first asked for."""
        if self._splits is None:
            self.prepare_data()
            self.setup()
        assert self._splits is not None
        return self._splits[name]

    def items(self, split: str = "train") -> Source:
        """The images of the split "train" or "test" one by one."""
        return Items(self.split(split), self.class_names, self.fingerprint())

    def images(self, split: SplitName = "train") -> Tensor:
        """All images of a split, uint8 (N, C, H, W); "all" is training images followed by held-out ones."""
        if split == "all":
            return torch.cat([self.images("train"), self.images("test")])
        return self.split(split).images.all()

    def labels(self, split: SplitName = "train") -> Tensor:
        """Class of each image of a split, (N,) int64, whether or not batches carry labels."""
        if split == "all":
            return torch.cat([self.labels("train"), self.labels("test")])
        return self.split(split).labels

    def card(self) -> dict[str, Any]:
        """What a result card says of the data: name, content hash, sizes."""
        return {
            "dataset": self.title,
            "dataset_sha256": self.content_hash(),
            "num_train": len(self.split("train").images),
            "num_test": len(self.split("test").images),
            "resolution": self.resolution,
            "channels": self.channels,
            "num_classes": self.num_classes,
            "class_names": list(self.class_names) if self.with_labels else None,
        }

    def train_dataloader(self) -> TrainLoader:
        """Endless shuffled batches of the training split; an epoch is one pass."""
        rank, world_size = self._ranks()
        accumulate = self._accumulate(world_size)
        split = self.split("train")
        loader = TrainLoader(
            split.images,
            split.labels if self.with_labels else None,
            batch_size=self.batch_size,
            flip=self.horizontal_flip,
            seed=self.seed,
            rank=rank,
            world_size=world_size,
            accumulate=accumulate,
            device=None if self.trainer is None else self.trainer.strategy.root_device,
        )
        self._limit(loader)
        return loader

    def _limit(self, loader: TrainLoader) -> None:
        """Repeat the batches that Lightning's `overfit_batches` asks for.

        Raises:
            UserError: An epoch of as many batches as an option asks for has no step at all, or ends amid one.
        """
        if self.trainer is None:
            return
        options = ("overfit_batches", "fast_dev_run", "limit_train_batches")
        option = next((option for option in options if getattr(self.trainer, option)), options[-1])
        limit = getattr(self.trainer, option)
        # As Lightning reads it: a whole number counts batches, a fraction is a share of them.
        batches = int(min(limit, len(loader)) if isinstance(limit, int) else limit * len(loader))
        if not batches or batches % loader.accumulate:
            raise UserError(
                f"trainer.{option} {limit} makes epochs of {batches} batches, and a step has {loader.accumulate}",
                f"give a multiple of {loader.accumulate} as a whole number, or a larger share of {len(loader)} batches",
            )
        loader.repeat = batches if option == "overfit_batches" else 0

    def val_dataloader(self) -> EvalLoader | list[EvalLoader]:
        """The held-out split in its order; an empty list if nothing is held out."""
        rank, world_size = self._ranks()
        split = self.split("test")
        if not len(split.images):
            return []
        labels = split.labels if self.with_labels else None
        return EvalLoader(split.images, labels, batch_size=self.batch_size, rank=rank, world_size=world_size)

    def _ranks(self) -> tuple[int, int]:
        if self.trainer is None:
            return 0, 1
        if self.batch_size % self.trainer.world_size:
            raise UserError(
                f"batch_size {self.batch_size} cannot be divided among {self.trainer.world_size} devices",
                "use a multiple of the number of devices",
            )
        return self.trainer.global_rank, self.trainer.world_size

    def _accumulate(self, world_size: int) -> int:
        """Batches of an optimiser step, one after another."""
        accumulate = 1 if self.trainer is None else int(self.trainer.accumulate_grad_batches)
        if self.batch_size % (accumulate * world_size):
            raise UserError(
                f"batch_size {self.batch_size} cannot be divided among {world_size} devices and "
                f"accumulate_grad_batches {accumulate}",
                f"use a multiple of {accumulate * world_size}",
            )
        return accumulate

    def store(self, names: list[str], decode: Decode) -> ImageStore:
        """Images `names` in memory where they fit, else decoded when they are taken."""
        num_bytes = len(names) * self.channels * self.resolution**2
        if not names:
            return TensorStore(torch.empty(0, self.channels, self.resolution, self.resolution, dtype=torch.uint8))
        if num_bytes > self.memory_limit_gb * 1e9:
            return LazyStore(names, decode)
        return TensorStore(decode_all(names, decode))


DATASETS: Registry[type[ImageData]] = Registry("data set")
"""Registry name -> data module class."""


def require_positive(name: str, value: float | None) -> None:
    """Refuse a value below 1, or a recipe's `null`, with a `UserError`."""
    if value is None or value < 1:
        raise UserError(f"{name} is {value}", "give a whole number of at least 1")


def require_not_negative(name: str, value: float | None) -> None:
    """Refuse a negative value, or a recipe's `null`, with a `UserError`."""
    if value is None or value < 0:
        raise UserError(f"{name} is {value}", "give 0 or a positive number")


def holdout_mask(labels: Tensor, every: int) -> Tensor:
    """Which images are held out, (N,) bool: every `every`-th one of each class, none when `every` is 0.

    It depends on nothing but the order of the images, so that a split never changes between versions of a library.
    """
    mask = torch.zeros(len(labels), dtype=torch.bool)
    if every:
        for label in labels.unique():
            mask[(labels == label).nonzero()[every - 1 :: every, 0]] = True
    return mask
