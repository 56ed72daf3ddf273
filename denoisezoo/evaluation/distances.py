"""Euclidean distances between two sets of vectors, a block at a time, exact enough to recognise equal ones."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

BLOCK = 2048
"""Rows at a time."""
COLUMNS = 32_768
"""Points at a time: with `BLOCK` rows, half a gigabyte of distances."""


def tiles(points: Tensor) -> Iterator[tuple[int, Tensor]]:
    """The points (M, D), `COLUMNS` at a time, each with the place of its first."""
    for start in range(0, len(points), COLUMNS):
        yield start, points[start : start + COLUMNS]


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
    distances = torch.full((len(queries), k), torch.inf, dtype=torch.float64, device=queries.device)
    indices = torch.zeros(len(queries), k, dtype=torch.int64, device=queries.device)
    for start, tile in tiles(points):
        for rows, block in distance_blocks(queries, tile):
            found, places = block.topk(min(k, len(tile)), dim=1, largest=False)
            places += start
            if start or len(tile) < k:  # the nearest of those before, and of these
                found, order = torch.cat([distances[rows], found], dim=1).topk(k, dim=1, largest=False)
                places = torch.cat([indices[rows], places], dim=1).gather(1, order)
            distances[rows], indices[rows] = found, places
    return distances, indices
