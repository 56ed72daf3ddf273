"""Random numbers of a step that torch's own layers draw, such as dropout's."""

from __future__ import annotations

import torch


def seed_default(seed: int) -> None:
    """Seed the default generators of devices in use.

    `torch.manual_seed` also leaves a note, with a traceback, for each that is not: 2 ms, as long as a small layer.
    """
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed(seed)
