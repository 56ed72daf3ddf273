"""Does a model copy, in a space of features? The test of data copying (Meehan et al. 2020, arXiv 2004.05675)."""

from __future__ import annotations

import torch
from torch import Tensor

from denoisezoo.evaluation.distances import nearest

SMALLEST = 20
"""Images of each kind that a cell needs, for the statistic to be near normal."""
CELLS = 5


def copying_test(generated: Tensor, training: Tensor, held_out: Tensor, cells: int = CELLS, seed: int = 0) -> float:
    """C_T: are generated images nearer to the training images than held-out ones are?

    The space is cut into the cells of k-means of the training features; in each, the Mann-Whitney statistic of the
    distances to the nearest training image is standardised, and C_T is their mean, weighted by the share of held-out
    images. Cells with under 20 generated or held-out images are left out; where all are, the whole space is one cell.

    Args:
        generated: Features (N, D).
        training: Features of the images that the model was trained on (M, D).
        held_out: Features of real images that it was not trained on (H, D).
        cells: How many.
        seed: Of k-means.

    Returns:
        About standard normal, for one cell, where generated images are as new as held-out ones are; below -3 they are
        copies, above 3 they are farther than real images (underfit).
    """
    from sklearn.cluster import KMeans

    far_generated, far_held_out = (nearest(x, training, 1)[0][:, 0] for x in (generated, held_out))
    if cells > 1 and len(training) >= cells:
        means = KMeans(cells, n_init=1, random_state=seed).fit(training.double().cpu().numpy())
        of_generated, of_held_out = (
            torch.from_numpy(means.predict(x.double().cpu().numpy())).to(x.device) for x in (generated, held_out)
        )
        found = [
            (len(real), _standardised(fake, real))
            for cell in range(cells)
            for fake, real in [(far_generated[of_generated == cell], far_held_out[of_held_out == cell])]
            if min(len(fake), len(real)) >= SMALLEST
        ]
        if found:
            return sum(n * z for n, z in found) / sum(n for n, _ in found)
    return _standardised(far_generated, far_held_out)


def _standardised(a: Tensor, b: Tensor) -> float:
    """(U - mn / 2) / sqrt(mn (m + n + 1) / 12), U the pairs in which `a` (m,) is above `b` (n,); equal ones half."""
    ordered, (m, n) = b.sort().values, (len(a), len(b))
    above = torch.searchsorted(ordered, a) + torch.searchsorted(ordered, a, right=True)
    return float((above.double().sum() / 2 - m * n / 2) / (m * n * (m + n + 1) / 12) ** 0.5)
