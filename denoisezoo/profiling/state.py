"""Profiling must not change what it looks at: random states, training flags, grad mode and hooks stay as they were."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn


@contextlib.contextmanager
def undisturbed(module: nn.Module, device: torch.device) -> Iterator[None]:
    """Put `module` into eval mode and inference mode for a while; training flags and random states come back after.

    Args:
        module: The network that is looked at.
        device: Where it lives; its generator's state is kept, and that of the CPU.
    """
    training = {part: part.training for part in module.modules()}
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices), torch.inference_mode():
            module.eval()
            yield
    finally:
        for part, flag in training.items():
            part.training = flag
