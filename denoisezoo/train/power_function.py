"""Power-function averages of weights, and how any of them is put together from stored ones ("post-hoc EMA").

Karras et al. 2023, arXiv 2312.02696, section 3 and appendix C. After t images an average with exponent gamma weighs the
weights that were there after tau images by p(tau) = (gamma + 1) tau^gamma / t^(gamma + 1). Its width is stated as
sigma_rel, the standard deviation of p relative to t. A few such averages, stored now and then, span many others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from denoisezoo.errors import UserError

WIDEST = 0.25
"""Largest sigma_rel that is taken; that of the plain mean over all of training is 12^(-1/2) = 0.289."""

Profile = tuple[float, float]
"""Images t that an average has seen, and its exponent gamma."""


def exponent(sigma_rel: float) -> float:
    """gamma of a relative width: the largest root of g^3 + 7 g^2 + (16 - r) g + (12 - r), r = sigma_rel^-2.

    Raises:
        UserError: The width is not above 0, or so large that the average would reach back to the beginning.
    """
    if not 0 < sigma_rel <= WIDEST:
        raise UserError(f"sigma_rel is {sigma_rel}", f"give a number above 0 and up to {WIDEST}, such as 0.1")
    r = sigma_rel**-2
    roots = np.roots([1.0, 7.0, 16.0 - r, 12.0 - r])
    return float(max(root.real for root in roots if abs(root.imag) < 1e-6 * abs(root)))


def relative_width(gamma: float) -> float:
    """sigma_rel = (gamma + 1)^(1/2) (gamma + 2)^-1 (gamma + 3)^(-1/2)."""
    return math.sqrt(gamma + 1) / ((gamma + 2) * math.sqrt(gamma + 3))


def decay(images: float, new: float, gamma: float) -> float:
    """Factor of the old average in an update after `images` images, `new` of them since the last: (1 - new/t)^(g+1).

    The first update has 0: initial weights have no part.
    """
    return float((1 - new / images) ** (gamma + 1))


def inner_product(a: Profile, b: Profile) -> float:
    """Integral of the product of two profiles."""
    (t_a, g_a), (t_b, g_b) = a, b
    ratio = min(t_a, t_b) / max(t_a, t_b)
    later = g_b if t_a < t_b else g_a  # the later one has grown so far by the end of the earlier
    return float((g_a + 1) * (g_b + 1) * ratio**later / ((g_a + g_b + 1) * max(t_a, t_b)))


def mixture(stored: Sequence[Profile], target: Profile) -> list[float]:
    """Factors of stored averages whose sum comes nearest to another one, in the mean square of the profiles; of sum 1.

    Args:
        stored: Profiles that there are.
        target: The wanted one; it sees no more images than the last of those.

    Raises:
        UserError: There are none, or none of them has seen as much.
    """
    if not stored or target[0] > max(t for t, _ in stored):
        raise UserError("no stored average has seen as many images as are asked for", "train on, or ask for fewer")
    # In units of each profile's norm the matrix is one of cosines, and far from overflow whatever t is.
    norms = [math.sqrt(inner_product(p, p)) for p in stored]
    A = np.array([[inner_product(p, q) / n / m for q, m in zip(stored, norms, strict=True)]
                  for p, n in zip(stored, norms, strict=True)])  # fmt: skip
    b = np.array([inner_product(p, target) / n for p, n in zip(stored, norms, strict=True)])
    x = np.linalg.lstsq(A, b, rcond=1e-13)[0] / np.array(norms)
    return [float(factor) for factor in x / x.sum()]
