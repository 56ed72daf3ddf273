"""Studies of trained networks: rows, and a page with plots.

solvers: quality and price of runs under other solvers and steps, same weights. adaptive: evaluations of adaptive
solvers against training time, over the checkpoints of runs. memory: back-propagation against the adjoint, over solver
steps. robustness: PSNR and SSIM of noisy held-out images after denoising. samplers: quality of runs against calls of
the denoiser, over samplers. resolutions: time and MACs of a multi-scale network against a uniform one, over sizes.
channel: runs on a noisy channel against linear estimators and digital links, over SNRs. calls: quality of runs of any
method and size against multiply-adds per image, over calls. semigroup: one jump of runs for few calls against two of
half its length. features: which feature extractors order real images that were made worse by known amounts.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from denoisezoo.commands.arguments import add_sampling_arguments, at_least, file_path, settings_of, task_options
from denoisezoo.commands.output import add_output_arguments, print_table, write_rows
from denoisezoo.commands.profile import numbers, show_progress
from denoisezoo.errors import UserError
from denoisezoo.studies.cards import with_cards
from denoisezoo.tables import Column

if TYPE_CHECKING:
    from denoisezoo.studies.study import Study

COLUMNS = {
    "solvers": ("solver", "solver_steps", "quality", "macs_per_image", "inner_nfe", "latency_ms_per_image", "error"),
    "adaptive": ("line", "checkpoint", "images_seen", "inner_nfe_per_call", "latency_ms_per_image", "error"),
    "memory": ("gradient", "solver", "solver_steps", "batch_size", "peak_memory_bytes", "ms"),
    "samplers": ("line", "steps", "nfe", "quality", "latency_ms_per_image", "error"),
    "calls": ("run", "sampler", "nfe", "quality", "macs_per_image", "latency_ms_per_image", "train_macs", "best",
              "error"),
    "semigroup": ("run", "jumps", "error", "difference", "second_time"),
    "resolutions": ("name", "resolution", "batch_size", "ms_per_image", "macs_per_image", "speed_up", "macs_ratio"),
    "robustness": ("run", "eps", "steps", "noisy_psnr", "psnr", "psnr_standard_error", "ssim", "ms_per_image"),
    "channel": ("method", "snr_db", "seeds", "mse_db", "mse_db_std", "gain_db", "psnr", "ssim", "cosine",
                "class_accuracy", "class_accuracy_std", "bits", "bit_error_rate"),
    "features": ("features", "degradation", "amount", "distance", "distance_std", "over_clean", "kernel_distance",
                 "copying", "rank_correlation", "ms_per_image"),
}  # fmt: skip


NUM = 1000
UNUSED: Mapping[str, tuple[Mapping[str, Any], str]] = {
    "resolutions": (
        {"num": NUM, "seed": 0, "plan": None, "guidance": None, "guidance_interval": None, "draws": 5}
        | {"features": "pixels", "batch_size": 256},
        "leave it out; its networks are untrained, and it has --batch-sizes",
    ),
    "features": (
        {"seed": 0, "plan": None, "guidance": None, "guidance_interval": None, "draws": 5}
        | {"features": "pixels", "batch_size": 256},
        "leave it out; features are named by --among",
    ),
    "semigroup": (
        {"sampler": "heun", "steps": 18, "seed": 0, "plan": None, "guidance": None, "guidance_interval": None}
        | {"draws": 5, "features": "pixels"},
        "leave it out; --nfe has the numbers of jumps",
    ),
    "samplers": ({"steps": 18}, "give --nfe; the steps of each sampler follow from it"),
    "calls": ({"steps": 18}, "give --nfe; the steps of each sampler follow from it"),
}
"""Options that a study has no use for with their defaults, and what to do."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("study", choices=list(COLUMNS), help="which study")
    parser.add_argument(
        "subjects", metavar="RUN_OR_NAME", nargs="+", help="runs; memory: a network; features: a recipe or images"
    )
    parser.add_argument("--solvers", metavar="S,...", help="names (euler,midpoint,rk4; adaptive: dopri5; memory: rk4)")
    parser.add_argument(
        "--solver-steps", metavar="N,...", type=numbers(int, 1), default=[1, 2, 4], help="solver steps (1,2,4)"
    )
    parser.add_argument(
        "--tolerances", metavar="T,...", type=numbers(float, 1e-12), default=[1e-3], help="rtol and atol (0.001)"
    )
    parser.add_argument(
        "--levels", metavar="EPS,...", type=numbers(float, 1e-6), default=[0.03, 0.05, 0.1, 0.15, 0.2, 0.3],
        help="noise of robustness, for images in [0, 1]",
    )  # fmt: skip
    parser.add_argument(
        "--denoising-steps", metavar="N,...", type=numbers(int, 1), default=[1, 2, 5], help="of robustness (1,2,5)"
    )
    parser.add_argument("--samplers", metavar="S", nargs="+", help="of samplers and calls: gddim:q=2 rk45 ...")
    parser.add_argument(
        "--nfe", metavar="N,...", type=numbers(int, 1),
        help="calls (10,20,50; of calls 1,2,4,8,15,35; of semigroup 1,2,4,8)",
    )  # fmt: skip
    parser.add_argument("--processes", metavar="P,P", help="of resolutions: processes of its two networks")
    parser.add_argument(
        "--resolutions", metavar="N,...", type=numbers(int, 1), default=[32, 64, 128], help="sizes (32,64,128)"
    )
    parser.add_argument(
        "--batch-sizes", metavar="N,...", type=numbers(int, 1), default=[1, 8], help="of resolutions (1,8)"
    )
    parser.add_argument(
        "--rounds",
        type=at_least(1),
        default=3,
        help="of resolutions: walks, the fastest counts; of features: splits (3)",
    )
    parser.add_argument("--channels-last", action="store_true", help="of resolutions: the layout of both networks")
    parser.add_argument(
        "--snr", metavar="DB,...", type=numbers(float, -100), default=[-20, -15, -10, -5, 0, 5, 10, 15, 20],
        help="of channel, in dB (-20 to 20 in steps of 5); begin with = before a minus sign: --snr=-5,0",
    )  # fmt: skip
    parser.add_argument(
        "--task", type=task_options, default={}, metavar="KEY=VALUE,...", help="of channel: options to change"
    )
    parser.add_argument(
        "--among", metavar="F", nargs="+", default=["pixels", "pixels16", "efflite0"],
        help="of features: extractors to compare (pixels pixels16 efflite0)",
    )  # fmt: skip
    parser.add_argument("--memory-batch", type=at_least(1), default=16, metavar="B", help="batch of memory (16)")
    parser.add_argument("--features", default="pixels", help="feature space of the distance (%(default)s)")
    parser.add_argument("--out", type=file_path, help="page to write (study_NAME.html)")
    add_sampling_arguments(parser, num=NUM)
    add_output_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Run a study, print its rows and write its page."""
    from denoisezoo.report.study_page import write_study

    refuse_unused(args)
    try:
        study = STUDIES[args.study](args)
    finally:
        show_progress("")
    command = "denoisezoo " + " ".join(map(shlex.quote, sys.argv[1:]))
    write_rows(with_cards(study.rows, args, command), args)
    keys = [key for key in COLUMNS[args.study] if any(row.get(key) is not None for row in study.rows)]
    print_table(study.rows, [Column(key, key, shown, right=True) for key in keys])
    out = args.out or Path(f"study_{args.study}.html")
    write_study(out, f"Study: {args.study}", study.rows, study.plots, keys, command)
    print(f"page: {out}")
    return 0


def refuse_unused(args: argparse.Namespace) -> None:
    """Refuse options that the study would ignore.

    Raises:
        UserError: Naming one.
    """
    options, advice = UNUSED.get(args.study, ({}, ""))
    for name, default in options.items():
        if getattr(args, name) != default:
            raise UserError(f"{args.study} has no use for --{name.replace('_', '-')}", advice)


def shown(value: Any) -> str:
    """A number in four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def names_of(args: argparse.Namespace, default: str) -> list[str]:
    """The solvers to study."""
    return str(args.solvers or default).split(",")


