"""Drawing images from a run on the terms of some settings, and what an image costs by them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from denoisezoo.archs import Effort, compile_network
from denoisezoo.diffusion import Denoiser, Given, NetworkDenoiser, SeedBlock
from denoisezoo.diffusion.capabilities import unconditioned
from denoisezoo.diffusion.generate import Samples, generate
from denoisezoo.diffusion.guidance import check_guide
from denoisezoo.errors import UserError
from denoisezoo.evaluation.conditions import Conditions, sample_labels
from denoisezoo.plans import Plan, extracted
from denoisezoo.profiling.trajectory import ConstantPlan, Trajectory, counting_copy, trace
from denoisezoo.ranks import gather, share
from denoisezoo.runs.run import Run, to_device
from denoisezoo.runs.terms import Settings


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
