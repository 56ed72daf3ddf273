"""Time of our transformers over that of others of the same shape, in turns, in one process.

timm's VisionTransformer has the same tokens, widths, heads and feed-forward layers, and neither noise level nor way
back to pixels, so that a ratio of 1 is what a denoiser can hope for. With a checkout of facebookresearch/DiT the other
side is the DiT of its authors, which has both. Ratios are medians over rounds of which each runs both.

python benchmarks/backbones.py --csv results/backbones_cpu.csv
python benchmarks/backbones.py dit_s_2 dit_small32 --authors path/to/DiT --csv results/backbones_authors_cpu.csv
python benchmarks/backbones.py dit_small32 --modes eager --batch-sizes 1 --rounds 5
"""

from __future__ import annotations

import argparse
import csv
import datetime
import importlib
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from denoisezoo.archs import Backbone, compile_network, create_backbone
from denoisezoo.evaluation.card import device_name
from denoisezoo.nn.given import Given
from denoisezoo.profiling.counting import count

NAMES = ("dit_s_2", "sit_s_2", "lightningdit_small32", "jit_small32", "ddt_small32", "uvit_small32")


def peer_of(ours: Backbone) -> nn.Module:
    """timm's transformer with the tokens and sizes of one of ours; U-ViT's block in the middle is counted."""
    from timm.models.vision_transformer import VisionTransformer

    config = ours.config
    return VisionTransformer(
        img_size=config.resolution,
        patch_size=config.patch,
        in_chans=config.in_channels,
        embed_dim=config.width,
        depth=config.depth + hasattr(ours, "middle"),
        num_heads=config.heads,
        mlp_ratio=config.mlp_ratio,
        class_token=False,
        global_pool="",
        num_classes=0,
    )


def authors_of(ours: Backbone, checkout: Path) -> nn.Module:
    """The authors' DiT of the sizes of ours, with a label where ours may have none."""
    sys.path.insert(0, str(checkout))
    network_class = importlib.import_module("models").DiT
    config = ours.config
    network: nn.Module = network_class(
        input_size=config.resolution,
        patch_size=config.patch,
        in_channels=config.in_channels,
        hidden_size=config.width,
        depth=config.depth,
        num_heads=config.heads,
        mlp_ratio=config.mlp_ratio,
        num_classes=max(1, config.num_classes),
        learn_sigma=config.out_channels == 2 * config.in_channels,
    )
    return network


def seconds(run: Callable[[], object], device: torch.device, calls: int) -> float:
    begin = time.perf_counter()
    for _ in range(calls):
        run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - begin) / calls


def measure(
    name: str, mode: str, batch: int, rounds: int, device: torch.device, authors: Path | None
) -> dict[str, object]:
    torch.manual_seed(0)
    ours = create_backbone(name).eval().requires_grad_(False).to(device)
    peer = peer_of(ours) if authors is None else authors_of(ours, authors)
    theirs = peer.eval().requires_grad_(False).to(device)
    spec = ours.spec
    x = torch.randn(batch, spec.in_channels, spec.resolution, spec.resolution, device=device)
    c_noise = torch.full((batch,), 500.0, device=device)
    label = torch.zeros(batch, dtype=torch.int64, device=device)
    given = Given(label=label if spec.num_classes else None)
    words = () if authors is None else (c_noise, label)
    macs = [count(call).macs // batch for call in (lambda: ours(x, c_noise, given), lambda: theirs(x, *words))]
    if mode == "compiled":
        compile_network(ours, dynamic=False)
        theirs.compile(dynamic=False)

    def run_ours() -> Tensor:
        return ours(x, c_noise, given)

    def run_theirs() -> Tensor:
        return theirs(x, *words)

    with torch.inference_mode():
        calls = max(
            1, round(0.2 / max(seconds(run, device, 1) for run in (run_ours, run_theirs, run_ours, run_theirs)))
        )
        pairs = [(seconds(run_ours, device, calls), seconds(run_theirs, device, calls)) for _ in range(rounds)]
    return {
        "name": name,
        "theirs": "timm's VisionTransformer" if authors is None else "DiT of its authors",
        "mode": mode,
        "batch_size": batch,
        "ours_ms": 1000 * statistics.median(mine for mine, _ in pairs),
        "theirs_ms": 1000 * statistics.median(peer for _, peer in pairs),
        "ratio": statistics.median(mine / peer for mine, peer in pairs),
        "ratio_per_mac": statistics.median(mine / peer for mine, peer in pairs) * macs[1] / macs[0],
        "rounds": rounds,
        "device_name": device_name(str(device)),
        "torch": torch.__version__,
        "date": datetime.date.today().isoformat(),
        "command": shlex.join(["python", *sys.argv]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", default=NAMES)
    parser.add_argument("--modes", default="eager,compiled")
    parser.add_argument("--batch-sizes", default="1,8")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--authors", type=Path, help="checkout of facebookresearch/DiT to compare with")
    parser.add_argument("--csv", type=Path)
    args = parser.parse_args()
    device, rows = torch.device(args.device), []
    for name in args.names:
        for mode in args.modes.split(","):
            for batch in map(int, args.batch_sizes.split(",")):
                torch.compiler.reset()
                row = measure(name, mode, batch, args.rounds, device, args.authors)
                rows.append(row)
                print(
                    f"{name:22} {mode:9} batch {batch:3}  ours {row['ours_ms']:8.2f} ms"
                    f"  theirs {row['theirs_ms']:8.2f} ms  ratio {row['ratio']:.2f}"
                    f"  per multiply-add {row['ratio_per_mac']:.2f}"
                )
    if args.csv:
        with args.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
