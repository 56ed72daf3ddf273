"""Gaussian data for any process, diagonal in the basis of its state, with the closed form of its probability flow."""

import functools
import math

import numpy as np
import torch

from denoisezoo.diffusion import (
    CLD,
    Blurring,
    Diagonal,
    DiagonalProcess,
    GaussianOracle,
    MultiScale,
    apply_blocks,
    create_sampler,
)
from denoisezoo.diffusion.capabilities import Staged, dropped_at, expand, stages_of
from denoisezoo.diffusion.coefficients import inverse, product, transpose
from denoisezoo.diffusion.grids import GRIDS
from denoisezoo.diffusion.processes.geometric import GeometricVE
from denoisezoo.diffusion.processes.scalar import EDM, VE, VP, RectifiedFlow, VPCosine, with_zero

f64 = torch.float64
SIDE = 4

PROCESSES = {
    "vp": VP(),
    "vp_cosine": VPCosine(),
    "edm": EDM(),
    "flow": RectifiedFlow(),
    "blurring": Blurring(blur=2.0, resolution=SIDE),
    "blurring_cosine": Blurring(blur=3.0, resolution=SIDE, schedule="cosine"),
    "diagonal": Diagonal([[10, -8], [9, -10]], basis="haar", resolution=SIDE),
    "cld": CLD(),
    "cld_celeba": CLD(beta_min=0.1, beta_d=6.9),
    "multiscale": MultiScale(SIDE, levels=1),
    "multiscale_whole": MultiScale(SIDE, levels=2, drop=False),
}

EVERY = PROCESSES | {
    "ve": VE(),
    "ve_geometric": GeometricVE(),
    "diagonal_dct": Diagonal([[9, -8], [8, -9], [7, -10]], basis="dct", resolution=SIDE),
    "cld_sampled": CLD(velocity="sampled"),
    "multiscale_scaled": MultiScale(SIDE, levels=2, rescale=True, band_std=[0.2, 0.5, 1.5]),
}
"""With those that add no kind of equation: for what is quick to check."""


@GRIDS.register("cosine_of_test")
def cosine_grid(process, steps):
    """Steps that are short at both ends of every stage, so that a first step of order 1 costs an error of order 4."""
    times = []
    for first, last in stages_of(process):
        n = steps // len(stages_of(process))
        wave = (1 + torch.cos(math.pi * torch.linspace(0, 1, n + 1, dtype=f64))) / 2
        times.append((last + (first - last) * wave)[:-1])
        times[-1][0] = first
    return with_zero(torch.cat([*times, torch.tensor([process.t_min], dtype=f64)]))


def at(t):
    return torch.tensor([float(t)], dtype=f64)


def drift(process, t):
    """Blocks of F = A' A^-1."""
    return product(process.rates(t)[0], inverse(process.signal(t)))


@functools.cache
def wider(process, variance):
    """The Langevin process whose position begins with more variance."""
    x_0, v_0 = process.start_variance
    return CLD(process.beta_min, process.beta_d, 1 / process.M, start=(x_0 + variance, v_0))


class OneStage(Staged):
    """A process that consists of its last stage."""

    def __init__(self, process):
        self.process = process

    def __getattr__(self, name):
        return getattr(self.process, name)

    @property
    def stages(self):
        return stages_of(self.process)[-1:]

    def dropped(self, t):
        return dropped_at(self.process, t)


class DiagonalTruth:
    """u_0 ~ N(mean, diag(variance)) for images (1, 4, 4), in state space; a velocity begins at exactly 0."""

    def __init__(self, process, point=False):
        generator = torch.Generator().manual_seed(0)
        shape = (1, SIDE, SIDE)
        self.process, self.shape = process, shape
        self.mean = 0.5 * torch.randn(1, *shape, generator=generator, dtype=f64)
        self.variance = 0.05 + 0.5 * torch.rand(1, *shape, generator=generator, dtype=f64)
        if point:
            self.variance = torch.zeros_like(self.variance)
        self.oracle = GaussianOracle(process, self.state(self.mean)[0], torch.diag(self.state(self.variance).flatten()))

    def state(self, image):
        return image if self.process.basis.k == 1 else torch.cat([image, torch.zeros_like(image)], dim=1)

    def spread(self, t):
        """Blocks of what carries deviations along the exact flow: the ratio of its values at two times.

        sqrt(alpha^2 v + sigma^2) where k = 1; else the R of a process whose noise begins with the data's variance.
        """
        if isinstance(self.process, DiagonalProcess):
            A, R = self.process.signal(at(t)), self.process.noise(at(t))
            return (A**2 * self.variance[:, None, None] + R**2).sqrt()
        blocks = [wider(self.process, v).noise(at(t)) for v in self.variance.flatten().tolist()]
        return torch.cat(blocks, -1).reshape(1, 2, 2, *self.shape)

    def mean_at(self, t, like):
        mean = self.state(self.mean)[..., : like.shape[-2], : like.shape[-1]]
        return apply_blocks(self.process.signal(at(t)), mean)

    def flow(self, u, t, s):
        """The exact state at s of the probability flow through u (B, k, h, w) at t."""
        ratio = product(self.spread(s), inverse(self.spread(t)))
        return self.mean_at(s, u) + apply_blocks(ratio, u - self.mean_at(t, u))

    def walked(self, u, generator=None):
        """The exact image of a walk from u at t_max, with what enters drawn from a generator, denoised at t_min."""
        for first, last in stages_of(self.process):
            u = self.flow(expand(self.process, u, at(first)[0], generator), first, last)
        return self.process.basis.decode(self.oracle(u, at(self.process.t_min).expand(len(u))).u_0)

    def covariance(self, t):
        """Blocks of the covariance of u_t."""
        A, R = self.process.signal(at(t)), self.process.noise(at(t))
        start = torch.zeros(1, self.process.basis.k, self.process.basis.k, *self.shape, dtype=f64)
        start[:, 0, 0] = self.variance
        return product(product(A, start), transpose(A)) + product(R, transpose(R))

    def errors(self, spec, steps):
        """Largest errors of a deterministic sampler at numbers of steps, against the exact flow."""
        sampler = create_sampler(spec)
        found = []
        for n in steps:
            u_T = sampler.prior(self.process, (4, *self.shape), n, torch.Generator().manual_seed(0))
            exact = self.walked(u_T, torch.Generator().manual_seed(1))
            images = sampler(self.oracle, u_T, steps=n, generator=torch.Generator().manual_seed(1)).images
            found.append((images - exact).abs().max().item())
        return found


def slope(steps, errors):
    """Order of convergence."""
    return -np.polyfit(np.log(steps), np.log(errors), 1)[0]
