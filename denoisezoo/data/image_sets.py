"""Images that came from anywhere, by the path of their folder or file alone."""

from __future__ import annotations

import io
import os
import re
from typing import Any

import numpy as np
from PIL import Image

from denoisezoo.data.decoding import opaque
from denoisezoo.data.folders import FileImages, ImageFolder, ImageZip
from denoisezoo.data.image_data import ImageData
from denoisezoo.data.npz import IMAGES, ImageNpz, names_in_npz, read_npz
from denoisezoo.data.sources import ARRAY, FolderSource, ImageFiles
from denoisezoo.data.webdataset import SUFFIX, WebDataset
from denoisezoo.errors import UserError, rewording
from denoisezoo.files import NOTE, local_path

Shape = tuple[int, int, int]
"""(C, H, W)."""


class Samples(FolderSource):
    """What `denoisezoo sample` has written: the images, and not the grids beside them."""

    def find(self) -> list[str]:
        """See `ImageFiles`."""
        return [name for name in super().find() if re.fullmatch(r"\d{6,}\.png", name)]


class SampleFolder(ImageFolder):
    """A folder that `denoisezoo sample` has written."""

    source_class = Samples


def kind_of(path: str | os.PathLike[str]) -> type[FileImages] | type[ImageNpz]:
    """The data set that reads images at a path: a folder, an .npz file, shards, or a zip file."""
    place = local_path(path)
    if place.is_dir():
        return SampleFolder if (place / NOTE).is_file() else ImageFolder
    return {".npz": ImageNpz, SUFFIX: WebDataset}.get(place.suffix.lower(), ImageZip)


def open_images(path: str | os.PathLike[str], shape: Shape | None = None, made: str = "") -> ImageData:
    """All images at a path, as the training split of a data set, read.

    Args:
        path: A folder of images, a zip file of them, an .npz file with `arr_0`, or shards.
        shape: What they must be; channels are converted. Found unless given: as large as the first of them, and grey
            where all are.
        made: What has this shape, with its verb, as errors call it: "ddpm makes".

    Raises:
        UserError: There are none, they are no images, not square, or of other sizes.
    """
    kind, text = kind_of(path), os.fspath(path)
    options: dict[str, Any] = {"holdout_every": 0, "batch_size": 1}
    with rewording(lambda words: words.replace("give `data.resize=true` to cut", "cut").replace(" (`data.path`)", "")):
        array = kind is ImageNpz
        channels, height, width = _shape_of_array(text) if array else _shape_of_files(kind, text, shape is None)
        if shape is not None and shape[1:] != (height, width):
            what = f"images in {text} are {width}x{height}, and {made} images of {shape[2]}x{shape[1]}"
            by_path = ", or give them by `data.path` with `data.resize=true`" if made.endswith("makes") else ""
            raise UserError(what, f"resize the ones or the others{by_path}")
        if height != width:
            raise UserError(f"images in {text} are {width}x{height}", "cut squares")
        options["channels"] = shape[0] if shape else channels
        data = kind(text, resolution=height, **options)
        data.setup()
    return data


def _shape_of_array(path: str) -> Shape:
    images = read_npz(path, IMAGES).get(IMAGES)
    if images is None:
        raise UserError(
            f"{path} holds {', '.join(names_in_npz(path)) or 'nothing'}, and no images {IMAGES}", "give images"
        )
    if images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] not in (1, 3)):
        raise UserError(f"{IMAGES} of {path} is {images.dtype} {images.shape}", "give images, uint8 (N, H, W, 3)")
    grey = images.ndim == 3 or (_is_grey(images[:1]) and _is_grey(images))  # most often one image tells
    return 1 if grey else 3, images.shape[1], images.shape[2]


def _shape_of_files(kind: Any, path: str, find_channels: bool) -> Shape:
    """Of the first image; whether all are grey takes a look at each, up to the first that is not."""
    source: ImageFiles = kind.source_class(path)
    grey, size = True, (0, 0)
    for i, name in enumerate(source.names):
        if name.endswith(ARRAY):
            raise UserError(f"{name} in {path} is an array", "give images as files, or as arr_0 in an .npz file")
        try:
            with Image.open(io.BytesIO(source.read(name))) as image:
                size = size if i else image.size
                grey = find_channels and grey and _is_grey(np.asarray(opaque(image).convert("RGB")))
        except Exception as error:  # as of any damaged bytes
            what = f"{name} in {path} cannot be read as an image ({type(error).__name__})"
            raise UserError(what, "mend or remove it") from error
        if not grey:
            break
    return 1 if grey else 3, size[1], size[0]


def _is_grey(image: np.ndarray) -> bool:
    """Whether the channels of images (..., C) are equal: grey ones are often kept as RGB."""
    return bool((image == image[..., :1]).all())
