"""Processes, preconditioning, objectives, samplers and exact oracles."""

from denoisezoo.diffusion.coefficients import apply_blocks
from denoisezoo.diffusion.conditioned import Matched, OfCondition, conditioned
from denoisezoo.diffusion.denoiser import (
    Denoiser,
    NetworkDenoiser,
    Prediction,
    create_denoiser,
)
from denoisezoo.diffusion.grids import GRIDS
from denoisezoo.diffusion.guidance import Guided
from denoisezoo.diffusion.linear_preconditioning import PRECONDITIONINGS, Preconditioning
from denoisezoo.diffusion.noise import MixedBlock, Noise, SeedBlock
from denoisezoo.diffusion.objectives.adversarial import UDPMLoss
from denoisezoo.diffusion.objectives.gan import PlainGAN
from denoisezoo.diffusion.objectives.objective import OBJECTIVES, Loss, Objective, Step
from denoisezoo.diffusion.objectives.regression import EDMLoss, Likelihood, MinSNR, Regression, Simple
from denoisezoo.diffusion.objectives.times import Times
from denoisezoo.diffusion.oracle import GaussianOracle, MixtureOracle, PointsOracle
from denoisezoo.diffusion.preconditioning import (
    X0,
    EDMPreconditioning,
    Epsilon,
    Score,
    V,
    Velocity,
)
from denoisezoo.diffusion.processes.blurring import Blurring
from denoisezoo.diffusion.processes.diagonal import Diagonal, LogSNRProcess
from denoisezoo.diffusion.processes.downsampling import DownSampling
from denoisezoo.diffusion.processes.drift import Drift
from denoisezoo.diffusion.processes.joint import Joint
from denoisezoo.diffusion.processes.langevin import CLD
from denoisezoo.diffusion.processes.measured import Measured
from denoisezoo.diffusion.processes.process import PROCESSES, DiagonalProcess, Process, ScalarProcess
from denoisezoo.diffusion.processes.scalar import DEFAULT_PROCESS
from denoisezoo.diffusion.processes.sub_bands import MultiScale
from denoisezoo.diffusion.processes.vp_discrete import VPDiscrete
from denoisezoo.diffusion.samplers import SAMPLERS, Sampler, SampleResult, StepInfo, create_sampler
from denoisezoo.nn.given import NOTHING, Given

__all__ = [
    "CLD",
    "DEFAULT_PROCESS",
    "GRIDS",
    "NOTHING",
    "OBJECTIVES",
    "PRECONDITIONINGS",
    "PROCESSES",
    "SAMPLERS",
    "X0",
    "Blurring",
    "Denoiser",
    "Diagonal",
    "DiagonalProcess",
    "DownSampling",
    "Drift",
    "EDMLoss",
    "EDMPreconditioning",
    "Epsilon",
    "GaussianOracle",
    "Given",
    "Guided",
    "Joint",
    "Likelihood",
    "LogSNRProcess",
    "Loss",
    "Matched",
    "Measured",
    "MinSNR",
    "MixedBlock",
    "MixtureOracle",
    "MultiScale",
    "NetworkDenoiser",
    "Noise",
    "Objective",
    "OfCondition",
    "PlainGAN",
    "PointsOracle",
    "Preconditioning",
    "Prediction",
    "Process",
    "Regression",
    "SampleResult",
    "Sampler",
    "ScalarProcess",
    "Score",
    "SeedBlock",
    "Simple",
    "Step",
    "StepInfo",
    "Times",
    "UDPMLoss",
    "V",
    "VPDiscrete",
    "Velocity",
    "apply_blocks",
    "conditioned",
    "create_denoiser",
    "create_sampler",
]
