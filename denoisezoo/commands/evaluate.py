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
    add_sampling_arguments(parser, num=None, customary=True)
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
        found = run_of(args)
        if not found.config["data"]:
            raise UserError(f"{args.run} says nothing of its data", "add --data.path, or --data.root for CIFAR-10")
        settings = settings_of(args, features=args.features, split=args.split, lpips=args.lpips)
        out = args.out or found.folder / "evaluation"
        with output_folder(out, rank):
            return _evaluate(args, rank, found, settings, out)


def _evaluate(args: argparse.Namespace, rank: int, found: Run, settings: Settings, out: Path) -> int:
    from denoisezoo.commands.output import write_rows
    from denoisezoo.evaluation.neighbours import neighbour_grid
    from denoisezoo.files import write_json
    from denoisezoo.pictures import save_png
    from denoisezoo.progress import progress_bar
    from denoisezoo.runs.assessor import assess, make_evaluator

    data = found.data()
    evaluator = make_evaluator(data, settings)
    with progress_bar("sampling", args.num or len(evaluator.reference)) as progress:
        result = assess(found, data, settings, evaluator, progress)
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
    print_result(result.metrics, result.card.as_dict())
    print(f"samples, neighbours and the whole row: {out}")
    return 0


def print_result(metrics: dict[str, float], card: dict[str, object]) -> None:
    """The metrics as a table, and the parts of the card that one looks for first."""
    from denoisezoo.commands.output import Column, print_table

    rows = [{"metric": name, "value": value} for name, value in metrics.items()]
    print_table(rows, (Column("metric", "metric"), Column("value", "value", "{:.4g}".format, right=True)))
    shown = ["dataset", "split", "num_generated", "num_reference", "weights", "sampler", "steps", "nfe", "seeds"]
    shown += ["images_seen", "train_steps", "macs_per_image"]
    shown += [key for key in ("num_conditions", "guidance") if card[key] is not None]
    facts = [{"fact": key, "value": card[key]} for key in shown]
    print_table(facts, (Column("card", "fact"), Column("", "value")))
