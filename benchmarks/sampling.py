"""Seconds that a number of images takes, sampled as `denoisezoo sample` does, weights untrained.

    python benchmarks/sampling.py ddpm_cifar10 --device cuda --dtype bfloat16 --samplers heun:18,ddpm:100 --num 1024

SAMPLER:STEPS; a name may carry options (dpmpp_2m, ddim:eta=0.5:50). A walk of the fewest steps comes first, so that the
choice of kernels and the compiler stay out of the time. Rows are written as they come.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from csv_rows import append, origin

from denoisezoo.archs import compile_network, create_backbone
from denoisezoo.diffusion import create_sampler
from denoisezoo.diffusion.generate import generate
from denoisezoo.diffusion.network_denoiser import create_denoiser
from denoisezoo.profiling.counting import count
from denoisezoo.profiling.machine import device_name
from denoisezoo.profiling.setting import parse_dtype


def measure(text: str, args: argparse.Namespace) -> dict[str, Any]:
    """One row."""
    device = torch.device(args.device)
    name, _, steps = text.rpartition(":")
    torch.manual_seed(0)
    backbone = create_backbone(args.name)
    denoiser = create_denoiser(backbone, args.process).eval().to(device)
    backbone.to(parse_dtype(args.dtype))
    backbone.to(memory_format=torch.channels_last if args.channels_last else torch.contiguous_format)
    shape = denoiser.image_shape
    with torch.device("meta"):
        blank = create_backbone(args.name)
        macs = count(lambda: blank(torch.empty(1, *denoiser.latent_shape), torch.empty(1))).macs
    if args.compile:
        torch.compiler.reset()
        compile_network(backbone, dynamic=False)
    sampler, batch = create_sampler(name), min(args.batch_size, args.num)
    fewest = sampler.fewest(denoiser.process)
    generate(denoiser, sampler, batch, shape, steps=fewest, batch_size=batch, device=device)
    found = generate(denoiser, sampler, args.num, shape, steps=int(steps), batch_size=batch, device=device)
    return {
        "name": args.name,
        "process": args.process,
        "sampler": name,
        "steps": int(steps),
        "nfe": found.nfe,
        "num": args.num,
        "batch_size": batch,
        "dtype": args.dtype,
        "compiled": args.compile,
        "seconds": found.seconds,
        "images_per_s": args.num / found.seconds,
        "flop_per_s": 2 * macs * found.nfe * args.num / found.seconds,
        "device_name": device_name(device),
        "torch": torch.__version__,
        **origin(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("name", nargs="?", default="ddpm_cifar10")
    parser.add_argument("--process", default="vp_discrete")
    parser.add_argument("--samplers", default="heun:18,ddpm:100")
    parser.add_argument("--num", type=int, default=1024)
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--csv", type=Path)
    args = parser.parse_args()
    for text in args.samplers.split(","):
        row = measure(text, args)
        print(f"{text:12s} {row['seconds']:8.2f} s  {row['images_per_s']:8.1f} images/s", flush=True)
        if args.csv:
            append(args.csv, row)


if __name__ == "__main__":
    main()
