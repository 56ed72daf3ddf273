"""Compiling networks in place, with room for a program for each effort, size and mode that they are called in."""

from __future__ import annotations

import logging
import sys
from typing import Any

from denoisezoo.archs.backbone import Backbone

LIMITS = {"recompile_limit": 8, "accumulated_recompile_limit": 256}
"""How many programs `torch.compile` makes of one function for one module, and for all modules, by itself."""


def compile_network(network: Backbone, **options: Any) -> None:
    """Compile a network in place.

    A program serves one effort, one size of images, training or not, with gradients or not, and at first one batch
    size. Beyond its limit `torch.compile` runs the rest eagerly, for good. So the limit becomes what torch thinks right
    for a network without choices, times the efforts and sizes of this one; when it is met, standard error says so.

    Args:
        network: Its keys stay as they are.
        **options: Those of `torch.compile`.
    """
    allow_programs(len(network.efforts) * len(network.resolutions))
    network.compile(**options)


def allow_programs(choices: int) -> None:
    """Raise the limits of `torch.compile` to those of a network of so many efforts times sizes; never lower them."""
    import torch._dynamo.config as config

    for name, limit in LIMITS.items():
        setattr(config, name, max(getattr(config, name), limit * choices))
    log = logging.getLogger("torch._dynamo.convert_frame")
    if not any(isinstance(known, _Limit) for known in log.filters):
        log.addFilter(_Limit())


class _Limit(logging.Filter):
    """Says in one line what torch's log has a paragraph for: that the limit is met."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Keep all other records."""
        text = record.getMessage()
        if "recompile_limit" not in text:
            return True
        programs = text.partition("(")[2].partition(")")[0]
        print(
            f"warning: torch.compile stops at {programs} programs for one network, and runs other efforts, sizes and "
            "batch sizes without; use fewer of them in one process",
            file=sys.stderr,
        )
        return False
