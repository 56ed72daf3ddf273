"""What images are compared by: feature extractors, by name in `FEATURES`."""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from denoisezoo.errors import UserError
from denoisezoo.files import local_path, sha256
from denoisezoo.pixels import check_images, to_float, to_uint8
from denoisezoo.registry import Registry

INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
INCEPTION_VARIABLE = "DENOISEZOO_INCEPTION"
MAX_DIMENSIONS = 4096


class Features(ABC):
    """A map from images to vectors.

    Attributes:
        name: Registry name.
        distance_name: What the Frechet distance in these features is called: `fid` for Inception-v3 alone.
        weights_sha256: Hash of the file of weights, None where there are no weights.
        device: Where `extract` computes and leaves the features.
    """

    name: ClassVar[str]
    weights_sha256: str | None = None
    device: torch.device = torch.device("cpu")

    @property
    def distance_name(self) -> str:
        """See the class."""
        return f"fd_{self.name}"

    def to(self, device: str | torch.device) -> Features:
        """Compute on `device` from now on; returns itself."""
        self.device = torch.device(device)
        return self

    def check(self, shape: tuple[int, ...]) -> None:  # noqa: B027 (most serve all)
        """Refuse images of a shape (C, H, W) that these features do not serve."""

    @abstractmethod
    def __call__(self, pixels: Tensor) -> Tensor:
        """Features (B, D) of images, uint8 (B, C, H, W), which are on `device`."""

    def extract(self, images: Tensor, batch_size: int = 256) -> Tensor:
        """Features (N, D) of all images, batch by batch.

        Args:
            images: uint8, or float in [-1, 1], (N, C, H, W). Floats become pixels first, as a saved image would.
            batch_size: Images at a time.

        Raises:
            UserError: They are neither.
        """
        check_images(images)
        with torch.inference_mode():
            return torch.cat([self(to_uint8(part).to(self.device)) for part in images.split(batch_size)])


FEATURES: Registry[type[Features]] = Registry("feature extractor")
"""Registry name -> class; `create_features` builds one."""


def create_features(name: str, **options: Any) -> Features:
    """The feature extractor of that name.

    Raises:
        UserError: There is no such name, or its weights are missing or damaged.
    """
    return FEATURES[name](**options)


@FEATURES.register("pixels")
class Pixels(Features):
    """The image itself, flattened, in [-1, 1]: exact and without weights; for small images.

    A distance between Gaussians in pixel space sees brightness, contrast and covariance of pixels, and no shape that
    these do not tell: it ranks models of the digits, and says little about photographs.
    """

    name = "pixels"

    def check(self, shape: tuple[int, ...]) -> None:
        """See `Features`.

        Raises:
            UserError: More dimensions than a covariance matrix is practical for.
        """
        if (dimensions := math.prod(shape)) > MAX_DIMENSIONS:
            raise UserError(
                f"images of shape {shape} have {dimensions} pixel features, over {MAX_DIMENSIONS}",
                "use the features inception, or pixels16 (images averaged down to 16x16)",
            )

    def __call__(self, pixels: Tensor) -> Tensor:
        """See `Features`; D = C H W."""
        self.check(tuple(pixels.shape[1:]))
        return to_float(pixels).flatten(1)


@FEATURES.register("pixels16")
class Pixels16(Features):
    """The image averaged down to 16x16 and flattened, in [-1, 1]: pixel features for images of any size."""

    name = "pixels16"

    def __call__(self, pixels: Tensor) -> Tensor:
        """See `Features`; D = 256 C."""
        return adaptive_avg_pool2d(to_float(pixels), 16).flatten(1)


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

    def __call__(self, pixels: Tensor) -> Tensor:
        """See `Features`; D = 2048."""
        rgb = pixels.expand(-1, 3, -1, -1) if pixels.shape[1] == 1 else pixels
        return self.network(rgb)[0]


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
