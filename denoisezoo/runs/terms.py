"""The terms on which runs are sampled and judged, as the arguments that the commands and the Python API share."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, TypeAlias, TypedDict, Unpack, get_args

import torch

from denoisezoo.diffusion import Denoiser, NetworkDenoiser, Sampler, create_sampler
from denoisezoo.diffusion.generate import NoiseSource
from denoisezoo.diffusion.guidance import EVERYWHERE, guided
from denoisezoo.errors import UserError, unknown
from denoisezoo.evaluation.lpips import LPIPS
from denoisezoo.evaluation.reconstruction import DRAWS
from denoisezoo.plans import Plan, find_plan
from denoisezoo.profiling.machine import parse_device
from denoisezoo.profiling.setting import parse_dtype
from denoisezoo.runs.run import Run, load_run

Guide: TypeAlias = "Denoiser | Run | str | os.PathLike[str]"
"""A network that guides another, or where it is."""


@dataclass(frozen=True)
class Settings:
    """On what terms a run is assessed.

    Attributes:
        sampler: Sampler with its options.
        steps: Its steps.
        num: Images to generate; None is as many as there are reference images.
        first_seed: Seed of the first image.
        features: Feature extractor of the Frechet distance.
        split: Reference images: "train", "test" or "all".
        details: Also take the figures of `FurtherFigures`.
        by_class: Also take those of each class.
        batch_size: Images at a time.
        device: Where to sample.
        dtype: Of the network while sampling.
        compile: Compile the network first.
        noise: Where noise is drawn: "cpu" or "device", see `generate`.
        plan: How much of the network to use at each noise level; None is all of it.
        guidance: Scale of guidance; None is the network itself.
        guidance_interval: Noise levels, relative to the image, between which it guides.
        guide: The network that guides; None is the sampled one, without labels.
        draws: Samples of each condition, for a conditional run.
        condition: Image file or folder of conditions; None takes those of held-out images.
        label: One class for all images; None takes those of the held-out images, or all classes in turns.
        lpips: File of AlexNet's weights, with which conditional runs are also judged by LPIPS.
    """

    sampler: str = "heun"
    steps: int = 18
    num: int | None = None
    first_seed: int = 0
    features: str = "pixels"
    split: Any = "all"
    details: bool = False
    by_class: bool = False
    batch_size: int = 256
    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    compile: bool = False
    noise: NoiseSource = "cpu"
    plan: Plan | None = None
    guidance: float | None = None
    guidance_interval: tuple[float, float] = EVERYWHERE
    guide: NetworkDenoiser | None = None
    draws: int = DRAWS
    condition: str | None = None
    label: int | None = None
    lpips: str | None = None

    def build_sampler(self) -> Sampler:
        """The sampler, or a `UserError` that names the nearest."""
        return create_sampler(self.sampler)

    def guided(self, denoiser: Denoiser, guide: Denoiser | None = None) -> Denoiser:
        """The denoiser with the settings' guidance around it; `guide` may be something around the settings' own."""
        return guided(denoiser, self.guidance, self.guidance_interval, guide or self.guide)

    def guidance_text(self) -> str | None:
        """What a card says of it."""
        if self.guidance is None:
            return None
        low, high = self.guidance_interval
        limited = self.guidance_interval != EVERYWHERE
        by = "" if self.guide is None else f" by {name_of(self.guide)}"
        return f"{self.guidance:g}" + by + (f" for sigma {low:g} to {high:g}" if limited else "")


class Terms(TypedDict, total=False):
    """Arguments of `make_settings`; what is left out has the defaults of `Settings`, and device is "auto".

    Attributes:
        sampler: Sampler with its options, e.g. "ddim:eta=0.5".
        steps: Its steps.
        num: Images to generate; as many as there are reference images unless given.
        seed: Seed of the first image; image i has seed + i.
        features: Feature extractor of the distance, e.g. "pixels" or "inception".
        split: Reference images: "train", "test" or "all".
        details: Also take an interval of the distance, a kernel distance with its standard error, density, coverage,
            and a test of copying.
        by_class: Also take kernel distance and coverage of each class.
        batch_size: Images at a time.
        device: "cpu", "cuda", "cuda:1", ..., or "auto" for CUDA where there is one.
        dtype: Of the network while sampling, as torch has it or by name.
        compile: Compile the network first.
        noise: "cpu" draws the same noise for every device, "device" draws other noise on it.
        plan: A plan, its JSON file, or a preset such as "uniform:effort=0.5".
        guidance: Scale of guidance: classifier-free, or by a guide.
        guidance_interval: Noise levels (low, high), relative to the image, between which it guides.
        guide: A run, its path, or a denoiser: a smaller or less trained network that guides (autoguidance).
        draws: Samples of each condition.
        condition: Image file or folder of conditions; those of held-out images unless given.
        label: One class for all images.
        lpips: File of AlexNet's weights, with which conditional runs are also judged.
    """

    sampler: str
    steps: int
    num: int | None
    seed: int
    features: str
    split: str
    details: bool
    by_class: bool
    batch_size: int
    device: str | torch.device
    dtype: str | torch.dtype
    compile: bool
    noise: NoiseSource
    plan: Plan | str | os.PathLike[str] | None
    guidance: float | None
    guidance_interval: tuple[float, float] | None
    guide: Guide | None
    draws: int
    condition: str | None
    label: int | None
    lpips: str | None


def guide_of(guide: Guide | None, guidance: float | None) -> NetworkDenoiser | None:
    """The network that guides, loaded where its path is given.

    Raises:
        UserError: There is no scale of guidance, or no such run.
    """
    if guide is None:
        return None
    if guidance is None:
        raise UserError("`guide` is given without `guidance`", "give both, e.g. `guidance=1.5`")
    if isinstance(guide, Denoiser):
        if not isinstance(guide, NetworkDenoiser):
            raise UserError(f"{type(guide).__name__} has no network", "give a run, or a denoiser with one")
        return guide
    return (guide if isinstance(guide, Run) else load_run(guide)).denoiser


def name_of(guide: NetworkDenoiser) -> str:
    """What cards call a guide: its run's folder and step, or the class of its network."""
    run = guide.run
    return type(guide.backbone).__name__ if run is None or run.checkpoint is None else str(run.checkpoint)


