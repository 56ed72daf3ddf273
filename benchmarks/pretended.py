"""Runs a program on the pretended CUDA device of the tests: CPU numbers under CUDA's rules.

    python benchmarks/pretended.py benchmarks/sampling.py ddpm_digits --device cuda
    python benchmarks/pretended.py -m denoisezoo train --config digits/ddpm --trainer.accelerator cuda

What is timed so is no time of a device. Exit status 3 with one line means that there is no pretended device: the tests
are not there, or this torch has not the interfaces of which it is made.
"""

from __future__ import annotations

import runpy
import sys
import time
from unittest import mock


def main() -> None:
    try:
        from tests.device.pretended import pretend_cuda
    except ImportError as error:
        print(f"no pretended device: {error}", file=sys.stderr)
        sys.exit(3)
    import torch

    from denoisezoo.profiling import roofline

    # Its peaks would be found by products of a GPU's size.
    known = mock.patch.object(roofline, "measure_peaks", return_value=roofline.Peaks(1e12, 1e12))
    with pretend_cuda(), known, mock.patch.object(torch.cuda, "Event", Event):
        if not sys.argv[1:]:  # asked whether there is one
            torch.zeros(1, device="cuda").add(1)
            return
        sys.argv = sys.argv[1:]
        if sys.argv[0] == "-m":
            sys.argv = sys.argv[1:]
            runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
        else:
            sys.path.insert(0, sys.argv[0].rpartition("/")[0])
            runpy.run_path(sys.argv[0], run_name="__main__")


class Event:
    """A CUDA event by the clock."""

    def __init__(self, **_: bool) -> None:
        self.at = 0.0

    def record(self) -> None:
        """Note the time."""
        self.at = time.perf_counter()

    def synchronize(self) -> None:
        """Nothing is under way."""

    def elapsed_time(self, end: Event) -> float:
        """Milliseconds until another one."""
        return 1e3 * (end.at - self.at)


if __name__ == "__main__":
    main()
