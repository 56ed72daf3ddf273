"""Images from a trained run: one PNG each, a grid, and a note of how they were made."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from denoisezoo.errors import UserError
from denoisezoo.files import NOTE

if TYPE_CHECKING:
    from torch import Tensor

    from denoisezoo.diffusion import NetworkDenoiser
    from denoisezoo.runs.run import Run
    from denoisezoo.runs.terms import Settings

PICTURES = {"interpolation": "interpolate", "perturbation": "perturb"}
"""Pictures of latents, and the arguments that ask for them."""
ROWS = 8
"""Rows of a picture of latents."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    from denoisezoo.commands.arguments import (
        add_data_arguments,
        add_sampling_arguments,
        at_least,
        file_path,
        run_path,
        task_options,
    )

    parser.add_argument("run", type=run_path, metavar="RUN", help="run folder, checkpoint, or FORMAT:PATH")
    add_sampling_arguments(parser, num=36, guide=True, customary=True)
    add_data_arguments(parser)
    parser.add_argument("--label", type=int, help="one class for all images of a conditional network")
    parser.add_argument("--condition", metavar="PATH", help="image or folder of conditions (those of held-out images)")
    parser.add_argument(
        "--task", type=task_options, default={}, metavar="KEY=VALUE,...", help="options of the task to change"
    )
    parser.add_argument("--weights", choices=("ema", "raw"), default="ema", help="averaged weights, or the optimiser's")
    parser.add_argument(
        "--interpolate",
        type=at_least(2),
        metavar="N",
        help="also N images between the latents of each two of the first",
    )
    parser.add_argument(
        "--perturb", type=_share, metavar="S", help="also the first with a share S of each draw of noise replaced"
    )
    parser.add_argument(
        "--out", type=file_path, help="folder for the images (in RUN/samples, named by how they are made)"
    )


def _share(text: str) -> float:
    """A number above 0, at most 1."""
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{value} should be above 0 and at most 1")
    return value


def run(args: argparse.Namespace) -> int:
    """Sample; several processes that torchrun has started share the work."""
    from denoisezoo.commands.arguments import output_folder, run_of, settings_of, variety
    from denoisezoo.ranks import joined
    from denoisezoo.runs.imported_codec import require_codec

    if args.noise == "device" and (args.interpolate or args.perturb):
        raise UserError("--noise device is given, and what lies between images mixes noise of the CPU", "leave it out")
    with joined() as rank:
        trained = run_of(args)
        require_codec(trained)
        settings = settings_of(args, condition=args.condition, label=args.label)
        name = re.sub(r"[:,/ ]", "_", f"{args.sampler}_{args.steps}") + variety(args)
        out = args.out or trained.folder / "samples" / name
        with output_folder(out, rank):
            refuse_others(out, args)
            return _sample(args, rank, trained, settings, out)


def refuse_others(out: Path, args: argparse.Namespace) -> None:
    """Refuse a folder with images of another call that would stay among those of this one.

    Raises:
        UserError: Naming one of them. None is deleted: a folder may hold the work of days.
    """
    pictures = [name for name in PICTURES if getattr(args, PICTURES[name])]
    names = {f"{stem}.png" for stem in [*pictures, *(f"{args.seed + i:06d}" for i in range(args.num))]}
    written = re.compile(rf"(\d{{6,}}|{'|'.join(PICTURES)})\.png")
    others = sorted(path.name for path in out.glob("*.png") if written.fullmatch(path.name) and path.name not in names)
    if others:
        what = f"{len(others)} images" if len(others) > 1 else "an image"
        raise UserError(f"{out} holds {what} of another call, such as {others[0]}", "give another --out, or delete it")


def _sample(args: argparse.Namespace, rank: int, trained: Run, settings: Settings, out: Path) -> int:
    from denoisezoo.evaluation.conditions import sample_picture
    from denoisezoo.files import write_json
    from denoisezoo.pictures import image_grid, save_png
    from denoisezoo.progress import progress_bar
    from denoisezoo.runs.drawing import calls_for, draw_with, prepare

    with progress_bar("sampling", args.num) as progress:
        denoiser = prepare(trained, settings)
        generated = draw_with(denoiser, trained, settings, args.num, steps=args.steps, progress=progress)
    if rank:
        return 0
    pictures, latents = _latents(args, trained, denoiser, settings)
    (out / NOTE).unlink(missing_ok=True)  # of other images; the new one comes last
    for name, (images, columns) in pictures.items():
        save_png(image_grid(images, columns), out / f"{name}.png")
    for i, image in enumerate(generated.images):
        save_png(image_grid(image[None], scale=1, gap=0), out / f"{args.seed + i:06d}.png")
    conditions = trained.conditions(args.num, args.draws, args.condition)
    save_png(sample_picture(generated.images, conditions), out / "grid.png")
    nfe = calls_for(trained, settings, generated)
    note = {
        "run": str(trained.checkpoint),
        "denoiser": trained.name,
        "weights": trained.weights,
        "sampler": args.sampler,
        "steps": args.steps,
        "nfe": nfe,
        "plan": settings.plan and settings.plan.to_dict(),
        "guidance": settings.guidance_text(),
        "conditions": None if conditions is None else conditions.index(args.num).tolist(),
        "seeds": [args.seed, args.seed + args.num - 1],
        "noise": settings.noise,
        "labels": None if generated.labels is None else generated.labels.tolist(),
        "seconds": generated.seconds,
    }
    write_json(out / NOTE, note | latents)
    print(f"{args.num} images in {generated.seconds:.1f} s, {nfe} denoiser calls each: {out / 'grid.png'}")
    return 0


def _latents(
    args: argparse.Namespace, trained: Run, denoiser: NetworkDenoiser, settings: Settings
) -> tuple[dict[str, tuple[Tensor, int]], dict[str, Any]]:
    """Images between latents and round them, as asked for: name -> images and columns, and what the note says."""
    from denoisezoo.diffusion import Given
    from denoisezoo.evaluation.interpolation import Walker, interpolate, perturb
    from denoisezoo.runs.drawing import labels_for

    conditions = trained.conditions(args.num, args.draws, args.condition)
    walk = Walker(
        settings.guided(denoiser),
        settings.build_sampler(),
        trained.image_shape,
        args.steps,
        Given(
            label=labels_for(trained, settings, args.num, conditions),
            image=None if conditions is None else conditions.pair.y[conditions.index(args.num)],
        ),
        settings.plan,
        settings.device,
    )
    pictures: dict[str, tuple[Tensor, int]] = {}
    note: dict[str, Any] = {}
    if args.interpolate:
        pairs = max(1, min(args.num // 2, ROWS))
        images = interpolate(walk, range(args.seed, args.seed + 2 * pairs), args.interpolate)
        pictures["interpolation"] = images.flatten(0, 1), args.interpolate
        note["interpolation"] = {"pairs": pairs, "images": args.interpolate}
    if args.perturb:
        images = perturb(walk, range(args.seed, args.seed + min(args.num, ROWS)), args.perturb)
        pictures["perturbation"] = images.transpose(0, 1).flatten(0, 1), len(images)
        note["perturbation"] = {"share": args.perturb, "draws": len(images) - 1}
    return pictures, note
