"""Sampling, evaluating and pricing a trained run: one result with its card."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from denoisezoo.archs import Effort, compile_network
from denoisezoo.data import ImageData
from denoisezoo.diffusion import Denoiser, Given, NetworkDenoiser, SeedBlock
from denoisezoo.diffusion.capabilities import unconditioned
from denoisezoo.diffusion.generate import Samples, generate
from denoisezoo.diffusion.guidance import check_guide
from denoisezoo.errors import UserError
from denoisezoo.evaluation.card import ResultCard, seed_range
from denoisezoo.evaluation.conditions import Conditions, sample_labels, sample_picture
from denoisezoo.evaluation.lpips import LPIPS, mean_distance
from denoisezoo.evaluation.metrics import Evaluator, roomy
from denoisezoo.evaluation.noise_curve import denoising_error
from denoisezoo.evaluation.recognition import held_out_labels, recogniser_of
from denoisezoo.evaluation.reconstruction import conditional_figures
from denoisezoo.evaluation.reference import Reference
from denoisezoo.pictures import png_bytes
from denoisezoo.pixels import to_float
from denoisezoo.plans import Plan, extracted
from denoisezoo.profiling.trajectory import ConstantPlan, Trajectory, counting_copy, trace
from denoisezoo.ranks import gather, share
from denoisezoo.runs.run import Run, to_device
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


def prepare(run: Run, settings: Settings) -> NetworkDenoiser:
    """The run's denoiser where and as the settings want it, ready to be timed.

    With a plan, each effort that it uses is a network of its own, made for speed. Every effort first makes a walk of
    the fewest steps, with a batch of the size to come.

    Raises:
        UserError: The device is absent, or the network lacks an effort of the plan.
    """
    check_guidance(settings, run.name, run.denoiser.backbone.spec.num_classes, run.label_dropout)
    denoiser = to_device(run, settings.device, settings.dtype)
    if settings.guide is not None:
        check_guide(denoiser, settings.guide)
        settings.guide.to(torch.device(settings.device)).eval().backbone.to(settings.dtype)
    if settings.plan is not None:
        settings.plan.check(denoiser.efforts)
        denoiser = extracted(denoiser, settings.plan.efforts, settings.compile)
    elif settings.compile:
        compile_network(denoiser.backbone)
    batch = min(settings.num or settings.batch_size, settings.batch_size)
    fewest = settings.build_sampler().fewest(denoiser.process)
    for effort in settings.plan.efforts if settings.plan else [denoiser.efforts[-1]]:
        draw_with(denoiser, run, replace(settings, plan=Plan((effort,))), batch, steps=fewest)
    return denoiser


def check_guidance(settings: Settings, name: str, num_classes: int, label_dropout: float | None) -> None:
    """Refuse to guide a network that knows no labels, or that has never been without one.

    Args:
        settings: The terms.
        name: What the network or its recipe is called.
        num_classes: Classes that it knows.
        label_dropout: Share of the images that it is trained on without their label; None where that is not known.

    Raises:
        UserError: Saying which.
    """
    if settings.guidance is None or settings.guide is not None:
        return
    if not num_classes:
        cure = "train on data with labels, `data.labels=true` `model.network.num_classes=N` `model.label_dropout=0.1`"
        raise UserError(f"{name} knows no class labels to guide by", cure)
    if label_dropout == 0:
        raise UserError(
            f"{name} is trained with a label on every image, and guidance also asks it without",
            "train it with `model.label_dropout=0.1`",
        )


def draw_with(
    denoiser: NetworkDenoiser,
    run: Run,
    settings: Settings,
    num: int,
    *,
    steps: int,
    progress: Callable[[int], None] | None = None,
) -> Samples:
    """`num` images of a prepared denoiser on the settings' terms; several processes share them, and each gets all."""
    mine = share(num)
    conditions = run.conditions(num, settings.draws, settings.condition)
    labels = labels_for(run, settings, num, conditions)
    found = generate(
        settings.guided(denoiser),
        settings.build_sampler(),
        len(mine),
        run.image_shape,
        steps=steps,
        first_seed=settings.first_seed + mine.start,
        batch_size=settings.batch_size,
        given=Given(
            label=None if labels is None else labels[mine.start : mine.stop],
            image=conditions.pair.y if conditions else None,
        ),
        image_index=conditions.index(num)[mine.start : mine.stop] if conditions else None,
        plan=settings.plan,
        device=settings.device,
        noise=settings.noise,
        progress=progress,
    )
    images = gather(found.images.to(settings.device)).cpu()
    return Samples(images, labels, found.nfe, found.seconds)


