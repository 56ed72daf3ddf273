"""Evaluating and pricing what is drawn from a run: one result with its card."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from denoisezoo.data import ImageData
from denoisezoo.diffusion import Given
from denoisezoo.diffusion.generate import Samples
from denoisezoo.errors import UserError
from denoisezoo.evaluation.card import ResultCard, seed_range
from denoisezoo.evaluation.conditions import Conditions, sample_picture
from denoisezoo.evaluation.further_figures import FurtherFigures
from denoisezoo.evaluation.lpips import LPIPS, mean_distance
from denoisezoo.evaluation.metrics import Evaluator, roomy
from denoisezoo.evaluation.noise_curve import denoising_error
from denoisezoo.evaluation.recognition import held_out_labels, recogniser_of
from denoisezoo.evaluation.reconstruction import conditional_figures, iou
from denoisezoo.evaluation.reference import Reference
from denoisezoo.pictures import png_bytes
from denoisezoo.pixels import to_float
from denoisezoo.profiling.trajectory import Trajectory
from denoisezoo.runs.drawing import calls_for, draw_with, prepare, price
from denoisezoo.runs.run import Run
from denoisezoo.runs.terms import Settings
from denoisezoo.tables import Column, Table, Tabular

REFERENCE_PAIRS = 10_000
"""Real pairs at most that the joint distance of a conditional task is taken to."""


SHOWN_OF_CARD = (
    *("dataset", "split", "num_generated", "num_reference", "weights", "sampler", "steps", "nfe", "seeds"),
    *("images_seen", "train_steps", "macs_per_image", "num_conditions", "guidance"),
)
"""What one looks for first in a card."""


@dataclass(frozen=True)
class Assessment(Tabular):
    """Metrics of one run with their card and its price; prints as a table, a notebook shows samples under it.

    Attributes:
        run: What was assessed.
        metrics: Figures by name.
        card: Their circumstances.
        generated: The images.
        trajectory: Cost of every call of denoiser and codec; measured at batch 1.
        noise_curve: Denoising error by noise level on held-out images, or on their latents where there is a codec.
        pixel_curve: The same of what the codec makes of the prediction, in pixels; empty without a codec.
        latency_ms: Sampling time per image at `Settings.batch_size`.
        conditions: What the images were given, for a conditional run.
    """

    run: Run = field(repr=False)
    metrics: dict[str, float]
    card: ResultCard
    generated: Samples
    trajectory: Trajectory
    latency_ms: float
    noise_curve: list[tuple[float, float, float, float]] = field(default_factory=list)
    conditions: Conditions | None = None
    pixel_curve: list[tuple[float, float, float, float]] = field(default_factory=list)

    def picture(self, num: int) -> np.ndarray:
        """A grid of some samples; of a conditional run, with the condition before and the truth after each row."""
        images = self.generated.images
        return sample_picture(images[:num] if self.conditions is None else images, self.conditions)

    def png(self) -> bytes:
        """64 samples."""
        return png_bytes(self.picture(64))

    def summary(self) -> Table:
        """The metrics, and of the card what one looks for first."""
        return figures_table(self.run.name, self.metrics, self.card)

    def rows(self) -> list[dict[str, Any]]:
        """One row: metrics, latency and the whole card."""
        file = None if self.run.checkpoint is None else str(self.run.checkpoint)
        row = {"name": self.run.name, "family": self.run.family, "run": file, **self.metrics}
        return [row | {"latency_ms_per_image": self.latency_ms, **self.card.as_row()}]


def figures_table(name: str, metrics: Mapping[str, float], card: ResultCard) -> Table:
    """The metrics of something with that name, and of their card what one looks for first."""
    facts = card.as_dict()
    shown: list[dict[str, Any]] = [{"name": metric, "value": f"{x:.4g}"} for metric, x in metrics.items()]
    shown += [{"name": key, "value": facts[key]} for key in SHOWN_OF_CARD if facts[key] is not None]
    return Table(shown, [Column("metric or fact", "name"), Column("value", "value", right=True)], name)


def make_evaluator(data: ImageData | Reference, settings: Settings) -> Evaluator:
    """The reference side of the metrics, computed once for all runs on the same data.

    Raises:
        UserError: The split has no images, or a reference does not have what the settings ask for.
    """
    if isinstance(data, Reference):
        if settings.split != "all":
            raise UserError(f"{data.title} has no splits", "leave `split` out")
        return data.evaluator(settings.features)
    if not len(reference := data.images(settings.split)):
        raise UserError(
            f"{data.title} has no held-out images", "give `split=train` or all, or hold some out when you train"
        )
    training, held_out = data.images("train"), data.images("test")
    return Evaluator(
        reference,
        features=settings.features,
        training=training,
        held_out=held_out if len(held_out) else None,
        device=roomy(settings.device, reference, training),
    )


def number_to_make(settings: Settings, evaluator: Evaluator) -> int:
    """Images to generate: as many as there are reference images unless the settings say how many.

    Raises:
        UserError: Neither is known.
    """
    num = settings.num or evaluator.num_reference
    if num is None:
        raise UserError("the reference does not say of how many images it is", "give `num`, images to generate")
    return num


def assess(
    run: Run,
    data: ImageData | Reference,
    settings: Settings,
    evaluator: Evaluator | None = None,
    progress: Callable[[int], None] | None = None,
) -> Assessment:
    """Sample a run, evaluate the images and price them.

    Args:
        run: The run.
        data: What it is judged by, most often the data that it was trained on. By a reference, which has neither
            conditions nor training images, it is judged by its distribution alone.
        settings: The terms.
        evaluator: From `make_evaluator`, to share it between runs.
        progress: Called with the number of images done.
    """
    evaluator = evaluator or make_evaluator(data, settings)
    num = number_to_make(settings, evaluator)
    denoiser = prepare(run, settings)
    generated = draw_with(denoiser, run, settings, num, steps=settings.steps, progress=progress)
    trajectory = price(run, settings, denoiser=denoiser)
    conditions = None if isinstance(data, Reference) else run.conditions(num, settings.draws)
    metrics = evaluator.evaluate(generated.images)
    if settings.details:
        metrics |= FurtherFigures(evaluator).of(generated.images)
    if settings.by_class:
        if isinstance(data, Reference):
            raise UserError(f"{data.title} has no classes", "leave `by_class` out")
        labels = data.labels(settings.split)
        metrics |= FurtherFigures(evaluator).by_class(generated.images, generated.labels, labels)
    facts: dict[str, Any] = {}
    if conditions is not None:
        found, facts = figures_of_task(generated.images, conditions, data, settings, evaluator)
        metrics |= found
    return Assessment(
        run=run,
        metrics=metrics,
        card=replace(make_card(run, data, settings, evaluator, generated, trajectory), **facts),
        generated=generated,
        trajectory=trajectory,
        latency_ms=1000 * generated.seconds / num,
        noise_curve=[] if isinstance(data, Reference) else held_out_curve(run, data),
        conditions=conditions,
        pixel_curve=[]
        if isinstance(data, Reference) or run.denoiser.codec.identity
        else held_out_curve(run, data, in_pixels=True),
    )


def figures_of_task(
    images: Tensor, conditions: Conditions, data: Any, settings: Settings, evaluator: Evaluator
) -> tuple[dict[str, float], dict[str, Any]]:
    """What samples (N, C, H, W) of a task are judged by beside their distribution, and facts for their card."""
    index, reference = conditions.index(len(images)), data.pairs(settings.split, REFERENCE_PAIRS)
    figures = conditional_figures(images, conditions.pair, index, evaluator.features, reference)
    facts: dict[str, Any] = {"num_conditions": len(index.unique())}
    if data.task.binary:
        figures["iou"] = float(iou(images, conditions.pair.x[index]).mean())
    if data.task.classified and (recogniser := recogniser_of(data.data)) is not None:
        figures |= recogniser.figures(images, held_out_labels(data)[index])
    if settings.lpips is not None:
        lpips = LPIPS(settings.lpips)
        figures["lpips"] = mean_distance(lpips, images, conditions.pair.x[index])
        facts["lpips_sha256"] = lpips.weights_sha256
    return figures, facts


def held_out_curve(run: Run, data: ImageData, in_pixels: bool = False) -> list[tuple[float, float, float, float]]:
    """Denoising error by noise level on the held-out images (the training images where nothing is held out).

    Where there is a codec, it is that of latents, or of pixels if they are asked for; see `denoising_error`.
    """
    split: Any = "test" if len(data.images("test")) else "train"
    label = data.labels(split)[:1024] if run.denoiser.backbone.spec.num_classes else None
    if run.denoiser.cond_shape is not None:
        pair = data.pairs(split, 1024)
        return denoising_error(run.denoiser, pair.x, given=Given(label=label, image=pair.y), in_pixels=in_pixels)
    images: Tensor = to_float(data.images(split)[:1024])
    return denoising_error(run.denoiser, images, given=Given(label=label), in_pixels=in_pixels)


def make_card(
    run: Run,
    data: ImageData | Reference,
    settings: Settings,
    evaluator: Evaluator,
    generated: Samples,
    trajectory: Trajectory,
) -> ResultCard:
    """The circumstances of the metrics (DESIGN, section 7)."""
    facts = data.card()
    return ResultCard.here(
        settings.device,
        dataset=facts["dataset"],
        dataset_sha256=facts["dataset_sha256"],
        split=data.split if isinstance(data, Reference) else settings.split,
        resolution=data.resolution,
        num_generated=len(generated.images),
        num_reference=evaluator.num_reference,
        features=settings.features,
        features_sha256=evaluator.features_sha256,
        weights=run.weights_text,
        sampler=settings.sampler,
        steps=settings.steps,
        nfe=calls_for(run, settings, generated, trajectory),
        guidance=settings.guidance_text(),
        task=facts.get("task"),
        plan=None if settings.plan is None else settings.plan.to_json(),
        seeds=seed_range(settings.first_seed, len(generated.images)),
        noise=settings.noise,
        training_seed=run.facts.get("seed"),
        images_seen=run.facts.get("images_seen"),
        train_steps=run.facts.get("train_steps"),
        train_seconds=run.facts.get("train_seconds"),
        train_macs=run.facts.get("train_macs"),
        perceptual=run.facts.get("perceptual"),
        teacher_sha256=run.facts.get("teacher_sha256"),
        **run.denoiser.codec.facts(),
        params=sum(p.numel() for p in run.denoiser.backbone.parameters()),
        macs_per_image=trajectory.macs_per_image,
        dtype=str(settings.dtype).removeprefix("torch."),
        compiled=settings.compile,
        threads=torch.get_num_threads(),
    )
