"""The best plan at a budget: how much of an elastic network to use at each noise level.

exact: a table of denoising losses on held-out images, then the best plan at every budget by dynamic programming;
nothing is sampled, and it takes seconds to minutes. nsga2: evolution from there on, with the Frechet distance of real
samples; the same command goes on with a search that was stopped, and joins one that runs on another machine.
"""

from __future__ import annotations

import argparse
import math

from denoisezoo.commands.assessing import add_sampling_arguments, file_path, whole
from denoisezoo.commands.tables import add_output_arguments
from denoisezoo.errors import unknown

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
    parser.add_argument("run", metavar="RUN", help="run folder or checkpoint of a network with several efforts")
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
    table.add_argument("--levels", type=whole(1), default=24, help="noise levels of a plan at most (%(default)s)")
    table.add_argument("--images", type=whole(2), default=128, help="held-out images at each level (%(default)s)")
    table.add_argument("--min-segment", type=whole(1), default=1, help="levels that an effort lasts at least (1)")
    table.add_argument(
        "--switch-penalty", type=not_negative, default=0.01, metavar="P",
        help="loss of a change of effort, as a share of what the cheapest effort loses everywhere (%(default)s)",
    )  # fmt: skip
    evolution = parser.add_argument_group("nsga2")
    evolution.add_argument("--trials", type=whole(1), help="evaluations in all (60)")
    evolution.add_argument("--population", type=whole(2), help="plans of a generation (20)")
    evolution.add_argument("--genome", choices=("segments", "levels"), help="what evolves (segments)")
    evolution.add_argument("--segments", type=whole(1), help="segments of a plan at most (6)")
    evolution.add_argument("--mutation", type=not_negative, help="chance to redraw a gene (one gene in all)")
    evolution.add_argument(
        "--grids", type=lambda text: text.split(","), metavar="G,...", help="time grids to choose from"
    )
    evolution.add_argument("--storage", help="journal file or data base URL of the study (OUT/study.log)")
    add_sampling_arguments(parser, num=1000)
    add_output_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Search."""
    from denoisezoo.commands.searching import search

    return search(args)
