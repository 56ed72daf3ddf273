"""Singular values of a float64 matrix on a GPU and on the CPU, by size: where `frechet.DEVICE_FROM` should lie.

python benchmarks/frechet.py --device cuda --sizes 256,512,1024,2048 --csv results/frechet_h200.csv
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from csv_rows import append, origin

from denoisezoo.profiling.latency import timer
from denoisezoo.profiling.machine import device_name


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--sizes", default="256,512,1024,2048")
    parser.add_argument("--csv", type=Path)
    args = parser.parse_args()
    for size in map(int, args.sizes.split(",")):
        matrix = torch.randn(size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(size))
        row: dict[str, object] = {"size": size}
        for name in dict.fromkeys(["cpu", args.device]):
            there = matrix.to(name)
            timed = timer(torch.device(name))
            row[f"{name}_ms"] = min(timed(lambda there=there: torch.linalg.svdvals(there)) for _ in range(2))  # type: ignore[misc]
        print("  ".join(f"{key} {value:.4g}" for key, value in row.items()), flush=True)
        if args.csv:
            append(args.csv, row | {"device_name": device_name(torch.device(args.device)), **origin()})


if __name__ == "__main__":
    main()
