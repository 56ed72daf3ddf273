"""How much slower a call is while its multiply-adds are counted: the target is less than 2 times plus 50 ms.

    python benchmarks/counting.py ddpm_cifar10 ddpm_digits adm_digits

Plain and counted calls alternate. Exit status 1 means that a target was missed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import torch

from denoisezoo.archs import create_backbone
from denoisezoo.profiling.counting import count
from denoisezoo.profiling.setting import Setting, example_inputs

DEFAULT = ["ddpm_cifar10", "ddpmpp_cifar10", "ddpm_digits", "ncsnpp_digits", "adm_digits"]


def milliseconds(call: Callable[[], object]) -> float:
    """Time of one call."""
    begin = time.perf_counter()
    call()
    return (time.perf_counter() - begin) * 1e3


def measure(name: str, rounds: int) -> tuple[float, float]:
    """Median time of a plain and of a counted call, in milliseconds."""
    net = create_backbone(name).eval()
    inputs = example_inputs(net.spec, 1, Setting(torch.device("cpu")))
    with torch.inference_mode():
        calls = (lambda: net(**inputs), lambda: count(lambda: net(**inputs), root=net))
        for call in calls:
            call()
        pairs = [[milliseconds(call) for call in calls] for _ in range(rounds)]
    plain, counted = (statistics.median(times) for times in zip(*pairs, strict=True))
    return plain, counted


def main() -> int:
    """Print a line for each network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=DEFAULT)
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    missed = 0
    print(f"{'network':20s} {'plain ms':>10s} {'counted ms':>10s} {'allowed ms':>10s}")
    for name in args.names:
        plain, counted = measure(name, args.rounds)
        missed += counted > 2 * plain + 50
        print(f"{name:20s} {plain:10.1f} {counted:10.1f} {2 * plain + 50:10.1f}", flush=True)
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
