"""A checkpoint of other code as a run: weights, configuration and process in one file that loads without the original.

FORMAT is edm, diffusers, guided, ...; docs/interop.md has all of them. What a file does not tell is an option in front
of the path: guided,num_heads=4:model.pt. A network of latents is given its autoencoder by --codec, and makes images
then. Nothing in the file is executed.
"""

from __future__ import annotations

import argparse

from denoisezoo.commands.arguments import file_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("run", metavar="FORMAT[,OPTION=VALUE,...]:PATH", help="foreign file or folder")
    parser.add_argument("--weights", choices=("ema", "raw"), default="ema", help="averaged weights, or the optimiser's")
    parser.add_argument(
        "--codec", metavar="C", help="autoencoder of a network of latents, e.g. autoencoder_kl:path=FOLDER (none)"
    )
    parser.add_argument("--out", type=file_path, help="run folder, or a file NAME.safetensors (runs/FORMAT_NAME)")


def run(args: argparse.Namespace) -> int:
    """Import."""
    from denoisezoo.errors import UserError
    from denoisezoo.interop import FORMATS, find_address
    from denoisezoo.runs.published import IMPORTED, SUFFIX, publish
    from denoisezoo.runs.run import load_run
    from denoisezoo.train.checkpoint import list_checkpoints

    if find_address(args.run) is None:
        raise UserError(f"{args.run} names no format", f"give FORMAT:PATH with one of {', '.join(FORMATS)}")
    found = load_run(args.run, args.weights, codec=args.codec)
    out = args.out or found.folder
    if out.suffix == SUFFIX:
        if out.is_dir():
            raise UserError(f"--out {out} is a folder", "give the name of a file")
    else:
        if out.is_file():
            raise UserError(f"--out {out} is a file", f"give a folder, or a name that ends in {SUFFIX}")
        if list_checkpoints(out):
            raise UserError(f"--out {out} holds a trained run", "give another folder")
        out = out / IMPORTED
    header = publish(found, out)
    sampling, model = found.config["sampling"], found.config["model"]
    made = " and ".join(model[key]["class_path"].rpartition(".")[2] for key in ("process", "preconditioning"))
    print(f"{found.name}, {header['card']['params']:,} parameters, under {made}: {out}")
    print(f"customary sampler: {sampling['sampler']}, {sampling['steps']} steps")
    return 0
