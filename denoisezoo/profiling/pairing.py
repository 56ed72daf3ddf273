"""Which of two is faster: calls in alternation, so that a busy machine slows both, and the ratio of neighbours.

The median of the ratios has a confidence interval that assumes nothing of their distribution: the k-th smallest and
largest of n ratios enclose it with the probability of a binomial (David and Nagaraja 2003, "Order Statistics", 7.1).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from denoisezoo.profiling.latency import Latency, summarise, timer

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Pairing:
    """Times of two calls that took turns.

    Attributes:
        a: Latency of the first.
        b: Latency of the second.
        ratio: Median of b / a over pairs of neighbours.
        low: Lower end of its confidence interval.
        high: Upper end.
        confidence: Probability that the interval covers the true median; below `CONFIDENCE` with fewer than 6 pairs.
    """

    a: Latency
    b: Latency
    ratio: float
    low: float
    high: float
    confidence: float


def pair(
    a: Callable[[], Any], b: Callable[[], Any], device: torch.device, *, rounds: int = 15, warmup: int = 2
) -> Pairing:
    """Time two calls in turns; the one that goes first changes from round to round.

    Args:
        a: First call.
        b: Second call.
        device: Where both run.
        rounds: Timed pairs.
        warmup: Untimed pairs before.
    """
    timed = timer(device)
    for _ in range(warmup):
        timed(a), timed(b)
    pairs = [_one(timed, a, b, swap=bool(i % 2)) for i in range(rounds)]
    ratios = [y / x for x, y in pairs]
    low, high, confidence = median_interval(ratios)
    first, second = (summarise(times) for times in zip(*pairs, strict=True))
    return Pairing(first, second, statistics.median(ratios), low, high, confidence)


def _one(timed: Callable[[Callable[[], Any]], float], a: Any, b: Any, swap: bool) -> tuple[float, float]:
    if swap:
        second = timed(b)
        return timed(a), second
    return timed(a), timed(b)


def median_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float, float, float]:
    """The narrowest pair of order statistics that covers the median with at least `confidence`, and its coverage.

    Args:
        values: Independent draws, at least one.
        confidence: Wanted coverage; the extremes are taken where even they do not reach it.
    """
    ordered, n = sorted(values), len(values)
    # The median lies outside the k-th smallest and largest with probability 2 P(Binomial(n, 1/2) < k).
    tails = [2 * sum(math.comb(n, i) for i in range(k)) / 2**n for k in range(1, n // 2 + 1)] or [1.0]
    k = max((k for k, tail in enumerate(tails, start=1) if 1 - tail >= confidence), default=1)
    return ordered[k - 1], ordered[n - k], 1 - tails[k - 1]
