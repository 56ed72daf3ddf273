import json

import pytest
import torch

from denoisezoo.profiling import roofline as module
from denoisezoo.profiling.roofline import Peaks, measure_peaks, peaks, roofline

PEAKS = Peaks(flops_per_s=100.0, bytes_per_s=10.0)


@pytest.mark.parametrize(
    ("flops", "moved", "bound"),
    [(90, 5, "arithmetic"), (50, 9, "memory"), (20, 2, "launches"), (25, 0, "arithmetic"), (0, 3, "memory")],
)
def test_what_bounds_a_call(flops, moved, bound):
    found = roofline(2 * flops, 2 * moved, seconds=2.0, peaks=PEAKS)
    assert (found.flops_per_s, found.bytes_per_s) == (flops, moved)
    assert (found.share_flops, found.share_bytes) == (flops / 100, moved / 10)
    assert found.bound == bound


def test_peaks_are_measured_once_per_machine_and_type(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    calls = []
    monkeypatch.setattr(module, "measure_peaks", lambda device, dtype: calls.append(dtype) or PEAKS)
    cpu = torch.device("cpu")
    assert [peaks(cpu, dtype) for dtype in (torch.float32, torch.float32, torch.bfloat16)] == [PEAKS] * 3
    assert calls == [torch.float32, torch.bfloat16]
    path = tmp_path / "denoisezoo" / "peaks.json"
    assert len(json.loads(path.read_text())) == 2
    path.write_text("{ damaged")
    assert peaks(cpu, torch.float32) == PEAKS
    assert len(calls) == 3


def test_a_cache_that_cannot_be_written_costs_nothing_else(tmp_path, monkeypatch):
    (tmp_path / "denoisezoo").write_text("a file where the folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(module, "measure_peaks", lambda device, dtype: PEAKS)
    assert peaks(torch.device("cpu"), torch.float32) == PEAKS


def test_the_peaks_of_this_machine_are_plausible():
    found = measure_peaks(torch.device("cpu"), torch.float32)
    assert 1e9 < found.flops_per_s < 1e14
    assert 1e8 < found.bytes_per_s < 1e13
