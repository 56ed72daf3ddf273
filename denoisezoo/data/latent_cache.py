"""Latents of a data set on disk: what an encoder says of every image, written once and read by many.

A folder holds, for each split, the means and the log-variances of the posteriors as arrays of numpy, and `index.json`:
what they are of, and how many are there. That number is written after the latents that it counts, so that encoding goes
on from there however it ended, and ends with the same bytes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from denoisezoo.data.store import ImageStore
from denoisezoo.diffusion.codecs import Codec
from denoisezoo.diffusion.codecs.codec import Posterior
from denoisezoo.errors import UserError
from denoisezoo.files import cannot_write, local_path, write_json
from denoisezoo.locking import only_writer
from denoisezoo.pixels import to_float
from denoisezoo.progress import progress_bar

INDEX = "index.json"
AT_A_TIME = 64
"""Images that are encoded together, and kept by the time that their number is written."""


class Key(NamedTuple):
    """What latents are of: each is compared, and named where it differs.

    Attributes:
        resolution: Of the images.
        data: Fingerprint of the data.
        codec: Name of the codec.
        weights: Hash of its weights; None where it has none.
        flips: Whether mirrored images are encoded too.
        dtype: Of the numbers.
    """

    resolution: int
    data: str
    codec: str
    weights: str | None
    flips: bool
    dtype: str


WORDS = {
    "data": "other data",
    "codec": "another codec",
    "weights": "a codec of other weights",
    "resolution": "another resolution",
    "flips": "other flips",
    "dtype": "another type",
}


class LatentCache:
    """The latents of the splits of a data set in a folder.

    Args:
        folder: The folder; made where there is none.
        key: What they are of.
        sizes: Images of each split.
        shape: (C', H', W') of a latent.
    """

    def __init__(
        self, folder: str | os.PathLike[str], key: Key, sizes: Mapping[str, int], shape: tuple[int, ...]
    ) -> None:
        self.folder, self.key, self.sizes, self.shape = local_path(folder), key, dict(sizes), tuple(shape)

    @property
    def turns(self) -> int:
        """How often a training image is encoded: as it is, and mirrored."""
        return 1 + self.key.flips

    @property
    def total(self) -> int:
        """Images that are encoded, mirrored ones included."""
        return sum(self._array_shape(split)[0] * n for split, n in self.sizes.items())

    def fill(self, images: Mapping[str, ImageStore], codec: Codec, device: torch.device | str) -> None:
        """Encode what is not there yet; of several processes one does, and the others wait.

        Args:
            images: Images of each split.
            codec: Encodes them, on the device.
            device: Where the codec is.

        Raises:
            UserError: The folder holds latents of something else, or cannot be written.
        """
        if self._complete():
            return
        with only_writer(self.folder, "wait until it is through", wait=True):
            if self._complete():
                return
            try:
                self._fill(images, codec, torch.device(device))
            except OSError as error:
                raise cannot_write(self.folder, error) from error

    def _fill(self, images: Mapping[str, ImageStore], codec: Codec, device: torch.device) -> None:
        index = self._index()
        if index is None:
            some = to_float(next(iter(images.values())).take(torch.tensor([0]))).to(device)
            index = {**self.key._asdict(), "sizes": self.sizes, "shape": list(self.shape), "done": {}}
            index["posterior"] = self._encode(codec, some).log_variance is not None
            for split in self.sizes:
                for part in self._parts(index):
                    np.lib.format.open_memmap(
                        self._file(split, part), "w+", np.dtype(self.key.dtype), self._array_shape(split)
                    ).flush()
            write_json(self.folder / INDEX, index)  # from here on the arrays are there
        before = 0
        with progress_bar("encoding", self.total) as report:
            for split, n in self.sizes.items():
                arrays = {part: np.load(self._file(split, part), mmap_mode="r+") for part in self._parts(index)}
                for turn, some in self._left(split, index["done"].get(split, 0)):
                    image = to_float(images[split].take(some)).to(device)
                    found = self._encode(codec, image.flip(-1) if turn else image)
                    for part, array in arrays.items():
                        array[turn, some.numpy()] = getattr(found, part).float().cpu().numpy()
                        array.flush()
                    index["done"][split] = turn * n + int(some[-1]) + 1
                    write_json(self.folder / INDEX, index)
                    report(before + index["done"][split])
                before += self._array_shape(split)[0] * n

    def _left(self, split: str, done: int) -> Iterator[tuple[int, Tensor]]:
        """Turns and places (B,) of the images that are still to be encoded, in the batches of an unbroken run."""
        for turn in range(self._array_shape(split)[0]):
            for some in torch.arange(self.sizes[split]).split(AT_A_TIME) if self.sizes[split] else ():
                if turn * self.sizes[split] + int(some[-1]) >= done:
                    yield turn, some

    def _encode(self, codec: Codec, image: Tensor) -> Posterior:
        with torch.no_grad():
            return codec.posterior(image.to(codec.dtype or image.dtype))

    def _array_shape(self, split: str) -> tuple[int, ...]:
        return (self.turns if split == "train" else 1, self.sizes[split], *self.shape)

    def _file(self, split: str, part: str) -> Path:
        return self.folder / f"{split}_{part}.npy"

    @staticmethod
    def _parts(index: Mapping[str, Any]) -> tuple[str, ...]:
        return Posterior._fields if index["posterior"] else ("mean",)

    def _complete(self) -> bool:
        index = self._index()
        return index is not None and all(
            index["done"].get(split, 0) == self._array_shape(split)[0] * n for split, n in self.sizes.items()
        )

    def _index(self) -> dict[str, Any] | None:
        """What the folder says that it holds; None where nothing was written.

        Raises:
            UserError: It is of something else, or cannot be read.
        """
        file = self.folder / INDEX
        cure = f"give another folder, or delete {self.folder}"
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
            theirs = {name: found[name] for name in Key._fields}
            sizes, shape, _, _ = found["sizes"], tuple(found["shape"]), found["done"], found["posterior"]
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{file} is damaged", cure) from error
        for name, mine in self.key._asdict().items():
            if theirs[name] != mine:
                told = "" if name in ("data", "weights") else f": {name} is {theirs[name]}, not {mine}"
                raise UserError(f"{self.folder} holds latents of {WORDS[name]}{told}", cure)
        if sizes != self.sizes or shape != self.shape:
            raise UserError(f"{self.folder} holds latents of {sizes} images, not {self.sizes}", cure)
        return dict(found)

    def store(self, split: str) -> LatentStore:
        """The latents of a split, read from disk as they are taken.

        Raises:
            UserError: A file is missing or damaged.
        """
        index = self._index()
        assert index is not None, "filled before it is read"
        arrays = {}
        for part in self._parts(index):
            file = self._file(split, part)
            try:
                arrays[part] = np.load(file, mmap_mode="r", allow_pickle=False)
            except (OSError, ValueError, EOFError) as error:
                raise UserError(f"{file} is missing or damaged", f"delete {self.folder}, and train again") from error
            if arrays[part].shape != self._array_shape(split):
                raise UserError(f"{file} holds other latents", f"delete {self.folder}, and train again")
        return LatentStore(arrays)


class LatentStore:
    """The latents of a split on disk.

    Args:
        arrays: Mean and, where there is one, log-variance (turns, N, C', H', W'), mapped.
    """

    def __init__(self, arrays: Mapping[str, Any]) -> None:
        self.arrays = dict(arrays)

    def __len__(self) -> int:
        return int(self.arrays["mean"].shape[1])

    def batch(self, index: Tensor, mirrored: Tensor | None = None) -> dict[str, Tensor]:
        """A batch as `Codec.to_batch` draws from: "image", the means (B, C', H', W'), and "log_variance".

        The log-variance of a codec without a posterior is (B, 1, 1, 1), and minus infinity: there is nothing to draw.

        Args:
            index: Which images (B,).
            mirrored: Which of them (B,) are mirrored; None for none.
        """
        turn = np.zeros(len(index), dtype=np.int64) if mirrored is None else mirrored.numpy().astype(np.int64)
        taken = {part: torch.from_numpy(array[turn, index.numpy()]).float() for part, array in self.arrays.items()}
        nothing = torch.full((len(index), 1, 1, 1), -torch.inf)
        return {"image": taken["mean"], "log_variance": taken.get("log_variance", nothing)}
