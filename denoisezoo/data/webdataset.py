"""Shards of webdataset: tar files in which what belongs to one sample, KEY.jpg and KEY.cls, lies side by side."""

from __future__ import annotations

import hashlib
import os
import re
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from denoisezoo.data.folders import FileImages
from denoisezoo.data.image_data import DATASETS
from denoisezoo.data.sources import UNLABELLED, ImageFiles
from denoisezoo.errors import UserError
from denoisezoo.files import local_path, sha256

SUFFIX = ".tar"
BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
"""A range of numbers in a pattern of shards, {000..010}, as shells and webdataset expand it."""
CLASS = "cls"
"""Extension of a sample's class, a whole number in digits."""


def shards_of(pattern: str | os.PathLike[str]) -> list[Path]:
    """The files of a pattern such as data/train-{000..010}.tar, of a folder of .tar files, or of one file.

    Raises:
        UserError: There is no such file or folder, or it holds no shards, or a range of the pattern is empty.
    """
    path = local_path(pattern)
    if path.is_dir():
        found = sorted(path.rglob(f"*{SUFFIX}"))
        if not found:
            raise UserError(f"{path} holds no {SUFFIX} files", "give a folder of shards, or NAME-{000..010}.tar")
        return found
    names = expand_braces(os.fspath(path))
    if not names:
        raise UserError(f"{path} names no shard", "write ranges upwards, {000..010}")
    for name in names:
        if not Path(name).is_file():
            raise UserError(f"there is no shard {name}", "give NAME-{000..010}.tar, a folder of shards, or one file")
    return [Path(name) for name in names]


def expand_braces(pattern: str) -> list[str]:
    """All names of a pattern: each {000..010} stands for its numbers, written as wide as the first one is."""
    found = BRACES.search(pattern)
    if found is None:
        return [pattern]
    before, after, (first, last) = pattern[: found.start()], pattern[found.end() :], found.groups()
    numbers = (f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1))
    return [name for number in numbers for name in expand_braces(before + number + after)]


class Shards(ImageFiles):
    """The images in shards, which are listed once and then read in place.

    Args:
        path: See `shards_of`.
        extension: Of the images where a sample has several, as webdataset has it: what follows the first dot.

    Attributes:
        members: (shard, where its content begins, its size, the checksum of its header) of each file, by its name.
    """

    labels_in = f"the file .{CLASS} of a sample"

    def __init__(self, path: str | os.PathLike[str], extension: str | None = None) -> None:
        self.extension = extension
        super().__init__(path)
        if extension is not None:
            self.names = [name for name in self.names if _split_key(name)[1] == extension]
            if not self.names:
                raise UserError(f"{path} holds no images .{extension}", "give another `data.image`, or leave it out")

    def find(self) -> list[str]:
        """See `ImageFiles`.

        Raises:
            UserError: A shard is missing, damaged, incomplete or compressed, or two samples have one name.
        """
        self.shards = shards_of(self.path)
        home = os.path.commonpath([shard.parent for shard in self.shards])
        self.members: dict[str, tuple[Path, int, int, int]] = {}
        for shard in self.shards:
            for info in _members(shard):
                name = f"{shard.relative_to(home).as_posix()}/{info.name.removeprefix('./')}"
                if name in self.members:
                    raise UserError(f"shard {shard} holds {info.name} twice", "pack it again")
                self.members[name] = shard, info.offset_data, info.size, info.chksum
        return list(self.members)

    def find_labels(self) -> Mapping[str, int]:
        """What the samples' .cls say; none where no sample has one."""
        numbers = {_split_key(name)[0]: name for name in self.members if _split_key(name)[1] == CLASS}
        if not numbers:
            return {}
        return {name: self._number(numbers.get(_split_key(name)[0])) for name in self.names}

    def _number(self, name: str | None) -> int:
        if name is None:
            return UNLABELLED
        text = self.read(name).strip()
        if not text.isdigit():
            raise UserError(f"class {text[:20]!r} in {name} is no class", "write a whole number from 0 on")
        return int(text)

    def read(self, name: str) -> bytes:
        """See `ImageFiles`."""
        shard, start, size, _ = self.members[name]
        with open(shard, "rb") as file:
            file.seek(start)
            return file.read(size)

    def describe(self, name: str) -> str:
        """Its size, and the checksum of its header."""
        return "{} {:08x}".format(*self.members[name][2:])

    def hash_content(self) -> str:
        """Over the hashes of the shards, in their order."""
        return hashlib.sha256("".join(map(sha256, self.shards)).encode()).hexdigest()


