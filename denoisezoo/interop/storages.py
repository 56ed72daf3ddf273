"""Storages and tensors of torch, from bytes: sizes are checked against what is there before anything is allocated."""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
"""How a file of torch's older format begins."""
DTYPES = {
    "torch.FloatStorage": torch.float32,
    "torch.DoubleStorage": torch.float64,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
}
"""Classes of storages -> type of their numbers."""


@dataclass
class Storage:
    """A flat run of numbers.

    Attributes:
        dtype: Their type.
        data: The numbers (N,).
    """

    dtype: torch.dtype
    data: Tensor


@dataclass(frozen=True)
class Announced:
    """A storage that is announced, and lies elsewhere in the file.

    Attributes:
        key: Which.
        dtype: Type of its numbers.
        count: How many.
    """

    key: str
    dtype: torch.dtype
    count: int


def strided(storage: Storage, offset: Any, size: Any, stride: Any) -> Tensor:
    """A tensor over a storage.

    Raises:
        ValueError: It reaches beyond the storage, or repeats its numbers.
    """
    numbers = [offset, *size, *stride]
    if not all(type(n) is int and n >= 0 for n in numbers) or len(size) != len(stride):
        raise ValueError("a tensor of impossible size")
    count, room = math.prod(size), storage.data.numel()
    if count and (count > room or offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True)) >= room):
        raise ValueError("a tensor larger than its storage")
    return torch.as_strided(storage.data, size, stride, offset) if count else storage.data.new_empty(size)


def read_storage(data: bytes, read: Callable[..., Any]) -> Storage:
    """The one storage that torch has saved in its older format.

    Args:
        data: All bytes: three pickles of a head, one that announces the storage, one that lists it, count and numbers.
        read: Reads the next pickle of a stream; see `denoisezoo.interop.pickle_reader.read_pickles`.

    Raises:
        ValueError: They hold something else.
    """
    file = io.BytesIO(data)
    if read(file) != MAGIC or read(file) != PROTOCOL or read(file).get("little_endian") is not True:
        raise ValueError("a storage in an unknown format")
    announced = read(file, announced_by, DTYPES)
    if not isinstance(announced, Announced) or read(file) != [announced.key]:
        raise ValueError("a storage in an unknown format")
    (count,) = struct.unpack("<q", file.read(8))
    size = torch.empty(0, dtype=announced.dtype).element_size()
    rest = data[file.tell() :]
    if count != announced.count or len(rest) != count * size:
        raise ValueError(f"a storage of {announced.count} numbers with {len(rest)} bytes")
    numbers = (
        torch.frombuffer(bytearray(rest), dtype=announced.dtype) if count else torch.empty(0, dtype=announced.dtype)
    )
    return Storage(announced.dtype, numbers)


def announced_by(announcement: Any) -> Announced:
    """What a persistent id says of a storage: ("storage", class, key, device, count, view).

    Raises:
        ValueError: It is the id of something else.
    """
    kind, cls, key, _, count, *view = announcement
    if kind != "storage" or view not in ([], [None]) or type(count) is not int or count < 0:
        raise ValueError("a persistent id that is no storage")
    return Announced(str(key), DTYPES[cls.text], count)
