"""Latency of onnxruntime beside PyTorch eager and compiled: one process, calls of all in turns, and how equal they are.

python benchmarks/onnx_latency.py --csv results/onnx_cpu.csv
python benchmarks/onnx_latency.py --denoisers '*tiny*' --rounds 0 --part denoiser --process edm
"""

from __future__ import annotations

import argparse
import csv
import datetime
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import denoisezoo as dz
from denoisezoo.evaluation.card import ResultCard, device_name
from denoisezoo.interop import WRITERS
from denoisezoo.interop.onnx_file import open_session
from denoisezoo.interop.programs import Program, programs
from denoisezoo.interop.writer import Subject
from denoisezoo.plans import Plan
from denoisezoo.profiling.counting import count

DENOISERS = (
    "ddpm_cifar10",
    "ddpmpp_cifar10",
    "adm_imagenet64",
    "missing_u_fast_64",
    "slim_ddpm_cifar10",
    "multiscale_128",
    "dit_small32",
    "edm2_small32",
)
WARM_UP = 2


def lively(name: str, process: str) -> dz.diffusion.NetworkDenoiser:
    """A denoiser with fresh weights, none of them zero, so that every layer counts."""
    torch.manual_seed(0)
    made = dz.create_denoiser(name, process)
    with torch.no_grad():
        for weight in made.backbone.parameters():
            weight.add_(0.02 * torch.randn_like(weight))
    return made.eval()


def subject_of(name: str, process: str | None, part: str) -> Subject:
    """What is exported: every effort of the network."""
    stages = len(dz.create_backbone(name).resolutions)
    made = lively(name, process or ("multiscale" if stages > 1 else "vp_discrete"))
    efforts = made.efforts
    plan = Plan(efforts, tuple(float(i) for i in range(len(efforts) - 1))) if len(efforts) > 1 else None
    return Subject(name=name, denoiser=made, about={}, part=part, plan=plan)


def contenders(
    program: Program, file: Path, batch: int, modes: list[str], threads: int
) -> dict[str, Callable[[], Any]]:
    """Calls of the same numbers, by what makes them."""
    inputs = program.draw(batch)
    calls: dict[str, Callable[[], Any]] = {}
    module = program.module
    for mode in modes:
        if mode == "onnxruntime":
            session = open_session(file, threads)
            feed = {name: x.numpy() for name, x in zip(program.names, inputs, strict=True)}
            calls[mode] = lambda session=session, feed=feed: session.run(None, feed)
        elif mode == "compiled":
            compiled = torch.compile(module, dynamic=False)
            calls[mode] = lambda compiled=compiled: compiled(*inputs)
        else:
            calls[mode] = lambda: module(*inputs)
    return calls


