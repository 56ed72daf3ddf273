"""How `search` works: table, exact front, evolution, and what it writes."""

from __future__ import annotations

import argparse
import hashlib
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from denoisezoo.commands.assessing import progress_bar, refuse_file, settings_of
from denoisezoo.commands.tables import Column, csv_text, print_table, write_rows
from denoisezoo.diffusion.grids import GRIDS
from denoisezoo.errors import UserError
from denoisezoo.evaluation.images import to_float
from denoisezoo.evaluation.metrics import Evaluator
from denoisezoo.files import write_json, write_text
from denoisezoo.plans import Plan
from denoisezoo.plans.evolution import (
    Candidate,
    Evaluated,
    Evolution,
    Genome,
    LevelGenome,
    SegmentGenome,
    pareto,
    segments_of,
)
from denoisezoo.plans.exact import Choice, best, exact_front
from denoisezoo.plans.propagation import Propagation
from denoisezoo.plans.table import Floats, LossTable, make_levels, measure
from denoisezoo.profiling.latency import latency
from denoisezoo.profiling.trajectory import Trajectory
from denoisezoo.train.assess import Settings, draw_with, make_evaluator, prepare, price
from denoisezoo.train.runs import Run, load_run, to_device

SHOWN = 12
PROPAGATED = 4096
Row = dict[str, Any]


@dataclass
class Search:
    """A search for plans of one run.

    Attributes:
        run: The run.
        settings: On what terms plans are to be good: sampler, steps, images.
        cost: "macs" or "latency": what a budget limits.
        spent: Multiply-adds of the search so far: of the table, and of the samples that evolution judges by.
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
    def times(self) -> list[float]:
        """Times of the denoiser calls."""
        return [call.t for call in price(self.run, self.settings, timed=False).calls]

    @cached_property
    def costs(self) -> Floats:
        """What the budget counts: of each call at each effort (calls, E), per image."""
        if self.cost == "macs":
            return self.macs
        return np.tile(self.latencies, (len(self.macs), 1))

    @cached_property
    def latencies(self) -> Floats:
        """Milliseconds per image of a call at each effort (E,), as sampling by a plan makes it."""
        import torch

        settings = replace(self.settings, plan=Plan(self.efforts, tuple(range(1, len(self.efforts)))))
        denoiser, batch = prepare(self.run, settings), settings.batch_size
        u = torch.zeros(batch, *self.run.image_shape, device=settings.device)
        t = torch.full((batch,), self.times[0], dtype=torch.float64, device=settings.device)
        with torch.inference_mode():
            timed = [latency(lambda e=e: denoiser(u, t, effort=e), u.device) for e in self.efforts]  # type: ignore[misc]
        return np.array([found.median / batch for found in timed])

    def table(self, levels: int, images: int) -> LossTable:
        """The loss table, measured on held-out images (training images where nothing is held out)."""
        held_out: Any = "test" if len(self.data.images("test")) else "train"
        pictures = to_float(self.data.images(held_out))
        label = self.data.labels(held_out) if self.run.denoiser.backbone.spec.num_classes else None
        denoiser = to_device(self.run, self.settings.device)
        known = denoiser.process.encode(to_float(self.data.images("train")[:PROPAGATED]))
        parts = make_levels(self.times, denoiser.process, levels)
        self.spent += int(sum(self.macs[level.calls[0]].sum() for level in parts)) * images
        return measure(denoiser, pictures, parts, Propagation(known), per_level=images, label=label)

    def walk(self, plan: Plan, settings: Settings) -> Trajectory:
        """The calls of a walk by a plan, counted; on another time grid a plan has other calls at its efforts."""
        return price(self.run, replace(settings, plan=plan), timed=False)

    def cost_of(self, walk: Trajectory) -> float:
        """What the budget counts of a walk, per image."""
        if self.cost == "macs":
            return float(walk.macs_per_image)
        return float(sum(self.latencies[self.efforts.index(call.effort)] for call in walk.calls))

    def quality(self, plan: Plan, settings: Settings | None = None) -> float:
        """Frechet distance of samples by a plan, from the same noise for every plan; counts as part of the search."""
        settings = replace(settings or self.settings, plan=plan)
        num = settings.num or len(self.evaluator.reference)
        generated = draw_with(prepare(self.run, settings), self.run, settings, num, steps=settings.steps)
        self.spent += num * self.walk(plan, settings).macs_per_image
        return self.evaluator.evaluate(generated.images)[self.evaluator.features.distance_name]

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


def search(args: argparse.Namespace) -> int:
    """Run the command."""
    if args.plan:
        raise UserError("--plan is given to a search for one", "leave it out")
    begin = time.perf_counter()
    task = Search(load_run(args.run, args.weights), settings_of(args, features=args.features), args.cost)
    task.efforts  # noqa: B018 - a network without a choice ends here
    out = args.out or task.run.folder / "search"
    refuse_file(out, "--out")
    table = task.table(args.levels, args.images)
    front = exact(task, table, args)
    seconds = time.perf_counter() - begin
    found = [plan_row("exact", table, choice.efforts, choice, task) for choice in front]
    chosen = [pick(front, share, task, table) for share in args.budget]
    rows = [row | {"budget": share} for share, row in zip(args.budget, chosen, strict=True)]
    rows += [plan_row(f"effort {e:g}", table, [i] * len(table.levels), None, task) for i, e in enumerate(task.efforts)]
    if args.evaluate:
        evaluate_rows(task, rows)
    if "nsga2" in args.method:
        evolved = evolve(task, table, front, args, out)
        rows += evolved
        rows += [best_measured(evolved, share, args.cost) | {"budget": share} for share in args.budget]
        seconds = time.perf_counter() - begin
    write(args, out, task, table, found, rows, seconds)
    return 0


def exact(task: Search, table: LossTable, args: argparse.Namespace) -> list[Choice]:
    """The front under the table, cheapest first."""
    penalty = args.switch_penalty * float(np.abs(table.excess[:, 0].sum()))
    least = min(args.min_segment, len(table.levels))
    return exact_front(table.excess, table.costs(task.costs), switch_penalty=penalty, min_segment=least)


def pick(front: Sequence[Choice], share: float, task: Search, table: LossTable) -> Row:
    """The row of the best plan at a share of the full network's cost."""
    full = float(task.costs[:, -1].sum())
    least = front[0].cost / full
    if share < least * (1 - 1e-9):
        raise UserError(f"--budget {share:g} is below the smallest network's {least:.3f}", f"give at least {least:.3f}")
    choice = best(front, share * full)
    return plan_row(f"exact {share:g}", table, choice.efforts, choice, task)


