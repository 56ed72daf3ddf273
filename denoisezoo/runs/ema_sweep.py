"""Averages of any length, made after training from those that a run has stored, and the best of them by a metric."""

from __future__ import annotations

import contextlib
import copy
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Unpack

import torch
from torch import Tensor

from denoisezoo.errors import UserError, unknown
from denoisezoo.progress import progress_bar
from denoisezoo.runs.assessor import Assessment, assess, make_evaluator
from denoisezoo.runs.run import Run, load_run
from denoisezoo.runs.terms import Terms, make_settings
from denoisezoo.tables import Column, Table, Tabular, plain
from denoisezoo.train.checkpoint import CURE, FOLDER, AtomicCheckpointIO, holds_tensors, read_checkpoint, verify
from denoisezoo.train.power_averages import stored
from denoisezoo.train.power_function import exponent, mixture

HIGHER = frozenset({"precision", "recall", "psnr", "ssim"})
"""Metrics of which more is better; of all others less is."""


@dataclass(frozen=True)
class Reconstruction:
    """An average of weights that was made after training.

    Attributes:
        sigma_rel: Its width.
        images: Images that it has seen.
        step: Optimiser steps of the last stored averages in it.
        factors: What the stored averages are multiplied by, in the order of files and of widths within them.
        weights: Parameters of the denoiser by name, float32.
    """

    sigma_rel: float
    images: int
    step: int
    factors: tuple[float, ...]
    weights: dict[str, Tensor] = field(repr=False)


def reconstruct(folder: str | os.PathLike[str], sigma_rel: float, images: int | None = None) -> Reconstruction:
    """The power-function average of a width, from those that are stored (EDM2, arXiv 2312.02696, section 3.2).

    Args:
        folder: Run folder.
        sigma_rel: Its width, the standard deviation relative to the length of training.
        images: Images of training at its end; all unless given.

    Raises:
        UserError: The run has stored none, one is damaged, or the width is out of range.
    """
    gamma = exponent(sigma_rel)
    files = [read_stored(path) for path in stored(Path(folder))]
    files = [found for found in files if images is None or found["images"] <= images]
    if not files:
        cure = "train with `posthoc.every_n_steps` set, which keeps them from the beginning"
        raise UserError(f"{folder} has stored no averages" + (f" up to {images} images" if images else ""), cure)
    parts = [(found["images"], profile) for found in files for profile in found["profiles"]]
    end = files[-1]["images"] if images is None else images
    factors = mixture([(t, profile["gamma"]) for t, profile in parts], (end, gamma))
    total: dict[str, Tensor] = {}
    for factor, (_, profile) in zip(factors, parts, strict=True):
        for name, tensor in profile["weights"].items():
            total.setdefault(name, torch.zeros(tensor.shape)).add_(tensor.float(), alpha=factor)
    return Reconstruction(sigma_rel, end, files[-1]["step"], tuple(factors), total)


def read_stored(path: Path) -> dict[str, Any]:
    """What a file of stored averages holds, its tensors on the disk until they are used.

    Raises:
        UserError: It is damaged.
    """
    verify(path)
    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        whole = isinstance(found["images"], int) and isinstance(found["step"], int) and bool(found["profiles"])
        whole = whole and all(isinstance(p["gamma"], float) and holds_tensors(p["weights"]) for p in found["profiles"])
    except Exception as error:  # whatever a damaged file makes of the unpickler
        raise UserError(f"{path} is damaged ({type(error).__name__})", CURE) from error
    if not whole:
        raise UserError(f"{path} is no file of averages", CURE)
    return dict(found)


def averaged(run: Run, found: Reconstruction) -> Run:
    """The run with other averaged weights.

    Raises:
        UserError: They are those of another network.
    """
    denoiser = copy.deepcopy(run.denoiser)
    fitting = {name.removeprefix("denoiser."): tensor for name, tensor in found.weights.items()}
    try:
        missing, unexpected = denoiser.load_state_dict(fitting, strict=False)
    except RuntimeError as error:
        raise UserError(f"the stored averages do not fit {run.name}", CURE) from error
    own = {name for name, _ in denoiser.named_parameters()}
    if unexpected or own & set(missing):
        raise UserError(f"the stored averages do not fit {run.name}", CURE)
    facts = run.facts | {"images_seen": found.images, "train_steps": found.step, "sigma_rel": found.sigma_rel}
    return replace(run, denoiser=denoiser, facts=facts)


