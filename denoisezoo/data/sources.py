"""Folders and zip files of images, made on whatever system: their names, their bytes, their classes, their hashes."""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
import re
import unicodedata
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import NoReturn

from denoisezoo.errors import UserError
from denoisezoo.files import local_path, printable, sha256

_KINDS = ("avif", "bmp", "gif", "jfif", "jp2", "jpe", "jpeg", "jpg", "pgm", "png", "ppm", "tif", "tiff", "webp")
SUFFIXES = tuple(f".{kind}" for kind in _KINDS)
SHADOWS = ("__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN")
"""Folders that systems leave beside one's own: those of macOS in zips, thumbnails of Synology, bins."""
LABELS = "dataset.json"
"""Where the tools of StyleGAN and EDM write the classes of images: {"labels": [[NAME, CLASS], ...]}, or null."""
ARRAY = ".npy"
"""Suffix of images as arrays of numpy, uint8 (C, H, W), which count beside a `dataset.json` (EDM2) and nowhere else."""
UNLABELLED = -1
"""Number of the class of an image that has none."""
UTF8_FLAG = 0x800
"""Bit of a zip's member whose name is UTF-8; other names are read as cp437 (APPNOTE, appendix D)."""


class ImageFiles(ABC):
    """Named images somewhere.

    Attributes:
        path: Where.
        names: Names of all images, sorted, with "/" between folders.
        labels_in: What says the classes where folders do not, as errors call it.
    """

    labels_in = LABELS

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = local_path(path)
        found = self.find()
        suffixes = (*SUFFIXES, ARRAY) if LABELS in found else SUFFIXES
        self.names = sorted(name for name in found if is_image(name, suffixes))
        if not self.names:
            raise UserError(f"{self.path} holds no images", f"put images in it, CLASS/NAME with {' '.join(SUFFIXES)}")

    @abstractmethod
    def find(self) -> list[str]:
        """Names of all files."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """The bytes of one file; called from several threads."""

    @abstractmethod
    def describe(self, name: str) -> str:
        """What is known of a file without reading it."""

    @abstractmethod
    def hash_content(self) -> str:
        """SHA-256 of the content."""

    @cached_property
    def sha256(self) -> str:
        """Hash of the content, which is read once."""
        return self.hash_content()

    @cached_property
    def listing_sha256(self) -> str:
        """Hash over the sorted names and what is known of each file without reading it."""
        return hashlib.sha256(b"".join(_line(name, self.describe(name)) for name in self.names)).hexdigest()

    def find_labels(self) -> Mapping[str, int] | None:
        """Number of each image's class, `UNLABELLED` for none, where something else than folders says it; else None.

        Empty where it says that there are no classes.
        """
        return None

    @cached_property
    def labels(self) -> Mapping[str, int] | None:
        """What `find_labels` finds, once."""
        return self.find_labels()

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """Classes of the images, in the order of their numbers, or of the folders that they lie in."""
        if self.labels is None:
            return tuple(dict.fromkeys(self._classes.values()))
        return tuple(map(str, range(max(self.labels.values(), default=0) + 1)))

    def class_of(self, name: str) -> str | None:
        """The class of an image: what its number means, or else the folder that it lies in, "." at the top.

        What all images lie in together, as in an archive of one folder, is no part of it. Its text is the same on every
        system: accents are composed (NFC), bytes that are no UTF-8 are written out. None where the image has no class.
        """
        if self.labels is None:
            return self._classes[_folder_of(name)]
        number = self.labels.get(name, UNLABELLED) if self.labels else 0
        return self.class_names[number] if number >= 0 else None

    @cached_property
    def _classes(self) -> dict[str, str]:
        """Folder -> class, sorted. A folder that alone has images is a class of its own."""
        folders = sorted({_folder_of(name) for name in self.names})
        outer = posixpath.commonpath(folders) if len(folders) > 1 else ""
        inner = {folder: folder[len(outer) :].lstrip("/") or "." for folder in folders}
        return {folder: unicodedata.normalize("NFC", printable(name)) for folder, name in inner.items()}


class FolderSource(ImageFiles):
    """The images in a folder and its sub-folders; links are followed, and each real folder counts once."""

    def find(self) -> list[str]:
        """See `ImageFiles`.

        Raises:
            UserError: There is no such folder, or one inside it cannot be read.
        """
        if not self.path.is_dir():
            what = "is not a folder" if self.path.exists() else "does not exist"
            raise UserError(f"{self.path} {what}", "give the path of a folder of images (`data.path`)")
        return [path.relative_to(self.path).as_posix() for path in _files(self.path)]

    def find_labels(self) -> Mapping[str, int] | None:
        """Those of `dataset.json`, where there is one."""
        file = self.path / LABELS
        return read_labels(file.read_bytes(), f"{LABELS} of {self.path}") if file.is_file() else None

    def read(self, name: str) -> bytes:
        """See `ImageFiles`."""
        return (self.path / name).read_bytes()

    def describe(self, name: str) -> str:
        """Its size."""
        return str((self.path / name).stat().st_size)

    def hash_content(self) -> str:
        """Hash over the sorted names and the hash of each file."""
        digest = hashlib.sha256()
        for name in self.names:
            digest.update(_line(name, sha256(self.path / name)))
        return digest.hexdigest()


class OneImage(FolderSource):
    """One image file."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path, self.names = Path(path).parent, [Path(path).name]

    def find_labels(self) -> None:
        """What its folder may say is not asked for."""


