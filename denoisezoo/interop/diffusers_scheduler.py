"""Schedulers of diffusers: the process that their betas make, what the network predicts, and their sampler in ours."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from denoisezoo.diffusion import PROCESSES, NetworkDenoiser
from denoisezoo.errors import UserError, unknown
from denoisezoo.interop.foreign import part
from denoisezoo.interop.tensor_files import read_json

VERSION = "0.30.0"
"""The oldest diffusers that the files are written for."""
SCHEDULES = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}
"""Their names of noise schedules -> ours."""
PREDICTIONS = {"epsilon": "Epsilon", "sample": "X0", "v_prediction": "V"}
VARIANCES = {
    "fixed_small": "small",
    "fixed_small_log": "small",
    "fixed_large": "large",
    "fixed_large_log": "large",
    "learned_range": "learned",
}
OFF = (
    *("thresholding", "rescale_betas_zero_snr", "use_flow_sigmas", "use_dynamic_shifting", "trained_betas"),
    *("disable_corrector", "solver_p"),
)
"""Fields that change the process, the prediction or the steps in a way that is not known here."""
SPACINGS = {"leading": "leading", "linspace": "linspace", "trailing": "trailing"}
LEVELS = {
    "use_karras_sigmas": "karras",
    "use_lu_lambdas": "exponential",
    "use_exponential_sigmas": "exponential",
    "use_beta_sigmas": "beta",
}
"""Fields that choose a grid of noise levels in place of the spacing -> our grid."""


@dataclass(frozen=True)
class Kind:
    """A class of schedulers.

    Attributes:
        spacing: Its default of timestep_spacing.
        steps: The steps that its pipeline takes by default, or that its documentation shows.
        grids: Where its spacings differ from those of that name here.
        levels: Those of `LEVELS` that it knows.
    """

    spacing: str
    steps: int
    grids: Mapping[str, str] = field(default_factory=dict)
    levels: tuple[str, ...] = ()


_MULTISTEP = {"linspace": "multistep_linspace", "leading": "multistep_leading"}
_SIGMAS = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")
KNOWN = {
    "DDPMScheduler": Kind("leading", 1000),
    "DDIMScheduler": Kind("leading", 50),
    "DPMSolverMultistepScheduler": Kind("linspace", 25, _MULTISTEP, (*_SIGMAS, "use_lu_lambdas")),
    "UniPCMultistepScheduler": Kind("linspace", 20, _MULTISTEP, _SIGMAS),
    "DEISMultistepScheduler": Kind("linspace", 25, _MULTISTEP, _SIGMAS),
    "EulerDiscreteScheduler": Kind("linspace", 50, {"linspace": "linspace_fractional"}, _SIGMAS),
}


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
    kind = KNOWN[name]
    levels = next((key for key in kind.levels if config.get(key)), None)
    return Schedule(
        name=name,
        process=_process(file, config, _between(config, name, levels)),
        preconditioning=part(_choice(file, config, "prediction_type", "epsilon", PREDICTIONS)),
        sampler=_sampler(file, config, name, learned_variance, _grid(file, config, kind, levels)),
        steps=min(kind.steps, config.get("num_train_timesteps", 1000)),
    )


def _between(config: Mapping[str, Any], name: str, levels: str | None) -> str:
    """What a network is told of a noise level between two steps, as each of the schedulers happens to round."""
    if levels is None:
        return "never"
    if name == "EulerDiscreteScheduler":
        return "fraction"
    rounded = levels in ("use_karras_sigmas", "use_lu_lambdas")
    if name == "DPMSolverMultistepScheduler" and config.get("beta_schedule") == "squaredcos_cap_v2":
        rounded = False
    return "nearest" if rounded else "below"


def _grid(file: Path, config: Mapping[str, Any], kind: Kind, levels: str | None) -> str:
    """The time grid as options of a sampler."""
    if levels is not None:
        return f"time_grid={LEVELS[levels]}"
    spacing = _choice(file, config, "timestep_spacing", kind.spacing, SPACINGS)
    grid, offset = f"time_grid={kind.grids.get(spacing, spacing)}", config.get("steps_offset", 0)
    if type(offset) is not int or offset < 0:
        raise UserError(f"{file} has steps_offset {offset!r:.40}", "only a whole number from 0 is known here")
    return f"{grid},steps_offset={offset}" if offset and spacing == "leading" else grid


def _process(file: Path, config: Mapping[str, Any], between: str) -> dict[str, Any]:
    schedule = _choice(file, config, "beta_schedule", "linear", SCHEDULES)
    length, *betas = (
        config.get(k, v) for k, v in (("num_train_timesteps", 1000), ("beta_start", 1e-4), ("beta_end", 0.02))
    )
    if type(length) is not int or not all(isinstance(beta, int | float) for beta in betas):
        raise UserError(f"{file} does not say the betas in numbers", "fetch it again")
    told = {} if between == "never" else {"between": between}
    return part("VPDiscrete", schedule=schedule, T=length, beta_start=float(betas[0]), beta_end=float(betas[1]), **told)


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
        return f"ddpm:variance={variance},clip={clip},{grid}"
    if name == "DDIMScheduler":
        last = "" if config.get("set_alpha_to_one", True) else ",last=sigma_min"
        return f"ddim:clip={clip},clipped_eps=kept{last},{grid}"
    if name == "EulerDiscreteScheduler":
        # Euler's method in sigma is DDIM.
        _only(file, config, interpolation_type="linear", timestep_type="discrete", final_sigmas_type="zero")
        return f"ddim:{grid}"
    return _multistep(file, config, name, grid)


SOLVER_TYPES = ("midpoint", "heun", "bh1", "bh2", "logrho")
"""Of all multistep schedulers: each takes its own default for one of another's, as configurations are handed on."""


