"""How far samplers end from the exact probability flow, at equal calls: a mixture of Gaussians fitted to real digits.

The denoiser is exact, so that what is left is the sampler's and its grid's own error. One Gaussian for each of the ten
digits, of 8x8 scans; the truth is a walk of 1,000 calls by `deis:order=3`, which 500 calls of it agree with.

python benchmarks/sampler_errors.py --csv results/sampler_errors_cpu.csv
"""

from __future__ import annotations

import argparse
import csv
import datetime
import shlex
import sys
from pathlib import Path

import torch
from torch import Tensor

from denoisezoo.data import Digits
from denoisezoo.diffusion import EDM, MixtureOracle, ScalarProcess, VPDiscrete, create_sampler
from denoisezoo.evaluation.card import device_name

PROCESSES: dict[str, ScalarProcess] = {"vp_discrete": VPDiscrete(between="fraction"), "edm": EDM()}
SAMPLERS = [
    *("ddim", "gddim:q=3", "dpmpp_2m", "dpmpp_3m", "dpmpp_3m:exact=true"),
    *("deis:order=2", "deis:order=3", "unipc:order=2", "unipc:order=3"),
]
GRIDS = ["multistep_linspace", "karras", "exponential", "beta", "ays_sd15", "ays_sdxl", "ays_svd"]
CALLS = [6, 10, 20, 50]
TRUTH = "deis:order=3,time_grid=karras"


def mixture(process: ScalarProcess) -> MixtureOracle:
    """One Gaussian for each digit; a thousandth of the pixels' mean variance is added to every pixel's."""
    items = Digits(resolution=8, labels=True).items("train")
    images = torch.stack([items[i]["image"] for i in range(len(items))]) / 127.5 - 1
    labels = torch.tensor([int(items[i]["label"]) for i in range(len(items))])
    groups = [images.double()[labels == label] for label in labels.unique()]
    covariances = torch.stack([torch.cov(group.flatten(1).T) for group in groups])
    least = covariances.diagonal(dim1=1, dim2=2).mean() / 1000 * torch.eye(covariances.shape[-1], dtype=torch.float64)
    return MixtureOracle(process, torch.stack([group.mean(0) for group in groups]), covariances + least)


def walk(oracle: MixtureOracle, spec: str, steps: int, noise: Tensor) -> Tensor:
    """The images that a sampler makes of `noise`, at whatever level its grid begins."""
    sampler = create_sampler(spec)
    first = sampler.grid(oracle.process, steps)[:1]
    return sampler(oracle, noise * oracle.process.sigma(first), steps=steps).images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--csv", type=Path, required=True)
    parser.add_argument("--num", type=int, default=32)
    args = parser.parse_args()
    rows = []
    for name, process in PROCESSES.items():
        oracle = mixture(process)
        noise = torch.randn(args.num, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        truth, check = (walk(oracle, TRUTH, steps, noise) for steps in (1000, 500))
        print(f"{name}: truth and half as many calls differ by {(truth - check).pow(2).mean().sqrt():.1e}")
        for grid in GRIDS:
            for spec in SAMPLERS:
                errors = {}
                setting = {"process": name, "time_grid": grid, "sampler": spec}
                for calls in CALLS:
                    sampler = f"{spec}{',' if ':' in spec else ':'}time_grid={grid}"
                    errors[calls] = (walk(oracle, sampler, calls, noise) - truth).pow(2).mean().sqrt().item()
                    rows.append(setting | {"calls": calls, "rmse": errors[calls]})
                print(name, grid, spec, *(f"{error:.1e}" for error in errors.values()), flush=True)
    card = {
        "data": "digits 8x8, train, one Gaussian a class",
        "num": args.num,
        "seed": 0,
        "truth": f"{TRUTH}, 1000 calls",
        "device_name": device_name("cpu"),
        "torch": torch.__version__,
        "date": datetime.date.today().isoformat(),
        "command": shlex.join(["python", *sys.argv]),
    }
    with args.csv.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], *card], lineterminator="\n")
        writer.writeheader()
        writer.writerows(row | card for row in rows)


if __name__ == "__main__":
    main()
