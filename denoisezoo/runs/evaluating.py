"""`denoisezoo.evaluate`: a run, or images from anywhere, judged by what is real."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from typing import Any, TypeAlias, Unpack, overload

from denoisezoo.data import ImageData
from denoisezoo.diffusion import Denoiser
from denoisezoo.diffusion.capabilities import WithoutNoise
from denoisezoo.errors import UserError
from denoisezoo.evaluation.reference import write_statistics
from denoisezoo.progress import progress_bar
from denoisezoo.runs.assessor import Assessment, assess, make_evaluator, number_to_make
from denoisezoo.runs.image_assessment import ImageAssessment, Images, assess_images, known_reference
from denoisezoo.runs.imported_codec import require_codec
from denoisezoo.runs.reconstructing import assess_reconstruction
from denoisezoo.runs.run import Run, load_run
from denoisezoo.runs.terms import Settings, Terms, make_settings

Judged: TypeAlias = "Run | Denoiser | str | os.PathLike[str]"
"""A run, a denoiser, or the path of a run."""
OF_IMAGES = ("features", "split", "details", "batch_size", "device")
"""Terms that images which are there already may be judged on."""


def run_of(subject: Judged, data: ImageData | None, weights: str, trust: Sequence[str]) -> Run:
    """The run that is meant, with other data if some are given."""
    if isinstance(subject, str | os.PathLike):
        run = load_run(subject, weights, trust)
    elif isinstance(subject, Run):
        run = subject
    else:
        run = getattr(subject, "run", None) or Run.of(subject)
    return run if data is None else run.on(data)


def settings_for(run: Run, terms: Terms) -> Settings:
    """The terms, with the run's customary sampler where they name none."""
    return make_settings(**{**terms, **run.sampling(terms.get("sampler"), terms.get("steps"))})


@overload
def evaluate(
    subject: Judged,
    data: ImageData | None = None,
    *,
    reference: Images | ImageData | None = None,
    write_reference: str | os.PathLike[str] | None = None,
    weights: str = "ema",
    trust: Sequence[str] = (),
    progress: bool = True,
    **terms: Unpack[Terms],
) -> Assessment: ...


@overload
def evaluate(
    *,
    images: Images,
    reference: Images | ImageData,
    write_reference: str | os.PathLike[str] | None = None,
    **terms: Unpack[Terms],
) -> ImageAssessment: ...


def evaluate(
    subject: Judged | None = None,
    data: ImageData | None = None,
    *,
    images: Images | None = None,
    reference: Images | ImageData | None = None,
    write_reference: str | os.PathLike[str] | None = None,
    weights: str = "ema",
    trust: Sequence[str] = (),
    progress: bool = True,
    **terms: Unpack[Terms],
) -> Assessment | ImageAssessment:
    """Sample a denoiser, compare its images with real ones, and price them: figures with their card.

        result = dz.evaluate("runs/digits/ddpm", num=1000, sampler="heun", steps=18)
        result.metrics["fd_pixels"], result.card.as_dict()
        dz.evaluate("edm:network.pkl", reference="cifar10-32x32.npz", features="inception", num=50_000)
        dz.evaluate(images="samples", reference="photos.zip")       # made by whatever

    Args:
        subject: A run, its path, or a denoiser; it moves to the device and type of the terms, in evaluation mode.
        data: Real images; those that the run was trained on unless given.
        images: Instead of a run, the images to judge: a tensor (N, C, H, W), or the path of a folder, a zip file, an
            .npz file (`arr_0`) or shards.
        reference: Real images, likewise, instead of `data`, or an .npz file of their statistics (`mu` and `sigma`). The
            data of the run are then not read, and there are no figures of memorisation.
        write_reference: Also write the statistics of the real images to this .npz file, as EDM and pytorch-fid do.
        weights: "ema" or "raw", of a path.
        trust: Packages whose code the recipe of a path may name.
        progress: Show a progress bar where somebody watches.
        **terms: `sampler` ("heun"), `steps` (18), `num` (as many as real images), `seed` (0), `features` ("pixels"),
            `split` ("all"), `details`, `by_class`, `batch_size` (256), `device` ("auto"), `dtype`, `compile`, `plan`,
            `guidance`, `guidance_interval`, ...; all are in `denoisezoo.runs.terms.Terms`.

    Raises:
        UserError: There are no data, or images of another size than the network makes, statistics of other features, or
            a term is wrong.
    """
    settings = make_settings(**terms)  # what is wrong is told before anything is loaded
    if images is not None:
        if subject is not None or data is not None:
            raise UserError("images are given, and a run or its data too", "give the ones or the others")
        if reference is None:
            raise UserError("nothing says what the images are compared with", "give `reference`")
        if wrong := next((name for name in terms if name not in OF_IMAGES), None):
            raise UserError(f"`{wrong}` says how to sample, and the images are there already", f"leave `{wrong}` out")
        return assess_images(images, reference, settings, write_reference)
    if subject is None:
        raise UserError("there is nothing to evaluate", "give a run, or `images`")
    if data is not None and reference is not None:
        raise UserError("`reference` is given, and data too", "give one of them")
    run = run_of(subject, data, weights, trust)
    return evaluate_run(run, settings_for(run, terms), reference, write_reference, progress)


def evaluate_run(
    run: Run,
    settings: Settings,
    reference: Images | ImageData | None = None,
    write_reference: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> Assessment:
    """Sample a run, and compare its images with a reference, or else with its data; see `evaluate`.

    An autoencoder is judged by what comes back of the held-out images of its data (`ReconstructionAssessment`).

    Raises:
        UserError: There is nothing to compare with, or it does not fit what the run makes.
    """
    if run.config.get("source"):
        require_codec(run)
    if isinstance(run.denoiser.process, WithoutNoise):
        if reference is not None or write_reference is not None:
            what = f"{run.name} is an autoencoder, and is judged by the images that it is given"
            raise UserError(what, "leave `reference` and `write_reference` out, and give other data if you like")
        return assess_reconstruction(run, run.data(), settings)
    found: Any = run.data() if reference is None else reference
    if not isinstance(found, ImageData) and run.denoiser.cond_shape is not None:
        what = f"{run.name} is given conditions, and a reference has none"
        raise UserError(what, "leave `reference` out: it is judged by pairs of its data")
    known = known_reference(found, run.image_shape, f"{run.name} makes")
    evaluator = make_evaluator(known, settings)
    if write_reference is not None:
        write_statistics(write_reference, evaluator, known.card())
    num = number_to_make(settings, evaluator)
    with progress_bar("sampling", num) if progress else contextlib.nullcontext() as report:
        return assess(run, known, settings, evaluator, report)
