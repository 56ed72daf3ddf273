"""Processes, preconditioning, objectives, samplers and exact oracles."""

from denoisezoo.diffusion.denoiser import Denoiser, NetworkDenoiser, Prediction, default_denoiser
from denoisezoo.diffusion.grids import GRIDS
from denoisezoo.diffusion.guidance import Guided
from denoisezoo.diffusion.noise import Noise, SeedBlock
from denoisezoo.diffusion.objectives import OBJECTIVES, Loss, Objective, Times
from denoisezoo.diffusion.oracle import GaussianOracle, MixtureOracle, PointsOracle
from denoisezoo.diffusion.preconditioning import PRECONDITIONINGS, Preconditioning
from denoisezoo.diffusion.process import PROCESSES, Process, ScalarProcess, apply_blocks
from denoisezoo.diffusion.processes import DEFAULT_PROCESS
from denoisezoo.diffusion.samplers import SAMPLERS, Sampler, SampleResult, StepInfo, create_sampler

__all__ = [
    "DEFAULT_PROCESS",
    "GRIDS",
    "OBJECTIVES",
    "PRECONDITIONINGS",
    "PROCESSES",
    "SAMPLERS",
    "Denoiser",
    "GaussianOracle",
    "Guided",
    "Loss",
    "MixtureOracle",
    "NetworkDenoiser",
    "Noise",
    "Objective",
    "PointsOracle",
    "Preconditioning",
    "Prediction",
    "Process",
    "SampleResult",
    "Sampler",
    "ScalarProcess",
    "SeedBlock",
    "StepInfo",
    "Times",
    "apply_blocks",
    "create_sampler",
    "default_denoiser",
]
