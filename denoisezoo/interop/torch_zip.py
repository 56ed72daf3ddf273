"""Checkpoints of training programs, zips that torch wrote: tensors beside objects of a few other packages.

torch's `weights_only` refuses such a file whole. Here its pickle is read as data (see `pickle_reader`): arguments of a
command line and the like become what the file says of them, all other names are refused, and nothing is run. Numbers
are read where they lie, when they are needed.
"""

from __future__ import annotations

import io
import mmap
import struct
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from denoisezoo.errors import UserError
from denoisezoo.interop.pickle_reader import PickleRefused, read_pickles
from denoisezoo.interop.storages import DTYPES, Announced, Storage, announced_by
from denoisezoo.interop.tensor_files import SAFE, read_safetensors, read_torch

OPAQUE = (
    "argparse.Namespace",
    "lightning.",
    "lightning_callbacks.",
    "lightning_fabric.",
    "ml_collections.",
    "omegaconf.",
    "pathlib.",
    "pytorch_lightning.",
)
"""Names, and beginnings of names, of what training programs put beside tensors; see `pickle_reader.read_pickles`."""
MOST_PICKLE = 1 << 28
"""Bytes of the pickle itself, without the numbers."""


def read_checkpoint(path: Path) -> Any:
    """What a training program wrote with torch.save, or the tensors of a safetensors file; `Thing` for other objects.

    Raises:
        UserError: It is missing, damaged, or asks for anything but tensors, plain values and objects of `OPAQUE`.
    """
    if path.suffix == SAFE:
        return read_safetensors(path)
    if not path.is_file() or not zipfile.is_zipfile(path):
        return read_torch(path)
    try:
        return _read_zip(path)
    except PickleRefused as error:
        raise UserError(f"{path} is refused: {error}", "nothing of it was run; give a file of this format") from error
    except (zipfile.BadZipFile, struct.error, OSError, ValueError, KeyError, NotImplementedError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{path} is damaged ({reason:.80})", "fetch it again") from error


def _read_zip(path: Path) -> Any:
    with path.open("rb") as file, zipfile.ZipFile(file) as archive:
        entries = {info.filename.partition("/")[2]: info for info in archive.infolist()}
        if "data.pkl" not in entries:
            raise PickleRefused("it is a zip, and none that torch wrote")
        if any(info.compress_type != zipfile.ZIP_STORED for info in entries.values()):
            raise PickleRefused("parts of it are compressed, as torch leaves none")
        if entries["data.pkl"].file_size > MOST_PICKLE:
            raise PickleRefused("its pickle is larger than that of any network")
        if "byteorder" in entries and archive.read(entries["byteorder"]) != b"little":
            raise PickleRefused("its numbers are in big-endian order")
        # Pages of a private map: copied when they are written to, read when they are needed.
        whole = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        storages: dict[str, Storage] = {}

        def storage(announcement: Any) -> Storage:
            announced = announced_by(announcement)
            if announced.key not in storages:
                storages[announced.key] = _storage(whole, entries[f"data/{announced.key}"], announced)
            if storages[announced.key].dtype != announced.dtype:
                raise PickleRefused("it gives a storage two types")
            return storages[announced.key]

        return read_pickles(io.BytesIO(archive.read(entries["data.pkl"])), storage, DTYPES, OPAQUE)


def _storage(whole: mmap.mmap, info: zipfile.ZipInfo, announced: Announced) -> Storage:
    """The numbers of one entry of the zip."""
    dtype, count = announced.dtype, announced.count
    size = torch.empty(0, dtype=dtype).element_size()
    if not count:
        return Storage(dtype, torch.empty(0, dtype=dtype))
    name, extra = struct.unpack("<HH", whole[info.header_offset + 26 : info.header_offset + 30])
    start = info.header_offset + 30 + name + extra
    if count * size != info.file_size or start + count * size > len(whole):
        raise PickleRefused(f"a storage of {count} numbers has {info.file_size} bytes")
    numbers: Tensor = torch.frombuffer(whole, dtype=dtype, count=count, offset=start)
    return Storage(dtype, numbers)
