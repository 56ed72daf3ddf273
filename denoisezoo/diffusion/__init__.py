"""Processes, preconditioning, objectives, samplers and exact oracles."""

from denoisezoo.diffusion.adversarial import AdversarialObjective, UDPMLoss
from denoisezoo.diffusion.blocks import apply_blocks
from denoisezoo.diffusion.blurring import Blurring
from denoisezoo.diffusion.chain import VPDiscrete
from denoisezoo.diffusion.denoiser import (
    Denoiser,
    Given,
    Matched,
    NetworkDenoiser,
    Prediction,
    default_denoiser,
    with_condition,
)
from denoisezoo.diffusion.diagonal import Diagonal, LogSNRProcess
from denoisezoo.diffusion.downsampling import DownSampling
from denoisezoo.diffusion.drift import Drift
from denoisezoo.diffusion.gan import PlainGAN
from denoisezoo.diffusion.grids import GRIDS
from denoisezoo.diffusion.guidance import Guided
from denoisezoo.diffusion.joint import Joint
from denoisezoo.diffusion.langevin import CLD
from denoisezoo.diffusion.linear import PRECONDITIONINGS, Preconditioning
from denoisezoo.diffusion.measured import Measured
from denoisezoo.diffusion.multiscale import MultiScale
from denoisezoo.diffusion.noise import MixedBlock, Noise, SeedBlock
from denoisezoo.diffusion.objectives import OBJECTIVES, Loss, Objective, Times
from denoisezoo.diffusion.oracle import GaussianOracle, MixtureOracle, PointsOracle
from denoisezoo.diffusion.preconditioning import X0, EDMPreconditioning, Epsilon, Score, V, Velocity
from denoisezoo.diffusion.process import PROCESSES, DiagonalProcess, Process, ScalarProcess
from denoisezoo.diffusion.processes import DEFAULT_PROCESS
from denoisezoo.diffusion.samplers import SAMPLERS, Sampler, SampleResult, StepInfo, create_sampler

__all__ = [
    "CLD",
    "DEFAULT_PROCESS",
    "GRIDS",
    "OBJECTIVES",
    "PRECONDITIONINGS",
    "PROCESSES",
    "SAMPLERS",
    "X0",
    "AdversarialObjective",
    "Blurring",
    "Denoiser",
    "Diagonal",
    "DiagonalProcess",
    "DownSampling",
    "Drift",
    "EDMPreconditioning",
    "Epsilon",
    "GaussianOracle",
    "Given",
    "Guided",
    "Joint",
    "LogSNRProcess",
    "Loss",
    "Matched",
    "Measured",
    "MixedBlock",
    "MixtureOracle",
    "MultiScale",
    "NetworkDenoiser",
    "Noise",
    "Objective",
    "PlainGAN",
    "PointsOracle",
    "Preconditioning",
    "Prediction",
    "Process",
    "SampleResult",
    "Sampler",
    "ScalarProcess",
    "Score",
    "SeedBlock",
    "StepInfo",
    "Times",
    "UDPMLoss",
    "V",
    "VPDiscrete",
    "Velocity",
    "apply_blocks",
    "create_sampler",
    "default_denoiser",
    "with_condition",
]
