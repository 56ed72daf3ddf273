"""What images are compared with, where it is not the data of a run: real images from anywhere, or their statistics."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from denoisezoo.data.image_sets import Shape, kind_of, open_images
from denoisezoo.data.npz import IMAGES, ImageNpz, names_in_npz
from denoisezoo.errors import UserError
from denoisezoo.evaluation.features import create_each
from denoisezoo.evaluation.metrics import Evaluator, pixels_of
from denoisezoo.evaluation.moments import Moments, read_moments, write_moments
from denoisezoo.files import local_path, printable
from denoisezoo.pixels import sha256_of
from denoisezoo.ranks import ranks


@dataclass(frozen=True)
class Reference:
    """Real images or statistics of their features, or both.

    Attributes:
        title: What a result card calls it.
        sha256: Hash of its file or content.
        images: uint8 (M, C, H, W); M is 0 where there are statistics alone.
        moments: The statistics.
    """

    title: str
    sha256: str
    images: Tensor = field(repr=False)
    moments: Moments | None = None

    @property
    def channels(self) -> int:
        """C."""
        return int(self.images.shape[1])

    @property
    def resolution(self) -> int:
        """Height and width in pixels."""
        return int(self.images.shape[-1])

    @property
    def split(self) -> str | None:
        """What a card says: all that is there is compared with; None for statistics, which do not tell."""
        return "all" if len(self.images) else None

    def card(self) -> dict[str, Any]:
        """What a result card says of it."""
        return {"dataset": self.title, "dataset_sha256": self.sha256}

    def evaluator(self, features: str) -> Evaluator:
        """The reference side of the metrics.

        The Frechet distance is to the statistics, where there are some of these features, and else to the images.

        Args:
            features: Registry name of what images are compared by, or several, joined by "+".

        Raises:
            UserError: There are statistics alone, and not of these features, or too few images.
        """
        extractors, moments = create_each(features), self.moments
        C, H, W = self.images.shape[1:]
        for extractor in extractors:
            extractor.check((C, H, W))
        if moments is not None and (mistake := moments.misfit(extractors[0], (C, H, W))) is not None:
            if not len(self.images):
                raise mistake
            moments = None
        return Evaluator(self.images, features=extractors, moments=None if moments is None else moments.stats)


def find_reference(path: str | os.PathLike[str], shape: Shape | None = None, made: str = "") -> Reference:
    """The reference at a path.

    Args:
        path: A folder or zip file of images, shards, or an .npz file: of images, `arr_0`, of statistics of their
            features, `mu` and `sigma`, or of both.
        shape: (C, H, W) of the images to be compared with it; channels are converted. Found unless given.
        made: What has this shape, with its verb, as errors call it: "ddpm makes".

    Raises:
        UserError: There is nothing of the kind, it is damaged, or its images have another size.
    """
    moments = read_moments(path) if kind_of(path) is ImageNpz else None
    if moments is not None and IMAGES not in names_in_npz(path):
        if shape is None:
            raise UserError(f"{path} holds statistics and no images", "give images")
        name = printable(local_path(path).resolve().name)
        return Reference(f"statistics:{name}", moments.sha256, torch.empty(0, *shape, dtype=torch.uint8), moments)
    data = open_images(path, shape, made)
    return Reference(data.title, data.content_hash(), data.images(), moments)


def reference_of(images: Tensor) -> Reference:
    """A reference of images that are there as a tensor.

    Args:
        images: uint8 or float in [-1, 1], (M, C, H, W).

    Raises:
        UserError: They are no images.
    """
    pixels = pixels_of(images, "reference")
    return Reference("images", sha256_of(pixels), pixels)


def write_statistics(path: str | os.PathLike[str], evaluator: Evaluator, card: Mapping[str, Any]) -> None:
    """Write the statistics of a reference, as EDM and pytorch-fid read them, and this package; of several processes the
    first one does.

    Args:
        path: The .npz file.
        evaluator: The reference side of the metrics.
        card: What a result card says of the reference.

    Raises:
        UserError: It is statistics itself, or the file cannot be written.
    """
    if ranks()[0]:
        return
    if evaluator.real is None:
        raise UserError(f"{card['dataset']} holds statistics already, and no images", "copy the file")
    facts = {key: card[key] for key in ("dataset", "dataset_sha256")}
    write_moments(path, evaluator.stats, evaluator.features, **facts)
