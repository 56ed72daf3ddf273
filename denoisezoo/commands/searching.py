"""How `search` works: table, exact front, evolution, and what it writes."""

from __future__ import annotations

import argparse
import contextlib
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from denoisezoo.commands.assessing import output_folder, progress_bar, refuse_file, settings_of
from denoisezoo.commands.evolving import best_measured, evolve, join_study
from denoisezoo.commands.search_task import Row, Search, plan_row
from denoisezoo.commands.tables import Column, csv_text, print_table, write_rows
from denoisezoo.errors import UserError
from denoisezoo.files import write_json, write_text
from denoisezoo.plans import Plan
from denoisezoo.plans.exact import Choice, best, exact_front, rounded_up
from denoisezoo.plans.table import LossTable
from denoisezoo.train.assess import Settings
from denoisezoo.train.runs import load_run

SHOWN = 12
EVOLUTION = {
    "trials": 60,
    "population": 20,
    "genome": "segments",
    "segments": 6,
    "mutation": None,
    "grids": None,
    "storage": None,
}
"""Arguments of evolution, with what they are unless given."""


def search(args: argparse.Namespace) -> int:
    """Run the command."""
    settings = checked_settings(args)
    begin = time.perf_counter()
    task = Search(load_run(args.run, args.weights), settings, args.cost)
    task.efforts  # noqa: B018 - a network without a choice ends here
    out = args.out or task.run.folder / "search"
    refuse_file(out)
    shared = "nsga2" in args.method  # by the workers of one evolution, who take turns to write
    with contextlib.ExitStack() as held:
        if not shared:
            held.enter_context(output_folder(out))
        found = find_plans(args, task, out, begin)
        if shared:
            held.enter_context(output_folder(out, wait=True))
        write(args, out, task, *found)
    return 0


def find_plans(
    args: argparse.Namespace, task: Search, out: Path, begin: float
) -> tuple[LossTable, list[Row], list[Row], float]:
    """Table, front, rows and seconds since the beginning of a search."""
    table = task.table(args.levels, args.images)
    study = join_study(task, table, args, out) if "nsga2" in args.method else None
    front = exact(task, table, args)
    chosen = [choose(front, share, task) for share in args.budget]
    seconds = time.perf_counter() - begin
    found = [plan_row("exact", table, choice.efforts, choice, task) for choice in front]
    rows = exact_rows(task, table, chosen, args.budget)
    if args.evaluate:
        evaluate_rows(task, rows)
    if study:
        evolution, evolved = evolve(task, table, study, front, chosen, args)
        rows += evolved
        rows += [best_measured(evolved, share, args.cost) | {"budget": share} for share in args.budget]
        seconds += evolution.seconds
        task.spent += evolution.macs
    return table, found, rows, seconds


def checked_settings(args: argparse.Namespace) -> Settings:
    """The terms of the search, and the defaults of evolution filled in.

    Raises:
        UserError: Arguments that a search has no use for.
    """
    if args.plan:
        raise UserError("--plan is given to a search for one", "leave it out")
    given = [name for name in EVOLUTION if getattr(args, name) is not None]
    if given and "nsga2" not in args.method:
        raise UserError(f"--{given[0]} is for evolution, which is not asked for", "add --method nsga2, or leave it out")
    for name, default in EVOLUTION.items():
        if getattr(args, name) is None:
            setattr(args, name, default)
    settings = settings_of(args, features=args.features)
    if settings.build_sampler().adaptive:
        cure = "search with one that makes a known number of calls, such as heun"
        raise UserError(f"{args.sampler} chooses its steps by the images, so that no plan has a fixed cost", cure)
    return settings


def exact_rows(task: Search, table: LossTable, chosen: Sequence[Choice], budgets: Sequence[float]) -> list[Row]:
    """Rows of the exact plans at the budgets, and of each effort throughout."""
    rows = [
        plan_row(f"exact {share:g}", table, choice.efforts, choice, task) | {"budget": share}
        for share, choice in zip(budgets, chosen, strict=True)
    ]
    levels = len(table.levels)
    return rows + [plan_row(f"effort {e:g}", table, [i] * levels, None, task) for i, e in enumerate(task.efforts)]


def exact(task: Search, table: LossTable, args: argparse.Namespace) -> list[Choice]:
    """The front under the table, cheapest first."""
    penalty = args.switch_penalty * float(np.abs(table.excess[:, 0].sum()))
    least = min(args.min_segment, len(table.levels))
    return exact_front(table.excess, table.costs(task.costs), switch_penalty=penalty, min_segment=least)


def choose(front: Sequence[Choice], share: float, task: Search) -> Choice:
    """The best plan at a share of the full network's cost."""
    full = float(task.costs[:, -1].sum())
    least = front[0].cost / full
    if share < least * (1 - 1e-9):
        least_text = rounded_up(least)
        raise UserError(
            f"--budget {share:g} is below the smallest network's {least_text}", f"give at least {least_text}"
        )
    return best(front, max(share * full, front[0].cost))


def evaluate_rows(task: Search, rows: Sequence[Row]) -> None:
    """Measure the quality of some plans, which is no part of the search."""
    with progress_bar("evaluating plans", len(rows)) as progress:
        for done, row in enumerate(rows, start=1):
            row["quality"] = task.quality(Plan.from_json(row["json"]))
            progress(done)


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
        write_json(plan_file(row, out), Plan.from_json(row["json"]).to_dict())
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
    for row in picked:
        print(sample_command(row, out, args))


def plan_file(row: Row, out: Path) -> Path:
    """Where the plan of a row is written."""
    return out / f"plan_{row['plan'].replace(' ', '_')}.json"


def sample_command(row: Row, out: Path, args: argparse.Namespace) -> str:
    """What to type to sample by a plan, on the time grid that it was found for."""
    words = ["denoisezoo", "sample", args.run, "--plan", str(plan_file(row, out))]
    words += ["--sampler", row.get("sampler") or args.sampler, "--steps", str(args.steps)]
    return shlex.join(words)


def columns(cost: str, quality: str | None) -> list[Column]:
    """What is printed of a plan."""
    found = [
        Column("plan", "plan"),
        Column(f"{cost} share", "cost_share", "{:.3f}".format, right=True),
        Column("MACs per image", "macs_per_image", "{:,}".format, right=True),
        Column("excess loss", "excess", "{:.3e}".format, right=True),
        Column("+-", "excess_standard_error", "{:.1e}".format, right=True),
        Column("efforts, noise to image", "segments"),
    ]
    if quality:
        found.insert(5, Column(quality, "quality", lambda v: "-" if v is None else f"{v:.3f}", right=True))
    return found


def cost_line(spent: Row) -> str:
    """What the search cost, beside the training."""
    text = f"search: {spent['search_macs']:.3e} MACs, {spent['search_seconds']:.0f} s"
    if spent["train_macs"]:
        text += f", {spent['search_macs'] / spent['train_macs']:.2%} of training's {spent['train_macs']:.3e} MACs"
    return text
