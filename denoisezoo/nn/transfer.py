"""Copies for which the host does not wait."""

from __future__ import annotations

import torch
from torch import Tensor


def to_device(x: Tensor, device: torch.device | str) -> Tensor:
    """A tensor on a device; from the CPU to a GPU by way of pinned memory, so that the host does not wait for it."""
    device = torch.device(device)
    if x.device.type != "cpu" or device.type == "cpu":
        return x.to(device)  # what the host is to read has to be there first
    if device.type == "cuda":
        x = x.pin_memory()
    return x.to(device, non_blocking=True)
