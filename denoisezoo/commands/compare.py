"""The main job: train each recipe on equal terms, sample, evaluate, price, and write one report.

The same command again goes on where it stopped: finished trainings are not repeated, nor what was assessed of them on
the same terms.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from denoisezoo.compare.budget import Budget
from denoisezoo.compare.launching import LAUNCHERS, parse_options
from denoisezoo.errors import UserError, unknown
from denoisezoo.machine_load import Load, warn_of_others

if TYPE_CHECKING:
    from denoisezoo.runs.terms import Terms


def seeds(text: str) -> list[int]:
    """Comma-separated seeds, each once."""
    values = [int(part) for part in text.split(",")]
    if min(values) < 0 or len(set(values)) < len(values):
        raise argparse.ArgumentTypeError(f"{text!r} should be different whole numbers of at least 0")
    return values


seeds.__name__ = "list of whole numbers"


def budget(text: str) -> Budget:
    """`images=N,macs=N,minutes=N`, any of them."""
    limits: dict[str, float] = {}
    for part in text.split(","):
        key, _, value = part.partition("=")
        if key not in Budget.__dataclass_fields__:
            raise argparse.ArgumentTypeError(str(unknown("budget", key, Budget.__dataclass_fields__)))
        limits[key] = float(value)
        if not 0 < limits[key] < float("inf"):
            raise argparse.ArgumentTypeError(f"{part!r} should be positive and finite")
    return Budget(**limits)


budget.__name__ = "budget such as images=64000"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    from denoisezoo.commands.arguments import add_sampling_arguments, at_least, file_path

    parser.add_argument(
        "recipes", metavar="RECIPE", nargs="+", help="recipe files, or names or patterns of shipped ones"
    )
    parser.add_argument("--budget", type=budget, help="images=N,macs=N,minutes=N of training; the first to end counts")
    parser.add_argument("--seeds", type=seeds, default=[0], help="training seeds, e.g. 0,1,2 (0)")
    parser.add_argument(
        "--features",
        default="pixels",
        help="feature space of the distance: pixels, inception, or several, the first decides: pixels+efflite0",
    )
    parser.add_argument("--lpips", metavar="PATH", help="AlexNet weights: also judge conditional runs by LPIPS")
    parser.add_argument(
        "--out", type=file_path, default=Path("runs/compare"), help="folder of the report (%(default)s)"
    )
    parser.add_argument("--title", default="Comparison of denoisers", help="heading of the report")
    parser.add_argument("--wandb", metavar="PROJECT", help="also send the trainings and the comparison to W&B")
    parser.add_argument(
        "--launcher", choices=LAUNCHERS, default="inline", help="where to train: here, or in jobs of their own (inline)"
    )
    parser.add_argument(
        "--launcher-options", type=parse_options, default={}, help="of submitit, e.g. partition=gpu,timeout_min=600"
    )
    parser.add_argument("--jobs", type=at_least(1), default=1, help="trainings at once with --launcher local (1)")
    add_sampling_arguments(parser, num=None)


def run(args: argparse.Namespace) -> int:
    """Compare."""
    from denoisezoo.commands.arguments import refuse_file, terms_of
    from denoisezoo.train.recipe_names import expand

    expand(args.recipes)  # a name that is wrong is told before the seconds that the imports take
    refuse_file(args.out)
    begin = Load.now()

    from denoisezoo.api import compare

    warn_of_others(begin)
    terms: Terms = {**terms_of(args), "features": args.features, "lpips": args.lpips}
    outcome = compare(
        args.recipes,
        budget=args.budget,
        seeds=args.seeds,
        out=args.out,
        title=args.title,
        command=command_line(),
        wandb=args.wandb,
        launcher=args.launcher,
        launcher_options=args.launcher_options,
        jobs=args.jobs,
        **terms,
    )
    if outcome.status:
        print("interrupted; run the same command again to go on", file=sys.stderr)
        return outcome.status
    failed = [record.name for record in outcome.records if record.error]
    if len(failed) == len(outcome.records):
        raise UserError(f"every training failed ({outcome.records[0].error})", f"see {outcome.report or args.out}")
    print(f"report: {outcome.report}")
    return 0


def command_line() -> str:
    """The command as it was typed."""
    return shlex.join(["denoisezoo", *sys.argv[1:]])
