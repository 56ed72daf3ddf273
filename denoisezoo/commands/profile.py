"""What denoisers cost: parameters, MACs (1 MAC = 1 multiply-add), latency and memory; with a sampler, a whole image.

Names may be patterns, such as 'ddpm*', and trained runs are given by their folder or checkpoint. MACs are those of one
image. Latency is that of a single call for the whole batch: median, and 10th to 90th percentile.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from denoisezoo.commands.subjects import Subject, find_subjects
from denoisezoo.commands.tables import (
    Column,
    add_output_arguments,
    human,
    human_bytes,
    plain,
    print_table,
    write_rows,
)
from denoisezoo.errors import UserError, unknown

if TYPE_CHECKING:
    from denoisezoo.archs import Backbone
    from denoisezoo.profiling.profile import Row, Setting, Walk

COUNTERS = ("torch", "fvcore")
LONGEST_TRAJECTORY = 40
MOST_TRAJECTORIES = 4
"""Calls of a sampler run, and runs, that are printed; the files have them all."""


def numbers(kind: Callable[[str], float], least: float) -> Callable[[str], list[Any]]:
    """A parser of comma-separated numbers that are at least `least`."""

    def parse(text: str) -> list[Any]:
        values = [kind(part) for part in text.split(",")]
        if not all(value >= least for value in values):  # NaN is refused too
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
    setting.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ... (cuda if there is one)")
    setting.add_argument("--dtype", default="float32", help="float32, bfloat16, float16 or float64")
    setting.add_argument("--compile", action="store_true", help="time the network as torch.compile makes it")
    setting.add_argument("--channels-last", action="store_true", help="channels-last weights and images")
    setting.add_argument("--runs", type=at_least_one, metavar="N", help="timed calls (as many as fit into 2 s)")
    counting = parser.add_argument_group("counting")
    counting.add_argument("--counts-only", action="store_true", help="only count, on no device: seconds for any size")
    counting.add_argument("--by-module", action="store_true", help="also print where parameters and MACs sit")
    counting.add_argument("--depth", type=at_least_one, default=2, metavar="D", help="levels of --by-module (2)")
    counting.add_argument(
        "--counter", type=counters, default=["torch"], metavar="C,...", help="torch, fvcore or both, side by side"
    )
    image = parser.add_argument_group("price of an image")
    image.add_argument("--sampler", metavar="S", help="run this sampler, e.g. heun or ddim:eta=0.5")
    image.add_argument("--steps", type=at_least_one, metavar="N", help="its steps")
    image.add_argument("--process", metavar="P", help="process for registered names (the zoo's default)")
    add_output_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    setting, walk = make_setting(args), make_walk(args)
    subjects = list(find_subjects(args.names, args.process))
    rows: list[Row] = []
    try:
        for number, subject in enumerate(subjects, start=1):
            show_progress(f"{number}/{len(subjects)} {subject.name} ...")
            rows += profile_subject(subject, args, setting, walk(subject))
    finally:
        show_progress("")
    write_rows(rows, args)
    print_rows(rows, args)
    return 0


def make_setting(args: argparse.Namespace) -> Setting:
    """How to run the networks.

    Raises:
        UserError: A device or type that does not exist here.
    """
    import torch

    from denoisezoo.profiling.machine import parse_device
    from denoisezoo.profiling.profile import Setting, parse_dtype

    device = torch.device("meta") if args.counts_only else parse_device(args.device)
    return Setting(device, parse_dtype(args.dtype), args.channels_last, args.compile, args.runs)


def make_walk(args: argparse.Namespace) -> Callable[[Subject], Walk | None]:
    """The sampler run to price for a subject; None without `--sampler`.

    Raises:
        UserError: An unknown sampler or option, or steps without a sampler or the reverse.
    """
    from denoisezoo.diffusion import create_sampler
    from denoisezoo.profiling.profile import Walk

    if (args.sampler is None) != (args.steps is None):
        given, missing = ("--sampler", "--steps") if args.steps is None else ("--steps", "--sampler")
        raise UserError(f"{given} is given without {missing}", "give both, e.g. --sampler heun --steps 18")
    if args.sampler is None:
        return lambda subject: None
    sampler = create_sampler(args.sampler)
    return lambda subject: Walk(args.sampler, sampler, args.steps, subject.denoiser)


def profile_subject(subject: Subject, args: argparse.Namespace, setting: Setting, walk: Walk | None) -> list[Row]:
    """The rows of one network."""
    from denoisezoo.profiling.profile import profile_backbone

    backbone = subject.build(setting.counts_only)
    setting.prepare(backbone)
    rows = profile_backbone(
        subject.name, backbone, setting, efforts=args.effort, batch_sizes=args.batch_size, walk=walk
    )
    source = {} if subject.run is None else {"run": subject.run}
    return [row | source | dict(opinions(backbone, setting, row["effort"], args)) for row in rows]


def opinions(
    backbone: Backbone, setting: Setting, effort: float, args: argparse.Namespace
) -> Iterator[tuple[str, Any]]:
    """Further fields of a row that were asked for: fvcore's count, and the tree of modules."""
    if "fvcore" in args.counter:
        from denoisezoo.profiling.second_opinion import fvcore_fields

        try:
            yield from fvcore_fields(backbone, setting, effort).items()
        except UserError as error:
            print(f"note: {error}", file=sys.stderr)
    if args.by_module:
        from dataclasses import asdict

        from denoisezoo.profiling.modules import module_rows
        from denoisezoo.profiling.profile import count_backbone

        counts = count_backbone(backbone, setting, effort)
        yield "modules", [asdict(row) for row in module_rows(backbone, counts, args.depth)]


