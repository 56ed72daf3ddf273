"""A data set whose images are encoded once, before training, for a denoiser that works on latents."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch

from denoisezoo.data.image_data import DATASETS, ImageData
from denoisezoo.data.latent_cache import Key, LatentCache, LatentStore
from denoisezoo.data.loader import Batch, EvalLoader, TrainLoader
from denoisezoo.data.wrapped import Wrapped
from denoisezoo.diffusion.codecs import Codec
from denoisezoo.errors import UserError


@DATASETS.register("encoded")
class Encoded(Wrapped):
    """Images of another data set, encoded by the denoiser's codec once and for all: training then reads latents.

    What a codec draws from its posterior is drawn anew in each step, as without this. Images that are compared with,
    held-out metrics and neighbours, are those of the data.

    Args:
        data: Where the images come from; batch size, flips, labels and seed are its own.
        cache: Folder of the latents. It is filled when training begins, goes on where it was stopped, may be shared by
            several runs at once, and is refused where it holds latents of other data or of another codec.
        dtype: Of the numbers on disk.
    """

    dataset = "encoded"

    def __init__(self, *, data: ImageData, cache: str, dtype: Literal["float32", "float16"] = "float32") -> None:
        super().__init__(data)
        if data.cond_channels or data.augment_dim:
            raise UserError(
                f"{data.title} cannot be encoded beforehand",
                "give data without conditions and augmentation, or encode in each step: leave Encoded out",
            )
        self.cache, self.dtype = cache, dtype
        self.latents: LatentCache | None = None

    def encode_with(self, codec: Codec, device: torch.device | str) -> int:
        """See `ImageData.encode_with`.

        Raises:
            UserError: There is nothing to encode, or the folder holds other latents.
        """
        if codec.identity:
            raise UserError("pixels need not be encoded", "give a codec, or leave Encoded out")
        splits = {name: self.split(name).images for name in ("train", "test")}
        key = Key(
            data=self.fingerprint(),
            codec=codec.title,
            weights=codec.weights_sha256(),
            resolution=self.resolution,
            flips=self.horizontal_flip,
            dtype=self.dtype,
        )
        shape = codec.latent_shape(self.channels, self.resolution, self.resolution)
        cache = LatentCache(self.cache, key, {name: len(images) for name, images in splits.items()}, shape)
        cache.fill(splits, codec.to(device), device)
        self.latents = cache
        return cache.total

    def train_dataloader(self) -> TrainLoader:
        """See `ImageData`; of latents.

        Raises:
            UserError: They were not encoded, or are damaged.
        """
        plain = super().train_dataloader()
        loader = LatentLoader(
            plain.images,
            plain.labels,
            batch_size=plain.batch_size,
            flip=plain.flip,
            seed=plain.seed,
            rank=plain.rank,
            world_size=plain.world_size,
            accumulate=plain.accumulate,
            device=plain.device,
        )
        loader.repeat, loader.latents = plain.repeat, self._store("train")
        return loader

    def val_dataloader(self) -> EvalLoader | list[EvalLoader]:
        """See `ImageData`; of latents."""
        loader = super().val_dataloader()
        if not isinstance(loader, EvalLoader):
            return loader
        held_out = LatentEvalLoader(loader.images, loader.labels, batch_size=loader.batch_size)
        held_out.index, held_out.per_rank, held_out.latents = loader.index, loader.per_rank, self._store("test")
        return held_out

    def _store(self, split: str) -> LatentStore:
        if self.latents is None:
            raise UserError("the images have not been encoded", "call encode_with(codec, device) before")
        return self.latents.store(split)

    def card(self) -> dict[str, Any]:
        """That of the data."""
        return self.data.card()


class LatentLoader(TrainLoader):
    """The batches of a `TrainLoader`, as latents.

    Attributes:
        latents: Those of its images.
    """

    latents: LatentStore

    def __iter__(self) -> Iterator[Batch]:
        self.transform = self.transform or _as_it_is  # latents stay on disk, images on no device
        return super().__iter__()

    def _made(self, n: int) -> Batch:
        return self.batch(n)

    def batch(self, n: int) -> Batch:
        """Batch number `n`, counted from 0 over all epochs."""
        epoch, _, _, mine = self._place(n)
        order, flips = self._order(epoch)
        found = self.latents.batch(order[mine], flips[mine] if self.flip else None)
        return found if self.labels is None else found | {"label": self.labels.index_select(0, order[mine])}


class LatentEvalLoader(EvalLoader):
    """The batches of an `EvalLoader`, as latents.

    Attributes:
        latents: Those of its images.
    """

    latents: LatentStore

    def __iter__(self) -> Iterator[Batch]:
        for index in self.index.split(self.per_rank):
            found = self.latents.batch(index)
            yield found if self.labels is None else found | {"label": self.labels.index_select(0, index)}


def _as_it_is(batch: Batch, key: tuple[int, ...]) -> Batch:
    return batch
