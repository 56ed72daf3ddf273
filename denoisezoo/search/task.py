"""What a search for plans knows of its run: costs of calls, the loss table, the quality of a plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from denoisezoo.diffusion import Given, NetworkDenoiser
from denoisezoo.diffusion.capabilities import dropped_at, state_shape
from denoisezoo.diffusion.grids import GRIDS
from denoisezoo.errors import UserError
from denoisezoo.evaluation.metrics import Evaluator
from denoisezoo.pixels import to_float
from denoisezoo.plans import Plan
from denoisezoo.profiling.latency import latency
from denoisezoo.profiling.trajectory import Trajectory
from denoisezoo.runs.assessor import make_evaluator
from denoisezoo.runs.drawing import draw_with, prepare, price
from denoisezoo.runs.run import Run, to_device
from denoisezoo.runs.terms import Settings
from denoisezoo.search.exact import Choice
from denoisezoo.search.loss_table import Floats, LossTable, make_levels, measure
from denoisezoo.search.propagation import Propagation

PROPAGATED = 4096
Row = dict[str, Any]


@dataclass
class SearchTask:
    """A search for plans of one run.

    Attributes:
        run: The run.
        settings: On what terms plans are to be good: sampler, steps, images.
        cost: "macs" or "latency": what a budget limits.
        spent: Multiply-adds of the search: of the table, and of the samples that evolution judges by.
    """

    run: Run
    settings: Settings
    cost: str = "macs"
    spent: int = field(default=0, init=False)

    @cached_property
    def efforts(self) -> tuple[float, ...]:
        """The efforts of the network.

        Raises:
            UserError: There is only one.
        """
        efforts = self.run.denoiser.efforts
        if len(efforts) < 2:
            cure = "train a network with several efforts, such as digits/slim"
            raise UserError(f"{self.run.name} has one effort: there is nothing to choose", cure)
        if self.run.denoiser.cond_shape is not None:
            raise UserError(
                f"{self.run.name} takes conditions, which the loss table has none of", "give a plan instead"
            )
        return efforts

    @cached_property
    def data(self) -> Any:
        """What the run was trained on."""
        return self.run.data()

    @cached_property
    def evaluator(self) -> Evaluator:
        """The reference side of the quality."""
        return make_evaluator(self.data, self.settings)

    @cached_property
    def macs(self) -> Floats:
        """Multiply-adds of each denoiser call at each effort (calls, E), per image."""
        walks = [price(self.run, self.settings, timed=False, effort=effort) for effort in self.efforts]
        return np.array([[call.macs for call in walk.calls] for walk in walks], dtype=np.float64).T

    @cached_property
    def codec_macs(self) -> int:
        """Multiply-adds of the codec per image, whatever the plan."""
        return price(self.run, self.settings, timed=False).codec_macs

    @cached_property
    def codec_cost(self) -> float:
        """What the budget counts of the codec per image, whatever the plan: as milliseconds, those of decoding."""
        codec = self.run.denoiser.codec
        if self.cost == "macs" or codec.identity:
            return float(self.codec_macs)
        denoiser, batch = prepare(self.run, self.settings), self.settings.batch_size
        z = torch.zeros(batch, *denoiser.latent_shape, device=self.settings.device)
        with torch.inference_mode():
            return latency(lambda: denoiser.codec.to_images(z), z.device).median / batch

    @cached_property
    def full_cost(self) -> float:
        """What the budget is a share of: all calls of the full network, and the codec."""
        return float(self.costs[:, -1].sum()) + self.codec_cost

    @cached_property
    def times(self) -> list[float]:
        """Times of the denoiser calls."""
        return [call.t for call in price(self.run, self.settings, timed=False).calls]

    @cached_property
    def costs(self) -> Floats:
        """What the budget counts: of each call at each effort (calls, E), per image."""
        if self.cost == "macs":
            return self.macs
        return np.stack([self.latencies[dropped_at(self.run.denoiser.process, t)] for t in self.times])

    @cached_property
    def latencies(self) -> Floats:
        """Milliseconds per image of a call, as sampling by a plan makes it, at each effort (H, E).

        A row for every number of times that the state may have been halved, 0 first; calls alike in that cost alike.
        """
        settings = replace(self.settings, plan=Plan(self.efforts, tuple(range(1, len(self.efforts)))))
        denoiser = prepare(self.run, settings)
        first = {dropped_at(denoiser.process, t): t for t in self.times}
        rows = [self._latencies_at(denoiser, first.get(n)) for n in range(max(first) + 1)]
        return np.array(rows)

    def _latencies_at(self, denoiser: NetworkDenoiser, time: float | None) -> list[float]:
        """Those of the calls at a time (E,); nothing where there is no such call."""
        if time is None:
            return [0.0] * len(self.efforts)
        batch, device = self.settings.batch_size, self.settings.device
        u = torch.zeros(state_shape(denoiser.process, (batch, *denoiser.latent_shape), time), device=device)
        t = torch.full((batch,), time, dtype=torch.float64, device=device)
        with torch.inference_mode():
            timed = [latency(lambda e=e: denoiser(u, t, effort=e), u.device) for e in self.efforts]  # type: ignore[misc]
        return [found.median / batch for found in timed]

    def table(self, levels: int, images: int) -> LossTable:
        """The loss table, measured on held-out images (training images where nothing is held out)."""
        held_out: Any = "test" if len(self.data.images("test")) else "train"
        pictures = to_float(self.data.images(held_out))
        label = self.data.labels(held_out) if self.run.denoiser.backbone.spec.num_classes else None
        denoiser = to_device(self.run, self.settings.device)
        some = to_float(self.data.images("train")[:PROPAGATED])
        known = denoiser.process.basis.encode(denoiser.codec.encode_all(some, self.settings.device))
        parts = make_levels(self.times, denoiser.process, levels)
        self.spent += int(sum(self.macs[level.calls[0]].sum() for level in parts)) * images
        return measure(denoiser, pictures, parts, Propagation(known), per_level=images, given=Given(label=label))

    def walk(self, plan: Plan, settings: Settings) -> Trajectory:
        """The calls of a walk by a plan, counted; on another time grid a plan has other calls at its efforts."""
        return price(self.run, replace(settings, plan=plan), timed=False)

    def cost_of(self, walk: Trajectory) -> float:
        """What the budget counts of a walk, per image: the calls of the denoiser, and its codec."""
        if self.cost == "macs":
            return float(walk.macs_per_image)
        rows = [dropped_at(self.run.denoiser.process, call.t) for call in walk.calls]
        efforts = [self.efforts.index(call.effort) for call in walk.calls]
        calls = sum(self.latencies[row, effort] for row, effort in zip(rows, efforts, strict=True))
        return float(calls) + self.codec_cost

    def quality(self, plan: Plan, settings: Settings | None = None) -> float:
        """Frechet distance of samples by a plan, from the same noise for every plan."""
        settings = replace(settings or self.settings, plan=plan)
        generated = draw_with(prepare(self.run, settings), self.run, settings, self.num, steps=settings.steps)
        return self.evaluator.evaluate(generated.images)[self.evaluator.features.distance_name]

    @property
    def num(self) -> int:
        """Images that a quality is measured with."""
        return self.settings.num or len(self.evaluator.reference)

    def on_grid(self, name: str) -> Settings:
        """The settings with another time grid.

        Raises:
            UserError: The sampler has a grid of its own.
        """
        if name == "process":
            return self.settings
        GRIDS[name]
        joined = "," if ":" in self.settings.sampler else ":"
        settings = replace(self.settings, sampler=f"{self.settings.sampler}{joined}time_grid={name}")
        settings.build_sampler()
        return settings


def plan_row(name: str, table: LossTable, efforts: Sequence[int], choice: Choice | None, task: SearchTask) -> Row:
    """What is known of a plan without sampling.

    Where there is a codec, "codec_share" is its part of the cost, and "codec_calls" how many calls by the plan cost as
    much: with fewer than these the codec is most of the price.
    """
    rows = np.arange(len(efforts))
    plan, index = table.plan(efforts), list(efforts)
    macs, cost = (float(table.costs(of)[rows, index].sum()) for of in (task.macs, task.costs))
    of_codec = {}
    if not task.run.denoiser.codec.identity:
        per_call = cost / len(task.times)
        of_codec = {
            "codec_share": task.codec_cost / (cost + task.codec_cost),
            "codec_calls": task.codec_cost / per_call,
        }
    return {
        "plan": name,
        "cost_share": (cost + task.codec_cost) / task.full_cost,
        "macs_per_image": int(macs) + task.codec_macs,
        "macs_share": (macs + task.codec_macs) / (float(task.macs[:, -1].sum()) + task.codec_macs),
        **of_codec,
        "excess": float(table.excess[rows, index].sum()),
        "excess_standard_error": table.excess_error(index),
        "segments": " ".join(f"{effort:g}" for effort in plan.efforts),
        "json": plan.to_json(),
    }
