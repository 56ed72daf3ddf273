"""Where decoded images live: in one uint8 tensor when it fits, else they are decoded as a batch is taken."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

Decode = Callable[[str], Tensor]
"""Reads one named image: uint8 (C, H, W)."""

PROGRESS_FROM = 2_000
"""Decoding fewer files than this takes about a second, and shows no progress bar."""


@runtime_checkable
class Source(Protocol):
    """A data set: so many items, what classes they are of, and what tells them from others."""

    @property
    def classes(self) -> Sequence[str]:
        """Names of the classes, in the order of the labels."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Mapping[str, Any]:
        """One item: "image", uint8 (C, H, W), and "label", a whole number, where there are classes."""
        ...

    def fingerprint(self) -> str:
        """A hash of the content."""
        ...


class ImageStore(Protocol):
    """Images that can be taken by index."""

    def __len__(self) -> int: ...

    def take(self, index: Tensor) -> Tensor:
        """Images `index` (B,) int64 as uint8 (B, C, H, W)."""
        ...

    def expect(self, index: Tensor) -> None:
        """Say which images are taken next, so that they can be made ready; taking others stays right."""
        ...

    def all(self) -> Tensor:
        """Every image, uint8 (N, C, H, W)."""
        ...


class TensorStore:
    """Images decoded in memory.

    Args:
        images: uint8 (N, C, H, W).
    """

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def take(self, index: Tensor) -> Tensor:
        """See `ImageStore`."""
        return self.images.index_select(0, index)

    def expect(self, index: Tensor) -> None:
        """See `ImageStore`; they are ready."""

    def all(self) -> Tensor:
        """See `ImageStore`; the tensor itself, not a copy."""
        return self.images


class LazyStore:
    """Images decoded each time they are taken, for data sets larger than memory.

    Args:
        names: One name per image.
        decode: Reads one of them; called from several threads.
        workers: Threads that decode (decoders of large images release the interpreter's lock); None is one per core, at
            most 16.
    """

    def __init__(self, names: Sequence[str], decode: Decode, workers: int | None = None) -> None:
        self.names, self.decode = names, decode
        self.pool = ThreadPoolExecutor(workers or min(16, os.cpu_count() or 1), thread_name_prefix="decode")
        self._expected: tuple[Tensor, list[Future[Tensor]]] | None = None
        self._lock = threading.Lock()  # training takes images in a thread of its own, sample grids take theirs here

    def __len__(self) -> int:
        return len(self.names)

    def take(self, index: Tensor) -> Tensor:
        """See `ImageStore`."""
        with self._lock:
            expected, self._expected = self._expected, None
        if expected is None or not torch.equal(expected[0], index):
            self._drop(expected)
            expected = index, self._begin(index)
        return torch.stack([image.result() for image in expected[1]])

    def expect(self, index: Tensor) -> None:
        """See `ImageStore`; the threads decode them while the network trains. What fails is raised when it is taken."""
        with self._lock:
            self._drop(self._expected)
            self._expected = index, self._begin(index)

    def _begin(self, index: Tensor) -> list[Future[Tensor]]:
        return [self.pool.submit(self.decode, self.names[i]) for i in index.tolist()]

    @staticmethod
    def _drop(expected: tuple[Tensor, list[Future[Tensor]]] | None) -> None:
        for image in expected[1] if expected else []:
            image.cancel()

    def all(self) -> Tensor:
        """See `ImageStore`; decodes the whole set, which may not fit in memory."""
        return decode_all(self.names, self.decode)


def decode_all(names: Sequence[str], decode: Decode) -> Tensor:
    """Decode every name into one uint8 tensor (N, C, H, W), with a progress bar when there are many."""
    first = decode(names[0])
    images = torch.empty(len(names), *first.shape, dtype=torch.uint8)
    for i, name in enumerate(_progress(names)):
        images[i] = decode(name)
    return images


def _progress(names: Sequence[str]) -> Sequence[str]:
    if len(names) < PROGRESS_FROM:
        return names
    from rich.console import Console
    from rich.progress import track

    return track(names, f"Decoding {len(names):,} images", console=Console(stderr=True))  # type: ignore[return-value]
