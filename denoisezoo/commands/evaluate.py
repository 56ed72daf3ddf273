"""Metrics of a trained run, each with the card without which it is no result."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from denoisezoo.runs.run import Run
    from denoisezoo.runs.terms import Settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    from denoisezoo.commands.arguments import add_data_arguments, add_sampling_arguments, file_path, task_options
    from denoisezoo.commands.output import add_output_arguments

    parser.add_argument("run", metavar="RUN", help="run folder, checkpoint, or FORMAT:PATH")
    add_sampling_arguments(parser, num=None, guide=True, customary=True)
    add_data_arguments(parser)
    parser.add_argument(
        "--features", default="pixels", help="feature space of the distance (%(default)s), or inception"
    )
    parser.add_argument("--lpips", metavar="PATH", help="AlexNet weights: also judge conditional runs by LPIPS")
    parser.add_argument(
        "--split", choices=("train", "test", "all"), default="all", help="reference images (%(default)s)"
    )
    parser.add_argument(
        "--task", type=task_options, default={}, metavar="KEY=VALUE,...", help="options of the task to change"
    )
    parser.add_argument("--weights", choices=("ema", "raw"), default="ema", help="averaged weights, or the optimiser's")
    parser.add_argument(
        "--out", type=file_path, help="folder for the grid, the neighbours and the row (RUN/evaluation)"
    )
    add_output_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Evaluate; several processes that torchrun has started share the work."""
    from denoisezoo.commands.arguments import output_folder, run_of, settings_of
    from denoisezoo.errors import UserError
    from denoisezoo.ranks import joined

    with joined() as rank:
        trained = run_of(args)
        if not trained.config["data"]:
            raise UserError(f"{args.run} says nothing of its data", "add --data.path, or --data.root for CIFAR-10")
        settings = settings_of(args, features=args.features, split=args.split, lpips=args.lpips)
        out = args.out or trained.folder / "evaluation"
        with output_folder(out, rank):
            return _evaluate(args, rank, trained, settings, out)


def _evaluate(args: argparse.Namespace, rank: int, trained: Run, settings: Settings, out: Path) -> int:
    from denoisezoo.commands.output import print_summary, write_rows
    from denoisezoo.evaluation.neighbours import neighbour_grid
    from denoisezoo.files import write_json
    from denoisezoo.pictures import save_png
    from denoisezoo.progress import progress_bar
    from denoisezoo.runs.assessor import assess, make_evaluator

    data = trained.data()
    evaluator = make_evaluator(data, settings)
    with progress_bar("sampling", args.num or len(evaluator.reference)) as progress:
        result = assess(trained, data, settings, evaluator, progress)
    if rank:
        return 0
    images = result.generated.images
    (out / "result.json").unlink(missing_ok=True)  # of other pictures; the new one comes last
    save_png(result.picture(64), out / "samples.png")
    save_png(neighbour_grid(images[:8], data.images("train")), out / "neighbours.png")
    (row,) = result.rows()
    row |= {"data_changed": data.changed} if data.changed else {}
    write_json(out / "result.json", row)
    write_rows([row], args)
    print_summary(result)
    print(f"samples, neighbours and the whole row: {out}")
    return 0
