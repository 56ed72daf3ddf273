"""Schedulers of diffusers: the process that their betas make, what the network predicts, and their sampler in ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from denoisezoo.diffusion import PROCESSES, NetworkDenoiser
from denoisezoo.errors import UserError, unknown
from denoisezoo.interop.foreign import part
from denoisezoo.interop.tensor_files import read_json

VERSION = "0.30.0"
"""The oldest diffusers that the files are written for."""
SCHEDULES = {"linear": "linear", "squaredcos_cap_v2": "cosine"}
"""Their names of noise schedules -> ours."""
PREDICTIONS = {"epsilon": "Epsilon", "sample": "X0", "v_prediction": "V"}
VARIANCES = {
    "fixed_small": "small",
    "fixed_small_log": "small",
    "fixed_large": "large",
    "fixed_large_log": "large",
    "learned_range": "learned",
}
OFF = ("thresholding", "rescale_betas_zero_snr", "use_flow_sigmas", "trained_betas")
"""Fields that change the process or the prediction in a way that is not known here."""
SPACINGS = {"leading": "leading", "linspace": "linspace", "trailing": "trailing"}
KNOWN = {
    "DDPMScheduler": ("leading", 1000),
    "DDIMScheduler": ("leading", 50),
    "DPMSolverMultistepScheduler": ("linspace", 25),
    "EulerDiscreteScheduler": ("linspace", 50),
}
"""Scheduler -> its default of timestep_spacing, and the steps that its pipeline takes by default."""


@dataclass(frozen=True)
class Schedule:
    """What a scheduler tells.

    Attributes:
        name: Its class.
        process: The process; see `denoisezoo.interop.foreign.part`.
        preconditioning: What the network predicts.
        sampler: Its sampler with options.
        steps: The steps that are customary with it.
    """

    name: str
    process: dict[str, Any]
    preconditioning: dict[str, Any]
    sampler: str
    steps: int

    @classmethod
    def plain(cls, schedule: str) -> Schedule:
        """DDPM with a noise schedule, for a network that has no scheduler."""
        return cls("none", part("VPDiscrete", schedule=schedule), part("Epsilon"), "ddpm", 1000)


def read_scheduler(file: Path, learned_variance: bool) -> Schedule:
    """Read a scheduler's configuration.

    Args:
        file: scheduler_config.json.
        learned_variance: Whether the network puts out a variance.

    Raises:
        UserError: It is damaged, or of another kind.
    """
    config = read_json(file)
    name = config.get("_class_name")
    if not isinstance(name, str) or name not in KNOWN:
        raise unknown(f"scheduler in {file}:", name, KNOWN)
    for key in OFF:
        if config.get(key):
            raise UserError(f"{file} has {key} {config[key]!r:.40}", "only networks without it are known here")
    spacing, steps = KNOWN[name]
    grid = _choice(file, config, "timestep_spacing", spacing, SPACINGS)
    if config.get("use_karras_sigmas"):
        grid = "edm"
    return Schedule(
        name=name,
        process=_process(file, config),
        preconditioning=part(_choice(file, config, "prediction_type", "epsilon", PREDICTIONS)),
        sampler=_sampler(file, config, name, learned_variance, grid),
        steps=min(steps, config.get("num_train_timesteps", 1000)),
    )


def _process(file: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    schedule = _choice(file, config, "beta_schedule", "linear", SCHEDULES)
    length, *betas = (
        config.get(k, v) for k, v in (("num_train_timesteps", 1000), ("beta_start", 1e-4), ("beta_end", 0.02))
    )
    if type(length) is not int or not all(isinstance(beta, int | float) for beta in betas):
        raise UserError(f"{file} does not say the betas in numbers", "fetch it again")
    return part("VPDiscrete", schedule=schedule, T=length, beta_start=float(betas[0]), beta_end=float(betas[1]))


def _sampler(file: Path, config: Mapping[str, Any], name: str, learned: bool, grid: str) -> str:
    clip = str(bool(config.get("clip_sample", True))).lower()
    if config.get("clip_sample", True) and config.get("clip_sample_range", 1.0) != 1.0:
        raise UserError(f"{file} has clip_sample_range {config['clip_sample_range']!r:.40}", "only 1.0 is known here")
    if name == "DDPMScheduler":
        variance = _choice(file, config, "variance_type", "fixed_small", VARIANCES)
        if learned and variance != "learned":
            raise UserError(
                f"{file} has variance_type {variance}, and the network learns one", "only learned_range fits"
            )
        return f"ddpm:variance={variance},clip={clip},time_grid={grid}"
    if name == "DDIMScheduler":
        return f"ddim:clip={clip},clipped_eps=kept,time_grid={grid}"
    if name == "EulerDiscreteScheduler":
        return f"euler:time_grid={'linspace_fractional' if grid == 'linspace' else grid}"
    for key, value in {"algorithm_type": "dpmsolver++", "solver_order": 2, "solver_type": "midpoint"}.items():
        if config.get(key, value) != value:
            raise UserError(f"{file} has {key} {config[key]!r:.40}", f"only {value!r} is known here")
    return f"dpmpp_2m:time_grid={grid}"


def _choice(file: Path, config: Mapping[str, Any], key: str, default: str, known: Mapping[str, str]) -> str:
    value = config.get(key, default)
    if not isinstance(value, str) or value not in known:
        raise UserError(f"{file} has {key} {value!r:.40}", f"only {', '.join(known)} is known here")
    return known[value]


def scheduler_of(denoiser: NetworkDenoiser, sampling: Mapping[str, Any]) -> dict[str, Any]:
    """The scheduler's configuration for the process of a denoiser: the inverse of `read_scheduler`.

    Args:
        denoiser: A denoiser.
        sampling: Its customary sampler, if there is one; what is neither DDPM's nor DDIM's becomes DDPM's.

    Raises:
        UserError: diffusers has no such process or prediction.
    """
    process, predicts = denoiser.process, type(denoiser.preconditioning).__name__
    schedules, predictions = ({ours: theirs for theirs, ours in table.items()} for table in (SCHEDULES, PREDICTIONS))
    schedule = getattr(process, "schedule", "")
    if type(process) is not PROCESSES["vp_discrete"] or schedule not in schedules:
        what = f"diffusers has no scheduler that is {type(process).__name__} {schedule}".rstrip()
        raise UserError(what, "export it as onnx or pt2, or train on DDPM's chain, VPDiscrete, linear or cosine")
    chain: Any = process
    if predicts not in predictions:
        what = f"diffusers has no prediction_type that is {predicts}"
        raise UserError(what, f"export it as onnx or pt2, or train with one of {', '.join(predictions)}")
    name, _, text = str(sampling.get("sampler", "")).partition(":")
    options = dict(item.split("=", 1) for item in text.split(",") if "=" in item)
    own: dict[str, Any] = {"clip_sample": options.get("clip", "true") == "true"}
    own["timestep_spacing"] = options.get("time_grid") if options.get("time_grid") in SPACINGS else "leading"
    learned = denoiser.backbone.spec.learned_variance
    if name == "ddim" and not learned:
        own |= {"_class_name": "DDIMScheduler", "set_alpha_to_one": True, "steps_offset": 0}
    else:
        variance = "learned" if learned else options.get("variance", "small")
        kinds = {"small": "fixed_small", "large": "fixed_large", "learned": "learned_range"}
        own |= {"_class_name": "DDPMScheduler", "variance_type": kinds.get(variance, "fixed_small")}
    return own | {
        "_diffusers_version": VERSION,
        "num_train_timesteps": chain.T,
        "beta_schedule": schedules[schedule],
        "beta_start": chain.betas[0].item() if schedule == "linear" else 1e-4,
        "beta_end": chain.betas[-1].item() if schedule == "linear" else 0.02,
        "trained_betas": None,
        "prediction_type": predictions[predicts],
        "clip_sample_range": 1.0,
        "thresholding": False,
    }
