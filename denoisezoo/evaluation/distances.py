"""Euclidean distances between two sets of vectors, a block at a time, exact enough to recognise equal ones."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

BLOCK = 2048


def distance_blocks(a: Tensor, b: Tensor, rows: int = BLOCK) -> Iterator[tuple[slice, Tensor]]:
    """Distances from rows of `a` (N, D) to all of `b` (M, D), as (which rows, float64 (n, M)).

    They come from |x|^2 + |y|^2 - 2 xy, one matrix product; float64, and a common shift of the origin to the mean of
    `b`, leave an error near 1e-7 of the spread where two vectors are equal.
    """
    centre = b.double().mean(0)
    b = b.double() - centre
    b_squared = b.square().sum(1)
    for start in range(0, len(a), rows):
        block = a[start : start + rows].double() - centre
        squared = torch.addmm(b_squared, block, b.T, alpha=-2).add_(block.square().sum(1, keepdim=True))
        yield slice(start, start + len(block)), squared.clamp_(min=0).sqrt_()


def nearest(queries: Tensor, points: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The `k` points nearest to each query: distances (N, k), ascending, and indices (N, k).

    Args:
        queries: (N, D).
        points: (M, D), M >= k.
        k: How many.
    """
    distances = torch.empty(len(queries), k, dtype=torch.float64, device=queries.device)
    indices = torch.empty(len(queries), k, dtype=torch.int64, device=queries.device)
    for rows, block in distance_blocks(queries, points):
        distances[rows], indices[rows] = block.topk(k, dim=1, largest=False)
    return distances, indices
