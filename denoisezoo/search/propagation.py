"""What becomes of an error that a sampler's step makes: the rest of the walk forgets most of it.

The probability-flow ODE of Gaussian data of covariance S carries a state x of noise level sigma (in the units of the
image) to S^(1/2) (S + sigma^2)^(-1/2) x: that is EDM's dx/dsigma = (x - D) / sigma (arXiv 2206.00364, equation 3) with
the Gaussian's exact denoiser D = S (S + sigma^2)^(-1) x. So an error in a direction in which the data vary by lambda
shrinks by sqrt(lambda / (lambda + sigma^2)) until the end: noise far above the data's own spread forgives, and
directions in which images never differ forgive always. Real data are approximated by the Gaussian of their covariance.
"""

from __future__ import annotations

import torch
from torch import Tensor

MOST_DIMENSIONS = 3072
"""Up to these many numbers per image (3 x 32 x 32) the covariance is used, above only the mean variance."""


class Propagation:
    """The Gaussian's flow.

    Args:
        u_0: Clean states of training images (N, C, H, W), at least two.
    """

    def __init__(self, u_0: Tensor) -> None:
        flat = u_0.flatten(1).double()
        self.basis: Tensor | None = None
        if flat.shape[1] <= MOST_DIMENSIONS and len(flat) > flat.shape[1]:
            variance, self.basis = torch.linalg.eigh(torch.cov(flat.T))
        elif flat.shape[1] <= MOST_DIMENSIONS:  # few images differ in few directions, and the others forgive all
            _, spread, directions = torch.linalg.svd(flat - flat.mean(dim=0), full_matrices=False)
            variance, self.basis = spread.square() / (len(flat) - 1), directions.T
        else:
            variance = flat.var(dim=0).mean()[None]
        self.variance = variance.clamp(min=0.0)

    def effect(self, error: Tensor, sigma: float) -> Tensor:
        """Mean square per number (B,) of what is left at the end of errors (B, C, H, W) made at noise level sigma.

        Args:
            error: In units of the image.
            sigma: Noise relative to the image where the error enters; 0 forgives nothing.
        """
        flat = error.flatten(1).double().cpu()
        if sigma == 0:
            return flat.square().mean(dim=1)
        kept = self.variance / (self.variance + sigma**2)
        turned = flat if self.basis is None else flat @ self.basis
        return (turned.square() * kept).sum(dim=1) / flat.shape[1]
