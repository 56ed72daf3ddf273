"""Finding plans of one run: the loss table, the exact front under it, and evolution from there."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from denoisezoo.errors import UserError
from denoisezoo.plans import Plan
from denoisezoo.progress import progress_bar
from denoisezoo.runs.run import Run
from denoisezoo.runs.terms import Settings
from denoisezoo.search.evolved_front import EvolutionOptions, best_measured, evolve, join_study
from denoisezoo.search.exact import Choice, best, exact_front, rounded_up
from denoisezoo.search.loss_table import LossTable
from denoisezoo.search.task import Row, SearchTask, plan_row
from denoisezoo.search.trials import require_optuna
from denoisezoo.tables import Column, Table, Tabular, scatter


@dataclass(frozen=True)
class SearchOptions:
    """What is searched for, and how.

    Attributes:
        budget: Shares of the full network's cost, each above 0 and at most 1; a plan for each.
        cost: What a budget limits.
        levels: Noise levels of a plan at most.
        images: Held-out images at each level of the loss table.
        min_segment: Levels that an effort lasts at least.
        switch_penalty: Loss of a change of effort, as a share of what the cheapest effort loses everywhere.
        evaluate: Sample by the exact plans and by each effort alone, and measure the Frechet distance.
        evolution: Also evolve plans by measured quality, from the exact ones; None does not.
    """

    budget: Sequence[float] = (0.5,)
    cost: Literal["macs", "latency"] = "macs"
    levels: int = 24
    images: int = 128
    min_segment: int = 1
    switch_penalty: float = 0.01
    evaluate: bool = False
    evolution: EvolutionOptions | None = None

    def __post_init__(self) -> None:
        if not self.budget or not all(0 < share <= 1 for share in self.budget):
            raise UserError(f"budget is {list(self.budget)}", "give shares of the full cost, above 0 and at most 1")


@dataclass(frozen=True)
class SearchResult(Tabular):
    """What a search has found; prints as a table of its plans, a notebook shows the front.

    Attributes:
        table: The loss table.
        front: A row for each plan of the exact front, cheapest first.
        plans: A row for the plan of each budget, of each effort alone, and of what evolution found; those that answer
            a budget have it under "budget". "json" holds the plan.
        seconds: Time of the search, without the evaluation of the exact plans.
        macs: Multiply-adds of the search.
        train_macs: Those of the run's training; None where they are not known.
        quality: Name of the measured quality; None if nothing was sampled.
        cost: What the budgets limit, "macs" or "latency".
    """

    table: LossTable
    front: list[Row]
    plans: list[Row]
    seconds: float
    macs: int
    train_macs: float | None
    quality: str | None
    cost: str = field(default="macs")

    def plan(self, budget: float | None = None) -> Plan:
        """The plan for a budget that was asked for, the best measured one where evolution looked for it.

        Args:
            budget: Share of the full cost; may be left out if there was one.

        Raises:
            UserError: There was no such budget.
        """
        asked = [row for row in self.plans if "budget" in row]
        shares = sorted({row["budget"] for row in asked})
        if budget is None and len(shares) == 1:
            budget = shares[0]
        fitting = [row for row in asked if row["budget"] == budget]
        if not fitting:
            raise UserError(f"nothing was found for a budget of {budget}", f"give one of {shares}")
        return Plan.from_json(fitting[-1]["json"])

    def rows(self) -> list[Row]:
        """The rows of the plans."""
        return self.plans

    def summary(self) -> Table:
        """The plans of the budgets, of each effort alone, and of what evolution found."""
        return Table(self.plans, columns(self.cost, self.quality, self.codec_text is not None), "plans")

    @property
    def codec_text(self) -> str | None:
        """From which number of calls on the codec is not most of the price any more; None without a codec."""
        calls = [row["codec_calls"] for row in self.front if "codec_calls" in row]
        if not calls:
            return None
        dearest, cheapest = (f"{max(1, math.ceil(n))}" for n in (min(calls), max(calls)))
        return (
            f"the codec is most of the price below {dearest} calls of the front's dearest plan, and below {cheapest} "
            "of its cheapest"
        )

    def plot(self) -> dict[str, Any]:
        """The exact front and the plans: what is lost by what is spent."""
        front = [(row["cost_share"], row["excess"]) for row in self.front]
        chosen = {row["plan"]: [(row["cost_share"], row.get("excess"))] for row in self.plans}
        return scatter({"exact front": front, **chosen}, f"share of full {self.cost}", "excess loss")


def columns(cost: str, quality: str | None, codec: bool = False) -> list[Column]:
    """What is printed of a plan."""
    shown = [
        Column("plan", "plan"),
        Column(f"{cost} share", "cost_share", "{:.3f}".format, right=True),
        Column("MACs per image", "macs_per_image", "{:,}".format, right=True),
        Column("excess loss", "excess", "{:.3e}".format, right=True),
        Column("+-", "excess_standard_error", "{:.1e}".format, right=True),
        Column("efforts, noise to image", "segments"),
    ]
    if codec:
        shown.insert(3, Column("codec's share", "codec_share", "{:.3f}".format, right=True))
    if quality:
        shown.insert(-1, Column(quality, "quality", "{:.3f}".format, right=True))
    return shown


def search(run: Run, settings: Settings, options: SearchOptions, folder: Path) -> SearchResult:
    """Find plans.

    Args:
        run: A run whose network has several efforts.
        settings: On what terms plans are to be good: sampler, steps, images.
        options: What is searched for.
        folder: Where a shared study of evolution is kept.

    Raises:
        UserError: The network has no choice, the sampler no fixed number of calls, or a budget is too small.
    """
    if settings.plan is not None:
        raise UserError("a plan is given to a search for one", "leave it out")
    if options.evolution:
        require_optuna()  # before the minutes that the table takes
    if settings.build_sampler().adaptive:
        cure = "search with one that makes a known number of calls, such as heun"
        raise UserError(f"{settings.sampler} chooses its steps by the images, so that no plan has a fixed cost", cure)
    begin = time.perf_counter()
    task = SearchTask(run, settings, options.cost)
    task.efforts  # noqa: B018 - a network without a choice ends here
    table = task.table(options.levels, options.images)
    evolution = options.evolution
    study = join_study(task, table, evolution, folder) if evolution else None
    penalty = options.switch_penalty * float(np.abs(table.excess[:, 0].sum()))
    least = min(options.min_segment, len(table.levels))
    front = exact_front(table.excess, table.costs(task.costs), switch_penalty=penalty, min_segment=least)
    chosen = [best_within(front, share, task) for share in options.budget]
    seconds = time.perf_counter() - begin
    front_rows = [plan_row("exact", table, choice.efforts, choice, task) for choice in front]
    plans = [
        plan_row(f"exact {share:g}", table, choice.efforts, choice, task) | {"budget": share}
        for share, choice in zip(options.budget, chosen, strict=True)
    ]
    levels = len(table.levels)
    plans += [plan_row(f"effort {e:g}", table, [i] * levels, None, task) for i, e in enumerate(task.efforts)]
    if options.evaluate:
        with progress_bar("evaluating plans", len(plans)) as progress:
            for done, row in enumerate(plans, start=1):
                row["quality"] = task.quality(Plan.from_json(row["json"]))
                progress(done)
    if evolution and study:
        found, evolved = evolve(task, table, study, front, chosen, evolution)
        plans += evolved
        plans += [best_measured(evolved, share, options.cost) | {"budget": share} for share in options.budget]
        seconds += found.seconds
        task.spent += found.macs
    quality = task.evaluator.features.distance_name if any("quality" in row for row in plans) else None
    return SearchResult(
        table, front_rows, plans, seconds, task.spent, run.facts.get("train_macs"), quality, options.cost
    )


def best_within(front: Sequence[Choice], share: float, task: SearchTask) -> Choice:
    """The best plan of a front at a share of the full network's cost.

    Raises:
        UserError: The cheapest plan costs more.
    """
    full = task.full_cost
    least = (front[0].cost + task.codec_cost) / full
    if share < least * (1 - 1e-9):
        least_text = rounded_up(least)
        raise UserError(
            f"a budget of {share:g} is below the smallest network's {least_text}", f"give at least {least_text}"
        )
    return best(front, max(share * full - task.codec_cost, front[0].cost))