def write_averaged(run: Run, path: Path) -> Path:
    """Write a run from `averaged` as a checkpoint that can be sampled, evaluated and exported, not trained on.

    Args:
        run: It; what its own checkpoint says of recipe and data goes with it.
        path: The file.

    Raises:
        UserError: It cannot be written.
    """
    assert run.checkpoint is not None, "`averaged` came from a run with a checkpoint"
    found = read_checkpoint(run.checkpoint)
    about = found["denoisezoo"] | {"images_seen": run.facts["images_seen"], "sigma_rel": run.facts["sigma_rel"]}
    state = {f"denoiser.{name}": tensor.cpu() for name, tensor in run.denoiser.state_dict().items()}
    kept = {"pytorch-lightning_version": found["pytorch-lightning_version"], "global_step": run.facts["train_steps"]}
    AtomicCheckpointIO().save_checkpoint(kept | {"state_dict": state, "denoisezoo": about}, path)
    return path


@dataclass(frozen=True)
class EMASweep(Tabular):
    """Metrics by the length of the average; prints as a table.

    Attributes:
        results: One for each width, that of the run's own average first.
        widths: sigma_rel of each; None for the run's own average.
        metric: What the best is best by.
        best: Which result that is; the run's own average is not asked.
        checkpoint: The file that it was written to.
    """

    results: list[Assessment] = field(repr=False)
    widths: tuple[float | None, ...]
    metric: str
    best: int
    checkpoint: Path

    def summary(self) -> Table:
        """The main figures of each width."""
        columns = [
            Column("sigma_rel", lambda row: "own average" if row["sigma_rel"] is None else plain(row["sigma_rel"])),
            Column("gamma", "gamma", "{:.3f}".format, right=True),
            *(
                Column(name, name, "{:.4g}".format, right=True)
                for name in dict.fromkeys([self.metric, "precision", "recall"])
            ),
            Column("", lambda row: "best" if row["best"] else ""),
        ]
        return Table(self.rows(), columns, f"{self.results[0].run.name}, by {self.metric}")

    def rows(self) -> list[dict[str, Any]]:
        """Width, exponent, and the whole row of the evaluation."""
        return [
            {"sigma_rel": width, "gamma": None if width is None else exponent(width), "best": number == self.best}
            | result.rows()[0]
            for number, (width, result) in enumerate(zip(self.widths, self.results, strict=True))
        ]


def _shifted(report: Callable[[int], None], done: int, number: int) -> None:
    """Report images of one of several evaluations."""
    report(done + number)


def sweep(
    subject: Run | str | os.PathLike[str],
    sigma_rel: Sequence[float] = (0.05, 0.10, 0.15),
    *,
    metric: str | None = None,
    out: str | os.PathLike[str] | None = None,
    trust: Sequence[str] = (),
    progress: bool = True,
    **terms: Unpack[Terms],
) -> EMASweep:
    """Evaluate averages of several lengths, made after training, and write the best as a checkpoint.

        found = dz.ema("runs/digits/edm2", (0.05, 0.10, 0.15), num=1000)
        dz.load(found.checkpoint).sample(16)

    Args:
        subject: A run that was trained with `posthoc.every_n_steps`, or its path.
        sigma_rel: Widths of the averages relative to the length of training, up to 0.25.
        metric: A figure of `evaluate`; the Frechet distance unless given.
        out: The file of the best; RUN/checkpoints/ema_WIDTH.ckpt unless given.
        trust: Packages whose code the recipe of a path may name.
        progress: Show a progress bar where somebody watches.
        **terms: On what terms each is evaluated; see `evaluate`.

    Raises:
        UserError: The run has stored no averages, a width or term is out of range, or an unknown metric.
    """
    settings = make_settings(**terms)
    if not sigma_rel:
        raise UserError("no width is given", "give one, such as sigma_rel 0.1")
    for width in sigma_rel:
        exponent(width)
    run = subject if isinstance(subject, Run) else load_run(subject, "ema", trust)
    reconstructions = [reconstruct(run.folder, width) for width in sigma_rel]
    data = run.data()
    evaluator = make_evaluator(data, settings)
    metric = metric or evaluator.features.distance_name
    runs = [replace(run, denoiser=copy.deepcopy(run.denoiser)), *(averaged(run, found) for found in reconstructions)]
    num = settings.num or len(evaluator.reference)
    bar = progress_bar("sampling", num * len(runs)) if progress else contextlib.nullcontext()
    results: list[Assessment] = []
    with bar as report:
        for one in runs:
            progress_of = None if report is None else partial(_shifted, report, num * len(results))
            results.append(assess(one, data, settings, evaluator, progress_of))
            if metric not in results[0].metrics:
                raise unknown("metric", metric, results[0].metrics)
    sign = -1 if metric in HIGHER else 1
    best = min(range(1, len(runs)), key=lambda index: sign * results[index].metrics[metric])
    width = sigma_rel[best - 1]
    path = Path(out) if out is not None else run.folder / FOLDER / f"ema_{width:g}.ckpt"
    write_averaged(averaged(run, reconstructions[best - 1]), path)
    return EMASweep(results, (None, *sigma_rel), metric, best, path)