def timed(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each call, all of them in turns; the first ones are thrown away."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds + WARM_UP):
        for name, call in calls.items():
            begin = time.perf_counter()
            call()
            times[name].append(1e3 * (time.perf_counter() - begin))
    return {name: found[WARM_UP:] for name, found in times.items()}


@torch.inference_mode()
def measure(subject: Subject, args: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows of one network: one for each effort, stage and batch size."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        with torch.inference_mode(False):
            written = WRITERS["onnx"]().write(subject, Path(folder))
        for program, file in zip(programs(subject), written, strict=True):
            program.module.to(memory_format=torch.channels_last)
            for batch in args.batch_sizes if args.rounds else [1]:
                calls = contenders(program, Path(folder) / file.path, batch, args.modes, torch.get_num_threads())
                times = timed(calls, args.rounds) if args.rounds else {}
                rows.append(row_of(subject, program, batch, times, args) | {"difference": file.difference})
                print(text_of(rows[-1], args.modes), flush=True)
                torch.compiler.reset()
    return rows


def row_of(
    subject: Subject, program: Program, batch: int, times: dict[str, list[float]], args: argparse.Namespace
) -> dict[str, Any]:
    """A row with its card; ratios are medians over rounds of onnxruntime over the other in the same round."""
    inputs: tuple[Tensor, ...] = program.draw(1)
    row: dict[str, Any] = {
        "denoiser": subject.name,
        "part": subject.part,
        "effort": program.effort,
        "pixels": program.side,
        "batch_size": batch,
        "macs": count(lambda: program.module(*inputs)).macs,
        "rounds": args.rounds,
    }
    for mode in args.modes:
        found = times.get(mode)
        row[f"{mode}_ms"] = statistics.median(found) if found else None
        row[f"{mode}_min_ms"] = min(found) if found else None
    for mode in [mode for mode in args.modes if mode != "onnxruntime"]:
        ratios = [a / b for a, b in zip(times.get("onnxruntime", []), times.get(mode, []), strict=True)]
        row[f"over_{mode}"] = statistics.median(ratios) if ratios else None
    card = ResultCard.here().as_dict()
    row |= {"threads": torch.get_num_threads(), "device_name": device_name("cpu"), "torch": torch.__version__}
    row |= {name: __import__(name).__version__ for name in ("onnx", "onnxruntime", "onnxscript")}
    row |= {"git_commit": card["git_commit"], "date": datetime.date.today().isoformat()}
    return row | {"command": shlex.join(["python", *sys.argv])}


def text_of(row: dict[str, Any], modes: list[str]) -> str:
    """A row for the screen."""
    shown = f"{row['denoiser']:20s} effort {row['effort']:<5g} {row['pixels']:4d} px  batch {row['batch_size']}"
    for mode in modes:
        shown += f"  {mode} {row[f'{mode}_ms']:8.1f} ms" if row[f"{mode}_ms"] is not None else ""
    return f"{shown}  difference {row['difference']:.1e}"


def markdown(rows: list[dict[str, Any]], modes: list[str]) -> str:
    """The table of docs/results/onnx.md: median milliseconds of a call, ratios, and the largest difference."""
    others = [mode for mode in modes if mode != "onnxruntime"]
    head = ["network", "effort", "pixels", "batch", *(f"{mode} ms" for mode in modes)]
    head += [*(f"onnxruntime / {mode}" for mode in others), "difference"]
    lines = [head, ["---"] * len(head)]
    for row in rows:
        known = [f"`{row['denoiser']}`", f"{row['effort']:g}", str(row["pixels"]), str(row["batch_size"])]
        numbers = [*(row[f"{mode}_ms"] for mode in modes), *(row[f"over_{mode}"] for mode in others)]
        forms = ["{:.1f}"] * len(modes) + ["{:.2f}"] * len(others)
        known += ["-" if x is None else form.format(x) for x, form in zip(numbers, forms, strict=True)]
        lines.append([*known, f"{row['difference']:.1e}"])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    """Measure, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--denoisers", nargs="+", default=DENOISERS, help="names or patterns")
    parser.add_argument("--process", help="vp_discrete, or multiscale for networks of several sizes")
    parser.add_argument("--part", choices=("network", "denoiser"), default="network")
    parser.add_argument("--modes", nargs="+", default=["eager", "compiled", "onnxruntime"])
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--rounds", type=int, default=15, help="calls of each; 0 compares outputs alone")
    parser.add_argument("--csv", type=Path)
    args = parser.parse_args()
    names = list(dict.fromkeys(name for pattern in args.denoisers for name in dz.list_denoisers(pattern)))
    rows: list[dict[str, Any]] = []
    for name in names:
        rows += measure(subject_of(name, args.process, args.part), args)
        if args.csv:  # what is measured stays, whatever ends this
            args.csv.parent.mkdir(parents=True, exist_ok=True)
            with args.csv.open("w", newline="") as file:
                writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
                writer.writeheader()
                writer.writerows(rows)
    print(markdown(rows, args.modes))


if __name__ == "__main__":
    main()
