"""Processes, codecs, preconditioning, objectives, samplers and exact oracles."""

from collections.abc import Mapping
from typing import Any

from denoisezoo.diffusion.basis import Basis, DCTBasis, HaarBasis, PixelBasis, PositionAndVelocity
from denoisezoo.diffusion.capabilities import (
    Conditioned,
    ConditionInState,
    ConditionIsMeasurement,
    Discrete,
    Evolving,
    Halving,
    Staged,
    WithoutNoise,
)
from denoisezoo.diffusion.codecs import CODECS, Codec, Pixels, create_codec
from denoisezoo.diffusion.codecs.affine import Affine
from denoisezoo.diffusion.codecs.codec import Posterior
from denoisezoo.diffusion.codecs.haar import Haar
from denoisezoo.diffusion.coefficients import apply_blocks
from denoisezoo.diffusion.conditioned import Matched, OfCondition, conditioned
from denoisezoo.diffusion.counter_noise import CounterBlock
from denoisezoo.diffusion.denoiser import Denoiser, Prediction
from denoisezoo.diffusion.grids import GRIDS
from denoisezoo.diffusion.guidance import Guided
from denoisezoo.diffusion.halving_preconditioning import NextScale
from denoisezoo.diffusion.langevin_preconditioning import MixedScore, Whitened
from denoisezoo.diffusion.linear_preconditioning import PRECONDITIONINGS, Preconditioning
from denoisezoo.diffusion.network_denoiser import NetworkDenoiser, create_denoiser
from denoisezoo.diffusion.noise import MixedBlock, Noise, SeedBlock
from denoisezoo.diffusion.objectives.adversarial import UDPMLoss
from denoisezoo.diffusion.objectives.adversarial_distillation import AdversarialDistillation
from denoisezoo.diffusion.objectives.autoencoding import Autoencoding
from denoisezoo.diffusion.objectives.consistency import ConsistencyDistillation, ConsistencyTraining
from denoisezoo.diffusion.objectives.continuous_consistency import ContinuousConsistency
from denoisezoo.diffusion.objectives.easy_consistency import EasyConsistency
from denoisezoo.diffusion.objectives.few_calls import FewCalls
from denoisezoo.diffusion.objectives.gan import PlainGAN
from denoisezoo.diffusion.objectives.guidance_distillation import GuidanceDistillation
from denoisezoo.diffusion.objectives.mean_flow import MeanFlow
from denoisezoo.diffusion.objectives.objective import OBJECTIVES, Case, Loss, Objective, Step
from denoisezoo.diffusion.objectives.progressive import ProgressiveDistillation
from denoisezoo.diffusion.objectives.reflow import Reflow
from denoisezoo.diffusion.objectives.regression import EDMLoss, Likelihood, MinSNR, Regression, Simple
from denoisezoo.diffusion.objectives.shortcut import Shortcut
from denoisezoo.diffusion.objectives.times import (
    FewTimes,
    LogitNormalTimes,
    LogNormalSigma,
    OneStage,
    Times,
    UniformTimes,
)
from denoisezoo.diffusion.objectives.uncertainty import EDM2Loss
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
from denoisezoo.diffusion.processes.geometric import GeometricVE
from denoisezoo.diffusion.processes.joint import Joint
from denoisezoo.diffusion.processes.langevin import CLD
from denoisezoo.diffusion.processes.measured import Measured
from denoisezoo.diffusion.processes.noiseless import Noiseless, Unscaled
from denoisezoo.diffusion.processes.process import PROCESSES, DiagonalProcess, Process, ScalarProcess
from denoisezoo.diffusion.processes.scalar import DEFAULT_PROCESS, EDM, VE, VP, RectifiedFlow, VPCosine
from denoisezoo.diffusion.processes.sub_bands import MultiScale
from denoisezoo.diffusion.processes.vp_discrete import VPDiscrete
from denoisezoo.diffusion.samplers import SAMPLERS, Sampler, SampleResult, StepInfo, create_sampler
from denoisezoo.diffusion.samplers.deis import DEIS
from denoisezoo.diffusion.samplers.dpmpp_2m import DPMSolverPP2M
from denoisezoo.diffusion.samplers.dpmpp_3m import DPMSolverPP3M
from denoisezoo.diffusion.samplers.edm import EDMSampler
from denoisezoo.diffusion.samplers.first_order import DDIM, DDPM
from denoisezoo.diffusion.samplers.flow_map import Consistency, FlowMap
from denoisezoo.diffusion.samplers.gddim import GDDIM
from denoisezoo.diffusion.samplers.maruyama import EulerMaruyama
from denoisezoo.diffusion.samplers.predictor_corrector import PredictorCorrector
from denoisezoo.diffusion.samplers.probability_flow import Euler, Heun
from denoisezoo.diffusion.samplers.rk45 import RK45
from denoisezoo.diffusion.samplers.stochastic_multistep import StochasticDPMSolverPP2M
from denoisezoo.diffusion.samplers.unipc import UniPC
from denoisezoo.diffusion.samplers.upsampling import UDPMSampler
from denoisezoo.nn.given import NOTHING, Given

