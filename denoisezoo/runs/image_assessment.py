"""Judging images that came from anywhere, by the figures and on the card of a run's."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from torch import Tensor

from denoisezoo.data import ImageData
from denoisezoo.data.image_sets import Shape, open_images
from denoisezoo.errors import UserError
from denoisezoo.evaluation.card import ResultCard
from denoisezoo.evaluation.further_figures import FurtherFigures
from denoisezoo.evaluation.metrics import pixels_of
from denoisezoo.evaluation.reference import Reference, find_reference, reference_of, write_statistics
from denoisezoo.files import printable
from denoisezoo.pictures import image_grid, png_bytes
from denoisezoo.pixels import sha256_of
from denoisezoo.runs.assessor import figures_table, make_evaluator
from denoisezoo.runs.terms import Settings
from denoisezoo.tables import Table, Tabular

Images: TypeAlias = "Tensor | str | os.PathLike[str]"
"""Images (N, C, H, W), or the path of a folder, a zip file, an .npz file or shards."""


@dataclass(frozen=True)
class ImageAssessment(Tabular):
    """Metrics of images with what is known of their circumstances; prints as a table, a notebook shows the images.

    Attributes:
        name: What results call them.
        metrics: Figures by name.
        card: Their circumstances; of the network, its training and the sampler nothing is known.
        images: uint8 (N, C, H, W).
        sha256: Hash of the images' file or content.
        path: Where they came from; None for a tensor.
    """

    name: str
    metrics: dict[str, float]
    card: ResultCard
    images: Tensor = field(repr=False)
    sha256: str
    path: str | None = None

    def picture(self, num: int) -> np.ndarray:
        """A grid of some of them."""
        return image_grid(self.images[:num])

    def png(self) -> bytes:
        """64 of them."""
        return png_bytes(self.picture(64))

    def summary(self) -> Table:
        """The metrics, and of the card what one looks for first."""
        return figures_table(self.name, self.metrics, self.card)

    def rows(self) -> list[dict[str, Any]]:
        """One row, as of a run: metrics and the whole card; and where the images came from."""
        row = {"name": self.name, "family": None, "run": None, **self.metrics}
        whence = {"images": self.path, "images_sha256": self.sha256}
        return [row | {"latency_ms_per_image": None, **self.card.as_row(), **whence}]


def assess_images(
    images: Images,
    reference: Images | ImageData,
    settings: Settings,
    write_reference: str | os.PathLike[str] | None = None,
) -> ImageAssessment:
    """Judge images.

    Args:
        images: What is judged.
        reference: What it is compared with; see `known_reference`.
        settings: Of these, `features` and `split`.
        write_reference: Also write the statistics of the reference to this file.

    Raises:
        UserError: Images of different sizes, or too few, or a reference that does not serve.
    """
    if isinstance(images, Tensor):
        pixels, name, path = pixels_of(images, "generated"), "images", None
        sha256 = sha256_of(pixels)
    else:
        found = open_images(images)
        pixels, name, path = found.images(), printable(Path(images).resolve().name), os.fspath(images)
        sha256 = found.content_hash()
    C, H, W = pixels.shape[1:]
    known = known_reference(reference, (C, H, W), f"{name} holds")
    evaluator = make_evaluator(known, settings)
    if write_reference is not None:
        write_statistics(write_reference, evaluator, known.card())
    card = ResultCard.here(
        device_name=None,
        dataset=known.card()["dataset"],
        dataset_sha256=known.card()["dataset_sha256"],
        split=known.split if isinstance(known, Reference) else settings.split,
        resolution=W,
        num_generated=len(pixels),
        num_reference=evaluator.num_reference,
        features=settings.features,
        features_sha256=evaluator.features_sha256,
    )
    # Where the images were made is not known.
    metrics = evaluator.evaluate(pixels)
    if settings.details:
        metrics |= FurtherFigures(evaluator).of(pixels)
    return ImageAssessment(name, metrics, replace(card, device=None), pixels, sha256, path)


def known_reference(reference: Images | ImageData, shape: Shape, made: str) -> Reference | ImageData:
    """What images are compared with, read.

    Args:
        reference: Real images, or the path of statistics of their features, `mu` and `sigma`. Of a data set the split
            of the settings counts, and its training and held-out images are those of the figures of memorisation.
        shape: (C, H, W) of the images to be compared.
        made: What has this shape, with its verb, as errors call it: "ddpm makes".

    Raises:
        UserError: There is nothing of the kind, it is damaged, or its images have another size.
    """
    if not isinstance(reference, ImageData | Tensor):
        return find_reference(reference, shape, made)
    found: Any = reference_of(reference) if isinstance(reference, Tensor) else reference
    if (theirs := (found.channels, found.resolution, found.resolution)) != shape:
        raise UserError(f"{made} images of shape {shape}, and those of {found.title} are {theirs}", "give other data")
    return found
