"""Coefficients of generalised DDIM, in float64 for any process: integrals over a step, and stochastic transitions.

The integrand of gDDIM's coefficients is a derivative, 1/2 psi(s, tau) G G^T R_tau^-T = d/dtau [psi(s, tau) R_tau], so
that by parts C_j = [l_j psi R] - integral of l_j' psi R needs neither G nor an inverse, and for q = 1 no integral.

With noise u_0 is interpolated in place of eps, and the same holds of d/dtau [Psihat(s, tau) A_tau]: under
Fhat = F + (1 + lam^2)/2 G G^T Sigma^-1 the mean A u_0 asks for a source -(1 + lam^2)/2 G G^T Sigma^-1 A u_0.
"""

from __future__ import annotations

from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from denoisezoo.diffusion.capabilities import Evolving
from denoisezoo.diffusion.coefficients import identity_like, inverse, product, transpose
from denoisezoo.diffusion.processes.process import Process

POINTS = 64
"""Of the Gauss-Legendre quadrature over one step."""

_KEPT: WeakKeyDictionary[Process, dict[tuple[float, ...], list[Tensor]]] = WeakKeyDictionary()
_MOST_KEPT = 4096


def multistep_coefficients(
    process: Process, s: Tensor, nodes: Tensor, lam: float = 0.0, image: bool = False
) -> list[Tensor]:
    """Blocks C_j of every node but the first, for the step from nodes[0] to s; kept for the next walk on this grid.

    Args:
        process: The process.
        s: Where the step ends, ().
        nodes: Times (n,) that are interpolated at; the first is where the step begins.
        lam: lambda of the noise.
        image: Whether u_0 is interpolated; else eps, for lam 0.
    """
    if len(nodes) == 1:
        return []
    kept = _KEPT.setdefault(process, {})
    changing = process.changing if isinstance(process, Evolving) else ()
    key = (float(s), lam, image, *changing, *nodes.tolist())
    if key not in kept:
        if len(kept) >= _MOST_KEPT:
            kept.clear()
        kept[key] = _integrals(process, s.reshape(1), nodes, lam, image)
    return kept[key]


def _integrals(process: Process, s: Tensor, nodes: Tensor, lam: float, image: bool) -> list[Tensor]:
    """C_j = l_j(s) W(s) - integral from t to s of l_j' W, since l_j(t) = 0 for all but the first."""
    t = nodes[:1]
    x, weights = (torch.from_numpy(part) for part in np.polynomial.legendre.leggauss(POINTS))
    tau = t + (s - t) * (x + 1) / 2
    W, W_s = transported(process, s, tau, lam, image) * ((s - t) / 2), transported(process, s, s, lam, image)
    coefficients = []
    for j in range(1, len(nodes)):
        slope = (weights * lagrange_slope(nodes, j, tau)).reshape(-1, *[1] * (W.ndim - 1))
        coefficients.append(lagrange(nodes, j, s) * W_s - (slope * W).sum(0, keepdim=True))
    return coefficients


def transported(process: Process, s: Tensor, tau: Tensor, lam: float, image: bool) -> Tensor:
    """Blocks W(tau), tau (n,): psi(s, tau) R_tau for eps, and Psihat(s, tau) A_tau for u_0."""
    if not image:
        return product(process.psi(s.expand(len(tau)), tau), process.noise(tau))
    return product(stochastic_transition(process, s, tau, lam), process.signal(tau))


def lagrange(nodes: Tensor, j: int, tau: Tensor) -> Tensor:
    """l_j at times tau (m,): 1 at nodes[j], 0 at the others."""
    others = [k for k in range(len(nodes)) if k != j]
    return torch.stack([(tau - nodes[k]) / (nodes[j] - nodes[k]) for k in others]).prod(0)


def lagrange_slope(nodes: Tensor, j: int, tau: Tensor) -> Tensor:
    """dl_j/dtau at times tau (m,)."""
    others = [k for k in range(len(nodes)) if k != j]
    total = torch.zeros_like(tau)
    for m in others:
        rest = [(tau - nodes[k]) / (nodes[j] - nodes[k]) for k in others if k != m]
        total = total + torch.stack([torch.ones_like(tau), *rest]).prod(0) / (nodes[j] - nodes[m])
    return total


def stochastic_transition(process: Process, s: Tensor, t: Tensor, lam: float) -> Tensor:
    """Blocks of Psihat(s, t), the transition of Fhat = F + (1 + lam^2)/2 G G^T Sigma^-1; s (), t () or (n,).

    R_s R_t^-1 for lam 0, Sigma_s psi(t, s)^T Sigma_t^-1 for lam 1, (R_s/R_t)^(1 + lam^2) (A_t/A_s)^(lam^2) where blocks
    are numbers; else its equation is solved, from each t to the next, which must be nearer to s.
    """
    s, t = s.reshape(1), t.reshape(-1)
    R_s, R_t = process.noise(s), process.noise(t)
    if lam == 0:
        return product(R_s, inverse(R_t))
    if R_t.shape[1] == 1:
        return (R_s / R_t) ** (1 + lam**2) * (process.signal(t) / process.signal(s)) ** (lam**2)
    if lam == 1:
        Sigma_s, Sigma_t = (product(R, transpose(R)) for R in (R_s, R_t))
        return product(product(Sigma_s, transpose(process.psi(t, s.expand(len(t))))), inverse(Sigma_t))
    return product(product(R_s, _turned(process, s, t, lam)), inverse(R_t))


def _turned(process: Process, s: Tensor, t: Tensor, lam: float) -> Tensor:
    """M(s, t) in Psihat = R_s M R_t^-1, with dM/dtau = lam^2/2 (R^-1 G G^T R^-T) M; s (1,), t (n,) approaching s.

    By the classical Runge-Kutta method in sqrt(tau), from each time to the next. All steps are taken at once, as
    matrices, and multiplied.
    """
    intervals, n = 4096 if len(t) == 1 else 16, len(t)
    share = torch.linspace(0, 1, 2 * intervals + 1, dtype=torch.float64)[:, None]
    root, until = t.sqrt(), torch.cat([t[1:], s]).sqrt()
    points = root + share * (until - root)
    R_inverse = inverse(process.noise(points.flatten() ** 2))
    rate = product(product(R_inverse, process.diffusion(points.flatten() ** 2)), transpose(R_inverse))
    B = lam**2 / 2 * rate * _column(2 * points, rate)
    first, middle, last = (B.unflatten(0, (-1, n))[part].flatten(0, 1) for part in _THIRDS)
    h, one = _column((points[2] - points[0]).expand(intervals, n), rate), identity_like(rate)
    k_1 = first
    k_2 = product(middle, one + h / 2 * k_1)
    k_3 = product(middle, one + h / 2 * k_2)
    k_4 = product(last, one + h * k_3)
    steps = one + h / 6 * (k_1 + 2 * k_2 + 2 * k_3 + k_4)
    while len(steps) > n:
        later, earlier = (steps.unflatten(0, (-1, n))[part::2].flatten(0, 1) for part in (1, 0))
        steps = product(later, earlier)
    M = list(steps.split(1))
    for j in reversed(range(n - 1)):
        M[j] = product(M[j + 1], M[j])
    return torch.cat(M)


_THIRDS = (slice(None, -1, 2), slice(1, None, 2), slice(2, None, 2))
"""Beginnings, middles and ends of intervals among their points."""


def _column(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (like.ndim - 1))
