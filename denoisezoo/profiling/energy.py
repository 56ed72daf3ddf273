"""Energy of a call on an NVIDIA device, from its own meter (NVML)."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

MEASURED_S = 1.5
"""The meter moves every 20 to 100 ms; so long a run makes its grain small."""


def energy_j(call: Callable[[], Any], device: torch.device) -> float | None:
    """Joules per call, idle power included, averaged over `MEASURED_S` seconds of calls.

    Args:
        call: What to run.
        device: Where it runs.

    Returns:
        None where there is no meter: not an NVIDIA device, no NVML bindings (`pip install nvidia-ml-py`), or a device
        older than Volta.
    """
    meter = _meter(device)
    if meter is None:
        return None
    torch.cuda.synchronize(device)
    begin, start, calls = meter(), time.perf_counter(), 0
    while time.perf_counter() - start < MEASURED_S:
        call()
        torch.cuda.synchronize(device)
        calls += 1
    return (meter() - begin) / 1e3 / calls


def _meter(device: torch.device) -> Callable[[], float] | None:
    """A function that reads the device's total energy in millijoules."""
    if device.type != "cuda":
        return None
    try:
        import pynvml

        pynvml.nvmlInit()
        uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
        handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except Exception:  # no bindings, no driver, no permission, or no meter: the field stays empty
        return None
    return lambda: float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle))
