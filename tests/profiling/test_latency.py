import pytest
import torch

from denoisezoo.profiling import latency as module
from denoisezoo.profiling.latency import Latency, latency, summarise, timer

CPU = torch.device("cpu")


class Clock:
    """A clock that moves only when a call says so."""

    def __init__(self):
        self.now, self.calls = 0.0, 0

    def __call__(self):
        return self.now

    def spend(self, seconds):
        def call():
            self.calls += 1
            self.now += seconds

        return call


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(module.time, "perf_counter", clock)
    return clock


def test_percentiles_by_hand():
    assert summarise([float(n) for n in range(11, 0, -1)]) == Latency(median=6.0, p10=2.0, p90=10.0, runs=11)


def test_warm_up_is_not_timed(clock):
    first = [5.0, 3.0, 0.002]  # compilation, choice of kernels, then the real speed

    def call():
        clock.calls += 1
        clock.now += first.pop(0) if first else 0.001

    result = latency(call, CPU, runs=7, warmup=3, seconds=100)
    assert clock.calls == 3 + 7
    assert (result.runs, result.median) == (7, pytest.approx(1.0))


def test_slow_calls_get_one_warm_up_and_five_runs(clock):
    result = latency(clock.spend(10.0), CPU, seconds=2.0)
    assert (result.runs, clock.calls) == (5, 1 + 5)
    assert result.median == pytest.approx(10_000.0)


def test_fast_calls_fill_the_time_up_to_a_limit(clock):
    assert latency(clock.spend(0.1), CPU, seconds=2.0).runs in {20, 21}
    assert latency(clock.spend(1e-6), CPU, seconds=2.0).runs == 200


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_waits_for_the_device():
    x = torch.randn(4096, 4096, device="cuda")
    y = torch.empty_like(x)
    timed = timer(torch.device("cuda"))
    timed(lambda: torch.mm(x, x, out=y))
    once = timed(lambda: torch.mm(x, x, out=y))
    assert timed(lambda: [torch.mm(x, x, out=y) for _ in range(20)]) > 5 * once > 0
