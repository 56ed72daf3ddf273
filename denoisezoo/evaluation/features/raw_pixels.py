"""Pixels as features: exact, and without weights."""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from denoisezoo.errors import UserError
from denoisezoo.evaluation.features.extractor import FEATURES, Features
from denoisezoo.pixels import to_float

MAX_DIMENSIONS = 4096


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
