"""Memory and time of a training step against solver steps: back-propagation keeps every step, the adjoint none."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch

from denoisezoo.archs import create_backbone
from denoisezoo.profiling.setting import Setting
from denoisezoo.profiling.training_step import training_step
from denoisezoo.studies.study import Plot, Row, Study

PLOTS = (
    Plot("Memory of a training step", "solver_steps", "peak_memory_bytes", "gradient", log_x=True),
    Plot("Time of a training step", "solver_steps", "ms", "gradient", log_x=True),
)


def memory_study(
    name: str,
    solver: str,
    steps: Sequence[int],
    batch_size: int,
    runs: int | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> Study:
    """Measure a training step with both kinds of gradient at every number of steps, on the CPU.

    Args:
        name: Registry name of a network with a solver.
        solver: A fixed-step solver that has an adjoint.
        steps: Numbers of solver steps.
        batch_size: Images per step.
        runs: Timed steps; None takes as many as fit into two seconds.
        progress: Told what is being measured.
    """
    setting = Setting(torch.device("cpu"), channels_last=True, runs=runs)
    rows: list[Row] = []
    for adjoint, n in itertools.product((False, True), steps):
        gradient = "adjoint" if adjoint else "back-propagation"
        progress(f"{gradient} {n}")
        net = create_backbone(name, solver=solver, steps=(n,), adjoint=adjoint)
        setting.prepare(net)
        found = training_step(net, setting, batch_size, net.efforts[-1])
        row: Row = {"name": name, "solver": solver, "gradient": gradient, "solver_steps": n, "batch_size": batch_size}
        rows.append(row | {"ms": found["latency_ms"]["median"], **found})
    return Study(rows, PLOTS)
