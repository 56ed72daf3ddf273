"""Peak memory of one call, measured at the allocator, on CUDA and on the CPU."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from denoisezoo.profiling.machine import memory_bytes


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


@contextlib.contextmanager
def limited_memory(device: torch.device) -> Iterator[None]:
    """Let allocations on the CPU fail that the machine cannot serve, for a while.

    Without a limit Linux grants them all, and ends the program when it runs out of pages. Elsewhere nothing changes.

    Args:
        device: Where the work runs; the limit is set for the CPU only.
    """
    limits = _data_limits() if device.type == "cpu" else None
    if limits is None:
        yield
        return
    import resource

    before = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (limits, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def _data_limits() -> int | None:
    """Bytes of data that this process may have: what it has, and what is available; None where that is unknown."""
    status, available = Path("/proc/self/status"), memory_bytes()
    if not status.exists() or available is None:
        return None
    used = re.search(r"^VmData:\s+(\d+) kB", status.read_text(), re.MULTILINE)
    return None if used is None else int(used[1]) * 1024 + available[1]


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
