"""How many evaluations an adaptive solver needs as training goes on: fields that grow stiff cost more and more."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from denoisezoo.errors import UserError
from denoisezoo.files import local_path
from denoisezoo.nn.solvers import SolverError
from denoisezoo.runs.drawing import price
from denoisezoo.runs.run import Run, load_run
from denoisezoo.runs.terms import Settings
from denoisezoo.studies.solver_steps import with_other_solver
from denoisezoo.studies.study import Plot, Row, Study, titles_of
from denoisezoo.train.checkpoint import FOLDER

PLOTS = (Plot("Evaluations per call against training", "images_seen", "inner_nfe_per_call", "line"),)


def adaptive_study(
    folders: Sequence[str],
    solvers: Sequence[str],
    tolerances: Sequence[float],
    settings: Settings,
    progress: Callable[[str], None] = lambda text: None,
) -> Study:
    """Price an image with every kept checkpoint of some runs under adaptive solvers.

    Args:
        folders: Run folders, trained with `--checkpoint.keep_all true`.
        solvers: Names of adaptive solvers.
        tolerances: Values for both rtol and atol.
        settings: Sampler and steps.
        progress: Told what is being priced.

    Raises:
        UserError: A folder holds no numbered checkpoints.
    """
    rows: list[Row] = []
    for folder, title in zip(folders, titles_of([Path(folder) for folder in folders]), strict=True):
        for checkpoint in numbered(folder):
            run = load_run(checkpoint)
            for solver in solvers:
                for tolerance in tolerances:
                    progress(f"{checkpoint.stem} {solver} {tolerance:g}")
                    changed = with_other_solver(run, solver, rtol=tolerance, atol=tolerance)
                    line = f"{title} {solver} {tolerance:g}"
                    row: Row = {"run": str(folder), "line": line, "checkpoint": checkpoint.name, **run.facts}
                    rows.append(row | _evaluations(changed, settings))
    return Study(rows, PLOTS)


def numbered(folder: str | Path) -> list[Path]:
    """The numbered checkpoints of a run, oldest first."""
    found = sorted((local_path(folder) / FOLDER).glob("step_*.ckpt"))
    if not found:
        raise UserError(f"{folder} holds no numbered checkpoints", "train with `checkpoint.keep_all=true`")
    return found


def _evaluations(run: Run, settings: Settings) -> Row:
    try:
        trajectory = price(run, settings, timed=True)
    except SolverError as error:
        return {"error": str(error)}
    return {
        "inner_nfe_per_call": trajectory.inner_nfe / trajectory.nfe,
        "inner_nfe": trajectory.inner_nfe,
        "nfe": trajectory.nfe,
        "macs_per_image": trajectory.macs_per_image,
        "latency_ms_per_image": sum(call.latency_ms or 0.0 for call in trajectory.calls),
    }
