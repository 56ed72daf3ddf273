"""Latency of single calls: warm-up, then each call timed alone; the median and its spread are reported."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Latency:
    """Wall time of one call, in milliseconds.

    Attributes:
        median: Median over the runs.
        p10: 10th percentile.
        p90: 90th percentile.
        runs: Timed calls.
    """

    median: float
    p10: float
    p90: float
    runs: int

    def to_dict(self) -> dict[str, Any]:
        """As the JSON field `latency_ms`."""
        return asdict(self)


def latency(
    call: Callable[[], Any],
    device: torch.device,
    *,
    runs: int | None = None,
    warmup: int = 3,
    seconds: float = 2.0,
    refresh: Callable[[], Any] | None = None,
) -> Latency:
    """Time single calls.

    On CUDA by events on the stream, with a synchronisation after each call; elsewhere by the clock.

    Args:
        call: What to time.
        device: Where it runs.
        runs: Timed calls; None takes as many as fit into `seconds`, at least 5 and at most 200.
        warmup: Calls before that, at least 1; they also pay for compilation and the choice of kernels. Once `seconds`
            have gone by, no further one is made.
        seconds: Time for the warm-up, and again for the timed calls.
        refresh: Runs before each call and is not timed; it fills the inputs anew, so that no call finds them in cache.
    """
    measure = timer(device)

    def timed(call: Callable[[], Any]) -> float:
        if refresh is not None:
            refresh()
        return measure(call)

    begin = time.perf_counter()
    for done in range(warmup):
        if done and time.perf_counter() - begin > seconds:
            break
        timed(call)
    return summarise(_repeat(lambda: timed(call), runs, seconds))


def _repeat(run: Callable[[], float], runs: int | None, seconds: float) -> list[float]:
    fewest, most = (runs, runs) if runs is not None else (5, 200)
    begin = time.perf_counter()
    times: list[float] = []
    while len(times) < fewest or (len(times) < most and time.perf_counter() - begin < seconds):
        times.append(run())
    return times


def timer(device: torch.device) -> Callable[[Callable[[], Any]], float]:
    """A function that runs a call and returns how long it took on `device`, in milliseconds."""
    return _cuda_ms if device.type == "cuda" else _wall_ms


def _wall_ms(call: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    call()
    return (time.perf_counter() - begin) * 1e3


def _cuda_ms(call: Callable[[], Any]) -> float:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


def summarise(times: Sequence[float]) -> Latency:
    """Median, 10th and 90th percentile (linear between neighbours) of times in milliseconds."""
    levels = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    p10, median, p90 = torch.tensor(times, dtype=torch.float64).quantile(levels).tolist()
    return Latency(median, p10, p90, len(times))
