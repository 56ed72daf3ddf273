"""What the network in training costs, as a table on the run's W&B page."""

from __future__ import annotations

import copy
from typing import Any

import torch

from denoisezoo.archs import Backbone
from denoisezoo.errors import UncountableError
from denoisezoo.profiling.profile import profile_backbone
from denoisezoo.profiling.setting import Setting

COLUMNS = ("name", "input", "effort", "params", "macs", "flops", "macs_attention", "macs_diff_pruning")


def log_costs(loggers: list[Any], name: str, backbone: Backbone) -> None:
    """Log the rows of `denoisezoo profile NAME --counts-only`, one per effort, to all loggers that keep tables.

    A network whose costs depend on the data has no such rows.

    Args:
        loggers: Lightning's loggers.
        name: What to call the network.
        backbone: The network; it is counted on the meta device.
    """
    tables = [logger for logger in loggers if hasattr(logger, "log_table")]
    if not tables:
        return
    try:
        rows = list(profile_backbone(name, copy.deepcopy(backbone).to("meta"), Setting(torch.device("meta"))))
    except UncountableError:
        return
    for logger in tables:
        logger.log_table("costs", columns=list(COLUMNS), data=[[row[key] for key in COLUMNS] for row in rows])
