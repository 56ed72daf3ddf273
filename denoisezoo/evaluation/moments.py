"""Mean and covariance of features in a file, as EDM, pytorch-fid and guided-diffusion keep those of real images."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from denoisezoo.data.npz import read_npz
from denoisezoo.errors import UserError
from denoisezoo.evaluation.features import Features
from denoisezoo.evaluation.frechet import GaussianStats
from denoisezoo.files import atomic_path, sha256

MEAN, COVARIANCE = "mu", "sigma"
"""What all of them call the two arrays, (D,) and (D, D)."""
INCEPTION_DIMENSIONS = 2048


@dataclass(frozen=True)
class Moments:
    """What a file says of features of real images.

    Attributes:
        path: The file.
        sha256: Its hash.
        stats: Mean and covariance; its n is 0 where the file does not say how many images they are of.
        features: Registry name of the features; None where the file does not say, as others' do not.
        features_sha256: Hash of the extractor's weights; None where it has none, or the file does not say.
    """

    path: str
    sha256: str
    stats: GaussianStats = field(repr=False)
    features: str | None = None
    features_sha256: str | None = None

    def misfit(self, features: Features, shape: tuple[int, int, int]) -> UserError | None:
        """Why these moments cannot be compared with such features, None where they can, as far as is known.

        Args:
            features: What images are to be compared by.
            shape: (C, H, W) of the images.

        Returns:
            The error, that the file names others, or others' weights, or that the numbers of dimensions differ.
        """
        held = f"{self.path} holds statistics of"
        if self.features is not None and self.features != features.name:
            what = f"{held} the features {self.features}, and features is {features.name}"
            return UserError(what, f"give `features={self.features}`, or another reference")
        known = self.features_sha256, features.weights_sha256
        if None not in known and known[0] != known[1]:
            what = f"{held} {features.name} with weights of SHA-256 {known[0]}, and these have {known[1]}"
            return UserError(what, "give those weights, or another reference")
        dimensions = features.extract(torch.zeros(1, *shape, dtype=torch.uint8)).shape[1]
        if len(self.stats.mean) == dimensions:
            return None
        what = f"{held} {len(self.stats.mean)} features, and {features.name} has {dimensions} of such images"
        cure = "`features=inception`" if len(self.stats.mean) == INCEPTION_DIMENSIONS else "the features that it is of"
        return UserError(what, f"give {cure}, or another reference")


def read_moments(path: str | os.PathLike[str]) -> Moments | None:
    """The moments in an .npz file; None where it holds neither mean nor covariance.

    Raises:
        UserError: It is damaged, holds one of the two alone, or they are of other shapes or not finite.
    """
    arrays = read_npz(path, MEAN, COVARIANCE, "n", "features", "features_sha256")
    if MEAN not in arrays and COVARIANCE not in arrays:
        return None
    for name, other in ((MEAN, COVARIANCE), (COVARIANCE, MEAN)):
        if name not in arrays:
            raise UserError(f"{path} holds {other}, and no {name}", "give a file with both")
    mean, covariance = arrays[MEAN], arrays[COVARIANCE]
    if mean.ndim != 1 or covariance.shape != 2 * mean.shape or {mean.dtype.kind, covariance.dtype.kind} != {"f"}:
        found = f"{MEAN} of {path} is {mean.dtype} {mean.shape}, and {COVARIANCE} {covariance.dtype} {covariance.shape}"
        raise UserError(found, "give floats (D,) and (D, D)")
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise UserError(f"statistics in {path} hold NaN or infinity", "make them again")
    mean, covariance = mean.astype(np.float64), covariance.astype(np.float64)
    n = arrays.get("n", np.zeros(()))
    stats = GaussianStats(int(n) if n.shape == () else 0, torch.from_numpy(mean), torch.from_numpy(covariance))
    named = {key: str(arrays[key]) or None for key in ("features", "features_sha256") if key in arrays}
    return Moments(os.fspath(path), sha256(path), stats, **named)


def write_moments(path: str | os.PathLike[str], stats: GaussianStats, features: Features, **facts: Any) -> None:
    """Write moments as others read them, `mu` and `sigma`, with what they are of beside.

    Args:
        path: The .npz file, written whole or not at all.
        stats: Of the real images.
        features: What they are features of.
        **facts: What else is known, such as `dataset_sha256`, as text or numbers.

    Raises:
        UserError: It cannot be written.
    """
    arrays: dict[str, Any] = {MEAN: stats.mean.cpu().numpy(), COVARIANCE: stats.covariance.cpu().numpy(), "n": stats.n}
    arrays |= {"features": features.name, "features_sha256": features.weights_sha256 or "", **facts}
    with atomic_path(path) as temporary, open(temporary, "wb") as file:  # savez would add a suffix to a path
        np.savez(file, **arrays)
