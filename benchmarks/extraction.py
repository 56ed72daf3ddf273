"""How much of the multiply-adds that a plan saves is saved in time: full and planned sampling in turns, one process.

python benchmarks/extraction.py --csv results/extraction_cpu.csv
python benchmarks/extraction.py --calls --batch-sizes 32 --modes contiguous,channels_last,compiled --rounds 9 \
  --csv results/extraction_calls_cpu.csv
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from csv_rows import append, origin

from denoisezoo.archs import create_backbone
from denoisezoo.diffusion import NetworkDenoiser, create_sampler
from denoisezoo.diffusion.network_denoiser import create_denoiser
from denoisezoo.evaluation.card import device_name
from denoisezoo.plans import Plan, extracted, find_plan
from denoisezoo.profiling.counting import count
from denoisezoo.profiling.setting import parse_dtype
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


def prepared(name: str, mode: str, device: torch.device, dtype: torch.dtype) -> NetworkDenoiser:
    torch.manual_seed(0)
    denoiser = create_denoiser(create_backbone(name), "vp_discrete").eval().to(device)
    denoiser.backbone.to(dtype)
    last = mode in ("channels_last", "compiled")
    denoiser.backbone.to(memory_format=torch.channels_last if last else torch.contiguous_format)
    return denoiser


def measure(
    args: argparse.Namespace, batch: int, mode: str, device: torch.device, dtype: torch.dtype
) -> dict[str, object]:
    name, plan_name, rounds = args.denoiser, args.plan, args.rounds
    plan, denoiser = find_plan(plan_name), prepared(name, mode, device, dtype)
    steps, sampler = args.steps or STEPS.get(batch, 10), create_sampler("ddim")
    fast = denoiser if mode == "sliced" else extracted(denoiser, {*plan.efforts, 1.0}, compile=mode == "compiled")
    u_T = sampler.prior(denoiser.process, (batch, *denoiser.image_shape), steps, dtype=torch.float32, device=device)
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
        "target": TARGETS.get(batch),
        "dtype": str(dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "device_name": device_name(str(device)),
        "torch": torch.__version__,
        **origin(),
    }


@torch.no_grad()
def call_rows(
    name: str, batch: int, mode: str, rounds: int, device: torch.device, dtype: torch.dtype
) -> list[dict[str, object]]:
    """Single calls of every width in turns: the fastest of each, so that what else the machine did is left out."""
    denoiser = prepared(name, mode, device, dtype)
    efforts = sorted(denoiser.efforts, reverse=True)
    fast = denoiser if mode == "sliced" else extracted(denoiser, set(efforts), compile=mode == "compiled")
    shape = (batch, *denoiser.image_shape)
    x, c_noise = torch.randn(shape, device=device, dtype=dtype), torch.full((batch,), 500.0, device=device)
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
            "dtype": str(dtype).removeprefix("torch."),
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
    parser.add_argument("--steps", type=int, help=f"of the sampler; by batch size unless given: {STEPS}")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--calls", action="store_true", help="single calls of every width instead of sampling")
    parser.add_argument("--csv", type=Path)
    args = parser.parse_args()
    where = torch.device(args.device), parse_dtype(args.dtype)
    for batch in map(int, args.batch_sizes.split(",")):
        for mode in args.modes.split(","):
            if args.calls:
                for call in call_rows(args.denoiser, batch, mode, args.rounds, *where):
                    if args.csv:
                        append(args.csv, call)
                    print(
                        f"batch {batch:2d}  {mode:13s} effort {call['effort']:<5g} {call['ms_per_image']:7.1f} ms  "
                        f"time over MACs {call['time_over_macs']:.3f}",
                        flush=True,
                    )
                continue
            row = measure(args, batch, mode, *where)
            if args.csv:
                append(args.csv, row)
            print(
                f"batch {batch:2d}  {mode:13s} full {row['full_ms_per_image']:7.0f} ms  planned "
                f"{row['planned_ms_per_image']:7.0f} ms  "
                f"saved: time {row['time_saved']:.3f}, MACs {row['macs_saved']:.3f}, "
                f"ratio {row['share_of_macs_saved']:.3f} (target {row['target']})",
                flush=True,
            )


if __name__ == "__main__":
    main()
