"""What a W&B page shows beside curves: cost along the sampler's path, the plan, the loss by noise level."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from denoisezoo.diffusion import SeedBlock
from denoisezoo.diffusion.capabilities import unconditioned
from denoisezoo.files import json_safe
from denoisezoo.profiling.trajectory import Trajectory, counting_copy, trace
from denoisezoo.train.callbacks import SampleGrid
from denoisezoo.train.log import read_log
from denoisezoo.train.noise_bins import bin_names
from denoisezoo.train.tracking import Tracker, trackers

PREFIX = "loss_by_noise/"
CALL_COLUMNS: list[str | int] = ["call", "t", "sigma", "effort", "macs", "inner_nfe"]
"""Columns of the table of costs."""
MOST_STEPS = 200
"""Columns of the heat map at most: with them, its table stays below the 10,000 rows at which `wandb.Table` cuts."""


class Dashboard(Callback):
    """Sends tables and plots to W&B, where it is used; elsewhere it does nothing."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Price one image by the sampler of the sample grids."""
        for tracker in trackers(trainer.loggers):
            if trainer.is_global_zero:
                tracker.attempt(log_trajectory, tracker, trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the loss by noise level so far."""
        self._heat_map(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw it once more."""
        self._heat_map(trainer)

    def _heat_map(self, trainer: Trainer) -> None:
        found = trackers(trainer.loggers)
        if not found or not trainer.is_global_zero:
            return
        for logger in trainer.loggers:
            logger.save()
        rows = noise_rows(Path(trainer.default_root_dir))
        for tracker in found if rows else []:
            tracker.attempt(log_heat_map, tracker, rows)


def price(trainer: Trainer, pl_module: LightningModule) -> Trajectory:
    """Cost of every denoiser call for one image, counted without weights."""
    grid = next((callback for callback in trainer.callbacks if isinstance(callback, SampleGrid)), SampleGrid())
    denoiser = counting_copy(pl_module.counted)
    noise, shape = SeedBlock([0]), (1, *pl_module.denoiser.latent_shape)
    u_T = grid.sampler.prior(
        unconditioned(denoiser.process), shape, grid.steps, noise, device="cpu", dtype=torch.float32
    )
    return trace(
        denoiser,
        grid.sampler,
        u_T,
        steps=grid.steps,
        given=pl_module.denoiser.blank(),
        generator=noise,
        timed=False,
    )


def log_trajectory(tracker: Tracker, trainer: Trainer, pl_module: LightningModule) -> None:
    """The table of calls, a plot of their costs, and the plan: effort by noise level."""
    import wandb

    trajectory = price(trainer, pl_module)
    calls = json_safe([asdict(call) for call in trajectory.calls])
    table = wandb.Table(columns=CALL_COLUMNS, data=[[call[str(key)] for key in CALL_COLUMNS] for call in calls])
    sigmas = [call["sigma"] for call in calls]
    costs = [call["macs"] for call in calls]
    efforts = [call["effort"] for call in calls]
    tracker.log_metrics(
        {
            "trajectory/cost": table,
            "trajectory/cost_plot": steps_plot(sigmas, costs, "MACs of the call"),
            "trajectory/plan_plot": steps_plot(sigmas, efforts, "effort"),
        }
    )
    summary = {"macs_per_image": trajectory.macs_per_image, "nfe": trajectory.nfe}
    summary |= {"codec_macs_per_image": trajectory.codec_macs} if trajectory.codec else {}
    tracker.experiment.summary.update(summary)


def steps_plot(sigmas: list[Any], values: list[Any], title: str) -> Any:
    """A plot over sigma, from noise to image."""
    import plotly.graph_objects as go
    import wandb

    figure = go.Figure(go.Scatter(x=sigmas, y=values, mode="lines+markers", line_shape="hv"))
    figure.update_xaxes(type="log", autorange="reversed", title="sigma")
    figure.update_yaxes(title=title, rangemode="tozero")
    return wandb.Plotly(figure)


def noise_rows(folder: Path) -> list[tuple[int, str, float]]:
    """(step, bin, loss) of a run's log, of at most `MOST_STEPS` steps from the first to the last."""
    found = {
        step: {name: row[PREFIX + name] for name in bin_names() if PREFIX + name in row}
        for step, row in read_log(folder).items()
    }
    steps = thinned([step for step, losses in found.items() if losses])
    return [(step, name, loss) for step in steps for name, loss in found[step].items()]


def thinned(steps: list[int]) -> list[int]:
    """At most `MOST_STEPS` of the steps, evenly spread, the first and the last among them."""
    if len(steps) <= MOST_STEPS:
        return steps
    return [steps[i * (len(steps) - 1) // (MOST_STEPS - 1)] for i in range(MOST_STEPS)]


def log_heat_map(tracker: Tracker, rows: list[tuple[int, str, float]]) -> None:
    """Loss by noise level (down) over steps (across), and its table."""
    import plotly.graph_objects as go
    import wandb

    steps = sorted({step for step, _, _ in rows})
    losses = {(step, name): loss for step, name, loss in rows}
    cells = [[losses.get((step, name)) for step in steps] for name in bin_names()]
    figure = go.Figure(go.Heatmap(x=steps, y=[name.replace("_", " ") for name in bin_names()], z=cells))
    figure.update_xaxes(title="step")
    figure.update_yaxes(title="log-SNR, noise at the bottom")
    table = wandb.Table(columns=["step", "log_snr", "loss"], data=[list(row) for row in rows])
    tracker.log_metrics({"noise/heat_map": wandb.Plotly(figure), "noise/table": table})
