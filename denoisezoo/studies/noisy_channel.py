"""Images over a noisy channel: trained runs against linear estimators and digital links, on the same channel draws.

Every method gets the same held-out images with the same noise, knows the noise's level, and is judged by the same
figures of images clamped to [-1, 1]. Runs of the same name, which differ in their seed, are averaged.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from denoisezoo.data import Channel
from denoisezoo.errors import UserError
from denoisezoo.evaluation.digital import best_link, ideal_link, pixel_link
from denoisezoo.evaluation.linear import Moments, linear_mmse, memory, pixelwise_mmse
from denoisezoo.evaluation.recognition import Recogniser, held_out_labels, recogniser_of
from denoisezoo.evaluation.reconstruction import means_of_draws, reconstruction_figures
from denoisezoo.pixels import to_float
from denoisezoo.runs.changed import with_task
from denoisezoo.runs.drawing import draw_with, prepare
from denoisezoo.runs.run import Run
from denoisezoo.runs.terms import Settings
from denoisezoo.studies.study import Plot, Row, Study

Figures = dict[str, float]
Progress = Callable[[str], None]

PLOTS = (
    Plot("Mean squared error in dB against SNR", "snr_db", "mse_db", "method"),
    Plot("Class accuracy of what arrives against SNR", "snr_db", "class_accuracy", "method"),
    Plot("SSIM against SNR", "snr_db", "ssim", "method"),
    Plot("Cosine similarity against SNR", "snr_db", "cosine", "method"),
)
REFERENCE = "linear MMSE"
"""What `gain_db` is taken against."""
LINK_IMAGES = 512
"""Training images at most by which the digital link chooses its number of bits."""


@dataclass(frozen=True)
class Reception:
    """What all methods but the runs are given.

    Attributes:
        x: The images that were sent (N, C, H, W).
        y: Received and zero-forced, x + noise.
        sigma: Standard deviation of the noise (N, 1, H, 1).
        training: Training images (M, C, H, W).
        channel: The channel.
    """

    x: Tensor
    y: Tensor
    sigma: Tensor
    training: Tensor
    channel: Channel

    @cached_property
    def moments(self) -> Moments:
        """Those of the training images."""
        return Moments.of(self.training)


def channel_study(
    runs: Sequence[Run],
    levels: Sequence[float],
    settings: Settings,
    options: dict[str, Any] | None = None,
    progress: Progress = lambda text: None,
) -> Study:
    """Send held-out images over the channel of some runs, and compare what each method makes of them.

    Args:
        runs: Trained on one channel; each is sampled as its recipe samples.
        levels: SNRs in dB.
        settings: Number of samples and draws, first seed, device; not the sampler.
        options: Options of the channel to change, e.g. {"fading": "rayleigh"}.
        progress: Told what is being done.

    Raises:
        UserError: A run that was not trained on a channel, or on another one or on other data than the first.
    """
    for run in runs:
        _check(run)
    rows: list[Row] = []
    for level in levels:
        changed = [with_task(run, {**(options or {}), "snr_db": level}) for run in runs]
        received = reception(changed, settings)
        judge = Judge(received.x, changed[0].data())
        found: dict[str, list[Figures]] = {}
        for run in changed:
            progress(f"{level:g} dB, {'/'.join(run.folder.parts[-2:])}")
            for name, images in samples_of(run, len(received.x), settings).items():
                found.setdefault(name, []).append(judge(images))
        for name, method in METHODS.items():
            progress(f"{level:g} dB, {name}")
            images, more = method(received)
            found[name] = [judge(images) | more]
        rows += rows_of(found, level, len(received.x))
    return Study(rows, PLOTS)


# Runs


def reception(runs: Sequence[Run], settings: Settings) -> Reception:
    """The images and what the receiver has of them, zero-forced, with the draws that the runs get.

    Raises:
        UserError: See `channel_study`.
    """
    # Zero-forced, and told the noise: of this all that runs see can be made.
    plain = [with_task(run, {"equaliser": "zero_forcing", "tell": True}) for run in runs]
    data, first = plain[0].data(), plain[0]
    for run in plain[1:]:
        if run.data().content_hash() != data.content_hash():
            raise UserError(
                f"{run.folder} was trained on {run.data().title}, and {first.folder} on {data.title}",
                "give runs of one channel and of the same images",
            )
    conditions = plain[0].conditions(settings.num or 10**9, settings.draws)
    assert conditions is not None, "a run with a task has conditions"
    pair, C = conditions.pair, data.channels
    sigma = pair.y[:, C:, :, :1].exp()
    return Reception(pair.x, pair.y[:, :C], sigma, to_float(data.images("train")), data.task)


def _check(run: Run) -> None:
    """Refuse a run that knows no channel."""
    if not isinstance(getattr(run.data(), "task", None), Channel):
        cure = "train one, e.g. `denoisezoo train --config digits/channel_concat`"
        raise UserError(f"{run.folder} was not trained on a channel", cure)


def samples_of(run: Run, images: int, settings: Settings) -> dict[str, Tensor]:
    """Samples (N, C, H, W) of a run, and with several draws their means (M, C, H, W), by what rows call them."""
    recipe = run.config["samples"]
    chosen = replace(settings, sampler=recipe["sampler"], steps=recipe["steps"], num=images * settings.draws)
    found = draw_with(prepare(run, chosen), run, chosen, images * settings.draws, steps=chosen.steps).images
    name = name_of(run)
    if settings.draws == 1:
        return {name: found}
    return {name: found, f"{name}, mean of {settings.draws}": means_of_draws(found, torch.arange(len(found)) % images)}


def name_of(run: Run) -> str:
    """The folder's name; that of the folder above where it is a number, a seed."""
    parts = run.folder.resolve().parts
    return parts[-2] if parts[-1].isdigit() else parts[-1]