def plan_row(name: str, table: LossTable, efforts: Sequence[int], choice: Choice | None, task: Search) -> Row:
    """What is known of a plan without sampling."""
    rows = np.arange(len(efforts))
    plan, index = table.plan(efforts), list(efforts)
    macs, cost = (table.costs(of)[rows, index].sum() for of in (task.macs, task.costs))
    return {
        "plan": name,
        "cost_share": float(cost / task.costs[:, -1].sum()),
        "macs_per_image": int(macs),
        "macs_share": float(macs / task.macs[:, -1].sum()),
        "excess": float(table.excess[rows, index].sum()),
        "segments": " ".join(f"{effort:g}" for effort in plan.efforts),
        "json": plan.to_json(),
    }


def evaluate_rows(task: Search, rows: Sequence[Row]) -> None:
    """Measure the quality of some plans, which is no part of the search."""
    spent = task.spent
    with progress_bar("evaluating plans", len(rows)) as progress:
        for done, row in enumerate(rows, start=1):
            row["quality"] = task.quality(Plan.from_json(row["json"]))
            progress(done)
    task.spent = spent


def evolve(task: Search, table: LossTable, front: Sequence[Choice], args: argparse.Namespace, out: Path) -> list[Row]:
    """Evolution from the exact plans; the rows of its front."""
    seeds = starting_plans(front, len(task.efforts), len(table.levels))
    grids = args.grids or ["process"]
    settings = {grid: task.on_grid(grid) for grid in grids}
    segments = max([args.segments, *(segments_of(efforts) for efforts in seeds)])
    genome: Genome = (
        LevelGenome(len(table.levels), len(task.efforts))
        if args.genome == "levels"
        else SegmentGenome(len(table.levels), len(task.efforts), segments)
    )
    evolution = Evolution(
        args.storage or str(out / "study.log"),
        "plans",
        genome,
        grids=grids,
        fingerprint=fingerprint(task, table, args),
        population=args.population,
        mutation=args.mutation,
    )
    evolution.seed(Candidate(efforts, grids[0]) for efforts in seeds)
    with progress_bar("evolving plans", args.trials) as progress:

        def measured(candidate: Candidate) -> tuple[float, float]:
            progress(len(evolution.evaluated()))
            plan = table.plan(candidate.efforts)
            terms = settings[candidate.grid]
            return task.quality(plan, terms), task.cost_of(task.walk(plan, terms))

        evolution.run(measured, args.trials)
    return [evolved_row(task, table, one, settings[one.candidate.grid]) for one in pareto(evolution.evaluated())]


