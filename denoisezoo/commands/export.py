"""The weights of a run as one file to publish, with its configuration and its card in the header.

The file can be given wherever a RUN is asked for. It holds no code, and reading it runs none.
"""

from __future__ import annotations

import argparse

from denoisezoo.commands.arguments import file_path

FORMATS = ("safetensors",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("run", metavar="RUN", help="run folder, checkpoint, or FORMAT:PATH")
    parser.add_argument("--format", choices=FORMATS, default=FORMATS[0], help="of the file (%(default)s)")
    parser.add_argument("--weights", choices=("ema", "raw"), default="ema", help="averaged weights, or the optimiser's")
    parser.add_argument("--out", type=file_path, help="the file (RUN/NAME.safetensors)")


def run(args: argparse.Namespace) -> int:
    """Export."""
    from denoisezoo.errors import UserError
    from denoisezoo.runs.published import SUFFIX, publish
    from denoisezoo.runs.run import load_run

    trained = load_run(args.run, args.weights)
    out = args.out or trained.folder / f"{trained.name}{SUFFIX}"
    if out.is_dir():
        raise UserError(f"--out {out} is a folder", "give the name of a file")
    if out.suffix != SUFFIX:
        raise UserError(f"--out {out} does not end in {SUFFIX}", f"give a name that ends in {SUFFIX}")
    header = publish(trained, out)
    print(f"{trained.name}, {header['weights']} weights, {header['card']['params']:,} parameters: {out}")
    return 0