def _multistep(file: Path, config: Mapping[str, Any], name: str, grid: str) -> str:
    order, solver_type = config.get("solver_order", 2), config.get("solver_type")
    if order not in (1, 2, 3) or solver_type not in (None, *SOLVER_TYPES):
        raise UserError(
            f"{file} has solver_order {order!r:.40} and solver_type {solver_type!r:.40}",
            f"only 1, 2, 3 and {', '.join(SOLVER_TYPES)} are known here",
        )
    options = [] if config.get("lower_order_final", True) else ["lower_order_final=false"]
    last = _choice(file, config, "final_sigmas_type", "zero", {"zero": "denoised", "sigma_min": "sigma_min"})
    if name == "DEISMultistepScheduler":  # it has no such field, and ends at the smallest level
        return f"deis:{','.join([f'order={order}', 'last=sigma_min', *options, grid])}"
    if last == "sigma_min":
        options.append("last=sigma_min")
    if last == "sigma_min" or grid == "time_grid=beta":
        options.append("longest=0")  # they extrapolate over long steps, too
    if name == "UniPCMultistepScheduler":
        options += ["variant=bh1"] if solver_type == "bh1" else []
        options += [] if config.get("predict_x0", True) else ["predicted=noise"]
        return f"unipc:{','.join([f'order={order}', *options, grid])}"
    if config.get("algorithm_type", "dpmsolver++") != "deis":  # which it takes for its own default
        _only(file, config, algorithm_type="dpmsolver++")
    if config.get("lambda_min_clipped", -math.inf) != -math.inf:
        raise UserError(f"{file} has lambda_min_clipped", "only networks without it are known here")
    if last == "sigma_min":
        _only(file, config, euler_at_final=False)
    options += ["solver_type=heun"] if solver_type == "heun" and order > 1 else []
    sampler = "unipc:order=1,corrector=false," if order == 1 else f"dpmpp_{order}m:"
    return sampler + ",".join([*options, grid])


def _only(file: Path, config: Mapping[str, Any], **known: Any) -> None:
    for key, value in known.items():
        if config.get(key, value) != value:
            raise UserError(f"{file} has {key} {config[key]!r:.40}", f"only {value!r} is known here")


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
        raise UserError(what, f"export it as onnx or pt2, or train on DDPM's chain, VPDiscrete, {', '.join(schedules)}")
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
        "beta_start": 1e-4 if schedule == "cosine" else round(chain.betas[0].item(), 15),
        "beta_end": 0.02 if schedule == "cosine" else round(chain.betas[-1].item(), 15),
        "trained_betas": None,
        "prediction_type": predictions[predicts],
        "clip_sample_range": 1.0,
        "thresholding": False,
    }
