"""Quality against calls of the denoiser: trained runs, on processes of any kind, under many samplers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from denoisezoo.diffusion import create_sampler
from denoisezoo.errors import UserError
from denoisezoo.runs.assessor import make_evaluator
from denoisezoo.runs.drawing import calls_for, draw_with, prepare
from denoisezoo.runs.run import Run
from denoisezoo.runs.terms import Settings
from denoisezoo.studies.study import Plot, Row, Study, titles_of

PLOTS = (
    Plot("Quality against calls of the denoiser", "nfe", "quality", "line", log_x=True, log_y=True),
    Plot("Quality against time", "latency_ms_per_image", "quality", "line", log_x=True, log_y=True),
)


def sampler_study(
    runs: Sequence[Run],
    samplers: Sequence[str],
    nfes: Sequence[int],
    settings: Settings,
    progress: Callable[[str], None] = lambda text: None,
) -> Study:
    """Sample every run with every sampler at budgets of calls, and measure the distance to the data.

    Args:
        runs: Trained runs on the same data.
        samplers: Samplers with their options; one that a process refuses has a row that says so.
        nfes: Calls that a walk may make; each sampler takes the most steps that stay within. An adaptive one is run at
            its own tolerances, and its row has the calls that it made.
        settings: On what terms; their sampler and steps are replaced.
        progress: Told what is being sampled.
    """
    rows: list[Row] = []
    evaluator = make_evaluator(runs[0].data(), settings)
    num = settings.num or len(evaluator.reference)
    for run, title in zip(runs, titles_of([run.folder for run in runs]), strict=True):
        for spec in samplers:
            for nfe in nfes[:1] if create_sampler(spec).adaptive else nfes:
                progress(f"{title} {spec} {nfe}")
                row: Row = {"run": title, "sampler": spec, "line": f"{title} {spec}"}
                chosen = replace(settings, sampler=spec, steps=steps_within(spec, nfe))
                try:
                    samples = draw_with(prepare(run, chosen), run, chosen, num, steps=chosen.steps)
                    metrics = evaluator.evaluate(samples.images)
                except UserError as error:  # a sampler that refuses, or images that overflow
                    rows.append(row | {"error": str(error)})
                    continue
                row |= {"steps": chosen.steps, "nfe": calls_for(run, chosen, samples)}
                row |= {"latency_ms_per_image": 1e3 * samples.seconds / num}
                rows.append(
                    row | {"quality": metrics[evaluator.features.distance_name], "num_generated": num, **metrics}
                )
    return Study(rows, PLOTS)


def steps_within(spec: str, nfe: int) -> int:
    """The most steps of a sampler whose calls do not exceed a budget, at least 1."""
    sampler = create_sampler(spec)
    steps = 1
    while sampler.nfe(steps + 1) <= nfe:
        steps += 1
    return steps
