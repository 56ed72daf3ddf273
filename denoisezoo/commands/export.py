"""A run for other code, each file checked before it is kept, with a model card, README.md, beside it.

safetensors holds all of the run and no code, and can be given wherever a RUN is asked for. diffusers is a folder that
DDPMPipeline.from_pretrained loads, of networks that have a twin there. onnx and pt2 (torch.export) are programs for any
batch size: one for each effort of a plan, and one for each size of the image where a process has several.
"""

from __future__ import annotations

import argparse

from denoisezoo.commands.arguments import file_path, run_path
from denoisezoo.commands.output import add_output_arguments, print_summary, write_rows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("run", type=run_path, metavar="RUN", help="run folder, checkpoint, or FORMAT:PATH")
    parser.add_argument("--format", default="safetensors", help="safetensors, diffusers, onnx or pt2 (%(default)s)")
    parser.add_argument(
        "--part",
        choices=("denoiser", "network"),
        help="of a program: denoiser, (u_t, t) to u_0, or network, F alone (denoiser)",
    )
    parser.add_argument(
        "--plan", metavar="P", help="efforts to write: a JSON file, or e.g. uniform:effort=0.5 (all of it)"
    )
    parser.add_argument("--weights", choices=("ema", "raw"), default="ema", help="averaged weights, or the optimiser's")
    parser.add_argument(
        "--license", default="unknown", help="of the weights, for the card, e.g. apache-2.0 (%(default)s)"
    )
    parser.add_argument("--out", type=file_path, help="a folder, or one file without a card (RUN/FORMAT)")
    add_output_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Export."""
    from denoisezoo.interop import WRITERS
    from denoisezoo.plans import find_plan
    from denoisezoo.runs.exporting import export_run
    from denoisezoo.runs.run import load_run

    WRITERS[args.format]
    plan = None if args.plan is None else find_plan(args.plan)
    trained = load_run(args.run, args.weights)
    done = export_run(trained, args.out, format=args.format, part=args.part, plan=plan, license=args.license)
    print_summary(done)
    write_rows(done.rows(), args)
    return 0