@DATASETS.register("webdataset")
class WebDataset(FileImages):
    """Shards as webdataset packs them: .tar files of samples, whose image is KEY.jpg (or png, webp, ...).

    The class of a sample, if there is one, is the number in KEY.cls.

    Shards are read in place, in any order, by this package itself; they must be whole and not compressed.

    Args:
        path: The shards: NAME-{000..010}.tar, a folder of them, or one file.
        resolution: Height and width in pixels.
        test_path: Shards of held-out images, likewise.
        holdout_every: Without `test_path`, every so-many-th image of each class is held out; 0 holds out none.
        resize: Cut the middle square from each image and resize it, instead of refusing any size but `resolution`.
        channels: 3 for RGB (grey images are converted), 1 for grey.
        image: Extension of the images, for samples that have several.
        batch_size: Images per optimiser step, over all devices together.
        horizontal_flip: Mirror each training image with probability one half.
        labels: Give class labels with the batches.
        seed: Seed of the order and of the flips.
        memory_limit_gb: Decoded images larger than this are decoded batch by batch instead.
    """

    dataset = "webdataset"
    source_class = Shards

    def __init__(
        self,
        path: str,
        *,
        resolution: int,
        test_path: str | None = None,
        holdout_every: int = 20,
        resize: bool = False,
        channels: Literal[1, 3] = 3,
        image: str | None = None,
        batch_size: int = 128,
        horizontal_flip: bool = True,
        labels: bool = False,
        seed: int = 0,
        memory_limit_gb: float = 4.0,
    ) -> None:
        super().__init__(
            path,
            resolution=resolution,
            test_path=test_path,
            holdout_every=holdout_every,
            resize=resize,
            channels=channels,
            batch_size=batch_size,
            horizontal_flip=horizontal_flip,
            labels=labels,
            seed=seed,
            memory_limit_gb=memory_limit_gb,
        )
        self.image = image

    def open(self, part: str) -> ImageFiles:
        """See `FileImages`."""
        return Shards(self.path if part == "train" else self.test_path or self.path, self.image)


def _members(shard: Path) -> list[tarfile.TarInfo]:
    """The plain files in a shard, which must be whole.

    Raises:
        UserError: It is damaged, incomplete or compressed.
    """
    damaged = UserError(f"shard {shard} is damaged or incomplete", "fetch or pack it again")
    try:
        with open(shard, "rb") as file:
            if file.read(2) == b"\x1f\x8b":
                raise UserError(f"shard {shard} is compressed", "unpack it with gunzip: images are compressed already")
            file.seek(0)
            with tarfile.open(fileobj=file, mode="r:") as archive:
                found = archive.getmembers()
                # Past a damaged header tarfile ends in silence, and past the last file of a shard that has been cut.
                file.seek(archive.offset)
                if file.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
                    raise damaged
    except (tarfile.TarError, EOFError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise damaged from error
    except OSError as error:
        raise UserError(f"shard {shard} cannot be read: {error.strerror}", "check its permissions") from error
    return [info for info in found if info.isreg() and not info.issparse()]


def _split_key(name: str) -> tuple[str, str]:
    """Key and extension of a file: what is before and behind the first dot of its name in its shard's folder."""
    folder, _, file = name.rpartition("/")
    key, _, extension = file.partition(".")
    return f"{folder}/{key}", extension.lower()