class ZipSource(ImageFiles):
    """The images in a zip file, which stays open; nothing is unpacked, so that its names lead nowhere.

    Attributes:
        members: Those of the file, by the name that they have here.
    """

    def find(self) -> list[str]:
        """See `ImageFiles`.

        Raises:
            UserError: There is no such file, it is not a whole zip file, or two of its images would have one name.
        """
        if not self.path.is_file():
            what = "is not a file" if self.path.exists() else "does not exist"
            raise UserError(f"{self.path} {what}", "give the path of a zip file of images (`data.path`)")
        try:
            self.zip = zipfile.ZipFile(self.path)
        except (zipfile.BadZipFile, UnicodeDecodeError) as error:
            raise UserError(f"{self.path} is not a zip file, or is damaged", "make or fetch it again") from error
        except OSError as error:
            raise UserError(f"{self.path} cannot be read: {error.strerror}", "check its permissions") from error
        self.members: dict[str, zipfile.ZipInfo] = {}
        for info in self.zip.infolist():
            name = portable(info)
            known = self.members.get(name)
            if known is not None and known.filename != info.filename and is_image(name):
                raise UserError(
                    f"{info.filename} and {known.filename} in {self.path} are both {name}",
                    "pack it again from one folder",
                )
            if not info.is_dir():
                self.members[name] = info  # of equal names the last, which is what unpacking leaves
        return list(self.members)

    def find_labels(self) -> Mapping[str, int] | None:
        """Those of `dataset.json`, where there is one."""
        return read_labels(self.read(LABELS), f"{LABELS} of {self.path}") if LABELS in self.members else None

    def read(self, name: str) -> bytes:
        """See `ImageFiles`."""
        return self.zip.read(self.members[name])

    def describe(self, name: str) -> str:
        """Its size and its checksum."""
        return f"{self.members[name].file_size} {self.members[name].CRC:08x}"

    def hash_content(self) -> str:
        """Hash of the file."""
        return sha256(self.path)


def read_labels(content: bytes, what: str) -> dict[str, int]:
    """Classes by image, of the content of a `dataset.json`; none for null.

    Raises:
        UserError: It is no such file, or a class is none of 0, 1, 2, ...
    """
    try:
        pairs = json.loads(content)["labels"]
        found = {name.replace("\\", "/"): label for name, label in pairs or ()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        cure = 'write {"labels": [[NAME, CLASS], ...]}, or null for none'
        raise UserError(f"{what} holds no labels ({type(error).__name__})", cure) from error
    for name, label in found.items():
        if type(label) is not int or label < 0:
            raise UserError(f"label {label!s:.60} of {name} in {what} is no class", "give whole numbers from 0 on")
    return found


def is_image(name: str, suffixes: tuple[str, ...] = SUFFIXES) -> bool:
    """Whether a file is an image by its suffix, and neither hidden nor one that a system has left there."""
    path = PurePosixPath(name)
    hidden = any(part.startswith(".") or part in SHADOWS for part in path.parts)
    return path.suffix.lower() in suffixes and not hidden


def portable(info: zipfile.ZipInfo) -> str:
    """The name of a zip's member as other systems would have written it.

    With "/" between folders, without a drive, a root, "." and ".."; and UTF-8 where it is that without saying so, as
    macOS writes it.
    """
    name = info.filename
    if not info.flag_bits & UTF8_FLAG:
        try:
            name = name.encode("cp437").decode()
        except UnicodeError:  # it is cp437, or has been made text already
            name = info.filename
    name = re.sub(r"^[A-Za-z]:/", "", name.replace("\\", "/"))
    return posixpath.normpath(f"/{name}").lstrip("/")


def _files(root: Path) -> Iterator[Path]:
    """The files below a folder. Real folders come before links to folders, so that the place of a folder is its own."""
    seen: set[str] = set()
    starts = [str(root)]
    for start in starts:  # grows
        for folder, inside, files in os.walk(start, onerror=_refuse):
            if (real := os.path.realpath(folder)) in seen:
                inside.clear()
                continue
            seen.add(real)
            inside.sort()
            starts += [path for name in inside if os.path.islink(path := os.path.join(folder, name))]
            yield from (Path(folder, file) for file in files)


def _refuse(error: OSError) -> NoReturn:
    raise UserError(f"{error.filename} cannot be read: {error.strerror}", "check its permissions") from error


def _folder_of(name: str) -> str:
    return str(PurePosixPath(name).parent)


def _line(name: str, what: str) -> bytes:
    """A line of what is hashed; a name that is no UTF-8 counts with its bytes."""
    return name.encode(errors="surrogateescape") + f"\0{what}\n".encode()
