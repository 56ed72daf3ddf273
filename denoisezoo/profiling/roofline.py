"""How close a call comes to what the machine can do (Williams, Waterman and Patterson 2009, "Roofline").

The two peaks are measured: memory by a large copy, arithmetic by a large matrix product and a large convolution
in the same type, whichever is faster (on CPUs two libraries compute them, and one may be twice as fast as the other).
They are measured once per device, type, number of threads and version of torch, and kept in the user's cache folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from denoisezoo.files import write_json
from denoisezoo.profiling.latency import timer
from denoisezoo.profiling.machine import device_name

LAUNCH_BOUND = 0.25
"""Below this share of both peaks, neither arithmetic nor memory explains the time."""


@dataclass(frozen=True)
class Peaks:
    """What a device reaches at best.

    Attributes:
        flops_per_s: Floating-point operations per second in a large matrix product or convolution.
        bytes_per_s: Bytes read and written per second in a large copy.
    """

    flops_per_s: float
    bytes_per_s: float


@dataclass(frozen=True)
class Roofline:
    """A call against the peaks.

    Attributes:
        flops_per_s: Its floating-point operations over its time.
        bytes_per_s: Bytes that its operators read and write, each by itself, over its time. A compiler fuses operators,
            and caches keep what was just written, so that this may exceed what went through the memory.
        share_flops: `flops_per_s` over the peak.
        share_bytes: `bytes_per_s` over the peak.
        bound: "arithmetic" or "memory", whichever share is larger; "launches" where both are small: then the time goes
            into starting operators, or into work that is not counted.
    """

    flops_per_s: float
    bytes_per_s: float
    share_flops: float
    share_bytes: float
    bound: str

    def to_dict(self) -> dict[str, Any]:
        """As the JSON field `roofline`."""
        return asdict(self)


def roofline(flops: float, moved: float, seconds: float, peaks: Peaks) -> Roofline:
    """Place a call under the roof.

    Args:
        flops: Floating-point operations of the call.
        moved: Bytes that its operators read and write.
        seconds: How long it takes.
        peaks: Of the device it ran on.
    """
    share_flops, share_bytes = flops / seconds / peaks.flops_per_s, moved / seconds / peaks.bytes_per_s
    bound = "arithmetic" if share_flops >= share_bytes else "memory"
    if max(share_flops, share_bytes) < LAUNCH_BOUND:
        bound = "launches"
    return Roofline(flops / seconds, moved / seconds, share_flops, share_bytes, bound)


def peaks(device: torch.device, dtype: torch.dtype) -> Peaks:
    """The peaks of a device, from the cache or measured now (about two seconds)."""
    path, key = cache_path(), _key(device, dtype)
    known = _read(path)
    if key not in known:
        known[key] = asdict(measure_peaks(device, dtype))
        with contextlib.suppress(Exception):  # a cache that cannot be written costs two seconds, no more
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, known)
    return Peaks(**known[key])


def known_peaks(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the peaks of a device have been measured before."""
    return _key(device, dtype) in _read(cache_path())


def cache_path() -> Path:
    """Where peaks are kept: $XDG_CACHE_HOME/denoisezoo/peaks.json."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "denoisezoo" / "peaks.json"


def _key(device: torch.device, dtype: torch.dtype) -> str:
    threads = f", {torch.get_num_threads()} threads" if device.type == "cpu" else ""
    return f"{device_name(device)}{threads}, {str(dtype).removeprefix('torch.')}, torch {torch.__version__}"


def _read(path: Path) -> dict[str, dict[str, float]]:
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        return {key: asdict(Peaks(**value)) for key, value in known.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def measure_peaks(device: torch.device, dtype: torch.dtype) -> Peaks:
    """Time large products and a large copy; the fastest call counts.

    Args:
        device: Where.
        dtype: Type of the products. The copy is of bytes.
    """
    with torch.inference_mode():
        flops = max(_product_flops_per_s(device, dtype), _convolution_flops_per_s(device, dtype))
        source = torch.zeros((64 if device.type == "cpu" else 1024) << 20, dtype=torch.uint8, device=device)
        target = torch.empty_like(source)
        copy = _fastest(lambda: target.copy_(source), device)
    return Peaks(flops, 2 * source.numel() / copy)


def _product_flops_per_s(device: torch.device, dtype: torch.dtype) -> float:
    n = 1024 if device.type == "cpu" else 8192
    a = torch.randn(n, n, device=device, dtype=dtype)
    return 2 * n**3 / _fastest(lambda: a @ a, device)


def _convolution_flops_per_s(device: torch.device, dtype: torch.dtype) -> float:
    """A 3x3 convolution of 256 channels on 32x32 pixels, as U-Nets have it."""
    batch, channels, size = (4 if device.type == "cpu" else 256), 256, 32
    x = torch.randn(batch, channels, size, size, device=device, dtype=dtype)
    weight = torch.randn(channels, channels, 3, 3, device=device, dtype=dtype)
    x, weight = (tensor.contiguous(memory_format=torch.channels_last) for tensor in (x, weight))
    flops = 2 * batch * size**2 * channels**2 * 9
    return flops / _fastest(lambda: F.conv2d(x, weight, padding=1), device)


def _fastest(call: Callable[[], Any], device: torch.device, seconds: float = 0.5) -> float:
    """Seconds of a call when nothing disturbs it."""
    timed, begin, times = timer(device), time.perf_counter(), list[float]()
    while len(times) < 5 or time.perf_counter() - begin < seconds:
        times.append(timed(call))
    return min(times) / 1e3