__all__ = [
    "CLD",
    "CODECS",
    "DDIM",
    "DDPM",
    "DEFAULT_PROCESS",
    "DEIS",
    "EDM",
    "GDDIM",
    "GRIDS",
    "NOTHING",
    "OBJECTIVES",
    "PRECONDITIONINGS",
    "PROCESSES",
    "RK45",
    "SAMPLERS",
    "VE",
    "VP",
    "X0",
    "AdversarialDistillation",
    "Affine",
    "Autoencoding",
    "Basis",
    "Blurring",
    "Case",
    "Codec",
    "ConditionInState",
    "ConditionIsMeasurement",
    "Conditioned",
    "Consistency",
    "ConsistencyDistillation",
    "ConsistencyTraining",
    "ContinuousConsistency",
    "CounterBlock",
    "DCTBasis",
    "DPMSolverPP2M",
    "DPMSolverPP3M",
    "Denoiser",
    "Diagonal",
    "DiagonalProcess",
    "Discrete",
    "DownSampling",
    "Drift",
    "EDM2Loss",
    "EDMLoss",
    "EDMPreconditioning",
    "EDMSampler",
    "EasyConsistency",
    "Epsilon",
    "Euler",
    "EulerMaruyama",
    "Evolving",
    "FewCalls",
    "FewTimes",
    "FlowMap",
    "GaussianOracle",
    "GeometricVE",
    "Given",
    "GuidanceDistillation",
    "Guided",
    "Haar",
    "HaarBasis",
    "Halving",
    "Heun",
    "Joint",
    "Likelihood",
    "LogNormalSigma",
    "LogSNRProcess",
    "LogitNormalTimes",
    "Loss",
    "Matched",
    "MeanFlow",
    "Measured",
    "MinSNR",
    "MixedBlock",
    "MixedScore",
    "MixtureOracle",
    "MultiScale",
    "NetworkDenoiser",
    "NextScale",
    "Noise",
    "Noiseless",
    "Objective",
    "OfCondition",
    "OneStage",
    "PixelBasis",
    "Pixels",
    "PlainGAN",
    "PointsOracle",
    "PositionAndVelocity",
    "Posterior",
    "Preconditioning",
    "Prediction",
    "PredictorCorrector",
    "Process",
    "ProgressiveDistillation",
    "RectifiedFlow",
    "Reflow",
    "Regression",
    "SampleResult",
    "Sampler",
    "ScalarProcess",
    "Score",
    "SeedBlock",
    "Shortcut",
    "Simple",
    "Staged",
    "Step",
    "StepInfo",
    "StochasticDPMSolverPP2M",
    "Times",
    "UDPMLoss",
    "UDPMSampler",
    "UniPC",
    "UniformTimes",
    "Unscaled",
    "V",
    "VPCosine",
    "VPDiscrete",
    "Velocity",
    "Whitened",
    "WithoutNoise",
    "apply_blocks",
    "conditioned",
    "create_codec",
    "create_denoiser",
    "create_sampler",
]


def __getattr__(name: str) -> Any:
    """A registered class by its own name, so that a file that is added, here or by a plugin, need not be listed."""
    for kind in ("CODECS", "PROCESSES", "PRECONDITIONINGS", "OBJECTIVES", "SAMPLERS"):
        registry: Mapping[str, type] = globals().get(kind, {})  # submodules are asked for while they are not there yet
        for cls in registry.values() if name[:1].isupper() else ():
            if cls.__name__ == name:
                return cls
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
