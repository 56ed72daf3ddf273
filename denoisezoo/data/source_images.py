"""Images that are there as objects: a tensor, a list of arrays, a `Source`, a data set of Hugging Face."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from denoisezoo.data.image_data import ImageData, Split, holdout_mask
from denoisezoo.data.store import Source
from denoisezoo.errors import UserError
from denoisezoo.pixels import to_uint8


class SourceImages(ImageData):
    """Any `Source`, or what is like one, as data.

        SourceImages(torch.rand(500, 1, 16, 16) * 2 - 1)
        SourceImages([{"image": scan, "label": 3}, ...], labels=True, batch_size=64)
        SourceImages(datasets.load_dataset("mnist", split="train"), resolution=16, channels=1)

    Args:
        source: A tensor (N, C, H, W), or items by number: images, or mappings with an image and perhaps a class. An
            image is an array (H, W) or (H, W, C), a tensor (C, H, W) or (H, W), or a picture of PIL; whole numbers
            from 0 to 255, or floats in [-1, 1], which are kept in 256 steps.
        held_out: Likewise, what is held out.
        resolution: Height and width in pixels, to which pictures of PIL are scaled; those of the first image unless
            given.
        channels: 1 for grey, 3 for RGB; as the first image has unless given.
        image: Key of the image in an item.
        label: Key of the class, a whole number.
        holdout_every: Without `held_out`, every so many-th image of each class is held out; 0 holds out none.
        **options: Of `ImageData`.

    Raises:
        UserError: There are no images, or the first is none, or is not square.
    """

    dataset = "source"

    def __init__(
        self,
        source: Source | Sequence[Any] | Tensor,
        held_out: Source | Sequence[Any] | Tensor | None = None,
        *,
        resolution: int | None = None,
        channels: int | None = None,
        image: str = "image",
        label: str = "label",
        holdout_every: int = 0,
        **options: Any,
    ) -> None:
        self.image, self.label = image, label
        if not len(source):
            raise UserError("there are no images", "give at least one")
        first = self._pixels(self._image(source[0]), channels)
        super().__init__(resolution=resolution or first.shape[-1], **options)
        if resolution is None and first.shape[-1] != first.shape[-2]:
            raise UserError(f"images are {_size(first)}", "cut squares, or give resolution for pictures of PIL")
        self.parts, self.holdout_every = (source, () if held_out is None else held_out), holdout_every
        self.channels = first.shape[0]

    @property
    def class_names(self) -> tuple[str, ...]:
        """As the source knows them, or else the numbers of its classes."""
        source: Any = self.parts[0]
        feature = getattr(source, "features", {})
        known = getattr(feature.get(self.label) if isinstance(feature, Mapping) else None, "names", None)
        known = getattr(source, "classes", None) if known is None else known
        if known is not None:
            return tuple(map(str, known))
        return tuple(map(str, range(int(self._labels(source).max()) + 1)))

    def fingerprint(self) -> str:
        """That of the source where it has one; else of the pixels."""
        found = [part.fingerprint() for part in self.parts if isinstance(part, Source)]
        return " ".join(found) if found else self.content_hash()

    def load(self) -> dict[str, Split]:
        """See `ImageData`.

        Raises:
            UserError: Images differ in size or channels.
        """
        train, test = (self._split(part) for part in self.parts)
        mask = holdout_mask(train.labels, 0 if len(test.images) else self.holdout_every)
        if not mask.any():
            return {"train": train, "test": test}
        return {
            name: Split(self._store(self.parts[0], kept.nonzero().flatten().tolist()), train.labels[kept])
            for name, kept in (("train", ~mask), ("test", mask))
        }

    def _split(self, part: Any) -> Split:
        return Split(self._store(part, list(range(len(part)))), self._labels(part))

    def _store(self, part: Any, places: list[int]) -> Any:
        def decode(name: str) -> Tensor:
            pixels = self._pixels(self._image(part[int(name)]), self.channels, self.resolution)
            if (found := tuple(pixels.shape)) != (wanted := (self.channels, self.resolution, self.resolution)):
                raise UserError(f"image {name} is {found}, and the first {wanted}", "give images of one size")
            return pixels

        return self.store([str(place) for place in places], decode)

    def _labels(self, part: Any) -> Tensor:
        if isinstance(part, Tensor):
            return torch.zeros(len(part), dtype=torch.int64)
        items = (part[i] for i in range(len(part)))
        return torch.tensor([_class_of(item, self.label) for item in items], dtype=torch.int64)

    def _image(self, item: Any) -> Any:
        """The image of an item, whatever it is.

        Raises:
            UserError: It holds none.
        """
        if not isinstance(item, Mapping):
            return item
        if self.image not in item:
            known = ", ".join(map(str, item))
            raise UserError(f"an item has no {self.image!r} but {known}", "give image, the key of its image")
        return item[self.image]

    def _pixels(self, image: Any, channels: int | None, side: int | None = None) -> Tensor:
        """An image as uint8 (C, H, W)."""
        if hasattr(image, "convert"):  # a picture of PIL
            channels = channels or (1 if image.mode in ("1", "L", "I;16") else 3)
            image = image.convert("L" if channels == 1 else "RGB")
            image = np.array(image if side is None else image.resize((side, side)))
        if not isinstance(image, Tensor):
            image = torch.from_numpy(np.ascontiguousarray(image))
            image = image if image.ndim == 2 else image.permute(2, 0, 1) if image.ndim == 3 else image[None]
        image = image[None] if image.ndim == 2 else image
        if image.ndim != 3:
            raise UserError(
                f"an image has the shape {tuple(image.shape)}", "give (H, W), (C, H, W) or an array (H, W, C)"
            )
        if image.is_floating_point():
            return to_uint8(image)
        if image.dtype is not torch.uint8 and not 0 <= int(image.min()) <= int(image.max()) <= 255:
            raise UserError("pixels are out of range", "give whole numbers from 0 to 255, or floats in [-1, 1]")
        return image.to(torch.uint8).contiguous()


def as_data(
    data: ImageData | Source | Sequence[Any] | Tensor,
    batch_size: int | None = None,
    seed: int = 0,
    labels: bool = False,
) -> ImageData:
    """What was given as data, as a data module.

    Args:
        data: A data module, or what `SourceImages` takes.
        batch_size: Images per step; 128, or all where there are fewer, unless given.
        seed: Seed of the order.
        labels: Give class labels with the batches.

    Raises:
        UserError: A batch size beside a data module, which has its own.
    """
    if isinstance(data, ImageData):
        if batch_size not in (None, data.batch_size):
            raise UserError(f"batch_size is {batch_size}, and the data's {data.batch_size}", "leave it out")
        return data
    size = min(128, len(data)) if batch_size is None else batch_size
    return SourceImages(data, batch_size=size, seed=seed, labels=labels, horizontal_flip=False)


def _class_of(item: Any, key: str) -> int:
    return int(item[key]) if isinstance(item, Mapping) and key in item else 0


def _size(image: Tensor) -> str:
    return f"{image.shape[-2]}x{image.shape[-1]}"
