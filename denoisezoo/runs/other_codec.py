"""A run whose latents another codec decodes than the one it was trained with: the knob of a cheaper decoder."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from denoisezoo.diffusion import Codec, NetworkDenoiser, create_codec
from denoisezoo.errors import UserError
from denoisezoo.recorded import describe

if TYPE_CHECKING:
    from denoisezoo.runs.run import Run

NEAR = 1e-3
"""How far latents may differ, in standard deviations of them: the rounding of another order of sums."""


def with_codec(run: Run, spec: str | Codec) -> Run:
    """The run with another decoder.

    Args:
        run: A run on latents.
        spec: A codec of the same latents, or its name with options, "autoencoder:path=RUN": one that encodes images as
            the run's own does, such as one whose decoder was distilled from it.

    Raises:
        UserError: The run is one of pixels, the codec's latents are others, or see `create_codec`.
    """
    denoiser, own = run.denoiser, run.denoiser.codec
    if own.identity:
        raise UserError(f"`codec` is given, and {run.name} denoises pixels", "leave it out")
    codec = spec if isinstance(spec, Codec) else create_codec(spec)
    images = torch.rand(2, *denoiser.image_shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    expected, found = own.to_latents(images), codec.to_latents(images)
    if found.shape != expected.shape or (found - expected).abs().max() > NEAR * expected.std():
        raise UserError(
            f"codec {codec.title} makes other latents than those that {run.name} was trained on, of {own.title}",
            "give one with the same encoder and the same std, such as a decoder that was distilled from it",
        )
    made = NetworkDenoiser(denoiser.backbone, denoiser.process, denoiser.preconditioning, codec).eval()
    config = {**run.config, "model": {**run.config["model"], "codec": describe(codec)}} if run.config else {}
    other = replace(run, denoiser=made, config=config)
    made.run = other
    return other
