"""Runs that training begins with or learns from: they are read by whoever calls the trainer, which knows no runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch

from denoisezoo.archs import Backbone
from denoisezoo.diffusion import NetworkDenoiser, Objective
from denoisezoo.errors import UserError
from denoisezoo.nn.embeddings import SecondTime


class Loaded(NamedTuple):
    """A denoiser that was read, with its averaged weights where there are some, and the hash of its file."""

    denoiser: NetworkDenoiser
    sha256: str


Loader = Callable[[str], Loaded]
"""Reads what a path names: a run folder, a checkpoint, FORMAT:PATH of other code."""


def nothing_loads(path: str) -> Loaded:
    """The loader of a caller that gives none."""
    raise UserError(f"nothing here reads the run {path}", "train by `denoisezoo train`, or by denoisezoo.train")


def begin_with(backbone: Backbone, other: Backbone, path: str) -> None:
    """Give a network the weights of another; a second time that the other is not told stays as it is fresh.

    Where it sees more channels than the other, such as a conditioning image, these come last and count for nothing at
    first: weights that see them begin at zero, and with them it computes what the other does.

    Args:
        backbone: What is to be trained.
        other: Of the same sizes.
        path: Where the other comes from.

    Raises:
        UserError: It is another network.
    """
    ours, theirs = backbone.state_dict(), other.state_dict()
    seen, theirs_seen = (net.spec.in_channels + net.spec.cond_channels for net in (backbone, other))
    for key in ours.keys() & theirs.keys() if seen > theirs_seen else ():
        B, C, *size = theirs[key].shape if theirs[key].ndim == 4 else (0, 0)
        if theirs_seen == C and ours[key].shape == (B, seen, *size):
            theirs[key] = torch.cat([theirs[key], theirs[key].new_zeros(B, seen - C, *size)], dim=1)
    told = {name for name, part in backbone.named_modules() if isinstance(part, SecondTime)}
    lacking = {key for key in ours.keys() - theirs.keys() if key.rpartition(".project")[0] not in told}
    wrong = sorted({*lacking, *(theirs.keys() - ours.keys())})
    wrong += sorted(key for key in ours.keys() & theirs.keys() if ours[key].shape != theirs[key].shape)
    if wrong:
        raise UserError(
            f"`model.start_from={path}` holds another network than the one that is trained: {wrong[0]} differs",
            "give the network the sizes of that run, or begin with fresh weights",
        )
    backbone.load_state_dict(theirs, strict=False)


def teach(objective: Objective, load: Loader) -> str | None:
    """Hand an objective the teacher that it names, if it names one; the hash of its file.

    Raises:
        UserError: It cannot be read.
    """
    if objective.teacher is None or objective.source is not None:
        return None
    found = load(objective.teacher)
    objective.learn_from(found.denoiser)
    return found.sha256


def check_teacher(known: Mapping[str, Any], sha256: str | None) -> None:
    """Refuse to go on with another teacher than the one that a checkpoint remembers.

    Raises:
        UserError: It is another.
    """
    if (theirs := known.get("teacher_sha256")) is not None and theirs != sha256:
        raise UserError(
            "the teacher is not the one that this run began with: its file has changed",
            "put it back as it was, or give another `trainer.default_root_dir`",
        )
