"""What denoisers cost: parameters, MACs (1 MAC = 1 multiply-add), latency and memory; with a sampler, a whole image.

Names may be patterns, such as 'ddpm*', and trained runs are given by their folder or checkpoint. MACs are those of one
image. Latency is that of a single call for the whole batch: median, and 10th to 90th percentile. Several registered
networks are measured in a process each, so that one that fails does not end the rest.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from denoisezoo.commands.arguments import interval
from denoisezoo.commands.options import with_options
from denoisezoo.commands.output import add_output_arguments, print_summary, write_rows
from denoisezoo.commands.profile_tables import print_rows
from denoisezoo.errors import UserError, unknown
from denoisezoo.plugins import trusting
from denoisezoo.profiling.isolation import in_own_process
from denoisezoo.profiling.profile_columns import COUNTERS

if TYPE_CHECKING:
    from denoisezoo.profiling.profile import Row
    from denoisezoo.runs.pricing import PricingTerms


def numbers(kind: Callable[[str], float], least: float) -> Callable[[str], list[Any]]:
    """A parser of comma-separated finite numbers that are at least `least`."""

    def parse(text: str) -> list[Any]:
        values = [kind(part) for part in text.split(",")]
        if not all(least <= value < math.inf for value in values):  # NaN is refused too
            raise argparse.ArgumentTypeError(f"{text!r} should be at least {least:g}")
        return values

    parse.__name__ = f"list of {kind.__name__}s"
    return parse


def at_least_one(text: str) -> int:
    """A whole number of at least 1."""
    value: int = numbers(int, 1)(text)[0]
    return value


at_least_one.__name__ = "whole number"


def counters(text: str) -> list[str]:
    """Comma-separated names of counters."""
    names = text.split(",")
    for name in names:
        if name not in COUNTERS:
            raise argparse.ArgumentTypeError(str(unknown("counter", name, COUNTERS)))
    return names


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("names", metavar="NAME_OR_RUN", nargs="+", help="names, patterns, run folders or checkpoints")
    setting = parser.add_argument_group("setting")
    setting.add_argument(
        "--batch-size", metavar="B,...", type=numbers(int, 1), default=[1], help="images per call; a row for each"
    )
    setting.add_argument("--effort", metavar="E,...", type=numbers(float, 0), help="efforts; a row for each (all)")
    setting.add_argument("--resolution", type=at_least_one, metavar="R", help="size of the images (each its own)")
    setting.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ... (cuda if there is one)")
    setting.add_argument("--dtype", default="float32", help="float32, bfloat16, float16 or float64")
    setting.add_argument("--compile", action="store_true", help="time the network as torch.compile makes it")
    setting.add_argument("--channels-last", action="store_true", help="channels-last weights and images")
    setting.add_argument(
        "--variants",
        metavar="V,...",
        type=lambda text: text.split(","),
        help="side by side: all, or some of eager, channels_last, bf16, compiled, compiled_bf16, cuda_graphs",
    )
    setting.add_argument("--runs", type=at_least_one, metavar="N", help="timed calls (as many as fit into 2 s)")
    setting.add_argument("--training", action="store_true", help="also measure a training step")
    setting.add_argument(
        "--compare", action="store_true", help="two networks in turns: ratios, that of the latency with its interval"
    )
    counting = parser.add_argument_group("counting")
    counting.add_argument("--counts-only", action="store_true", help="only count, on no device: seconds for any size")
    counting.add_argument("--by-module", action="store_true", help="also print where parameters, MACs and time sit")
    counting.add_argument("--depth", type=at_least_one, default=2, metavar="D", help="levels of --by-module (2)")
    counting.add_argument(
        "--counter", type=counters, default=["torch"], metavar="C,...", help=f"side by side: {', '.join(COUNTERS)}"
    )
    image = parser.add_argument_group("price of an image")
    image.add_argument("--sampler", metavar="S", help="run this sampler, e.g. heun or ddim:eta=0.5")
    image.add_argument("--steps", type=at_least_one, metavar="N", help="its steps")
    image.add_argument("--process", metavar="P", help="process for registered names (the zoo's default)")
    image.add_argument(
        "--plan", metavar="P", help="effort at each noise level: a JSON file, or e.g. uniform:effort=0.5"
    )
    image.add_argument("--guidance", metavar="W", type=float, help="scale of classifier-free guidance")
    image.add_argument(
        "--guidance-interval", type=interval, metavar="LOW,HIGH", help="noise levels between which it guides (all)"
    )
    image.add_argument("--guide", metavar="RUN", help="a lesser network that --guidance leads away from; also priced")
    image.add_argument("--plot", metavar="PATH", help="write a page that shows MACs against noise level")
    add_output_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    from denoisezoo.runs.pricing import price_rows
    from denoisezoo.runs.subjects import find_subjects

    terms = terms_of(args)
    subjects = list(find_subjects(args.names, args.process, args.resolution))
    if args.compare:
        from denoisezoo.runs.ratios import price_ratios

        ratios = price_ratios(subjects, terms)
        write_rows(ratios.rows(), args)
        print_summary(ratios)
        return 0
    rows: list[Row] = []
    alone = len(subjects) > 1 and not args.counts_only
    try:
        for number, subject in enumerate(subjects, start=1):
            show_progress(f"{number}/{len(subjects)} {subject.name} ...")
            if alone:
                rows += in_own_process(measured, subject.run or subject.name, args)
            else:
                rows += price_rows(subject, terms)
    finally:
        show_progress("")
    return deliver(rows, args)


def terms_of(args: argparse.Namespace) -> PricingTerms:
    """The terms that the arguments state.

    Raises:
        UserError: They contradict each other, or name a device, type, sampler or plan that there is not.
    """
    from denoisezoo.plans import find_plan
    from denoisezoo.runs.pricing import PricingTerms

    if args.plot and args.sampler is None:
        raise UserError("--plot is given without --sampler", "give both, e.g. --sampler heun --steps 18")
    terms = PricingTerms(
        batch_sizes=args.batch_size,
        efforts=args.effort,
        device=args.device,
        dtype=args.dtype,
        compile=args.compile,
        channels_last=args.channels_last,
        variants=args.variants,
        runs=args.runs,
        training=args.training,
        counts_only=args.counts_only,
        depth=args.depth if args.by_module else None,
        counters=args.counter,
        sampler=args.sampler,
        steps=args.steps,
        plan=find_plan(args.plan) if args.plan and args.sampler else args.plan,
        guidance=args.guidance,
        guidance_interval=args.guidance_interval,
        guide=args.guide,
    )
    terms.settings()
    return terms


def deliver(rows: list[Row], args: argparse.Namespace) -> int:
    """Write and print what was measured; the exit status is 1 if a network failed."""
    failed = [row for row in rows if "error" in row]
    priced = [row for row in rows if "error" not in row]
    write_rows(rows, args)
    print_rows(priced, args)
    if args.plot:
        from denoisezoo.report.trajectory_page import write_trajectories

        write_trajectories(args.plot, priced)
    for row in failed:
        print(f"{row['name']} failed: {with_options(str(row['error']))}", file=sys.stderr)
    return int(bool(failed))


def measured(name: str, args: argparse.Namespace) -> list[Row]:
    """The rows of one network, looked up again by name or path: the work of a process of its own."""
    from denoisezoo.runs.pricing import price_rows
    from denoisezoo.runs.subjects import find_subjects

    with trusting(args.trust):
        (subject,) = find_subjects([name], args.process, args.resolution)
        return price_rows(subject, terms_of(args))


def show_progress(text: str) -> None:
    """Say on a terminal what is being measured, on a line that the next such text replaces."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
