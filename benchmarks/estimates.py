"""What the parts of benchmarks/gpu.sh should take on an H200, from counted work, before one has been seen there.

    python benchmarks/estimates.py --csv results/gpu_estimates.csv

Operators are counted on the meta device, by what they do: floating-point operations of products and convolutions, bytes
of all others, and launches. An eager step takes the longer of two times: what the device computes and moves, and what
the host takes to start operators. A compiled one moves half of the bytes of what is no product, and starts a quarter of
the operators, which is assumed. Beside the steps stand the start of each process and compilation, which is assumed,
too. The first real run is there to correct the constants below.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from denoisezoo.archs import Backbone, create_backbone
from denoisezoo.nn.given import Given
from denoisezoo.profiling.counting import count

PRODUCTS = 0.5 * 788e12
"""FLOP/s: half of what an 8192 x 8192 bf16 product reached there; convolutions of 128 to 256 channels fill less."""
COPY = 4.3e12
"""Bytes/s read and written, as a large copy reached there."""
LAUNCH = 5e-6
"""Seconds of the host for an operator."""
START = 10.0
"""Seconds until a process has imported torch and Lightning and made a context."""
COMPILE = 0.03
"""Seconds of compilation for an operator that is traced."""
DECODE = 4000.0
"""JPEG files of 32x32 a second, one thread."""
TRAIN_STEPS = 2 * 30 + 10
"""Of train_step.py --block 5 --rounds 5 --warmup 5, both sides."""


@dataclass(frozen=True)
class Work:
    """Of a call: floating-point operations, bytes of all that is no product, operators."""

    flops: float
    moved: float
    operators: float

    def __add__(self, other: Work) -> Work:
        return Work(self.flops + other.flops, self.moved + other.moved, self.operators + other.operators)

    def times(self, number: float) -> Work:
        """So many calls, of which each is started anew."""
        return Work(self.flops * number, self.moved * number, self.operators * number)

    def eager(self) -> float:
        """Seconds."""
        return max(self.flops / PRODUCTS + self.moved / COPY, self.operators * LAUNCH)

    def compiled(self) -> float:
        """Seconds."""
        return max(self.flops / PRODUCTS + self.moved / 2 / COPY, self.operators / 4 * LAUNCH)

    def compilation(self) -> float:
        """Seconds."""
        return self.operators * COMPILE


class Operators(TorchDispatchMode):
    """Counts what the host starts: views start nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.started = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.started += not func.is_view
        return func(*args, **(kwargs or {}))


def observed(call: Callable[[], Any]) -> Work:
    """The work of a call on the meta device."""
    counts = count(call)
    with Operators() as operators:
        call()
    return Work(counts.flops, counts.bytes_elementwise, operators.started)


def network(name: str) -> tuple[Backbone, Callable[[int, Any], torch.Tensor]]:
    """A network in bfloat16 on the meta device, and its call on a batch at an effort."""
    with torch.device("meta"):
        net = create_backbone(name).bfloat16()

    def call(batch: int, effort: Any = None) -> torch.Tensor:
        shape = (batch, net.spec.in_channels, net.spec.resolution, net.spec.resolution)
        with torch.device("meta"):
            given = Given(label=torch.zeros(batch, dtype=torch.int64)) if net.spec.num_classes else Given()
            if net.spec.augment_dim:
                given = given._replace(augment=torch.zeros(batch, net.spec.augment_dim))
            return net(torch.empty(shape, dtype=torch.bfloat16), torch.empty(batch), given, effort)

    return net, call


def inference(name: str, batch: int, effort: Any = None) -> Work:
    """A call without gradients."""
    _, call = network(name)
    with torch.no_grad():
        return observed(lambda: call(batch, effort))


def training(name: str, batch: int) -> Work:
    """Forward, backward, and AdamW's step in a few launches: weights, gradients, two moments, an average, float32."""
    net, call = network(name)
    parameters = sum(p.numel() for p in net.parameters())
    return observed(lambda: call(batch, None).sum().backward()) + Work(0, 4 * 10 * parameters, 40)


def parts() -> dict[str, tuple[float, str]]:
    """Seconds of each part, and what they are made of."""
    step, call = training("ddpm_cifar10", 512), inference("ddpm_cifar10", 64)
    walk, single = inference("ddpm_cifar10", 512), inference("ddpm_cifar10", 1)
    adm, family = training("adm_imagenet64", 64), training("ddpm_small32", 256)
    slim = [inference("slim_ddpm_cifar10", batch) for batch in (1, 64)]
    drawn = inference("ddpm_small32", 512).times(35 * 5000 / 512)
    sampled = walk.times((35 + 100 + 35 / 18 + 2) * 2)
    full_and_planned = 1.6 * 20 * 4 * sum(work.eager() for work in slim)  # DDSM's plan has 0.52 of the multiply-adds
    return {
        "tests": (2 * START + 30.0, "two starts of pytest; the tests are small: launches, by guess"),
        "eager": (
            START + 2 * TRAIN_STEPS * step.eager(),
            f"{2 * TRAIN_STEPS} steps of {1e3 * step.eager():.0f} ms: {step.flops / 1e12:.1f} TFLOP, "
            f"{step.moved / 1e9:.0f} GB, {step.operators:.0f} operators",
        ),
        "compiled": (
            START + 2 * step.compilation() + 2 * TRAIN_STEPS * step.compiled(),
            f"{2 * TRAIN_STEPS} steps of {1e3 * step.compiled():.0f} ms; compiled twice, {step.compilation():.0f} s",
        ),
        "inference": (
            START + 4 * call.compilation() + 6 * 2 * 1.0,
            f"a call {1e3 * call.eager():.1f} ms eager ({call.operators:.0f} operators), "
            f"{1e3 * call.compiled():.1f} ms compiled; compiled 4 times, {call.compilation():.0f} s; 2 s for each row",
        ),
        "sampling": (
            START + sampled.eager(),
            f"2 batches of 512 x 139 calls of {1e3 * walk.eager():.0f} ms; one of a batch of 1 is "
            f"{1e3 * single.eager():.1f} ms",
        ),
        "extraction": (
            START + 3 * full_and_planned,
            f"3 modes x 4 rounds x 20 steps, full and planned: calls of {1e3 * slim[0].eager():.1f} ms at batch 1 and "
            f"{1e3 * slim[1].eager():.1f} ms at 64",
        ),
        "adm": (
            START + TRAIN_STEPS * adm.eager(),
            f"{TRAIN_STEPS} steps of {1e3 * adm.eager():.0f} ms: {adm.flops / 1e12:.1f} TFLOP, "
            f"{adm.moved / 1e9:.0f} GB, {adm.operators:.0f} operators",
        ),
        "family": (
            2 * START + 50_000 / DECODE + 60 + drawn.eager() + 10 + 10,
            f"50,000 files decoded at {DECODE:.0f}/s, 60 s of steps of {1e3 * family.eager():.0f} ms, 35 calls for "
            f"each of 5,000 images ({drawn.eager():.1f} s), figures 10 s, matrices 10 s",
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--csv", type=Path)
    args = parser.parse_args()
    rows = [(part, f"{seconds:.0f}", made_of) for part, (seconds, made_of) in parts().items()]
    for part, seconds, made_of in rows:
        print(f"{part:11s} {seconds:>4s} s  {made_of}")
    if args.csv:
        with args.csv.open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([("part", "estimate_s", "made_of"), *rows])


if __name__ == "__main__":
    main()
