"""The best plan at a budget: how much of an elastic network to use at each noise level.

exact: a table of denoising losses on held-out images, then the best plan at every budget by dynamic programming;
nothing is sampled, and it takes seconds to minutes. nsga2: evolution from there on, with the Frechet distance of real
samples; the same command goes on with a search that was stopped, and joins one that runs on another machine.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import math
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from denoisezoo.commands.arguments import (
    add_data_arguments,
    add_sampling_arguments,
    at_least,
    file_path,
    output_folder,
    refuse_file,
    run_path,
)
from denoisezoo.commands.output import add_output_arguments, print_table, write_rows
from denoisezoo.errors import UserError, unknown
from denoisezoo.files import write_json, write_text
from denoisezoo.tables import csv_text

if TYPE_CHECKING:
    from denoisezoo.search.evolved_front import EvolutionOptions
    from denoisezoo.search.search import SearchResult

SHOWN = 12
"""Plans of the front that are printed."""

METHODS = ("exact", "nsga2")


def shares(text: str) -> list[float]:
    """Comma-separated shares above 0, up to 1."""
    values = [float(part) for part in text.split(",")]
    if not all(0 < value <= 1 for value in values):
        raise argparse.ArgumentTypeError(f"{text!r} should be above 0, up to 1")
    return values


shares.__name__ = "list of shares"


def methods(text: str) -> list[str]:
    """Comma-separated methods."""
    names = text.split(",")
    for name in names:
        if name not in METHODS:
            raise argparse.ArgumentTypeError(str(unknown("method", name, METHODS)))
    return names


def not_negative(text: str) -> float:
    """A finite number of at least 0."""
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} should be at least 0, and finite")
    return value


not_negative.__name__ = "number"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "run", type=run_path, metavar="RUN", help="run folder or checkpoint of a network with several efforts"
    )
    parser.add_argument(
        "--budget", type=shares, default=[0.5], metavar="F,...", help="shares of the full network's cost (0.5)"
    )
    parser.add_argument("--method", type=methods, default=["exact"], metavar="M,...", help="exact, nsga2 (exact)")
    parser.add_argument(
        "--cost", choices=("macs", "latency"), default="macs", help="what the budget limits (%(default)s)"
    )
    parser.add_argument("--evaluate", action="store_true", help="sample and evaluate the plans found and each effort")
    parser.add_argument("--features", default="pixels", help="feature space of the distance (%(default)s)")
    parser.add_argument("--weights", choices=("ema", "raw"), default="ema", help="averaged weights, or the optimiser's")
    parser.add_argument("--out", type=file_path, help="folder for plans, tables and the page (RUN/search)")
    table = parser.add_argument_group("exact")
    table.add_argument("--levels", type=at_least(1), default=24, help="noise levels of a plan at most (%(default)s)")
    table.add_argument("--images", type=at_least(2), default=128, help="held-out images at each level (%(default)s)")
    table.add_argument("--min-segment", type=at_least(1), default=1, help="levels that an effort lasts at least (1)")
    table.add_argument(
        "--switch-penalty", type=not_negative, default=0.01, metavar="P",
        help="loss of a change of effort, as a share of what the cheapest effort loses everywhere (%(default)s)",
    )  # fmt: skip
    evolution = parser.add_argument_group("nsga2")
    evolution.add_argument("--trials", type=at_least(1), help="evaluations in all (60)")
    evolution.add_argument("--population", type=at_least(2), help="plans of a generation (20)")
    evolution.add_argument("--genome", choices=("segments", "levels"), help="what evolves (segments)")
    evolution.add_argument("--segments", type=at_least(1), help="segments of a plan at most (6)")
    evolution.add_argument("--mutation", type=not_negative, help="chance to redraw a gene (one gene in all)")
    evolution.add_argument(
        "--grids", type=lambda text: text.split(","), metavar="G,...", help="time grids to choose from"
    )
    evolution.add_argument("--storage", help="journal file or data base URL of the study (OUT/study.log)")
    add_sampling_arguments(parser, num=1000, customary=True)
    add_data_arguments(parser)
    add_output_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Search, write plans, tables and the page, and print the front."""
    from denoisezoo.commands.arguments import run_of, settings_of
    from denoisezoo.search.search import SearchOptions, search

    evolution = evolution_options(args)
    if args.plan:
        raise UserError("--plan is given to a search for one", "leave it out")
    trained = run_of(args)
    settings = settings_of(args, features=args.features)
    out = args.out or trained.folder / "search"
    refuse_file(out)
    options = SearchOptions(
        budget=args.budget,
        cost=args.cost,
        levels=args.levels,
        images=args.images,
        min_segment=args.min_segment,
        switch_penalty=args.switch_penalty,
        evaluate=args.evaluate,
        evolution=evolution,
    )
    with contextlib.ExitStack() as held:
        if evolution is None:
            held.enter_context(output_folder(out))
        result = search(trained, settings, options, out)
        if evolution is not None:  # its workers share the folder, and take turns to write
            held.enter_context(output_folder(out, wait=True))
        write(result, out, args)
    return 0


def evolution_options(args: argparse.Namespace) -> EvolutionOptions | None:
    """The options of evolution, if it is asked for.

    Raises:
        UserError: Options for an evolution that is not asked for.
    """
    from denoisezoo.search.evolved_front import EvolutionOptions

    names = [field.name for field in dataclasses.fields(EvolutionOptions)]
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    if "nsga2" in args.method:
        return EvolutionOptions(**given)
    if given:
        raise UserError(
            f"--{next(iter(given))} is for evolution, which is not asked for", "add --method nsga2, or leave it out"
        )
    return None


def write(result: SearchResult, out: Path, args: argparse.Namespace) -> None:
    """Plans, tables and the page; then the front and what the search cost."""
    from denoisezoo.plans import Plan
    from denoisezoo.report.search_page import write_search
    from denoisezoo.search.search import columns

    picked = [row for row in result.plans if "budget" in row]
    for row in picked:
        write_json(plan_file(row, out), Plan.from_json(row["json"]).to_dict())
    write_text(out / "table.csv", csv_text(result.table.to_rows()))
    write_text(out / "front.csv", csv_text(result.front))
    spent = {"search_macs": result.macs, "search_seconds": result.seconds, "train_macs": result.train_macs}
    rows = [row | spent for row in result.plans]
    write_rows(rows, args)
    command = "denoisezoo " + shlex.join(sys.argv[1:])
    write_search(
        out / "search.html",
        result.table,
        result.front,
        rows,
        quality=result.quality,
        command=command,
        cost=result.cost,
    )
    shown = sorted({round(i * (len(result.front) - 1) / (SHOWN - 1)) for i in range(SHOWN)})
    front = [result.front[i] for i in shown]
    codec = result.codec_text is not None
    print_table(front, columns(result.cost, None, codec), title="the front under the loss table")
    print_table(rows, columns(result.cost, result.quality, codec), title="plans")
    if codec:
        print(result.codec_text)
    text = f"search: {result.macs:.3e} MACs, {result.seconds:.0f} s"
    if result.train_macs:
        text += f", {result.macs / result.train_macs:.2%} of training's {result.train_macs:.3e} MACs"
    print(text)
    print(f"plans, tables and page: {out}")
    for row in picked:
        words = ["denoisezoo", "sample", args.run, "--plan", str(plan_file(row, out))]
        words += ["--sampler", row.get("sampler") or args.sampler, "--steps", str(args.steps)]
        print(shlex.join(words))


def plan_file(row: dict[str, Any], out: Path) -> Path:
    """Where the plan of a row is written."""
    return out / f"plan_{row['plan'].replace(' ', '_')}.json"
