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
    spec, process = denoiser.backbone.spec, denoiser.process
    taken, has = given_channels(process), data.cond_channels
    needs = taken or spec.cond_channels
    if needs != has:
        where = "process.cond_channels" if taken else "network.cond_channels"
        raise UserError(
            f"{name} takes conditions of {needs} channels, and {data.title} gives {has}",
            f"add --model.{where} {has}" if has else "choose Paired data with a task",
        )
    state, outputs = process.basis.state_channels(data.channels), denoiser.outputs_for(data.channels)
    for what, needs, has, cure in (
        ("channels", spec.in_channels, state, f"in_channels {state} --model.network.out_channels {outputs}"),
        ("pixels a side", spec.resolution, data.resolution, f"resolution {data.resolution}"),
    ):
        if needs != has:
            raise UserError(
                f"{name} takes images of {needs} {what}, and {data.title} has {has}"
                + (f" under {type(process).__name__}" if process.basis.k > 1 and what == "channels" else ""),
                f"add --model.network.{cure}, or choose other data",
            )
    if data.num_classes != spec.num_classes:
        raise UserError(
            f"{name} knows {spec.num_classes} classes, and {data.title} gives {data.num_classes}",
            f"add --model.network.num_classes {data.num_classes}, or set --data.labels to match",
        )