def show_progress(text: str) -> None:
    """Say on a terminal what is being measured, on a line that the next such text replaces."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def print_rows(rows: list[Row], args: argparse.Namespace) -> None:
    """Print the table of all rows, then the trees and trajectories that were asked for."""
    print_table(rows, columns(rows))
    for row in rows:
        title = f"{row['name']} at effort {plain(row['effort'])}"
        if args.by_module:
            print()
            print_table(row["modules"], MODULE_COLUMNS, title)
    walked = [row for row in rows if "trajectory" in row]
    for row in walked[:MOST_TRAJECTORIES]:
        print()
        print_trajectory(row)
    if len(walked) > MOST_TRAJECTORIES:
        print(f"\n{len(walked) - MOST_TRAJECTORIES} more trajectories are not shown; --json writes them all")
    print_notes(rows)


def columns(rows: list[Row]) -> list[Column]:
    """Columns of the main table; those that no row has a value for are left out."""
    every = [
        Column("name", "name"),
        Column("run", "run"),
        Column("input", "input"),
        Column("effort", "effort", plain, right=True),
        Column("batch", "batch_size", right=True),
        Column("params", "params", human, right=True),
        Column("MACs", lambda row: bound(row, "macs"), right=True),
        Column("FLOPs", "flops", human, right=True),
        Column("attention", "macs_attention", human, right=True),
        Column("fvcore", "macs_fvcore", human, right=True),
        Column("latency ms", latency_text, right=True),
        Column("images/s", "images_per_s", lambda value: f"{value:.4g}", right=True),
        Column("memory", "peak_memory_bytes", human_bytes, right=True),
        Column("sampler", "sampler"),
        Column("steps", "steps", right=True),
        Column("NFE", "nfe", right=True),
        Column("MACs/image", lambda row: bound(row, "macs_per_image"), right=True),
        Column("device", "device"),
        Column("dtype", "dtype"),
    ]
    return [column for column in every if any(column.text(row) != "-" for row in rows)]


MODULE_COLUMNS = [
    Column("module", lambda row: "  " * row["depth"] + (row["path"].rpartition(".")[2] or "(all)")),
    Column("type", "type"),
    Column("params", "params", human, right=True),
    Column("MACs", "macs", human, right=True),
    Column("share", "share", lambda value: f"{value:.1%}", right=True),
]

CALL_COLUMNS = [
    Column("call", "call", right=True),
    Column("t", "t", lambda value: f"{value:.4g}", right=True),
    Column("sigma", "sigma", lambda value: f"{value:.4g}", right=True),
    Column("effort", "effort", plain, right=True),
    Column("MACs", "macs", human, right=True),
    Column("inner NFE", "inner_nfe", right=True),
    Column("latency ms", "latency_ms", lambda value: f"{value:.2f}", right=True),
]


def bound(row: Any, key: str) -> str | None:
    """A number of MACs, marked where it is a lower bound."""
    return None if key not in row else ("≥ " if row["uncounted_ops"] else "") + human(row[key])


def latency_text(row: Any) -> str | None:
    """Median and spread."""
    timing = row["latency_ms"]
    return timing and f"{timing['median']:.2f} ({timing['p10']:.2f} to {timing['p90']:.2f})"


def print_trajectory(row: Row) -> None:
    """Print the calls of a sampler run; of a long one, the first and last."""
    calls, half = row["trajectory"], LONGEST_TRAJECTORY // 2
    title = (
        f"{row['name']} at effort {plain(row['effort'])}: {row['sampler']}, {row['steps']} steps, NFE {row['nfe']}, "
        f"inner NFE {row['inner_nfe']}, {human(row['macs_per_image'])} MACs per image"
    )
    if len(calls) > LONGEST_TRAJECTORY:
        title += f"; {len(calls) - 2 * half} calls in the middle are not shown"
        calls = calls[:half] + calls[-half:]
    print_table(calls, CALL_COLUMNS, title)


def print_notes(rows: list[Row]) -> None:
    """Say which counts are incomplete, and why."""
    for row in rows:
        if row["uncounted_ops"]:
            missing = ", ".join(f"{name} ({calls} calls)" for name, calls in row["uncounted_ops"].items())
            print(f"{row['name']}: MACs are a lower bound; no formula for {missing}")
