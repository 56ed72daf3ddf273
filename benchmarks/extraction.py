"""How much of the multiply-adds that a plan saves is saved in time: full and planned sampling in turns, one process.

python benchmarks/extraction.py --csv results/extraction_cpu.csv
python benchmarks/extraction.py --calls --batch-sizes 32 --modes contiguous,channels_last,compiled --rounds 9 \
  --csv results/extraction_calls_cpu.csv
"""

from __future__ import annotations

import argparse
import csv
import datetime
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from denoisezoo.archs import create_backbone
from denoisezoo.diffusion import NetworkDenoiser, create_sampler
from denoisezoo.diffusion.network_denoiser import create_denoiser
from denoisezoo.evaluation.card import device_name
from denoisezoo.plans import Plan, extracted, find_plan
from denoisezoo.profiling.counting import count
from denoisezoo.profiling.trajectory import ConstantPlan, counting_copy, trace

TARGETS = {1: 0.90, 8: 0.95, 32: 1.0}
STEPS = {1: 40, 8: 20, 32: 10}


def macs_saved(denoiser: NetworkDenoiser, u_T: torch.Tensor, steps: int, plan: Plan) -> float:
    sampler = create_sampler("ddim")
    counted = counting_copy(denoiser)
    full, planned = (
        trace(counted, sampler, u_T[:1].cpu(), steps=steps, plan=p, timed=False).macs_per_image
        for p in (ConstantPlan(1.0), plan)
    )
    return 1 - planned / full


def seconds(run: Callable[[], object], device: torch.device) -> float:
    begin = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def prepared(name: str, mode: str, device: torch.device) -> NetworkDenoiser:
    torch.manual_seed(0)
    denoiser = create_denoiser(create_backbone(name), "vp_discrete").eval().to(device)
    last = mode in ("channels_last", "compiled")
    denoiser.backbone.to(memory_format=torch.channels_last if last else torch.contiguous_format)
    return denoiser


def measure(name: str, plan_name: str, batch: int, mode: str, rounds: int, device: torch.device) -> dict[str, object]:
    plan, denoiser = find_plan(plan_name), prepared(name, mode, device)
    steps, sampler = STEPS[batch], create_sampler("ddim")
    fast = denoiser if mode == "sliced" else extracted(denoiser, {*plan.efforts, 1.0}, compile=mode == "compiled")
    u_T = sampler.prior(denoiser.process, (batch, 3, 32, 32), steps, dtype=torch.float32, device=device)
    for chosen in (None, plan):
        sampler(fast, u_T, steps=steps, plan=chosen)
    times: dict[str, list[float]] = {"full": [], "planned": []}
    for _ in range(rounds):
        for which, chosen in (("full", None), ("planned", plan)):
            times[which].append(seconds(lambda p=chosen: sampler(fast, u_T, steps=steps, plan=p), device))  # type: ignore[misc]
    ratios = [planned / full for full, planned in zip(times["full"], times["planned"], strict=True)]
    saved, time_saved = macs_saved(denoiser, u_T, steps, plan), 1 - statistics.median(ratios)
    return {
        "denoiser": name,
        "plan": plan_name,
        "mode": mode,
        "batch_size": batch,
        "steps": steps,
        "rounds": rounds,
        "full_ms_per_image": 1e3 * statistics.median(times["full"]) / batch,
        "planned_ms_per_image": 1e3 * statistics.median(times["planned"]) / batch,
        "macs_saved": saved,
        "time_saved": time_saved,
        "time_saved_lowest": 1 - max(ratios),
        "time_saved_highest": 1 - min(ratios),
        "share_of_macs_saved": time_saved / saved,
        "target": TARGETS[batch],
        "threads": torch.get_num_threads(),
        "device_name": device_name(str(device)),
        "torch": torch.__version__,
        **origin(),
    }


def origin() -> dict[str, object]:
    """When and by what command a row was made."""
    return {"date": datetime.date.today().isoformat(), "command": shlex.join(["python", *sys.argv])}


def append(path: Path, rows: list[dict[str, object]]) -> None:
    """Add rows to a file, which may hold those of other machines and runs."""
    begun = path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        if not begun:
            writer.writeheader()
        writer.writerows(rows)


@torch.no_grad()
def call_rows(name: str, batch: int, mode: str, rounds: int, device: torch.device) -> list[dict[str, object]]:
    """Single calls of every width in turns: the fastest of each, so that what else the machine did is left out."""
    denoiser = prepared(name, mode, device)
    efforts = sorted(denoiser.efforts, reverse=True)
    fast = denoiser if mode == "sliced" else extracted(denoiser, set(efforts), compile=mode == "compiled")
    shape = (batch, 3, 32, 32)
    x, c_noise = torch.randn(shape, device=device), torch.full((batch,), 500.0, device=device)
    times: dict[float, list[float]] = {effort: [] for effort in efforts}
    for _ in range(rounds + 1):
        for effort in efforts:
            times[effort].append(seconds(lambda e=effort: fast.backbone(x, c_noise, effort=e), device))  # type: ignore[misc]
    macs = {e: count(lambda e=e: denoiser.backbone(x[:1], c_noise[:1], effort=e)).macs for e in efforts}  # type: ignore[misc]
    least = {effort: min(found[1:]) for effort, found in times.items()}
    full = efforts[0]
    return [
        {
            "denoiser": name,
            "mode": mode,
            "batch_size": batch,
            "effort": effort,
            "rounds": rounds,
            "ms_per_image": 1e3 * least[effort] / batch,
            "macs": macs[effort],
            "macs_per_s": macs[effort] * batch / least[effort],
            "time_over_macs": (least[effort] / least[full]) / (macs[effort] / macs[full]),
            "threads": torch.get_num_threads(),
            "device_name": device_name(str(device)),
            "torch": torch.__version__,
            **origin(),
        }
        for effort in efforts
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--denoiser", default="slim_ddpm_cifar10")
    parser.add_argument("--plan", default="ddsm_cifar10")
    parser.add_argument("--modes", default="sliced,contiguous,channels_last,compiled")
    parser.add_argument("--batch-sizes", default="1,8,32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--calls", action="store_true", help="single calls of every width instead of sampling")
    parser.add_argument("--csv", type=Path)
    args = parser.parse_args()
    rows: list[dict[str, object]] = []
    for batch in map(int, args.batch_sizes.split(",")):
        for mode in args.modes.split(","):
            if args.calls:
                rows += (found := call_rows(args.denoiser, batch, mode, args.rounds, torch.device(args.device)))
                for call in found:
                    print(
                        f"batch {batch:2d}  {mode:13s} effort {call['effort']:<5g} {call['ms_per_image']:7.1f} ms  "
                        f"time over MACs {call['time_over_macs']:.3f}",
                        flush=True,
                    )
                continue
            row = measure(args.denoiser, args.plan, batch, mode, args.rounds, torch.device(args.device))
            rows.append(row)
            print(
                f"batch {batch:2d}  {mode:13s} full {row['full_ms_per_image']:7.0f} ms  planned "
                f"{row['planned_ms_per_image']:7.0f} ms  "
                f"saved: time {row['time_saved']:.3f}, MACs {row['macs_saved']:.3f}, "
                f"ratio {row['share_of_macs_saved']:.3f} (target {row['target']})",
                flush=True,
            )
    if args.csv:
        append(args.csv, rows)


if __name__ == "__main__":
    main()
