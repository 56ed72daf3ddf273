"""Images of your own: a folder or a zip file of them, one sub-folder per class."""

from __future__ import annotations

import hashlib
from typing import Any, ClassVar, Literal

import torch

from denoisezoo.data.decoding import Decoder
from denoisezoo.data.image_data import DATASETS, ImageData, Split, holdout_mask, require_not_negative
from denoisezoo.data.sources import UNLABELLED, FolderSource, ImageFiles, ZipSource
from denoisezoo.data.store import TensorStore
from denoisezoo.errors import UserError
from denoisezoo.files import printable


class FileImages(ImageData):
    """Base of data sets whose images lie in files. The folder that an image lies in is its class, or what a
    `dataset.json`, as EDM and StyleGAN write it, says.

    Broken images and sizes are found while decoding: at the start where the images fit in `memory_limit_gb`, else when
    a batch needs them.

    Args:
        path: The folder or the zip file.
        resolution: Height and width in pixels.
        test_path: A folder, or a zip file, of held-out images.
        holdout_every: Without `test_path`, every so-many-th image of each class is held out; 0 holds out none.
        resize: Cut the middle square from each image and resize it, instead of refusing any size but `resolution`.
        channels: 3 for RGB (grey images are converted), 1 for grey.
        batch_size: Images per optimiser step, over all devices together.
        horizontal_flip: Mirror each training image with probability one half.
        labels: Give class labels with the batches.
        seed: Seed of the order and of the flips.
        memory_limit_gb: Decoded images larger than this are decoded batch by batch instead.
    """

    source_class: ClassVar[type[ImageFiles]]

    def __init__(
        self,
        path: str,
        *,
        resolution: int,
        test_path: str | None = None,
        holdout_every: int = 20,
        resize: bool = False,
        channels: Literal[1, 3] = 3,
        batch_size: int = 128,
        horizontal_flip: bool = True,
        labels: bool = False,
        seed: int = 0,
        memory_limit_gb: float = 4.0,
    ) -> None:
        super().__init__(
            resolution=resolution,
            batch_size=batch_size,
            horizontal_flip=horizontal_flip,
            labels=labels,
            seed=seed,
            memory_limit_gb=memory_limit_gb,
        )
        require_not_negative("holdout_every", holdout_every)
        if channels not in (1, 3):
            raise UserError(f"channels is {channels}", "give 3 for RGB or 1 for grey")
        self.path, self.test_path, self.holdout_every = path, test_path, holdout_every
        self.resize, self.channels = resize, channels
        self._sources: dict[str, ImageFiles] = {}

    @property
    def title(self) -> str:
        """Registry name and the name of the file or folder."""
        return f"{self.dataset}:{printable(self.source().path.resolve().name)}"

    @property
    def class_names(self) -> tuple[str, ...]:
        """The folders that images lie in, sorted, or what else says the classes; see `ImageFiles.class_of`."""
        return self.source().class_names

    @property
    def held_out_apart(self) -> bool:
        """Whether held-out images lie elsewhere than the training images."""
        return self.test_path is not None

    def open(self, part: str) -> ImageFiles:
        """What the images of "train" lie in, or those of "test" where they lie apart."""
        return self.source_class(self.path if part == "train" else self.test_path or self.path)

    def source(self, part: str = "train") -> ImageFiles:
        """What `open` gives, opened once."""
        if part not in self._sources:
            self._sources[part] = self.open(part)
        return self._sources[part]

    def _all_sources(self) -> list[ImageFiles]:
        return [self.source(part) for part in ("train", *(["test"] if self.held_out_apart else []))]

    def content_hash(self) -> str:
        """Of the zip file, or over the names and contents in the folder."""
        return self.source().sha256

    def fingerprint(self) -> str:
        """Over what is known without reading: names, sizes, and in a zip checksums; contents that are in memory too."""
        stores = [self.split(part).images for part in ("train", "test")]
        read = isinstance(self.source(), FolderSource) and all(isinstance(store, TensorStore) for store in stores)
        parts = [source.sha256 if read else source.listing_sha256 for source in self._all_sources()]
        return hashlib.sha256(" ".join(parts).encode()).hexdigest()

    def card(self) -> dict[str, Any]:
        """See `ImageData`; `test_sha256` is the hash of held-out images that lie apart, None where there are none."""
        return super().card() | {"test_sha256": self.source("test").sha256 if self.held_out_apart else None}

    def load(self) -> dict[str, Split]:
        """See `ImageData`."""
        source = self.source()
        names, labels = self._labelled(source)
        if self.held_out_apart:
            test = self.source("test")
            return {"train": self._split(source, names, labels), "test": self._split(test, *self._labelled(test))}
        held_out = holdout_mask(torch.tensor(labels), self.holdout_every).tolist()
        parts = {}
        for part, wanted in (("train", False), ("test", True)):
            chosen = [i for i, out in enumerate(held_out) if out is wanted]
            parts[part] = self._split(source, [names[i] for i in chosen], [labels[i] for i in chosen])
        return parts

    def _labelled(self, source: ImageFiles) -> tuple[list[str], list[int]]:
        """Names and labels of all images; -1 for a class that the training images do not have.

        Raises:
            UserError: Labels are asked for, and an image has such a class or none, or there are no classes.
        """
        number_of = {name: i for i, name in enumerate(self.class_names)}
        classes = [source.class_of(name) for name in source.names]
        if self.with_labels and source.labels == {}:
            raise UserError(f"{source.path} has no classes ({source.labels_in})", "leave `data.labels` out")
        for name, its_class in zip(source.names, classes, strict=True) if self.with_labels else ():
            if its_class is None:
                where = f"{name} of {source.path}"
                raise UserError(f"{where} has no class ({source.labels_in})", "give it one, or leave `data.labels` out")
            if its_class not in number_of:
                raise UserError(f"class {its_class!r} of {source.path} is not among the training classes", "remove it")
        return source.names, [UNLABELLED if c is None else number_of.get(c, UNLABELLED) for c in classes]

    def _split(self, source: ImageFiles, names: list[str], labels: list[int]) -> Split:
        decoder = Decoder(source, self.resolution, self.channels, self.resize)
        return Split(self.store(names, decoder), torch.tensor(labels, dtype=torch.int64))


@DATASETS.register("image_folder")
class ImageFolder(FileImages):
    """A folder of images, one sub-folder per class; images in sub-folders of any depth count."""

    dataset = "image_folder"
    source_class = FolderSource


@DATASETS.register("image_zip")
class ImageZip(FileImages):
    """A zip file of images, `CLASS/NAME.jpg`."""

    dataset = "image_zip"
    source_class = ZipSource
