"""Inception-v3 of the original FID code."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from denoisezoo.errors import UserError
from denoisezoo.evaluation.features.extractor import FEATURES, Features, as_rgb, check_channels
from denoisezoo.files import local_path, sha256

INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
INCEPTION_VARIABLE = "DENOISEZOO_INCEPTION"


@FEATURES.register("inception")
class Inception(Features):
    """The 2,048 pooled features of Inception-v3, with the weights and the resizing of the original FID code.

    The network is torch-fidelity's, a port of TensorFlow's graph of 2015. Grey images are repeated in three channels.

    Args:
        weights: The file of weights. Without one, the environment variable DENOISEZOO_INCEPTION names it, or it is
            taken from torch's download cache; nothing is downloaded.

    Raises:
        UserError: There is no file of weights, or it is damaged.
    """

    name = "inception"
    options: ClassVar[Mapping[str, Any]] = {"weights": str}

    def __init__(self, weights: str | os.PathLike[str] | None = None) -> None:
        path = find_inception(weights)
        _check_weights(path)
        self.weights_sha256 = sha256(path)
        self.network = _build_inception(path)

    def to(self, device: str | torch.device) -> Features:
        """See `Features`."""
        self.network.to(device)
        return super().to(device)

    @property
    def distance_name(self) -> str:
        """FID; no other features may be called so."""
        return "fid"

    def check(self, shape: tuple[int, ...]) -> None:
        """See `Features`; grey or RGB."""
        check_channels(self.name, shape)

    def __call__(self, pixels: Tensor) -> Tensor:
        """See `Features`; D = 2048."""
        return self.network(as_rgb(pixels))[0]


def find_inception(weights: str | os.PathLike[str] | None = None) -> Path:
    """The file of Inception-v3 weights: `weights`, else $DENOISEZOO_INCEPTION, else torch's download cache.

    Raises:
        UserError: It is not there.
    """
    named = weights or os.environ.get(INCEPTION_VARIABLE)
    path = local_path(named) if named else Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_FILE
    if not path.is_file():
        raise UserError(
            f"Inception-v3 weights are not at {path}",
            f"pass the path of {INCEPTION_FILE} (a release file of torch-fidelity) or set {INCEPTION_VARIABLE} to it",
        )
    return path


def _check_weights(path: Path) -> None:
    """Refuse a damaged file, and one that would run code when it is unpickled (torch-fidelity would let it)."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        good = state["Conv2d_1a_3x3.conv.weight"].shape == (32, 3, 3, 3)
    except Exception:  # torch.load raises nearly anything on bytes that are not a checkpoint
        good = False
    if not good:
        raise UserError(
            f"{path} does not hold Inception-v3 weights, or is damaged",
            f"fetch {INCEPTION_FILE} of torch-fidelity again",
        )


def _build_inception(path: Path) -> torch.nn.Module:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    try:
        return FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], feature_extractor_weights_path=str(path))
    except RuntimeError as error:  # load_state_dict: names or shapes differ
        raise UserError(
            f"{path} holds weights of another network than Inception-v3", f"pass {INCEPTION_FILE} of torch-fidelity"
        ) from error
