import math

import pytest
import torch

from denoisezoo.profiling import latency
from denoisezoo.profiling.pairing import median_interval, pair


def test_interval_by_the_binomial():
    # n = 10: P(Bin(10, 1/2) < 2) = 11 / 1024, so the 2nd smallest and largest cover with 1 - 22/1024 = 0.9785
    low, high, confidence = median_interval([float(i) for i in range(10, 0, -1)])
    assert (low, high) == (2.0, 9.0)
    assert confidence == pytest.approx(1 - 22 / 1024)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_few_values_give_their_range_and_say_how_little_it_covers(n):
    low, high, confidence = median_interval(list(range(n)))
    assert (low, high) == (0, n - 1)
    assert confidence == pytest.approx(max(0.0, 1 - 2 / 2**n))


def test_interval_covers_the_median_as_often_as_it_says():
    generator = torch.Generator().manual_seed(0)
    draws = torch.empty(2000, 15).log_normal_(0.0, 1.0, generator=generator).tolist()
    covered = sum(low <= 1.0 <= high for low, high, _ in map(median_interval, draws)) / len(draws)
    confidence = median_interval(draws[0])[2]
    assert abs(covered - confidence) < 4 * math.sqrt(confidence * (1 - confidence) / len(draws))


def test_pairs_take_turns_and_both_are_timed():
    order = []
    found = pair(lambda: order.append("a"), lambda: order.append("b"), torch.device("cpu"), rounds=4, warmup=1)
    assert "".join(order) == "ab" + "ab" + "ba" + "ab" + "ba"
    assert (found.a.runs, found.b.runs) == (4, 4)
    assert found.low <= found.ratio <= found.high


def test_the_ratio_is_that_of_the_times(monkeypatch):
    """By a clock that only the calls move, 2 ms and 16 ms."""
    now = [0.0]
    monkeypatch.setattr(latency.time, "perf_counter", lambda: now[0])

    def call(seconds):
        now[0] += seconds

    found = pair(lambda: call(0.002), lambda: call(0.016), torch.device("cpu"), rounds=9)
    assert (found.low, found.ratio, found.high) == pytest.approx((8, 8, 8))
    assert (found.a.median, found.b.median) == pytest.approx((2, 16))
