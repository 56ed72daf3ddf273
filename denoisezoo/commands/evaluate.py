"""Metrics of a trained run, or of images from anywhere, each with the card without which it is no result.

fd_FEATURES (fid): Frechet distance to the real images, lower is better; ..._halves: that of two halves of the real
images, ..._over_halves: the ratio. precision: share of samples that look real, recall: share of real images that look
like samples. nn_ratio: distance to the nearest training image over that to the second nearest, 1 where none stands out;
memorised_share: samples at most a third as far from one; nearer_than_held_out: how often a sample is nearer to training
images than a held-out image is, 0.5 for new images. PSNR and the like: of tasks, with the truth.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from denoisezoo.runs.run import Run
    from denoisezoo.runs.terms import Settings, Terms


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

    parser.add_argument("run", type=run_path, metavar="RUN", nargs="?", help="run folder, checkpoint, or FORMAT:PATH")
    anywhere = "folder, zip, .npz (arr_0) or .tar shards of images"
    parser.add_argument("--images", metavar="PATH", help=f"instead of a run, the images to judge: {anywhere}")
    parser.add_argument(
        "--reference",
        metavar="PATH",
        help=f"what to compare with instead of the data of the run: {anywhere}, or .npz of statistics (mu, sigma)",
    )
    parser.add_argument(
        "--write-reference", type=file_path, metavar="PATH", help="also write the statistics of what is compared with"
    )
    add_sampling_arguments(parser, num=None, guide=True, customary=True)
    add_data_arguments(parser)
    parser.add_argument(
        "--features",
        default="pixels",
        help="feature space of the distance (%(default)s), or inception; several: pixels+efflite0",
    )
    parser.add_argument(
        "--details",
        action="store_true",
        help="also interval of the distance, kernel distance with standard error, density, coverage, test of copying",
    )
    parser.add_argument("--by-class", action="store_true", help="also kernel distance and coverage of each class")
    parser.add_argument("--lpips", metavar="PATH", help="AlexNet weights: also judge conditional runs by LPIPS")
    parser.add_argument(
        "--split", choices=("train", "test", "all"), default="all", help="reference images (%(default)s)"
    )
    parser.add_argument(
        "--task", type=task_options, default={}, metavar="KEY=VALUE,...", help="options of the task to change"
    )
    parser.add_argument("--weights", choices=("ema", "raw"), default="ema", help="averaged weights, or the optimiser's")
    parser.add_argument(
        "--out",
        type=file_path,
        help="folder for the grid, the neighbours and the row (RUN/evaluation; none of --images)",
    )
    add_output_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Evaluate; several processes that torchrun has started share the work."""
    from denoisezoo.commands.arguments import output_folder, run_of, settings_of, variety
    from denoisezoo.errors import UserError
    from denoisezoo.ranks import joined

    with joined() as rank:
        if args.run is None:
            return _evaluate_images(args, rank)
        if args.images is not None:
            raise UserError(f"{args.run} is given, and `images` too", "give one of them")
        if args.reference is not None and (place := args.data_path or args.data_test_path or args.data_root):
            raise UserError(f"`reference` is given, and data at {place} too", "give one of them")
        trained = run_of(args)
        if not trained.config["data"] and args.reference is None:
            cure = "add --data.path, --data.root for CIFAR-10, or --reference, real images or their statistics"
            raise UserError(f"{args.run} says nothing of its data", cure)
        settings = settings_of(
            args,
            features=args.features,
            split=args.split,
            lpips=args.lpips,
            details=args.details,
            by_class=args.by_class,
        )
        out = args.out or trained.folder / f"evaluation{variety(args)}"
        with output_folder(out, rank):
            return _evaluate(args, rank, trained, settings, out)


def _evaluate(args: argparse.Namespace, rank: int, trained: Run, settings: Settings, out: Path) -> int:
    from denoisezoo.commands.output import print_summary, write_rows
    from denoisezoo.evaluation.neighbours import neighbour_grid
    from denoisezoo.files import write_json
    from denoisezoo.pictures import save_png
    from denoisezoo.runs.evaluating import evaluate_run

    result = evaluate_run(trained, settings, args.reference, args.write_reference)
    if rank:
        return 0
    (out / "result.json").unlink(missing_ok=True)  # of other pictures; the new one comes last
    (out / "neighbours.png").unlink(missing_ok=True)  # a reference has none
    save_png(result.picture(64), out / "samples.png")
    (row,) = result.rows()
    if args.reference is None:
        data = trained.data()
        if result.generated.nfe:  # not of an autoencoder, which gives back what it is given
            save_png(neighbour_grid(result.generated.images[:8], data.images("train")), out / "neighbours.png")
        row |= {"data_changed": data.changed} if data.changed else {}
    write_json(out / "result.json", row)
    write_rows([row], args)
    print_summary(result)
    print("what the figures mean: denoisezoo evaluate --help")
    what = "samples, neighbours" if (out / "neighbours.png").exists() else "samples"
    print(f"{what} and the whole row: {out}")
    return 0


OF_RUNS = (
    *("sampler", "steps", "num", "seed", "plan", "guidance", "guidance_interval", "guide", "compile"),
    *("by_class", "lpips", "task", "data_path", "data_test_path", "data_root", "data_resize"),
)
"""Options that say how a run is sampled, or judged by its data; none is set unless it is given."""


def _evaluate_images(args: argparse.Namespace, rank: int) -> int:
    """Judge the images of --images, or write the statistics of a reference alone."""
    from denoisezoo.commands.arguments import output_folder
    from denoisezoo.commands.output import print_summary, write_rows
    from denoisezoo.errors import UserError
    from denoisezoo.evaluation.reference import find_reference, write_statistics
    from denoisezoo.files import write_json
    from denoisezoo.pictures import save_png
    from denoisezoo.runs.assessor import make_evaluator
    from denoisezoo.runs.evaluating import evaluate
    from denoisezoo.runs.terms import make_settings

    if given := next((name for name in OF_RUNS if getattr(args, name)), None):
        option = given.replace("data_", "data.")
        raise UserError(f"`{option}` is for runs, and none is given", f"give a RUN, or leave `{option}` out")
    terms: Terms = {"features": args.features, "split": args.split, "details": args.details}
    if args.images is not None:
        result = evaluate(images=args.images, reference=args.reference, write_reference=args.write_reference, **terms)
        if rank:
            return 0
        if args.out is not None:
            with output_folder(args.out):
                save_png(result.picture(64), args.out / "samples.png")
                write_json(args.out / "result.json", result.rows()[0])
        write_rows(result.rows(), args)
        print_summary(result)
        return 0
    if args.reference is None or args.write_reference is None:
        raise UserError("there is nothing to evaluate", "give a RUN, or `images` and `reference`")
    found = find_reference(args.reference)
    write_statistics(args.write_reference, make_evaluator(found, make_settings(**terms)), found.card())
    print(f"statistics of {len(found.images)} images: {args.write_reference}")
    return 0
