"""What snapshots of EDM and EDM2 have in common: a network in a preconditioned one, and what it was built with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from denoisezoo.errors import UserError, unknown
from denoisezoo.interop.pickle_reader import PickleRefused, Thing
from denoisezoo.interop.unet_map import Position, positions

CURE = "give a snapshot of NVlabs/edm or NVlabs/edm2, network-snapshot-*.pkl"


def inner(path: Path, whole: Thing, name: str) -> tuple[Thing, Mapping[str, Any]]:
    """The network within, and the arguments that it was built with.

    Args:
        path: The file, for the error.
        whole: The preconditioned network.
        name: What it calls the network.

    Raises:
        UserError: There is none.
    """
    net = whole.named("_modules").get(name)
    arguments = net.state.get("_init_kwargs") if isinstance(net, Thing) else None
    if not isinstance(net, Thing) or not isinstance(arguments, dict):
        raise UserError(f"{path} holds a {whole.kind:.40} without a network of EDM in it", CURE)
    return net, arguments


def arguments_of(
    path: Path, kind: str, given: Mapping[str, Any], defaults: Mapping[str, Any], required: tuple[str, ...]
) -> dict[str, Any]:
    """All arguments of a network, each of the type of its default: text, a number, or numbers.

    Args:
        path: The file, for the error.
        kind: Class of the network.
        given: Arguments in the file.
        defaults: Those that need not be given; None stands for a number that may be None.
        required: Numbers that must be given.

    Raises:
        UserError: One is unknown, missing or of another type.
    """
    for name in given:
        if name not in defaults and name not in required:
            raise unknown(f"argument of {kind} in {path}:", name, [*defaults, *required])
    values = {**defaults, **given}
    for name in required:
        if name not in values:
            raise UserError(f"{path} does not say the {name} of its {kind}", CURE)
    for name, value in values.items():
        expected = defaults.get(name, 0)
        if expected is None and value is None:
            continue
        numbers = value if isinstance(expected, list) else [value]
        fits = isinstance(value, str) if isinstance(expected, str) else isinstance(numbers, list | tuple)
        if not isinstance(expected, str):
            fits = fits and all(isinstance(number, int | float) for number in numbers)
        if not fits:
            kind_of = "text" if isinstance(expected, str) else "number"
            raise UserError(f"{name} of the {kind} in {path} is no {kind_of}", CURE)
    return values


def tensors_of(path: Path, net: Thing) -> dict[str, Tensor]:
    """Parameters and buffers of a network by name.

    Raises:
        UserError: It is nested without end.
    """
    try:
        return dict(net.tensors())
    except PickleRefused as error:
        raise UserError(f"{path} is refused: {error}", CURE) from error


def block_names(size: int, levels: int, blocks: int) -> dict[Position, str]:
    """What both call the stages of their U-Nets, in the order in which they run, such as "enc.32x32_block0".

    Args:
        size: Pixels a side at full resolution.
        levels: Sizes of the U-Net.
        blocks: Blocks of an encoder level.
    """
    names = {}
    for position in positions(levels, blocks):
        room = "enc" if position.part == "encoder" else "dec"
        if position.block is None:
            name = "down" if room == "enc" else "up"
        else:
            name = f"{'in' if position.part == 'middle' else 'block'}{position.block}"
        side = size >> position.level
        names[position] = f"{room}.{side}x{side}_{name}"
    return names
