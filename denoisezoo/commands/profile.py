"""What denoisers cost: parameters, MACs (1 MAC = 1 multiply-add), latency and memory; with a sampler, a whole image.

Names may be patterns, such as 'ddpm*', and trained runs are given by their folder or checkpoint. MACs are those of one
image. Latency is that of a single call for the whole batch: median, and 10th to 90th percentile. Several registered
networks are measured in a process each, so that one that fails does not end the rest.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from denoisezoo.commands.arguments import check_interval, interval
from denoisezoo.commands.output import add_output_arguments, write_rows
from denoisezoo.commands.profile_tables import print_rows
from denoisezoo.commands.subjects import Subject, find_subjects
from denoisezoo.errors import UserError, unknown
from denoisezoo.plugins import trusting
from denoisezoo.profiling.isolation import in_own_process

if TYPE_CHECKING:
    from denoisezoo.archs import Backbone
    from denoisezoo.profiling.profile import Row, Walk
    from denoisezoo.profiling.setting import Setting

COUNTERS = ("torch", "fvcore", "diff-pruning")


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
    image.add_argument("--plot", metavar="PATH", help="write a page that shows MACs against noise level")
    add_output_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    settings, walk = make_settings(args), make_walk(args)
    subjects = list(find_subjects(args.names, args.process, args.resolution))
    if args.compare:
        from denoisezoo.commands.profile_ratios import compare

        return compare(subjects, settings, args)
    rows: list[Row] = []
    alone = len(subjects) > 1 and not args.counts_only
    try:
        for number, subject in enumerate(subjects, start=1):
            show_progress(f"{number}/{len(subjects)} {subject.name} ...")
            if alone:
                rows += in_own_process(measured, subject.run or subject.name, args)
            else:
                rows += profile_subject(subject, args, settings, walk(subject))
    finally:
        show_progress("")
    return deliver(rows, args)


def deliver(rows: list[Row], args: argparse.Namespace) -> int:
    """Write and print what was found; the exit status is 1 if a network failed."""
    failed = [row for row in rows if "error" in row]
    found = [row for row in rows if "error" not in row]
    write_rows(rows, args)
    print_rows(found, args)
    if args.plot:
        from denoisezoo.report.trajectory_page import write_trajectories

        write_trajectories(args.plot, found)
    for row in failed:
        print(f"{row['name']} failed: {row['error']}", file=sys.stderr)
    return int(bool(failed))


def measured(name: str, args: argparse.Namespace) -> list[Row]:
    """The rows of one network, found again by name or path: the work of a process of its own."""
    settings, walk = make_settings(args), make_walk(args)
    with trusting(args.trust):
        (subject,) = find_subjects([name], args.process, args.resolution)
        return profile_subject(subject, args, settings, walk(subject))


def make_settings(args: argparse.Namespace) -> list[Setting]:
    """How to run the networks: one setting, or one for each variant.

    Raises:
        UserError: A device, type or variant that does not exist here.
    """
    import torch

    from denoisezoo.profiling.machine import parse_device
    from denoisezoo.profiling.setting import Setting, parse_dtype, variants_of

    if args.counts_only and (args.variants or args.training):
        what = "--variants" if args.variants else "--training"
        raise UserError(f"{what} measures, and --counts-only does not", "leave one of them out")
    device = torch.device("meta") if args.counts_only else parse_device(args.device)
    setting = Setting(device, parse_dtype(args.dtype), args.channels_last, args.compile, args.runs)
    return variants_of(setting, args.variants) if args.variants else [setting]


def make_walk(args: argparse.Namespace) -> Callable[[Subject], Walk | None]:
    """The sampler run to price for a subject; None without `--sampler`.

    Raises:
        UserError: An unknown sampler or option, a plan that cannot be read, steps without a sampler or the reverse.
    """
    from denoisezoo.diffusion import create_sampler
    from denoisezoo.diffusion.guidance import EVERYWHERE
    from denoisezoo.plans import find_plan
    from denoisezoo.profiling.profile import Walk

    check_interval(args)
    if args.sampler is None:
        for name in ("steps", "plan", "guidance", "plot"):
            if getattr(args, name) is not None:
                raise UserError(f"--{name} is given without --sampler", "give both, e.g. --sampler heun --steps 18")
        return lambda subject: None
    if args.steps is None:
        raise UserError("--sampler is given without --steps", "give both, e.g. --sampler heun --steps 18")
    sampler, plan = create_sampler(args.sampler), find_plan(args.plan) if args.plan else None
    limits = args.guidance_interval or EVERYWHERE
    return lambda subject: Walk(args.sampler, sampler, args.steps, subject.denoiser, plan, args.guidance, limits)


def profile_subject(
    subject: Subject, args: argparse.Namespace, settings: list[Setting], walk: Walk | None
) -> list[Row]:
    """The rows of one network, in every setting."""
    from denoisezoo.profiling.profile import profile_backbone

    rows: list[Row] = []
    for setting in settings:
        begin = time.perf_counter()
        backbone = subject.build(setting.counts_only)
        setting.prepare(backbone)
        build = (time.perf_counter() - begin) * 1e3
        found = profile_backbone(
            subject.name,
            backbone,
            setting,
            efforts=args.effort,
            batch_sizes=args.batch_size,
            walk=walk,
            training=args.training,
        )
        for row in found:
            if row["cold_start_ms"] is not None:
                row["cold_start_ms"] = {"build": build} | row["cold_start_ms"]
            source = {} if subject.run is None else {"run": subject.run}
            rows.append(row | source | dict(opinions(backbone, setting, row["effort"], args)))
    return rows


def opinions(
    backbone: Backbone, setting: Setting, effort: float, args: argparse.Namespace
) -> Iterator[tuple[str, Any]]:
    """Further fields of a row that were asked for: fvcore's count, and the tree of modules."""
    if "fvcore" in args.counter:
        try:
            yield from second_opinion(backbone, setting, effort).items()
        except UserError as error:
            print(f"note: {error}", file=sys.stderr)
    if args.by_module:
        from denoisezoo.profiling.modules import module_rows
        from denoisezoo.profiling.profile import count_backbone, time_modules

        counts, seconds = count_backbone(backbone, setting, effort), time_modules(backbone, setting, effort)
        yield "modules", [asdict(row) for row in module_rows(backbone, counts, args.depth, seconds)]


def second_opinion(backbone: Backbone, setting: Setting, effort: float) -> Row:
    """fvcore's count beside ours, and how they differ for each kind of operator."""
    from denoisezoo.profiling.profile import count_backbone
    from denoisezoo.profiling.second_opinion import differences, fvcore_fields

    fields = fvcore_fields(backbone, setting, effort)
    by_operator = count_backbone(backbone, setting, effort).by_operator
    return fields | {"differences": differences(by_operator, fields.pop("fvcore_by_operator"))}


def show_progress(text: str) -> None:
    """Say on a terminal what is being measured, on a line that the next such text replaces."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
