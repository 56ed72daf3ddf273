"""Latents that an autoencoder made beforehand, as arrays on disk."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from denoisezoo.data.image_data import DATASETS, ImageData, Split, SplitName, require_positive
from denoisezoo.data.store import TensorStore
from denoisezoo.errors import UserError
from denoisezoo.files import local_path, sha256

LATENTS, LABELS = "latents.npy", "labels.npy"


class MappedStore:
    """Latents that are read from disk as they are taken; an `ImageStore` of floating numbers.

    Args:
        array: (N, C, H, W), mapped.
        scale: What they are multiplied by.
    """

    def __init__(self, array: Any, scale: float) -> None:
        self.array, self.scale = array, scale

    def __len__(self) -> int:
        return len(self.array)

    def take(self, index: Tensor) -> Tensor:
        """Latents `index` (B,) int64 as float32 (B, C, H, W)."""
        return torch.from_numpy(self.array[index.numpy()].astype(np.float32)) * self.scale

    def expect(self, index: Tensor) -> None:
        """See `ImageStore`; the system's cache is all there is."""

    def all(self) -> Tensor:
        """Every latent, float32 (N, C, H, W)."""
        return self.take(torch.arange(len(self)))


@DATASETS.register("latents")
class Latents(ImageData):
    """Latents in a folder: `latents.npy` (N, C, H, W), floating, and, for labels, `labels.npy` (N,), whole numbers.

    A network is trained on them and priced; what it samples are latents as well, which the autoencoder that made these
    decodes. Pictures of them, and metrics, there are none. They stay on disk and are read batch by batch.

    Args:
        path: The folder.
        channels: C.
        resolution: H and W.
        scale: What they are multiplied by, so that networks see numbers of unit variance; 0.18215 is that of the
            autoencoder of Stable Diffusion, whose latents are stored without it.
        num_labels: Classes.
        batch_size: Latents per optimiser step, over all devices together.
        labels: Give class labels with the batches.
        seed: Seed of the order.
    """

    dataset = "latents"

    def __init__(
        self,
        path: str,
        *,
        channels: int = 4,
        resolution: int = 32,
        scale: float = 1.0,
        num_labels: int = 1000,
        batch_size: int = 256,
        labels: bool = False,
        seed: int = 0,
    ) -> None:
        # A mirrored latent is not the latent of the mirrored image.
        super().__init__(resolution=resolution, batch_size=batch_size, horizontal_flip=False, labels=labels, seed=seed)
        require_positive("channels", channels)
        require_positive("num_labels", num_labels)
        if not scale > 0:
            raise UserError(f"scale is {scale}", "give a positive number")
        self.path, self.channels, self.scale, self.num_labels = path, channels, scale, num_labels

    @property
    def class_names(self) -> tuple[str, ...]:
        """The numbers of the classes."""
        return tuple(map(str, range(self.num_labels)))

    def load(self) -> dict[str, Split]:
        """See `ImageData.load`; nothing is held out.

        Raises:
            UserError: A file is missing or damaged, or its array has another shape or type.
        """
        latents = self._read(LATENTS)
        expected = (self.channels, self.resolution, self.resolution)
        if latents.ndim != 4 or latents.shape[1:] != expected or latents.dtype.kind != "f":
            raise UserError(
                f"{local_path(self.path) / LATENTS} holds {latents.dtype} {latents.shape}",
                f"give floating latents (N, {', '.join(map(str, expected))}), or `data.channels` and `data.resolution`",
            )
        labels = self._read(LABELS) if self.with_labels else np.zeros(len(latents), dtype=np.int64)
        if labels.shape != latents.shape[:1] or labels.dtype.kind not in "iu":
            found = f"{local_path(self.path) / LABELS} holds {labels.dtype} {labels.shape}"
            raise UserError(found, f"give {len(latents)} whole numbers, one for each latent")
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < self.num_labels:
            found = f"labels range from {labels.min()} to {labels.max()}"
            raise UserError(found, f"give numbers from 0 to {self.num_labels - 1}, or num_labels")
        nothing = torch.empty(0, *expected)
        return {
            "train": Split(MappedStore(latents, self.scale), torch.from_numpy(labels.astype(np.int64))),
            "test": Split(TensorStore(nothing), torch.empty(0, dtype=torch.int64)),
        }

    def _read(self, name: str) -> Any:
        path: Path = local_path(self.path) / name
        if not path.is_file():
            raise UserError(f"there is no {path}", f"give a folder of {LATENTS} and {LABELS}")
        try:
            return np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise UserError(f"{path} is no array of numpy", "write it again with numpy.save") from error

    def images(self, split: SplitName = "train") -> Tensor:
        """There are none.

        Raises:
            UserError: Always, but for the held-out split, which is empty.
        """
        if split == "test":
            return torch.empty(0, self.channels, self.resolution, self.resolution)
        raise UserError("latents are no images, and have no metrics or pictures", "evaluate on images")

    @cached_property
    def _files_sha256(self) -> str:
        files = [local_path(self.path) / name for name in ((LATENTS, LABELS) if self.with_labels else (LATENTS,))]
        return hashlib.sha256("".join(map(sha256, files)).encode()).hexdigest()

    def content_hash(self) -> str:
        """SHA-256 of the files."""
        return self._files_sha256

    def fingerprint(self) -> str:
        """SHA-256 of sizes and of a thousand latents, evenly chosen: the whole may be ten gigabytes."""
        store = self.split("train").images
        index = torch.arange(0, len(store), -(-len(store) // 1000))
        header = f"{len(store)} {self.scale} {self.channels} {self.resolution}"
        return hashlib.sha256(header.encode() + store.take(index).numpy().tobytes()).hexdigest()

    def card(self) -> dict[str, Any]:
        """See `ImageData.card`."""
        return super().card() | {"scale": self.scale}