def starting_plans(front: Sequence[Choice], efforts: int, levels: int) -> list[tuple[int, ...]]:
    """Where evolution starts: each effort by itself, and a few of the exact plans, cheap to dear."""
    chosen = [front[i].efforts for i in np.linspace(0, len(front) - 1, min(10, len(front))).round().astype(int)]
    return list(dict.fromkeys([*((e,) * levels for e in range(efforts)), *chosen]))


def fingerprint(task: Search, table: LossTable, args: argparse.Namespace) -> str:
    """What a study is about; workers must agree on it."""
    settings = task.settings
    facts = [task.run.name, task.run.facts, settings.sampler, settings.steps, settings.num, settings.first_seed]
    facts += [settings.features, table.efforts, len(table.levels), args.genome, args.grids, args.cost, args.weights]
    return (
        f"{task.run.name}, {settings.sampler}, {settings.steps} steps, "
        + hashlib.sha256(repr(facts).encode()).hexdigest()[:12]
    )


def evolved_row(task: Search, table: LossTable, one: Evaluated, settings: Settings) -> Row:
    """The row of a plan that evolution found, priced on its own time grid."""
    row = plan_row("nsga2", table, one.candidate.efforts, None, task)
    macs = task.walk(Plan.from_json(row["json"]), settings).macs_per_image
    row |= {"macs_per_image": macs, "macs_share": macs / float(task.macs[:, -1].sum())}
    share = one.cost / float(task.costs[:, -1].sum())
    return row | {"quality": one.quality, "sampler": settings.sampler, "cost_share": share}


def best_measured(rows: Sequence[Row], share: float, cost: str) -> Row:
    """The best of measured plans within a budget."""
    affordable = [row for row in rows if row["cost_share"] <= share * (1 + 1e-9)]
    if not affordable:
        raise UserError(
            f"evolution found no plan at {share:g} of the full {cost}", "give more --trials, or a larger budget"
        )
    return min(affordable, key=lambda row: row["quality"]) | {"plan": f"nsga2 {share:g}"}


def write(
    args: argparse.Namespace,
    out: Path,
    task: Search,
    table: LossTable,
    front: list[Row],
    rows: list[Row],
    seconds: float,
) -> None:
    """Plans, tables and the page; then print the front and what the search cost."""
    from denoisezoo.report.search import write_search

    picked = [row for row in rows if "budget" in row]
    for row in picked:
        write_json(out / f"plan_{row['plan'].replace(' ', '_')}.json", Plan.from_json(row["json"]).to_dict())
    write_text(out / "table.csv", csv_text(table.to_rows()))
    write_text(out / "front.csv", csv_text(front))
    spent = {"search_macs": task.spent, "search_seconds": seconds, "train_macs": task.run.facts.get("train_macs")}
    quality = task.evaluator.features.distance_name if any("quality" in row for row in rows) else None
    for row in rows:
        row |= spent
    write_rows(rows, args)
    command = "denoisezoo " + shlex.join(sys.argv[1:])
    write_search(out / "search.html", table, front, rows, quality=quality, command=command, cost=args.cost)
    show = [front[i] for i in np.unique(np.linspace(0, len(front) - 1, min(SHOWN, len(front))).round().astype(int))]
    print_table(show, columns(args.cost, None), title="the front under the loss table")
    print_table(rows, columns(args.cost, quality), title="plans")
    print(cost_line(spent))
    print(f"plans, tables and page: {out}")


def columns(cost: str, quality: str | None) -> list[Column]:
    """What is printed of a plan."""
    found = [
        Column("plan", "plan"),
        Column(f"{cost} share", "cost_share", "{:.3f}".format, right=True),
        Column("MACs per image", "macs_per_image", "{:,}".format, right=True),
        Column("excess loss", "excess", "{:.3e}".format, right=True),
        Column("efforts, noise to image", "segments"),
    ]
    if quality:
        found.insert(4, Column(quality, "quality", lambda v: "-" if v is None else f"{v:.3f}", right=True))
    return found


def cost_line(spent: Row) -> str:
    """What the search cost, beside the training."""
    text = f"search: {spent['search_macs']:.3e} MACs, {spent['search_seconds']:.0f} s"
    if spent["train_macs"]:
        text += f", {spent['search_macs'] / spent['train_macs']:.2%} of training's {spent['train_macs']:.3e} MACs"
    return text
