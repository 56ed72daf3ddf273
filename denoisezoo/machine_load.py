"""How busy other programs keep the processors, which decides how fast anything is here."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

BUSY = 0.4
"""Share of the processors that others use from which two threads that wait for each other crawl."""


@dataclass(frozen=True)
class Load:
    """Processor time that the whole machine and this process have used so far, in seconds."""

    wall: float
    machine: float
    own: float

    @classmethod
    def now(cls) -> Load:
        """Read the counters; a system without /proc/stat counts as quiet."""
        own, stat = time.process_time(), Path("/proc/stat")
        if not stat.exists():
            return cls(time.monotonic(), own, own)
        ticks = [int(word) for word in stat.read_text().split("\n", 1)[0].split()[1:9]]
        idle = ticks[3] + ticks[4]
        return cls(time.monotonic(), (sum(ticks) - idle) / os.sysconf("SC_CLK_TCK"), own)

    def others_since(self) -> float:
        """Share of the machine's processors that other programs have used since then."""
        now = Load.now()
        available = (now.wall - self.wall) * (os.cpu_count() or 1)
        return (now.machine - self.machine - (now.own - self.own)) / available


def warn_of_others(since: Load) -> None:
    """Say on standard error if others keep the processors busy and nobody has chosen how many threads there are."""
    if "OMP_NUM_THREADS" not in os.environ and (share := since.others_since()) > BUSY:
        print(
            f"warning: other programs keep {share:.0%} of the processors busy, and threads that wait for each other "
            "then crawl; OMP_NUM_THREADS=1 may be many times as fast",
            file=sys.stderr,
        )
