"""Numbers and arrays of numpy in pickles, from their bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

NUMBERS = {"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"}
"""Types of numpy's numbers."""


@dataclass(frozen=True)
class NumpyType:
    """A numpy type.

    Attributes:
        text: Its short name.
    """

    text: str


def type_named(text: Any, *rest: Any) -> NumpyType:
    """A numpy type.

    Raises:
        ValueError: It has no name.
    """
    if not isinstance(text, str):
        raise ValueError("it holds a type of numpy without a name")
    return NumpyType(text)


def number(kind: Any, data: Any = b"") -> float | int | bool:
    """A numpy number, little-endian.

    Raises:
        ValueError: It is of another type, or of another length.
    """
    import numpy as np

    if not isinstance(kind, NumpyType) or not isinstance(data, bytes) or kind.text not in NUMBERS:
        raise ValueError("it holds a number of numpy of an unknown type")
    (value,) = np.frombuffer(data, np.dtype(f"<{kind.text}")).tolist()
    return value


@dataclass
class NumpyArray:
    """A numpy array: its shape and type, and its numbers once the file has given them.

    Attributes:
        value: The array; None before.
    """

    value: Any = None

    def fill(self, state: Any) -> None:
        """Take (version, shape, type, whether columns come first, bytes).

        Raises:
            ValueError: They are of another type, or of another number.
        """
        import numpy as np

        _, shape, kind, by_column, data = state
        if not isinstance(kind, NumpyType) or kind.text not in NUMBERS or not isinstance(data, bytes):
            raise ValueError("it holds an array of numpy of an unknown type")
        numbers = np.frombuffer(data, np.dtype(f"<{kind.text}"))
        self.value = numbers.reshape(shape, order="F" if by_column else "C")


def array(*arguments: Any) -> NumpyArray:
    """An array that is filled later."""
    return NumpyArray()