LEAST = {"steps": 1, "num": 1, "seed": 0, "batch_size": 1, "draws": 1}
"""The smallest value of each number."""


def make_settings(**terms: Unpack[Terms]) -> Settings:
    """The terms as settings, all of them checked before anything long begins.

    Raises:
        UserError: An unknown argument, sampler, device, dtype, noise or plan, a number that is too small, an interval
            or a guide without guidance, a guide that is not there, or a file that does not hold LPIPS's weights.
    """
    values: dict[str, Any] = {**terms}
    for name, value in values.items():
        if name not in Terms.__annotations__:
            raise unknown("argument", name, Terms.__annotations__)
        if name in LEAST and value is not None and value < LEAST[name]:
            raise UserError(f"`{name}` is {value}", f"give a whole number of at least {LEAST[name]}")
    if values.get("noise", "cpu") not in get_args(NoiseSource):
        raise UserError(f"`noise` is {values['noise']}", f"give {' or '.join(get_args(NoiseSource))}")
    interval = values.pop("guidance_interval", None)
    if interval is not None and values.get("guidance") is None:
        raise UserError("`guidance_interval` is given without `guidance`", "give both, e.g. `guidance=2`")
    values["guide"] = guide_of(values.get("guide"), values.get("guidance"))
    values["guidance_interval"] = EVERYWHERE if interval is None else interval
    values["first_seed"] = values.pop("seed", 0)
    values["device"] = str(parse_device(str(values.get("device", "auto"))))
    if isinstance(dtype := values.get("dtype"), str):
        values["dtype"] = parse_dtype(dtype)
    plan = values.get("plan")
    if plan is not None and not isinstance(plan, Plan):
        values["plan"] = find_plan(os.fspath(plan))
    if values.get("lpips") is not None:
        LPIPS(values["lpips"])
    settings = Settings(**values)
    settings.build_sampler()
    return settings
