"""Improved precision and recall (Kynkäänniemi et al. 2019, arXiv 1904.06991).

The manifold of a set is the union of balls round its points, each reaching to the k-th nearest other point. Precision
is the share of generated points inside the manifold of the real ones; recall the reverse.
"""

from __future__ import annotations

import torch
from torch import Tensor

from denoisezoo.errors import UserError
from denoisezoo.evaluation.distances import distance_blocks, nearest, tiles
from denoisezoo.ranks import gather, share


class Manifold:
    """The balls round the points of a set, whose radii are computed once.

    Args:
        points: Features (M, D).
        k: Which neighbour sets the radius; 3 in the paper.
        together: Whether all processes of a distributed run have these points and share the work.

    Raises:
        UserError: A point has no k-th neighbour.
    """

    def __init__(self, points: Tensor, k: int = 3, *, together: bool = False) -> None:
        if len(points) <= k:
            raise UserError(
                f"precision and recall need more than {k} images on each side, and one has {len(points)}", "give more"
            )
        self.points, self.together = points, together
        mine = points[share(len(points)).start : share(len(points)).stop] if together else points
        # The nearest of k + 1 is the point itself (or an equal one, at the same distance of zero).
        found = nearest(mine, points, k + 1)[0][:, k]
        self.radius = gather(found) if together else found

    def share_inside(self, queries: Tensor) -> float:
        """Share of queries (N, D) that lie in one of the balls."""
        mine = share(len(queries)) if self.together else range(len(queries))
        mine_of = queries[mine.start : mine.stop]
        inside = torch.zeros(len(mine_of), dtype=torch.bool, device=queries.device)
        for start, tile in tiles(self.points):
            radius = self.radius[start : start + len(tile)]
            for rows, block in distance_blocks(mine_of, tile):
                inside[rows] |= (block <= radius).any(1)
        return float((gather(inside) if self.together else inside).double().mean())


def precision_recall(generated: Tensor | Manifold, real: Tensor | Manifold, k: int = 3) -> tuple[float, float]:
    """Precision and recall, each in [0, 1].

    They grow and shrink with the sizes of the two sets: compare only numbers from equal sizes.

    Args:
        generated: Features (N, D), or their manifold.
        real: Features (M, D), or their manifold, which serves any number of generated sets.
        k: Which neighbour sets the radius of features; 3 in the paper.

    Raises:
        UserError: A set has no k-th neighbour.
    """
    real, generated = (side if isinstance(side, Manifold) else Manifold(side, k) for side in (real, generated))
    return real.share_inside(generated.points), generated.share_inside(real.points)


def radii(points: Tensor, k: int) -> Tensor:
    """Distance (N,) from each point (N, D) to its k-th nearest other point."""
    return Manifold(points, k).radius
