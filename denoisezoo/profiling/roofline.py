"""How close a call comes to what the machine can do (Williams, Waterman and Patterson 2009, "Roofline").

The machine's two peaks are measured: arithmetic by a large matrix product in the same type, memory by a large copy.
They are measured once per device, type, number of threads and version of torch, and kept in the user's cache folder.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from denoisezoo.files import write_json
from denoisezoo.profiling.latency import latency
from denoisezoo.profiling.machine import device_name

LAUNCH_BOUND = 0.25
"""Below this share of both peaks, neither arithmetic nor memory explains the time."""


@dataclass(frozen=True)
class Peaks:
    """What a device reaches at best.

    Attributes:
        flops_per_s: Floating-point operations per second in a large matrix product.
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
    """Time a large matrix product and a large copy; the fastest tenth of the calls counts.

    Args:
        device: Where.
        dtype: Type of the product. The copy is of bytes.
    """
    n = 1024 if device.type == "cpu" else 8192
    a = torch.randn(n, n, device=device, dtype=dtype)
    source = torch.zeros((64 if device.type == "cpu" else 1024) << 20, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    with torch.inference_mode():
        product = _fastest(lambda: a @ a, device)
        copy = _fastest(lambda: target.copy_(source), device)
    return Peaks(2 * n**3 / product, 2 * source.numel() / copy)


def _fastest(call: Callable[[], Any], device: torch.device) -> float:
    """Seconds of a call when nothing disturbs it."""
    return latency(call, device, seconds=0.7).p10 / 1e3
