"""The conditions that a conditional run is sampled with: those of held-out images, or images of your own."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from denoisezoo.errors import UserError
from denoisezoo.evaluation.recognition import held_out_labels
from denoisezoo.evaluation.reconstruction import DRAWS, Pair, condition_of, picture_rows
from denoisezoo.files import local_path
from denoisezoo.pictures import image_grid
from denoisezoo.pixels import to_float


@dataclass(frozen=True)
class Conditions:
    """Conditions that samples take in turns.

    Attributes:
        pair: The conditions, with the truth.
        known: Whether the truth is one; else `pair.x` is empty of meaning.
        draws: Samples that each condition should have.
        labels: Class of the image that each condition is of (M,) int64; None where it is not known.
    """

    pair: Pair
    known: bool = True
    draws: int = DRAWS
    labels: Tensor | None = None

    def index(self, num: int) -> Tensor:
        """Condition of each of `num` samples (num,): as many conditions as have `draws` samples each, going round."""
        return condition_of(num, len(self.pair), self.draws)


def sample_labels(
    num: int, num_classes: int, conditions: Conditions | None = None, label: int | None = None
) -> Tensor | None:
    """Class of each of `num` samples (num,) int64; None for no labels.

    Args:
        num: Samples.
        num_classes: Classes that the network knows; 0 for an unconditional one.
        conditions: What the samples are given beside; each then has the class of its condition, if that is known.
        label: One class for all, whatever the conditions are. Without it and without conditions the classes go round.

    Raises:
        UserError: The network does not know the label.
    """
    if label is not None:
        if not 0 <= label < num_classes:
            raise UserError(
                f"label {label} is not among the {num_classes} classes of this network", "give a class it knows"
            )
        return torch.full((num,), label)
    if not num_classes:
        return None
    if conditions is None:
        return torch.arange(num) % num_classes
    return None if conditions.labels is None else conditions.labels[conditions.index(num)]


def check_dropout(label_dropout: float, num_classes: int, name: str) -> None:
    """Refuse to drop labels that are not there.

    Raises:
        UserError: A share that is none, or a network without classes.
    """
    if not 0 <= label_dropout < 1:
        raise UserError(f"label_dropout is {label_dropout}", "give a share of at least 0 and below 1, such as 0.1")
    if label_dropout and not num_classes:
        raise UserError(f"{name} knows no classes whose labels could be dropped", "set model.network.num_classes")


def drop_labels(label: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Labels (B,) with -1, no label, for some of the images, each with probability `share`."""
    return torch.where(torch.rand(len(label), generator=generator, device=label.device) < share, -1, label)


def sample_picture(images: Tensor, conditions: Conditions | None) -> np.ndarray:
    """A grid of samples (N, C, H, W), in rows of one condition each where there are conditions."""
    if conditions is None:
        return image_grid(images)
    rows, columns = picture_rows(images, conditions.pair, conditions.index(len(images)), known=conditions.known)
    return image_grid(rows, columns)


def held_out(data: Any, num: int, draws: int = DRAWS) -> Conditions:
    """Conditions and labels of the held-out images of a data set, as many as `num` samples need.

    Raises:
        UserError: The data have no conditions.
    """
    if not data.cond_channels:
        raise UserError(f"{data.title} gives no conditions", "use Paired data with a task")
    pair = data.held_out_pairs(max(1, num // draws))
    labels = held_out_labels(data)[: len(pair)] if data.num_classes else None
    return Conditions(pair, draws=draws, labels=labels)


def from_files(path: str | os.PathLike[str], shape: tuple[int, int, int], draws: int = DRAWS) -> Conditions:
    """Conditions from an image file or a folder of them.

    Args:
        path: The file or folder.
        shape: (Cy, H, W) that the network takes.
        draws: Samples of each.

    Raises:
        UserError: They cannot be read, have another size, or the network's condition is no picture.
    """
    from denoisezoo.data.decoding import Decoder
    from denoisezoo.data.sources import FolderSource, OneImage

    path, (channels, side, _) = local_path(path), shape
    if channels not in (1, 3):
        raise UserError(f"this network's condition has {channels} channels, no picture", "leave `condition` out")
    if not path.exists():
        raise UserError(f"there is no condition {path}", "give an image file or a folder of them")
    source = FolderSource(path) if path.is_dir() else OneImage(path)
    decode = Decoder(source, side, channels, resize=False)
    pixels = []
    for name in source.names:
        size = decode.size(name)
        if size != (side, side):
            raise UserError(
                f"condition {source.path / name} is {size[0]}x{size[1]}", f"this network takes {side}x{side} pixels"
            )
        pixels.append(decode(name))
    y = to_float(torch.stack(pixels))
    return Conditions(Pair(y, y), known=False, draws=draws)
