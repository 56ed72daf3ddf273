"""Orders of convergence on Gaussian data, whose probability flow has a closed form."""

import numpy as np
import torch

from denoisezoo.diffusion import create_sampler
from denoisezoo.diffusion.processes.scalar import EDM

from .conftest import GaussianTruth

STEPS = (48, 96, 192, 384)
FINER = {"dpmpp_3m": (192, 384, 768)}
"""Steps of samplers whose errors of the next order are as large at those: its second order has a small constant."""


def final_error(truth, sampler, steps):
    """Largest error against the exact flow; a grid that ends at t > 0 ends with one exact denoising there."""
    grid = sampler.grid(truth.process, steps)
    u_T = truth.start(sampler, steps)
    result = sampler(truth.oracle, u_T, steps=steps)
    assert result.nfe == sampler.nfe(steps)
    last = float(grid[-2]) if sampler.grid(truth.process, 2 * steps)[-2] == grid[-2] else 0.0
    exact = truth.flow(u_T, float(grid[0]), last)
    if last:
        exact = truth.oracle(exact, torch.full((len(exact),), last, dtype=torch.float64)).u_0
    return (result.images - exact).abs().max().item()


def check_order(truth, sampler, order, steps=STEPS):
    """That errors fall with the number of steps at an order."""
    errors = [final_error(truth, sampler, n) for n in steps]
    slope = -np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert abs(slope - order) < 0.15, (slope, errors)


def check_declared_order(name):
    """That a registered sampler, with its default options and on EDM's noise levels, has the order it declares."""
    sampler = create_sampler(name)
    check_order(GaussianTruth(EDM()), sampler, sampler.convergence, FINER.get(name, STEPS))
