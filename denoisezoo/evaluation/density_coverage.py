"""Density and coverage (Naeem et al. 2020, arXiv 2002.09797): precision and recall that outliers do not inflate."""

from __future__ import annotations

import torch
from torch import Tensor

from denoisezoo.evaluation.distances import distance_blocks, tiles
from denoisezoo.evaluation.precision_recall import Manifold

NEIGHBOURS = 5
"""k of the paper."""


def density_coverage(generated: Tensor, real: Tensor | Manifold, k: int = NEIGHBOURS) -> tuple[float, float]:
    """Density and coverage, equations 3 and 4.

    Args:
        generated: Features (N, D).
        real: Features (M, D), or their manifold.
        k: Which neighbour sets the radius of real features.

    Returns:
        Density, the mean number of balls of real images that a generated one lies in, over k: 1 is what equal
        distributions reach, and more is possible; coverage, the share of real images whose ball holds a generated one.

    Raises:
        UserError: A real image has no k-th neighbour.
    """
    balls = real if isinstance(real, Manifold) else Manifold(real, k)
    inside = 0
    covered = []
    for start, tile in tiles(balls.points):
        radius = balls.radius[start : start + len(tile)]
        holds = torch.zeros(len(tile), dtype=torch.bool, device=generated.device)
        for _, block in distance_blocks(generated, tile):
            within = block <= radius
            inside += int(within.sum())
            holds |= within.any(0)
        covered.append(holds)
    return inside / (k * len(generated)), float(torch.cat(covered).double().mean())
