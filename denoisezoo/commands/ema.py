"""Averages of the weights of any length, made after training, swept against a metric; the best becomes a checkpoint.

The run must have been trained with --posthoc.every_n_steps N (EDM2's post-hoc EMA, arXiv 2312.02696, section 3).
"""

from __future__ import annotations

import argparse


def widths(text: str) -> list[float]:
    """Comma-separated widths in range."""
    from denoisezoo.errors import UserError
    from denoisezoo.train.power_function import exponent

    values = [float(part) for part in text.split(",")]
    for value in values:
        try:
            exponent(value)
        except UserError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
    return values


widths.__name__ = "list of numbers"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    from denoisezoo.commands.arguments import (
        add_data_arguments,
        add_sampling_arguments,
        file_path,
        run_path,
        task_options,
    )
    from denoisezoo.commands.output import add_output_arguments

    parser.add_argument("run", type=run_path, metavar="RUN", help="run folder")
    parser.add_argument(
        "--sigma-rel", type=widths, default=[0.05, 0.10, 0.15], metavar="S,...",
        help="widths of the averages relative to the length of training (0.05,0.1,0.15)",
    )  # fmt: skip
    parser.add_argument("--metric", help="figure of `evaluate` that the best is best by (the Frechet distance)")
    add_sampling_arguments(parser, num=None, guide=True)
    add_data_arguments(parser)
    parser.add_argument(
        "--features", default="pixels", help="feature space of the distance (%(default)s), or inception"
    )
    parser.add_argument(
        "--split", choices=("train", "test", "all"), default="all", help="reference images (%(default)s)"
    )
    parser.add_argument(
        "--task", type=task_options, default={}, metavar="KEY=VALUE,...", help="options of the task to change"
    )
    parser.add_argument("--out", type=file_path, help="file of the best (RUN/checkpoints/ema_WIDTH.ckpt)")
    parser.set_defaults(weights="ema")
    add_output_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Sweep, write the best, and print the table."""
    from denoisezoo.commands.arguments import run_of, terms_of
    from denoisezoo.commands.output import write_rows
    from denoisezoo.runs.ema_sweep import sweep

    terms = terms_of(args) | {"features": args.features, "split": args.split}
    found = sweep(run_of(args), args.sigma_rel, metric=args.metric, out=args.out, **terms)
    write_rows(found.rows(), args)
    print(found)
    print(f"the best average, for sample and evaluate: {found.checkpoint}")
    return 0
