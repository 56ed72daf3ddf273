"""How `search --method nsga2` works: a shared study, evolution from the exact plans, and the rows of its front."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from denoisezoo.commands.arguments import progress_bar
from denoisezoo.search.task import Row, Search, plan_row
from denoisezoo.errors import UserError
from denoisezoo.plans import Plan
from denoisezoo.search.evolution import (
    Candidate,
    Evaluated,
    Evolution,
    Genome,
    Judged,
    LevelGenome,
    SegmentGenome,
    pareto,
    segments_of,
)
from denoisezoo.search.exact import Choice
from denoisezoo.search.trials import SharedStudy
from denoisezoo.search.loss_table import LossTable
from denoisezoo.runs.assessor import Settings

OWN_GRID = "process"
"""Name of the grid that the sampler has by itself."""


def join_study(task: Search, table: LossTable, args: argparse.Namespace, out: Path) -> SharedStudy:
    """The study of the command, as one more of its workers.

    Latencies differ from one measurement to the next, and the plans to begin with follow from them: the first worker's
    hold for all, and for those that go on later.
    """
    study = SharedStudy(args.storage or str(out / "study.log"), "plans", fingerprint(task, table, args))
    if args.cost == "latency":
        task.latencies = np.array(study.agree("latencies", lambda: task.latencies.tolist()))
    return study


def evolve(
    task: Search,
    table: LossTable,
    study: SharedStudy,
    front: Sequence[Choice],
    chosen: Sequence[Choice],
    args: argparse.Namespace,
) -> tuple[Evolution, list[Row]]:
    """Evolution from exact plans, those `chosen` at the budgets among them; and the rows of its front."""
    grids = args.grids or [OWN_GRID]
    settings = {grid: task.on_grid(grid) for grid in grids}
    genome = make_genome(task, table, study, front, args)
    options = {"population": args.population, "seed": args.seed, "mutation": args.mutation}
    evolution = Evolution(study, genome, grids=grids, **options)
    # The exact plans were found for the sampler's own grid.
    first = OWN_GRID if OWN_GRID in grids else grids[0]
    seeds = starting_plans(front, chosen, len(task.efforts), len(table.levels))
    evolution.seed(Candidate(efforts, first) for efforts in seeds)
    with progress_bar("evolving plans", args.trials) as progress:

        def measured(candidate: Candidate) -> Judged:
            progress(study.begun())
            plan, terms = table.plan(candidate.efforts), settings[candidate.grid]
            walk = task.walk(plan, terms)
            return Judged(task.quality(plan, terms), task.cost_of(walk), task.num * walk.macs_per_image)

        evolution.run(measured, args.trials)
    found = pareto(evolution.evaluated())
    return evolution, [evolved_row(task, table, one, settings[one.candidate.grid]) for one in found]


def make_genome(
    task: Search, table: LossTable, study: SharedStudy, front: Sequence[Choice], args: argparse.Namespace
) -> Genome:
    """How plans are written: with as many segments as were asked for, or as the exact plans have if that is more."""
    levels, efforts = len(table.levels), len(task.efforts)
    if args.genome == "levels":
        return LevelGenome(levels, efforts)
    most = max([args.segments, *(segments_of(choice.efforts) for choice in front)])
    return SegmentGenome(levels, efforts, study.agree("segments", lambda: most))


def starting_plans(
    front: Sequence[Choice], chosen: Sequence[Choice], efforts: int, levels: int
) -> list[tuple[int, ...]]:
    """Where evolution starts: the plans at the budgets, each effort by itself, and a few of the front's other plans."""
    some = [front[i] for i in np.linspace(0, len(front) - 1, min(10, len(front))).round().astype(int)]
    single = [(e,) * levels for e in range(efforts)]
    return list(dict.fromkeys([*(choice.efforts for choice in chosen), *single, *(choice.efforts for choice in some)]))


def fingerprint(task: Search, table: LossTable, args: argparse.Namespace) -> str:
    """What a study is about; workers must agree on it: qualities, costs and genes all mean the same then."""
    settings = task.settings
    facts = [task.run.name, task.run.facts, settings.sampler, settings.steps, settings.num, settings.first_seed]
    facts += [settings.features, settings.split, settings.guidance, settings.guidance_interval, settings.dtype]
    facts += [torch.device(settings.device).type, args.grids, args.cost, args.weights, table.efforts]
    facts += [(round(level.t, 9), round(level.edge, 9)) for level in table.levels]
    facts += [args.genome, args.segments if args.genome == "segments" else None]
    if args.cost == "latency":
        facts += [settings.batch_size, settings.compile]
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