def study_solvers(args: argparse.Namespace) -> Study:
    """See `denoisezoo.studies.solver_steps`."""
    from denoisezoo.runs.run import load_run
    from denoisezoo.studies.solver_steps import solver_study

    settings, runs = settings_of(args, features=args.features), [load_run(path) for path in args.subjects]
    return solver_study(runs, names_of(args, "euler,midpoint,rk4"), args.solver_steps, settings, show_progress)


def study_adaptive(args: argparse.Namespace) -> Study:
    """See `denoisezoo.studies.adaptive_solver`."""
    from denoisezoo.studies.adaptive_solver import adaptive_study

    solvers = names_of(args, "dopri5")
    return adaptive_study(args.subjects, solvers, args.tolerances, settings_of(args), show_progress)


def study_memory(args: argparse.Namespace) -> Study:
    """See `denoisezoo.studies.training_memory`."""
    from denoisezoo.studies.training_memory import memory_study

    if len(args.subjects) != 1:
        raise UserError("memory studies one registered network", "name one, e.g. from denoisezoo list")
    (solver,) = names_of(args, "rk4")[:1]
    return memory_study(args.subjects[0], solver, args.solver_steps, args.memory_batch, progress=show_progress)


def study_robustness(args: argparse.Namespace) -> Study:
    """See `denoisezoo.studies.robustness`."""
    from denoisezoo.runs.run import load_run
    from denoisezoo.studies.robustness import robustness_study

    runs = [load_run(path) for path in args.subjects]
    return robustness_study(runs, args.levels, args.denoising_steps, args.num, show_progress)


