"""Constants of processes that are too many for Python's numbers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Table:
    """A constant of any shape, which goes to each device and dtype once; a copy in every call would make the host wait.

    Args:
        values: The constant; kept in float64 on the CPU.
    """

    def __init__(self, values: Tensor | Sequence[float] | Sequence[Sequence[float]]) -> None:
        self.values = torch.as_tensor(values, dtype=torch.float64, device="cpu")
        self._copies = {(self.values.device, self.values.dtype): self.values}

    @property
    def shape(self) -> torch.Size:
        """Of the constant."""
        return self.values.shape

    def like(self, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """The constant on the device of `x`, in its dtype unless another is asked for. Not to be written to."""
        key = (x.device, dtype or x.dtype)
        found = self._copies.get(key)
        if found is not None:
            return found
        with torch.inference_mode(False):  # kept for later, when gradients may be wanted
            found = self.values.to(*key)
        if type(found) is Tensor and not torch.compiler.is_compiling():  # else it stands for one, and has no numbers
            self._copies[key] = found
        return found
