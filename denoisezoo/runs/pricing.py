"""Pricing networks, runs and denoisers: one row for each network, effort, batch size and way to run it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from denoisezoo.archs import Backbone, Effort
from denoisezoo.diffusion import create_sampler
from denoisezoo.diffusion.guidance import EVERYWHERE
from denoisezoo.errors import UserError, unknown
from denoisezoo.plans import Plan, find_plan
from denoisezoo.profiling.machine import parse_device
from denoisezoo.profiling.modules import module_rows
from denoisezoo.profiling.profile import Row, Walk, count_backbone, profile_backbone, time_modules
from denoisezoo.profiling.profile_columns import COUNTERS, columns
from denoisezoo.profiling.second_opinion import differences, fvcore_fields
from denoisezoo.profiling.setting import Setting, parse_dtype, variants_of
from denoisezoo.profiling.trajectory_plot import trajectory_plot
from denoisezoo.runs.subjects import Subject
from denoisezoo.runs.terms import Guide, guide_of
from denoisezoo.tables import Table, Tabular


@dataclass(frozen=True)
class PricingTerms:
    """How networks are priced, in plain values; checked when they are made.

    Attributes:
        batch_sizes: Images per call; a row for each.
        efforts: A row for each; all that the network has unless given, or the full one with a plan.
        device: "cpu", "cuda", "cuda:1", ..., or "auto" for CUDA where there is one.
        dtype: "float32", "bfloat16", "float16" or "float64".
        compile: Time the network as `torch.compile` makes it.
        channels_last: Channels-last weights and images.
        variants: Ways to run it side by side, "all" or names such as "eager" and "compiled_bf16".
        runs: Timed calls; as many as fit into two seconds unless given.
        training: Also measure a training step.
        counts_only: Only count, on no device: seconds for any size.
        depth: Levels of modules that a row's "modules" tells of; None leaves them out.
        counters: "torch", and "fvcore" or "diff-pruning" beside it.
        sampler: Also price an image by this sampler, e.g. "ddim:eta=0.5".
        steps: Its steps.
        plan: How much of the network to use at each noise level: a plan, its file, or a preset.
        guidance: Scale of guidance: classifier-free, or by a guide.
        guidance_interval: Noise levels (low, high), relative to the image, between which it guides.
        guide: A run, its path, or a denoiser: a smaller or less trained network that guides (autoguidance).
    """

    batch_sizes: Sequence[int] = (1,)
    efforts: Sequence[Effort] | None = None
    device: str = "auto"
    dtype: str = "float32"
    compile: bool = False
    channels_last: bool = False
    variants: Sequence[str] | None = None
    runs: int | None = None
    training: bool = False
    counts_only: bool = False
    depth: int | None = None
    counters: Sequence[str] = ("torch",)
    sampler: str | None = None
    steps: int | None = None
    plan: Plan | str | os.PathLike[str] | None = None
    guidance: float | None = None
    guidance_interval: tuple[float, float] | None = None
    guide: Guide | None = None

    def __post_init__(self) -> None:
        for name in self.counters:
            if name not in COUNTERS:
                raise unknown("counter", name, COUNTERS)
        for value, name in ((self.steps, "steps"), (self.runs, "runs"), *((b, "batch_size") for b in self.batch_sizes)):
            if value is not None and value < 1:
                raise UserError(f"`{name}` is {value}", "give a whole number of at least 1")
        if self.counts_only and (self.variants or self.training):
            what = "variants" if self.variants else "training"
            raise UserError(f"`{what}` is measured, and `counts_only` measures nothing", "leave one of them out")
        if self.guidance_interval and self.guidance is None:
            raise UserError("`guidance_interval` is given without `guidance`", "give both, e.g. `guidance=2`")
        if self.guide is not None and self.guidance is None:
            raise UserError("`guide` is given without `guidance`", "give both, e.g. `guidance=1.5`")
        if self.sampler is not None and self.steps is None:
            raise UserError("`sampler` is given without `steps`", "give both, e.g. `sampler=heun` and `steps=18`")
        for name in ("steps", "plan", "guidance") if self.sampler is None else ():
            if getattr(self, name) is not None:
                raise UserError(f"`{name}` is given without `sampler`", "give both, e.g. `sampler=heun` and `steps=18`")

    def settings(self) -> list[Setting]:
        """How to run the networks: one setting, or one for each variant.

        Raises:
            UserError: A device, type or variant that does not exist here.
        """
        device = torch.device("meta") if self.counts_only else parse_device(self.device)
        setting = Setting(device, parse_dtype(self.dtype), self.channels_last, self.compile, self.runs)
        return variants_of(setting, self.variants) if self.variants else [setting]

    def walk(self, subject: Subject) -> Walk | None:
        """The sampler run to price for a subject; None without a sampler.

        Raises:
            UserError: An unknown sampler or option, or a plan that cannot be read.
        """
        if self.sampler is None or self.steps is None:
            return None
        plan = self.plan if self.plan is None or isinstance(self.plan, Plan) else find_plan(os.fspath(self.plan))
        interval = self.guidance_interval or EVERYWHERE
        sampler = create_sampler(self.sampler)
        guide = guide_of(self.guide, self.guidance)
        return Walk(self.sampler, sampler, self.steps, subject.denoiser, plan, self.guidance, interval, guide)


@dataclass(frozen=True)
class Profile(Tabular):
    """What networks cost; prints as a table, a notebook shows under it where an image's cost lies.

    Attributes:
        data: The rows, with the keys of `denoisezoo profile --json`.
        counters: Counters that were asked for.
    """

    data: list[Row]
    counters: Sequence[str] = ("torch",)

    def summary(self) -> Table:
        """The main figures of each row."""
        return Table(self.data, columns(self.data, self.counters))

    def plot(self) -> dict[str, Any] | None:
        """Where along the noise levels an image's cost lies, if a sampler was priced."""
        return trajectory_plot(self.data)


