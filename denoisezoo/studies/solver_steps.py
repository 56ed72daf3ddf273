"""Quality and price of one trained network under other solvers and numbers of steps, with the same weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from denoisezoo.archs.continuous_unet import with_solver
from denoisezoo.nn.solvers import ADAPTIVE, SolverError
from denoisezoo.runs.assessor import assess, make_evaluator
from denoisezoo.runs.run import Run
from denoisezoo.runs.terms import Settings
from denoisezoo.studies.study import Plot, Row, Study, titles_of

PLOTS = (
    Plot("Quality against latency", "latency_ms_per_image", "quality", "solver", "solver_steps", log_x=True),
    Plot("Quality against MACs", "macs_per_image", "quality", "solver", "solver_steps", log_x=True),
)


def with_other_solver(run: Run, solver: str, **fields: Any) -> Run:
    """The run with its weights under another solver.

    Raises:
        UserError: The network has none, or there is no such solver.
    """
    denoiser = run.denoiser
    backbone = with_solver(denoiser.backbone, solver, **fields)
    return replace(run, denoiser=denoiser.with_backbone(backbone).eval())


def solver_study(
    runs: Sequence[Run],
    solvers: Sequence[str],
    steps: Sequence[int],
    settings: Settings,
    progress: Callable[[str], None] = lambda text: None,
) -> Study:
    """Assess every run under every solver with every number of steps; an adaptive solver once.

    Args:
        runs: Trained runs of networks with a solver, on the same data.
        solvers: Names of solvers.
        steps: Numbers of steps of fixed-step solvers.
        settings: On what terms.
        progress: Told what is being assessed.
    """
    rows: list[Row] = []
    evaluator = None
    for run, title in zip(runs, titles_of([run.folder for run in runs]), strict=True):
        data = run.data()
        evaluator = evaluator or make_evaluator(data, settings)
        for solver in solvers:
            adaptive = solver in ADAPTIVE
            for n in [1] if adaptive else steps:
                progress(f"{title} {solver} {n}")
                row: Row = {"run": title, "name": run.name, "solver": f"{title} {solver}"}
                row |= {"solver_steps": None if adaptive else n}
                rows.append(row | _assessed(with_other_solver(run, solver, steps=(n,)), data, settings, evaluator))
    return Study(rows, PLOTS)


def _assessed(changed: Run, data: Any, settings: Settings, evaluator: Any) -> Row:
    try:
        assessment = assess(changed, data, settings, evaluator)
    except SolverError as error:
        return {"error": str(error)}
    return {
        "quality": assessment.metrics[evaluator.features.distance_name],
        **assessment.metrics,
        "latency_ms_per_image": assessment.latency_ms,
        "macs_per_image": assessment.trajectory.macs_per_image,
        "inner_nfe": assessment.trajectory.inner_nfe,
        **assessment.card.as_row(),
    }
