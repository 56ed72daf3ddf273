"""Improved precision and recall (Kynkäänniemi et al. 2019, arXiv 1904.06991).

The manifold of a set is the union of balls round its points, each reaching to the k-th nearest other point. Precision
is the share of generated points inside the manifold of the real ones; recall the reverse.
"""

from __future__ import annotations

import torch
from torch import Tensor

from denoisezoo.errors import UserError
from denoisezoo.evaluation.distances import distance_blocks, nearest


def precision_recall(generated: Tensor, real: Tensor, k: int = 3) -> tuple[float, float]:
    """Precision and recall, each in [0, 1].

    They grow and shrink with the sizes of the two sets: compare only numbers from equal sizes.

    Args:
        generated: Features (N, D).
        real: Features (M, D).
        k: Which neighbour sets the radius; 3 in the paper.

    Raises:
        UserError: A set has no k-th neighbour.
    """
    if (n := min(len(generated), len(real))) <= k:
        raise UserError(f"precision and recall need more than {k} images on each side, and one has {n}", "give more")
    return share_inside(generated, real, radii(real, k)), share_inside(real, generated, radii(generated, k))


def radii(points: Tensor, k: int) -> Tensor:
    """Distance (N,) from each point (N, D) to its k-th nearest other point."""
    # The nearest of k + 1 is the point itself (or an equal one, at the same distance of zero).
    return nearest(points, points, k + 1)[0][:, k]


def share_inside(queries: Tensor, points: Tensor, radius: Tensor) -> float:
    """Share of queries (N, D) that lie in one of the balls round `points` (M, D) with `radius` (M,)."""
    inside = [(block <= radius).any(1) for _, block in distance_blocks(queries, points)]
    return float(torch.cat(inside).double().mean())
