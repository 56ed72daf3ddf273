"""Features of real images, kept between commands: networks take longer for them than anything else of a judgement."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from denoisezoo.errors import UserError
from denoisezoo.evaluation.features import Features
from denoisezoo.files import atomic_path
from denoisezoo.pixels import sha256_of
from denoisezoo.ranks import ranks

LARGEST = 1 << 30
"""Bytes; larger ones are not kept."""


def cached_features(pixels: Tensor, features: Features, extract: Callable[[Tensor], Tensor]) -> Tensor:
    """Features (N, D) of real images, from the cache where they are there, else made and kept there.

    They go by a hash of the pixels, name and weights of the extractor, and the kind of device. What has no weights is
    faster made than read; and where several processes share the work, none of them looks.

    Args:
        pixels: uint8 (N, C, H, W).
        features: What they are.
        extract: What makes them.
    """
    if features.weights_sha256 is None or ranks()[1] > 1:
        return extract(pixels)
    path = _path(pixels, features)
    with contextlib.suppress(OSError, ValueError, EOFError):  # not there, or damaged
        found = np.load(path, allow_pickle=False)
        if found.ndim == 2 and len(found) == len(pixels):
            return torch.from_numpy(found).to(features.device)
    made = extract(pixels)
    if made.numel() * made.element_size() <= LARGEST:
        with contextlib.suppress(OSError, UserError):  # nothing is lost but time
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(path) as temporary, open(temporary, "wb") as file:  # save would add a suffix to a path
                np.save(file, made.cpu().numpy())
    return made


def _path(pixels: Tensor, features: Features) -> Path:
    """$XDG_CACHE_HOME/denoisezoo/features/KEY.npy."""
    facts = (sha256_of(pixels), features.name, features.weights_sha256, features.device.type)
    key = hashlib.sha256(repr(facts).encode()).hexdigest()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "denoisezoo" / "features" / f"{key}.npy"
