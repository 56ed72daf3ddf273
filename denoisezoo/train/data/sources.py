"""Folders and zip files of images: their names, their bytes, their hash, and how one image is decoded."""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from abc import ABC, abstractmethod
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from denoisezoo.errors import UserError
from denoisezoo.files import local_path, sha256

_KINDS = ("avif", "bmp", "gif", "jp2", "jpeg", "jpg", "pgm", "png", "ppm", "tif", "tiff", "webp")
SUFFIXES = tuple(f".{kind}" for kind in _KINDS)
DEEP_MODES = ("I", "F")
"""Pillow's modes of more than 8 bits, among them I;16; it would clip them."""


class Source(ABC):
    """Named images somewhere.

    Attributes:
        path: Where.
        names: Names of all images, sorted, with "/" between folders.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = local_path(path)
        self.names = sorted(name for name in self.find() if is_image(name))
        if not self.names:
            raise UserError(f"{self.path} holds no images", f"put images in it, CLASS/NAME with {' '.join(SUFFIXES)}")

    @abstractmethod
    def find(self) -> list[str]:
        """Names of all files."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """The bytes of one file; called from several threads."""

    @abstractmethod
    def sha256(self) -> str:
        """Hash of the content."""


class FolderSource(Source):
    """The images in a folder and its sub-folders."""

    def find(self) -> list[str]:
        """See `Source`.

        Raises:
            UserError: There is no such folder.
        """
        if not self.path.is_dir():
            what = "is not a folder" if self.path.exists() else "does not exist"
            raise UserError(f"{self.path} {what}", "give the path of a folder of images")
        return [
            (Path(folder) / file).relative_to(self.path).as_posix()
            for folder, _, files in os.walk(self.path, followlinks=True)
            for file in files
        ]

    def read(self, name: str) -> bytes:
        """See `Source`."""
        return (self.path / name).read_bytes()

    def sha256(self) -> str:
        """Hash over the sorted names and the hash of each file."""
        digest = hashlib.sha256()
        for name in self.names:
            digest.update(f"{name}\0{sha256(self.path / name)}\n".encode())
        return digest.hexdigest()


class ZipSource(Source):
    """The images in a zip file, which stays open."""

    def find(self) -> list[str]:
        """See `Source`.

        Raises:
            UserError: There is no such file, or it is not a whole zip file.
        """
        if not self.path.is_file():
            what = "is not a file" if self.path.exists() else "does not exist"
            raise UserError(f"{self.path} {what}", "give the path of a zip file of images")
        try:
            self.zip = zipfile.ZipFile(self.path)
        except zipfile.BadZipFile as error:
            raise UserError(f"{self.path} is not a zip file, or is damaged", "make or fetch it again") from error
        except OSError as error:
            raise UserError(f"{self.path} cannot be read: {error.strerror}", "check its permissions") from error
        return [info.filename for info in self.zip.infolist() if not info.is_dir()]

    def read(self, name: str) -> bytes:
        """See `Source`."""
        return self.zip.read(name)

    def sha256(self) -> str:
        """Hash of the file."""
        return sha256(self.path)


def is_image(name: str) -> bool:
    """Whether a file is an image by its suffix, and not hidden or one of the shadows that macOS puts into zips."""
    path = PurePosixPath(name)
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in path.parts)
    return path.suffix.lower() in SUFFIXES and not hidden


def class_of(name: str) -> str:
    """The class of an image: the folder that it lies in, "." at the top."""
    return str(PurePosixPath(name).parent)


class Decoder:
    """Reads images of a source as uint8 (C, resolution, resolution).

    Grey images become RGB by repetition and RGB ones grey by luma, as `channels` asks; transparency is dropped.

    Args:
        source: Where they are.
        resolution: Height and width that they must have.
        channels: 1 or 3.
        resize: Cut the largest square from the middle and resize it (Lanczos), instead of refusing other sizes.
    """

    def __init__(self, source: Source, resolution: int, channels: int, resize: bool) -> None:
        self.source, self.resolution, self.channels, self.resize = source, resolution, channels, resize
        self.first_size: tuple[int, int] | None = None

    def __call__(self, name: str) -> Tensor:
        """Decode one image.

        Raises:
            UserError: It cannot be decoded, or has another size.
        """
        image = self._open(name)
        if self.resize:
            image = self._fit(image)
        else:
            self._check_size(name, image.size)
        pixels = torch.from_numpy(np.array(image))
        return pixels[None] if self.channels == 1 else pixels.permute(2, 0, 1)

    def size(self, name: str) -> tuple[int, int]:
        """Width and height of one image.

        Raises:
            UserError: It cannot be decoded.
        """
        return self._open(name).size

    def _fit(self, image: Image.Image) -> Image.Image:
        if image.size == (self.resolution, self.resolution):
            return image
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        # Cut first: the filter of ImageOps.fit reaches over the edge of its box.
        square = image.crop((left, top, left + side, top + side))
        return square.resize((self.resolution, self.resolution), Image.Resampling.LANCZOS)

    def _open(self, name: str) -> Image.Image:
        try:
            with Image.open(io.BytesIO(self.source.read(name))) as file:
                deep = file.mode.startswith(DEEP_MODES)
                image = ImageOps.exif_transpose(file).convert("L" if self.channels == 1 else "RGB")
        except Exception as error:  # decoders and zlib raise nearly anything on damaged bytes
            raise UserError(
                f"{name} in {self.source.path} cannot be read as an image ({type(error).__name__})", "mend or remove it"
            ) from error
        if deep:
            raise UserError(f"{name} in {self.source.path} has more than 8 bits per channel", "convert it to 8 bits")
        return image

    def _check_size(self, name: str, size: tuple[int, int]) -> None:
        if size == (self.resolution, self.resolution):
            return
        first = self.source.names[0]
        if self.first_size is None:
            self.first_size = self._open(first).size
        if self.first_size != size:
            raise UserError(
                f"images in {self.source.path} differ in size: {first} is {_times(self.first_size)} and {name} is "
                f"{_times(size)}",
                "pass resize=true to cut and resize them",
            )
        cure = f"set resolution to {size[0]}, or pass" if size[0] == size[1] else "pass"
        raise UserError(
            f"images in {self.source.path} are {_times(size)} ({name}), and resolution is {self.resolution}",
            f"{cure} resize=true",
        )


def _times(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
