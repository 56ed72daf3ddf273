"""Whether data are such as a network takes."""

from __future__ import annotations

from denoisezoo.data import ImageData
from denoisezoo.diffusion import NetworkDenoiser
from denoisezoo.diffusion.capabilities import given_channels
from denoisezoo.errors import UserError


def check_data(name: str, denoiser: NetworkDenoiser, data: ImageData) -> None:
    """Refuse data of other channels, size, classes or conditions than the network takes.

    Args:
        name: What the network is called.
        denoiser: The network under its process.
        data: The data.

    Raises:
        UserError: Naming both, and the options that would fit them together.
    """
    spec, process, codec = denoiser.backbone.spec, denoiser.process, denoiser.codec
    needs, has = denoiser.cond_shape[0] if denoiser.cond_shape else 0, data.cond_channels
    if needs != has:
        where = "process.cond_channels" if given_channels(process) else "network.cond_channels"
        latents = codec.latent_shape(has, data.resolution, data.resolution)[0] if has else 0
        raise UserError(
            f"{name} takes conditions of {needs} channels, and {data.title} gives {has}",
            f"set `model.{where}={latents}`" if has else "choose Paired data with a task",
        )
    channels, _, side = codec.latent_shape(data.channels, data.resolution, data.resolution)
    state, outputs = process.basis.state_channels(channels), denoiser.outputs_for(channels)
    of, verb = ("images", "has") if codec.identity else ("latents", f"in codec {codec.title} has")
    both = f"`model.network.in_channels={state}` and `model.network.out_channels={outputs}`"
    for what, needs, has, cure in (
        ("channels", spec.in_channels, state, both),
        ("pixels a side", spec.resolution, side, f"`model.network.resolution={side}`"),
    ):
        if needs != has:
            raise UserError(
                f"{name} takes {of} of {needs} {what}, and {data.title} {verb} {has}"
                + (f" under {type(process).__name__}" if process.basis.k > 1 and what == "channels" else ""),
                f"set {cure}, or choose other data",
            )
    if data.num_classes != spec.num_classes:
        raise UserError(
            f"{name} knows {spec.num_classes} classes, and {data.title} gives {data.num_classes}",
            f"set `model.network.num_classes={data.num_classes}`, or `data.labels` to match",
        )
    if data.augment_dim not in (0, spec.augment_dim):
        raise UserError(
            f"{name} takes augmentation labels of {spec.augment_dim}, and {data.title} gives {data.augment_dim}",
            f"set `model.network.augment_dim={data.augment_dim}`, or choose data without augmentation",
        )
