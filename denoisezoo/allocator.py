"""Keep the memory that is freed, where the C library would give it back to the system and ask for it again.

glibc returns large blocks, and the top of its heap, as soon as they are free. Every step of training or sampling on a
CPU then gets its activations as pages that the system first has to map and clear: thousands of page faults a step.
"""

from __future__ import annotations

import ctypes
import os
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Numbers of options, from malloc.h."""
NEVER = -1
"""As `M_TRIM_THRESHOLD`: what was freed at the top of the heap stays (mallopt(3))."""
LARGEST = 32 * 2**20
"""The most that `M_MMAP_THRESHOLD` takes on 64 bits: only blocks above it come from the system, and go back to it."""
CHOSEN = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")
"""Variables by which a user may have chosen otherwise."""


def keep_freed_memory() -> bool:
    """Tell glibc to keep what is freed, for this process.

    Returns:
        Whether it was told: not on other systems or C libraries, and not where the environment says what to do.
    """
    if sys.platform != "linux" or any(name in os.environ for name in CHOSEN):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # no C library to ask, or one without the option
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, LARGEST)) and bool(mallopt(M_TRIM_THRESHOLD, NEVER))
