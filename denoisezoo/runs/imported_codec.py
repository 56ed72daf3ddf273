"""The codec of an imported network of latents: its authors publish the network and not the autoencoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from denoisezoo.diffusion import Codec, create_codec
from denoisezoo.errors import UserError
from denoisezoo.interop import Foreign
from denoisezoo.recorded import UndescribableError, describe

if TYPE_CHECKING:
    from denoisezoo.runs.run import Run

SCALING = {"scale", "shift", "mean", "std"}
"""Options of a codec that say how its latents are scaled."""


def codec_for(found: Foreign, spec: str | Codec) -> tuple[Any, dict[str, Tensor]]:
    """The codec of a foreign network, as a recipe names it, and its weights.

    Args:
        found: What was read of the network.
        spec: A codec, or its name with options, "autoencoder_kl:path=FOLDER".

    Raises:
        UserError: The network has one, no file can name this one, or see `create_codec`.
    """
    if found.codec is not None:
        raise UserError(f"`codec` is given, and {found.file} has one, {found.codec}", "leave it out")
    codec = _scaled(spec, found.facts.get("latents", {}))
    try:
        return describe(codec), codec.state_dict()
    except UndescribableError as error:
        raise UserError(f"`codec` is {error} and no file can name it", "put its class into a module") from error


def _scaled(spec: str | Codec, latents: Mapping[str, Any]) -> Codec:
    """The codec that is given, its latents scaled as those that a network was trained on.

    Args:
        spec: A codec, or its name with options.
        latents: What is known of them: the `codec` for which raw latents times `scale` plus `shift`, a number for each
            channel, are those of the network. Nothing of it is used for another codec, whose raw latents are others,
            nor where options say the scale.
    """
    if isinstance(spec, Codec):
        return spec
    name, _, text = spec.partition(":")
    given = {item.partition("=")[0] for item in text.split(",")}
    scale, shift = latents.get("scale"), latents.get("shift")
    if name != latents.get("codec") or given & SCALING or not scale or not shift or 0 in scale:
        return create_codec(spec)
    # a raw + b = (raw - (0 - b) / a) a
    mean = [(0.0 - b) / a for a, b in zip(scale, shift, strict=True)]
    if len({*scale}) == len({*mean}) == 1:
        return create_codec(spec, scale=scale[0], shift=mean[0])
    return create_codec(spec, mean=mean, std=[1 / a for a in scale], target_std=1.0)


def missing_codec(run: Run) -> UserError | None:
    """What to say of a run that makes latents which nothing decodes; None of others."""
    latents = run.config.get("source", {}).get("latents")
    if run.image_shape[0] in (1, 3) and not (latents and run.denoiser.codec.identity):
        return None
    return UserError(
        f"{run.name} makes latents of {run.image_shape[0]} channels, which no codec of it decodes",
        "import it with its autoencoder, `denoisezoo import FORMAT:PATH --codec autoencoder_kl:path=FOLDER`, "
        "or in Python load(..., codec=...); without one load(...).sample(...) gives the latents",
    )


def require_codec(run: Run) -> None:
    """Refuse a run that makes latents which nothing decodes.

    Raises:
        UserError: Saying what to give.
    """
    if (error := missing_codec(run)) is not None:
        raise error
