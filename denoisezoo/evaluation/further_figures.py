"""Figures beside the Frechet distance that cost more, and those of each class."""

from __future__ import annotations

from functools import cached_property

from torch import Tensor

from denoisezoo.errors import UserError
from denoisezoo.evaluation.bootstrap import frechet_interval
from denoisezoo.evaluation.data_copying import copying_test
from denoisezoo.evaluation.density_coverage import NEIGHBOURS, density_coverage
from denoisezoo.evaluation.kernel_mmd import kernel_distance_with_error
from denoisezoo.evaluation.metrics import Evaluator, pixels_of
from denoisezoo.evaluation.precision_recall import Manifold


class FurtherFigures:
    """What `Evaluator` leaves out.

    Args:
        evaluator: The reference side, with images.

    Raises:
        UserError: The reference is statistics alone.
    """

    def __init__(self, evaluator: Evaluator) -> None:
        if evaluator.real is None:
            raise UserError("the reference holds statistics and no images", "leave `details` and `by_class` out")
        self.evaluator, self.real = evaluator, evaluator.real
        self.name = evaluator.features.distance_name
        self.kernel = "kid_all_pairs" if self.name == "fid" else self.name.replace("fd_", "kd_", 1)

    @cached_property
    def _balls(self) -> Manifold:
        return Manifold(self.real, NEIGHBOURS)

    @cached_property
    def _known(self) -> tuple[Tensor, Tensor] | None:
        """Features of training and of held-out images."""
        training, held_out = self.evaluator.training, self.evaluator.held_out
        if training is None or held_out is None:
            return None
        features = self.evaluator.features
        return features.extract(training), features.extract(held_out)

    def of(self, generated: Tensor) -> dict[str, float]:
        """Of all generated images (N, C, H, W).

        Returns:
            With D the name of the Frechet distance: `D_low` and `D_high`, the ends of its 95 % interval;
            `kd_<features>` (`kid_all_pairs` of Inception-v3), a kernel distance, with its standard error, `..._se`;
            `density` and `coverage`; where
            training and held-out images are known, `copying`, C_T.

        Raises:
            UserError: Too few images.
        """
        fake = self._features(generated)
        low, high = frechet_interval(fake, self.real)
        distance, error = kernel_distance_with_error(fake, self.real)
        density, coverage = density_coverage(fake, self._balls)
        figures = {f"{self.name}_low": low, f"{self.name}_high": high}
        figures |= {self.kernel: distance, f"{self.kernel}_se": error, "density": density, "coverage": coverage}
        if self._known is not None:
            figures["copying"] = copying_test(fake, *self._known)
        return figures

    def by_class(self, generated: Tensor, labels: Tensor | None, real_labels: Tensor) -> dict[str, float]:
        """Kernel distance with its standard error, and coverage, for each class of the reference.

        The kernel distance, as it has no bias where a class has few images.

        Args:
            generated: (N, C, H, W).
            labels: Class of each (N,); None where it has none.
            real_labels: Class of each reference image (M,).

        Raises:
            UserError: The images have no classes, or one has too few images.
        """
        if labels is None or int(labels.max()) < 0 or len(real_labels) != len(self.real):
            raise UserError(
                "the generated images have no classes", "leave `by_class` out, or sample a network of labels"
            )
        fake = self._features(generated)
        figures: dict[str, float] = {}
        for label in real_labels.unique().tolist():
            mine, theirs = fake[labels == label], self.real[real_labels == label]
            if min(len(mine), len(theirs)) <= NEIGHBOURS:
                what = f"class {label} has {len(mine)} generated and {len(theirs)} real images"
                raise UserError(what, f"generate more: each class needs over {NEIGHBOURS}")
            distance, error = kernel_distance_with_error(mine, theirs)
            figures |= {f"{self.kernel}_class_{label}": distance, f"{self.kernel}_class_{label}_se": error}
            figures[f"coverage_class_{label}"] = density_coverage(mine, theirs)[1]
        return figures

    def _features(self, generated: Tensor) -> Tensor:
        return self.evaluator.features.extract(pixels_of(generated, "generated"))