def study_samplers(args: argparse.Namespace) -> Study:
    """See `denoisezoo.studies.sampler_calls`."""
    from denoisezoo.runs.run import load_run
    from denoisezoo.studies.sampler_calls import sampler_study

    settings, runs = settings_of(args, features=args.features), [load_run(path) for path in args.subjects]
    return sampler_study(runs, args.samplers or [args.sampler], args.nfe or [10, 20, 50], settings, show_progress)


def study_calls(args: argparse.Namespace) -> Study:
    """See `denoisezoo.studies.calls`."""
    from denoisezoo.runs.run import load_run
    from denoisezoo.studies.calls import calls_study

    settings, runs = settings_of(args, features=args.features), [load_run(path) for path in args.subjects]
    return calls_study(runs, args.samplers or [], args.nfe or [1, 2, 4, 8, 15, 35], settings, show_progress)


def study_semigroup(args: argparse.Namespace) -> Study:
    """See `denoisezoo.studies.semigroup`."""
    from denoisezoo.runs.run import load_run
    from denoisezoo.studies.semigroup import semigroup_study

    runs = [load_run(path) for path in args.subjects]
    return semigroup_study(runs, args.nfe or [1, 2, 4, 8], args.num, args.batch_size, show_progress)


def study_channel(args: argparse.Namespace) -> Study:
    """See `denoisezoo.studies.noisy_channel`."""
    from denoisezoo.runs.run import load_run
    from denoisezoo.studies.noisy_channel import channel_study

    runs = [load_run(path) for path in args.subjects]
    return channel_study(runs, args.snr, settings_of(args), args.task, show_progress)


def study_resolutions(args: argparse.Namespace) -> Study:
    """See `denoisezoo.studies.resolutions`."""
    from denoisezoo.diffusion import create_sampler
    from denoisezoo.profiling.machine import parse_device
    from denoisezoo.profiling.setting import parse_dtype
    from denoisezoo.studies.resolutions import resolution_study

    processes = str(args.processes or "").split(",")
    if len(args.subjects) != 2 or len(processes) != 2:
        raise UserError("resolutions compares two networks, each on its process", "give two names and --processes P,P")
    return resolution_study(
        args.subjects,
        processes,
        args.resolutions,
        create_sampler(args.sampler),
        args.steps,
        args.batch_sizes,
        args.rounds,
        device=parse_device(args.device),
        dtype=parse_dtype(args.dtype),
        compile=args.compile,
        channels_last=args.channels_last,
        progress=show_progress,
    )


def study_features(args: argparse.Namespace) -> Study:
    """See `denoisezoo.studies.feature_ranking`."""
    from denoisezoo.studies.feature_ranking import data_of, feature_study

    if len(args.subjects) != 1:
        raise UserError("features studies one data set", "name a recipe, or a folder or file of images")
    num = None if args.num == NUM else args.num
    return feature_study(data_of(args.subjects[0]), args.among, num, args.rounds, show_progress)


STUDIES: Mapping[str, Callable[[argparse.Namespace], Study]] = {
    "solvers": study_solvers,
    "adaptive": study_adaptive,
    "memory": study_memory,
    "robustness": study_robustness,
    "samplers": study_samplers,
    "calls": study_calls,
    "semigroup": study_semigroup,
    "resolutions": study_resolutions,
    "channel": study_channel,
    "features": study_features,
}
