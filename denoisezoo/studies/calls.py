"""Quality against multiply-adds per image: which network in how many calls makes the best images at each price."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from denoisezoo.errors import UserError
from denoisezoo.runs.assessor import assess, make_evaluator
from denoisezoo.runs.run import Run
from denoisezoo.runs.terms import Settings
from denoisezoo.studies.sampler_calls import steps_within
from denoisezoo.studies.study import Plot, Row, Study, titles_of

PLOTS = (
    Plot("Quality against multiply-adds per image", "macs_per_image", "quality", "run", "nfe", log_x=True, log_y=True),
    Plot("Quality against calls of the denoiser", "nfe", "quality", "run", log_x=True, log_y=True),
)


def calls_study(
    runs: Sequence[Run],
    samplers: Sequence[str],
    nfes: Sequence[int],
    settings: Settings,
    progress: Callable[[str], None] = lambda text: None,
) -> Study:
    """Assess every run at every number of calls, by the sampler that it is for.

    Args:
        runs: Trained runs on the same data, of any method and size.
        samplers: One for all runs, or one for each; without, those that the recipes draw their pictures with.
        nfes: Calls; a sampler of several calls a step takes the most steps that stay within, and each number that it
            makes is assessed once.
        settings: On what terms; their sampler and steps are replaced.
        progress: Told what is being assessed.

    Returns:
        Rows with `best`: whether no other row is as good for as little.

    Raises:
        UserError: Another number of samplers than of runs.
    """
    if samplers and len(samplers) not in (1, len(runs)):
        raise UserError(f"there are {len(samplers)} samplers for {len(runs)} runs", "give one for all, or one for each")
    rows: list[Row] = []
    evaluator = make_evaluator(runs[0].data(), settings)
    specs = [*samplers] * len(runs) if len(samplers) == 1 else [*samplers] or [customary(run) for run in runs]
    for run, title, spec in zip(runs, titles_of([run.folder for run in runs]), specs, strict=True):
        for steps in dict.fromkeys(steps_within(spec, nfe) for nfe in nfes):
            progress(f"{title} {spec} {steps}")
            row: Row = {"run": title, "name": run.name, "sampler": spec, "steps": steps}
            try:
                found = assess(run, run.data(), replace(settings, sampler=spec, steps=steps), evaluator)
            except UserError as error:  # a number of steps that the sampler cannot make
                rows.append(row | {"error": str(error)})
                continue
            card = found.card.as_row()
            row |= {
                "quality": found.metrics[evaluator.features.distance_name],
                "latency_ms_per_image": found.latency_ms,
            }
            rows.append(card | found.metrics | row)
    priced = [row for row in rows if "quality" in row]
    for row in priced:
        row["best"] = not any(_better(other, row) for other in priced)
    return Study(rows, PLOTS)


def customary(run: Run) -> str:
    """The sampler that a run is for: that of the pictures that its training draws."""
    samples = run.config.get("samples") or {}
    return str(run.sampling().get("sampler") or samples.get("sampler") or "heun")


def _better(one: Row, other: Row) -> bool:
    """Whether a row is at least as good for at most as much, and in one of both better."""
    a, b = ((row["macs_per_image"], row["quality"]) for row in (one, other))
    return a != b and a[0] <= b[0] and a[1] <= b[1]