def price_rows(subject: Subject, terms: PricingTerms) -> list[Row]:
    """The rows of one network, in every setting."""
    rows: list[Row] = []
    walk = terms.walk(subject)
    for setting in terms.settings():
        begin = time.perf_counter()
        backbone = subject.build(setting.counts_only)
        setting.prepare(backbone)
        build = (time.perf_counter() - begin) * 1e3
        priced = profile_backbone(
            subject.name,
            backbone,
            setting,
            efforts=terms.efforts,
            batch_sizes=terms.batch_sizes,
            walk=walk,
            training=terms.training,
        )
        for row in priced:
            if row["cold_start_ms"] is not None:
                row["cold_start_ms"] = {"build": build} | row["cold_start_ms"]
            source = {} if subject.run is None else {"run": subject.run}
            rows.append(row | source | dict(_further(backbone, setting, row["effort"], terms)))
    return rows


def _further(backbone: Backbone, setting: Setting, effort: Effort, terms: PricingTerms) -> Iterator[tuple[str, Any]]:
    """Further fields of a row that were asked for: fvcore's count, and the tree of modules."""
    if "fvcore" in terms.counters:
        try:
            yield from _second_opinion(backbone, setting, effort).items()
        except UserError as error:
            print(f"note: {error}", file=sys.stderr)
    if terms.depth is not None:
        counts, seconds = count_backbone(backbone, setting, effort), time_modules(backbone, setting, effort)
        yield "modules", [asdict(row) for row in module_rows(backbone, counts, terms.depth, seconds)]


def _second_opinion(backbone: Backbone, setting: Setting, effort: Effort) -> Row:
    """fvcore's count beside ours, and how they differ for each kind of operator."""
    fields = fvcore_fields(backbone, setting, effort)
    by_operator = count_backbone(backbone, setting, effort).by_operator
    return fields | {"differences": differences(by_operator, fields.pop("fvcore_by_operator"))}