# Baselines


def _uncoded(received: Reception) -> tuple[Tensor, Figures]:
    """A bit for each pixel over BPSK."""
    link = pixel_link(received.moments, received.training)
    found = link.send(received.x, received.y - received.x, received.sigma)
    return found.images, {"bits": float(link.bits), "bit_error_rate": found.bit_error_rate}


def _digital(received: Reception) -> tuple[Tensor, Figures]:
    """A link whose number of bits is the best for this channel on training images."""
    training = received.training[:LINK_IMAGES]
    y, sigma = received.channel.receive(training, torch.Generator().manual_seed(0))
    link = best_link(received.moments, training, y - training, sigma)
    found = link.send(received.x, received.y - received.x, received.sigma)
    return found.images, {"bits": float(link.bits), "bit_error_rate": found.bit_error_rate}


METHODS: dict[str, Callable[[Reception], tuple[Tensor, Figures]]] = {
    "as received": lambda r: (r.y, {}),
    "pixelwise MMSE": lambda r: (pixelwise_mmse(r.moments.power, r.y, r.sigma), {}),
    REFERENCE: lambda r: (linear_mmse(r.moments, r.y, r.sigma), {}),
    "training images' posterior": lambda r: (memory(r.training, r.y, r.sigma), {}),
    "uncoded pixels": _uncoded,
    "BPSK link": _digital,
    "ideal Gaussian link": lambda r: (ideal_link(r.moments, r.x, r.sigma, torch.Generator().manual_seed(0)), {}),
}
"""Images (N, C, H, W) that a method delivers, and figures of its own."""


# Figures


class Judge:
    """Figures of images (M, C, H, W), or of several draws of all (draws M, C, H, W), against what was sent.

    Args:
        x: What was sent (M, C, H, W).
        data: Paired data of the runs.
    """

    def __init__(self, x: Tensor, data: Any) -> None:
        self.x = x
        self.recogniser: Recogniser | None = recogniser_of(data.data)
        self.labels = held_out_labels(data)[: len(x)]

    def __call__(self, images: Tensor) -> Figures:
        """`reconstruction_figures` and, where there are classes, `class_accuracy`."""
        index = torch.arange(len(images)) % len(self.x)
        figures = reconstruction_figures(images, self.x[index])
        return figures | (self.recogniser.figures(images, self.labels[index]) if self.recogniser else {})


def rows_of(found: dict[str, list[Figures]], level: float, images: int) -> list[Row]:
    """A row for each method: means over its seeds, their standard deviations, and the gain over linear MMSE."""
    reference = found[REFERENCE][0]["mse_db"]
    rows = []
    for name, seeds in found.items():
        row: Row = {"method": name, "snr_db": level, "images": images, "seeds": len(seeds)}
        row |= {key: statistics.mean(each(seeds, key)) for key in seeds[0]}
        row |= {f"{key}_std": statistics.stdev(each(seeds, key)) for key in seeds[0] if len(seeds) > 1}
        rows.append(row | {"gain_db": reference - row["mse_db"]})
    return rows


def each(seeds: Iterable[Figures], key: str) -> list[float]:
    """One figure of every seed."""
    return [figures[key] for figures in seeds]
