"""Evolution of plans by measured quality (NSGA-II): its shared study, where it starts, and the rows of its front."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from denoisezoo.errors import UserError
from denoisezoo.plans import Plan
from denoisezoo.progress import progress_bar
from denoisezoo.runs.terms import Settings
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
from denoisezoo.search.loss_table import LossTable
from denoisezoo.search.task import Row, SearchTask, plan_row
from denoisezoo.search.trials import SharedStudy

OWN_GRID = "process"
"""Name of the grid that the sampler has by itself."""


@dataclass(frozen=True)
class EvolutionOptions:
    """How plans evolve.

    Attributes:
        trials: Evaluations in all.
        population: Plans of a generation.
        genome: What evolves: segments of one effort, or the effort of each level.
        segments: Segments of a plan at most.
        mutation: Chance to redraw a gene; None redraws one gene in all.
        grids: Time grids to choose from; the sampler's own unless given.
        storage: Journal file or data base URL of the study that workers share; a file in the search's folder unless
            given.
    """

    trials: int = 60
    population: int = 20
    genome: Literal["segments", "levels"] = "segments"
    segments: int = 6
    mutation: float | None = None
    grids: tuple[str, ...] | None = None
    storage: str | None = None


def join_study(task: SearchTask, table: LossTable, options: EvolutionOptions, folder: Path) -> SharedStudy:
    """The study of the command, as one more of its workers.

    Latencies differ from one measurement to the next, and the plans to begin with follow from them: the first worker's
    hold for all, and for those that go on later.
    """
    study = SharedStudy(options.storage or str(folder / "study.log"), "plans", fingerprint(task, table, options))
    if task.cost == "latency":
        task.latencies = np.array(study.agree("latencies", lambda: task.latencies.tolist()))
        task.codec_cost = float(study.agree("codec", lambda: task.codec_cost))
    return study


def evolve(
    task: SearchTask,
    table: LossTable,
    study: SharedStudy,
    front: Sequence[Choice],
    chosen: Sequence[Choice],
    options: EvolutionOptions,
) -> tuple[Evolution, list[Row]]:
    """Evolution from exact plans, those `chosen` at the budgets among them; and the rows of its front."""
    grids = list(options.grids or [OWN_GRID])
    settings = {grid: task.on_grid(grid) for grid in grids}
    genome = make_genome(task, table, study, front, options)
    evolution = Evolution(
        study,
        genome,
        grids=grids,
        population=options.population,
        seed=task.settings.first_seed,
        mutation=options.mutation,
    )
    # The exact plans were found for the sampler's own grid.
    first = OWN_GRID if OWN_GRID in grids else grids[0]
    seeds = starting_plans(front, chosen, len(task.efforts), len(table.levels))
    evolution.seed(Candidate(efforts, first) for efforts in seeds)
    with progress_bar("evolving plans", options.trials) as progress:

        def measured(candidate: Candidate) -> Judged:
            progress(study.begun())
            plan, terms = table.plan(candidate.efforts), settings[candidate.grid]
            walk = task.walk(plan, terms)
            return Judged(task.quality(plan, terms), task.cost_of(walk), task.num * walk.macs_per_image)

        evolution.run(measured, options.trials)
    found = pareto(evolution.evaluated())
    return evolution, [evolved_row(task, table, one, settings[one.candidate.grid]) for one in found]


def make_genome(
    task: SearchTask, table: LossTable, study: SharedStudy, front: Sequence[Choice], options: EvolutionOptions
) -> Genome:
    """How plans are written: with as many segments as were asked for, or as the exact plans have if that is more."""
    levels, efforts = len(table.levels), len(task.efforts)
    if options.genome == "levels":
        return LevelGenome(levels, efforts)
    most = max([options.segments, *(segments_of(choice.efforts) for choice in front)])
    return SegmentGenome(levels, efforts, study.agree("segments", lambda: most))


def starting_plans(
    front: Sequence[Choice], chosen: Sequence[Choice], efforts: int, levels: int
) -> list[tuple[int, ...]]:
    """Where evolution starts: the plans at the budgets, each effort by itself, and a few of the front's other plans."""
    some = [front[i] for i in np.linspace(0, len(front) - 1, min(10, len(front))).round().astype(int)]
    single = [(e,) * levels for e in range(efforts)]
    return list(dict.fromkeys([*(choice.efforts for choice in chosen), *single, *(choice.efforts for choice in some)]))


def fingerprint(task: SearchTask, table: LossTable, options: EvolutionOptions) -> str:
    """What a study is about; workers must agree on it: qualities, costs and genes all mean the same then."""
    settings = task.settings
    facts = [task.run.name, task.run.facts, settings.sampler, settings.steps, settings.num, settings.first_seed]
    facts += [settings.features, settings.split, settings.guidance, settings.guidance_interval, settings.dtype]
    facts += [
        torch.device(settings.device).type,
        options.grids and list(options.grids),
        task.cost,
        task.run.weights,
        table.efforts,
    ]
    facts += [] if (codec := task.run.denoiser.codec).identity else [codec.title]  # which the budget counts
    facts += [(round(level.t, 9), round(level.edge, 9)) for level in table.levels]
    facts += [options.genome, options.segments if options.genome == "segments" else None]
    if task.cost == "latency":
        facts += [settings.batch_size, settings.compile]
    return (
        f"{task.run.name}, {settings.sampler}, {settings.steps} steps, "
        + hashlib.sha256(repr(facts).encode()).hexdigest()[:12]
    )


def evolved_row(task: SearchTask, table: LossTable, one: Evaluated, settings: Settings) -> Row:
    """The row of a plan that evolution found, priced on its own time grid."""
    row = plan_row("nsga2", table, one.candidate.efforts, None, task)
    walk = task.walk(Plan.from_json(row["json"]), settings)
    share = walk.macs_per_image / (float(task.macs[:, -1].sum()) + task.codec_macs)
    row |= {"macs_per_image": walk.macs_per_image, "macs_share": share}
    share = one.cost / task.full_cost
    return row | {"quality": one.quality, "sampler": settings.sampler, "cost_share": share}


def best_measured(rows: Sequence[Row], share: float, cost: str) -> Row:
    """The best of measured plans within a budget."""
    affordable = [row for row in rows if row["cost_share"] <= share * (1 + 1e-9)]
    if not affordable:
        raise UserError(
            f"evolution found no plan at {share:g} of the full {cost}", "give more `trials`, or a larger budget"
        )
    return min(affordable, key=lambda row: row["quality"]) | {"plan": f"nsga2 {share:g}"}
