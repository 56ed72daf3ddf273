"""What a number was measured on: names of devices, processors and versions."""

from __future__ import annotations

import functools
import os
import platform
import re
from pathlib import Path

import torch

from denoisezoo.errors import UserError


@functools.cache
def cpu_name() -> str:
    """The processor's name as the system knows it."""
    with_name = re.search(r"^(?:model name|Hardware)\s*:\s*(.+)$", _read("/proc/cpuinfo"), re.MULTILINE)
    return with_name[1].strip() if with_name else platform.processor() or platform.machine()


def memory_bytes() -> tuple[int, int] | None:
    """Total and available main memory in bytes, or None where the system does not tell."""
    values = {key: int(kib) * 1024 for key, kib in re.findall(r"^(\w+):\s+(\d+) kB", _read("/proc/meminfo"), re.M)}
    if "MemTotal" in values:
        return values["MemTotal"], values.get("MemAvailable", values["MemTotal"])
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None
    return total, total


def device_name(device: torch.device) -> str | None:
    """The device's name; None for the meta device, which is no device."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "meta":
        return None
    return cpu_name() if device.type == "cpu" else device.type


def parse_device(text: str) -> torch.device:
    """A device that exists here, from "auto", "cpu", "cuda", "cuda:1" or "mps"; auto prefers CUDA.

    Raises:
        UserError: Not a device, or not one that this machine has.
    """
    if text == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(text)
    except RuntimeError:
        raise UserError(f"{text!r} is no device", "use auto, cpu, cuda, cuda:0 or mps") from None
    if not _exists(device):
        raise UserError(f"this machine has no device {text}", "use `device=cpu`, or see `denoisezoo doctor`")
    return device


def _exists(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()
    if device.type == "mps":
        return torch.backends.mps.is_available()
    return device.type == "cpu"


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
