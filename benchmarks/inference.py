"""Latency of a network's call, by layout and compiler, and of diffusers' network of the same shape where there is one.

    python benchmarks/inference.py ddpm_cifar10 --device cuda --batch-size 64 --dtype bfloat16 --csv results/x.csv

Modes: eager, compiled, and graphs (compiled, replayed as a CUDA graph). diffusers' UNet2DModel is timed in the same
mode, in its own layout, for networks of DDPM's family, and left out with a line where diffusers is not installed. Rows
are written as they come.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from csv_rows import append, origin
from torch import nn

from denoisezoo.archs import Backbone, compile_network, create_backbone
from denoisezoo.profiling.latency import latency
from denoisezoo.profiling.machine import device_name
from denoisezoo.profiling.setting import parse_dtype

LAYOUTS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}
MODES: dict[str, dict[str, Any] | None] = {
    "eager": None,
    "compiled": {"dynamic": False},
    "graphs": {"dynamic": False, "mode": "reduce-overhead"},
}


def networks(name: str, device: torch.device, dtype: torch.dtype) -> Iterator[tuple[str, nn.Module]]:
    """Whose, and the network: ours in each layout, then diffusers'."""
    for layout, memory_format in LAYOUTS.items():
        torch.manual_seed(0)
        ours = create_backbone(name).eval().to(device, dtype, memory_format=memory_format)
        yield f"ours {layout}", ours
    if importlib.util.find_spec("diffusers") is None:
        print("diffusers is not installed: its network is left out", flush=True)
        return
    config = create_backbone(name).config
    if getattr(config, "norm_groups", None) is None:
        print(f"diffusers has no network of the shape of {name}", flush=True)
        return
    from peers import build_peer

    theirs = build_peer(config).eval().to(device, dtype)
    yield "diffusers", theirs


def measure(whose: str, net: nn.Module, mode: str, args: argparse.Namespace) -> dict[str, Any]:
    """One row."""
    device, dtype = torch.device(args.device), parse_dtype(args.dtype)
    config = create_backbone(args.name).config
    x = torch.randn(args.batch_size, config.in_channels, config.resolution, config.resolution)
    x = x.to(device, dtype, memory_format=LAYOUTS["nhwc" if whose.endswith("nhwc") else "nchw"])
    t = torch.randint(1000, (args.batch_size,), device=device).float()
    torch.compiler.reset()
    if (options := MODES[mode]) is not None:
        compile_network(net, **options) if isinstance(net, Backbone) else net.compile(**options)
    with torch.inference_mode():
        found = latency(lambda: net(x, t), device, runs=args.runs, warmup=4, seconds=1.0)
    return {
        "name": args.name,
        "network": whose,
        "mode": mode,
        "dtype": args.dtype,
        "batch_size": args.batch_size,
        "ms": found.median,
        "ms_p10": found.p10,
        "ms_p90": found.p90,
        "runs": found.runs,
        "images_per_s": 1e3 * args.batch_size / found.median,
        "device_name": device_name(device),
        "torch": torch.__version__,
        **origin(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("name", nargs="?", default="ddpm_cifar10")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--modes", default="eager,compiled", help=", ".join(MODES))
    parser.add_argument("--runs", type=int, help="timed calls (as many as fit into a second)")
    parser.add_argument("--csv", type=Path)
    args = parser.parse_args()
    where = torch.device(args.device), parse_dtype(args.dtype)
    for mode, (whose, net) in itertools.product(args.modes.split(","), networks(args.name, *where)):
        row = measure(whose, net, mode, args)
        print(f"{whose:12s} {mode:9s} {row['ms']:9.2f} ms  {row['images_per_s']:8.0f} images/s", flush=True)
        if args.csv:
            append(args.csv, row)


if __name__ == "__main__":
    main()