def labels_for(run: Run, settings: Settings, num: int, conditions: Conditions | None) -> Tensor | None:
    """`sample_labels` on the settings' terms.

    Raises:
        UserError: See there; or labels are needed, and nothing says those of the conditions.
    """
    classes = run.denoiser.backbone.spec.num_classes
    found = sample_labels(num, classes, conditions, settings.label)
    by_labels = settings.guidance is not None and settings.guide is None
    needed = by_labels or not run.label_dropout
    if classes and found is None and needed:
        why = "guidance needs labels" if by_labels else f"{run.name} always had labels in training"
        raise UserError(f"{why}, and nothing says those of these conditions", f"give `label`, 0 to {classes - 1}")
    return found


def price(
    run: Run,
    settings: Settings,
    timed: bool = True,
    denoiser: NetworkDenoiser | None = None,
    effort: Effort | None = None,
) -> Trajectory:
    """One image by the real sampler: what every denoiser call costs.

    Args:
        run: The run.
        settings: The terms.
        timed: Time the calls; otherwise they are only counted, without computing anything.
        denoiser: From `prepare`, where the run's own is not what samples.
        effort: For all calls, instead of the plan.
    """
    subject: Denoiser = denoiser or run.denoiser
    subject = subject if timed else counting_copy(subject)
    guide = settings.guide if timed or settings.guide is None else counting_copy(settings.guide)
    sampler = settings.build_sampler()
    device = settings.device if timed else "cpu"
    noise = SeedBlock([settings.first_seed])
    shape = (1, *run.denoiser.latent_shape)
    process = unconditioned(subject.process)  # of what is sampled
    u_T = sampler.prior(process, shape, settings.steps, noise, device=device, dtype=torch.float32)
    return trace(
        subject,
        sampler,
        u_T,
        steps=settings.steps,
        plan=settings.plan if effort is None else ConstantPlan(effort),
        given=run.denoiser.blank(device=device),
        generator=noise,
        timed=timed,
        wrap=settings.guided,
        guide=guide,
    )


def calls_for(run: Run, settings: Settings, generated: Samples, trajectory: Trajectory | None = None) -> int:
    """Calls of networks for an image: where guidance calls two, or one twice, twice those that the sampler knows of.

    Args:
        run: The run.
        settings: The terms.
        generated: What was sampled.
        trajectory: From `price`; found here where it is needed.
    """
    if settings.guidance is None:
        return generated.nfe
    if trajectory is None:
        # The steps of an adaptive sampler depend on what the network answers.
        trajectory = price(run, settings, timed=settings.build_sampler().adaptive)
    return trajectory.nfe


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
    )


def figures_of_task(
    images: Tensor, conditions: Conditions, data: Any, settings: Settings, evaluator: Evaluator
) -> tuple[dict[str, float], dict[str, Any]]:
    """What samples (N, C, H, W) of a task are judged by beside their distribution, and facts for their card."""
    index, reference = conditions.index(len(images)), data.pairs(settings.split, REFERENCE_PAIRS)
    figures = conditional_figures(images, conditions.pair, index, evaluator.features, reference)
    facts: dict[str, Any] = {"num_conditions": len(index.unique())}
    if data.task.classified and (recogniser := recogniser_of(data.data)) is not None:
        figures |= recogniser.figures(images, held_out_labels(data)[index])
    if settings.lpips is not None:
        lpips = LPIPS(settings.lpips)
        figures["lpips"] = mean_distance(lpips, images, conditions.pair.x[index])
        facts["lpips_sha256"] = lpips.weights_sha256
    return figures, facts


def held_out_curve(run: Run, data: ImageData) -> list[tuple[float, float, float, float]]:
    """Denoising error by noise level on the held-out images (the training images where nothing is held out).

    It is that of latents where there is a codec.
    """
    split: Any = "test" if len(data.images("test")) else "train"
    label = data.labels(split)[:1024] if run.denoiser.backbone.spec.num_classes else None
    if run.denoiser.cond_shape is not None:
        pair = data.pairs(split, 1024)
        return denoising_error(run.denoiser, pair.x, given=Given(label=label, image=pair.y))
    images: Tensor = to_float(data.images(split)[:1024])
    return denoising_error(run.denoiser, images, given=Given(label=label))


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
        features_sha256=evaluator.features.weights_sha256,
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
        codec=run.denoiser.codec.title,
        codec_sha256=run.denoiser.codec.weights_sha256(),
        params=sum(p.numel() for p in run.denoiser.backbone.parameters()),
        macs_per_image=trajectory.macs_per_image,
        dtype=str(settings.dtype).removeprefix("torch."),
        compiled=settings.compile,
        threads=torch.get_num_threads(),
    )
