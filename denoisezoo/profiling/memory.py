"""Peak memory of one call, measured at the allocator, on CUDA and on the CPU."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile


def peak_bytes(call: Callable[[], Any], device: torch.device) -> int | None:
    """Bytes that one call holds at its peak, on top of what was allocated before it; None where it cannot be measured.

    Args:
        call: What to run. Its result counts while it is alive.
        device: Where it runs: cpu or cuda.
    """
    if device.type == "cuda":
        return _peak_on_cuda(call, device)
    return _peak_on_cpu(call) if device.type == "cpu" else None


def weight_bytes(module: nn.Module) -> int:
    """Bytes of parameters and buffers; shared ones count once."""
    return sum(t.numel() * t.element_size() for t in itertools.chain(module.parameters(), module.buffers()))


def _peak_on_cuda(call: Callable[[], Any], device: torch.device) -> int:
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    call()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def _peak_on_cpu(call: Callable[[], Any]) -> int:
    """Every allocation and release of torch's CPU allocator, scratch space of kernels included, in order of time.

    The allocator does not report the release of what was allocated before the call; that is not credited to it.
    """
    with _quiet_kineto(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    results = profiler.profiler.kineto_results if profiler.profiler is not None else None
    events = [event for event in results.events() if event.name() == "[memory]"] if results is not None else []
    events.sort(key=lambda event: event.start_ns())
    return max(0, *itertools.accumulate((event.nbytes() for event in events), initial=0))


@contextlib.contextmanager
def _quiet_kineto() -> Iterator[None]:
    """Keep the profiler's library from writing its log to the terminal; it reads this when it is first used."""
    name = "KINETO_LOG_LEVEL"
    before = os.environ.get(name)
    os.environ.setdefault(name, "99")
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
