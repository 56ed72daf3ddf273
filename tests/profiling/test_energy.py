import sys
from types import SimpleNamespace

import torch

from denoisezoo.profiling import energy


def test_no_meter_no_figure():
    assert energy.energy_j(lambda: None, torch.device("cpu")) is None


def test_joules_per_call_from_the_meter(monkeypatch):
    """A device that draws 300 W while each call takes 0.5 s: 150 J."""
    clock = [0.0]
    monkeypatch.setattr(energy.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: None)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda *_: SimpleNamespace(uuid="1234"))
    asked = []
    meter = SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=lambda uuid: asked.append(uuid),
        nvmlDeviceGetTotalEnergyConsumption=lambda handle: 300e3 * clock[0],  # millijoules
    )
    monkeypatch.setitem(sys.modules, "pynvml", meter)

    def call():
        clock[0] += 0.5

    assert energy.energy_j(call, torch.device("cuda")) == 150.0
    assert asked == ["GPU-1234"]
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert energy.energy_j(call, torch.device("cuda")) is None
