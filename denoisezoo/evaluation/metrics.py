"""The figures of a set of generated images against real ones, with the floor that finite data set under them."""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence

import torch
from torch import Tensor

from denoisezoo.errors import UserError
from denoisezoo.evaluation.feature_cache import cached_features
from denoisezoo.evaluation.features import Features, create_each
from denoisezoo.evaluation.frechet import GaussianStats, frechet_distance, gaussian_stats
from denoisezoo.evaluation.neighbours import memorised, training_neighbours
from denoisezoo.evaluation.precision_recall import Manifold, precision_recall
from denoisezoo.pixels import check_images, to_uint8
from denoisezoo.ranks import gather, share

KID_SUBSETS, KID_SUBSET_SIZE = 100, 1000


class Evaluator:
    """Compares sets of generated images with one reference set, whose own figures are computed once.

    Args:
        reference: Real images (M, C, H, W), uint8 or float in [-1, 1]; M may be 0 where `moments` are given.
        features: Name of a feature extractor, or one that was built with its own options; of several, "pixels+efflite0"
            or a list, the first decides, and the others give distances beside.
        training: The images that the model was trained on, for the memorisation figures.
        held_out: Real images that it was not trained on, likewise.
        seed: Of the random halves and of KID's subsets.
        num_halves: Random splits of the reference over which the floor is averaged.
        device: Where features and distances are computed; it must know float64.
        moments: Mean and covariance of real features for the Frechet distance, instead of those of `reference`. Without
            images the distance is the only figure.

    Attributes:
        num_reference: Real images; None where that is not known.
        floor: Mean Frechet distance between two random halves of the reference; None without images.
        others: Those of further features.

    Raises:
        UserError: Several features are asked for, and there are no reference images.
    """

    def __init__(
        self,
        reference: Tensor,
        *,
        features: str | Features | Sequence[Features] = "pixels",
        training: Tensor | None = None,
        held_out: Tensor | None = None,
        seed: int = 0,
        num_halves: int = 4,
        device: str | torch.device = "cpu",
        moments: GaussianStats | None = None,
    ) -> None:
        named = create_each(features) if isinstance(features, str) else features
        first, *others = [named] if isinstance(named, Features) else named
        self.features = first.to(device)
        self.reference = reference if moments and not len(reference) else pixels_of(reference, "reference")
        self.features.check(tuple(self.reference.shape[1:]))
        for images, what in ((training, "training images"), (held_out, "held-out images")):
            if images is not None:
                check_images(images, what)
        self.training, self.held_out = (None if x is None else x.to(device) for x in (training, held_out))
        self._manifold: Manifold | None = None
        self._held_out_distances: Tensor | None = None
        self.seed = seed
        self.real: Tensor | None = None
        self.floor: float | None = None
        if len(self.reference):
            self.real = cached_features(self.reference, self.features, self._extract)
            self.stats = gaussian_stats(self.real)
            self.floor = halves_distance(self.real, num_halves, seed)
        self.stats = self.stats if moments is None else moments
        self.num_reference: int | None = len(self.reference) or self.stats.n or None
        if others and not len(self.reference):
            what = f"there are statistics of {first.name} alone, and {others[0].name} asked for beside"
            raise UserError(what, f"give `features={first.name}`, or real images")
        self.others = [
            Evaluator(self.reference, features=f, seed=seed, num_halves=num_halves, device=device) for f in others
        ]

    def evaluate(self, generated: Tensor) -> dict[str, float]:
        """The figures of `evaluate_images`."""
        pixels = pixels_of(generated, "generated")
        self._check_shape(pixels)
        fake = self._extract(pixels)
        figures = self._distances(fake)
        if self.real is not None:
            self._manifold = self._manifold or Manifold(self.real, together=True)
            precision, recall = precision_recall(Manifold(fake, together=True), self._manifold)
            figures |= {"precision": precision, "recall": recall}
        for other in self.others:
            figures |= other._distances(other._extract(pixels))
        if self.training is not None:
            if self.held_out is not None and self._held_out_distances is None:
                self._held_out_distances = self._to_training(self.held_out, 1)
            figures |= memorised(self._to_training(pixels.to(self.training.device), 2), self._held_out_distances)
        for one in (self, *self.others):
            warn_of_rank(one.features.name, one.stats.mean.numel(), len(pixels), self.num_reference)
        return figures

    @property
    def features_sha256(self) -> str | None:
        """Hashes of the weights of all features, joined by "+"; None where there are none."""
        hashes = [one.features.weights_sha256 for one in (self, *self.others)]
        return "+".join(found or "none" for found in hashes) if any(hashes) else None

    def _distances(self, fake: Tensor) -> dict[str, float]:
        """The Frechet distance of features (N, D), and what its floor says of it."""
        name, distance = self.features.distance_name, frechet_distance(gaussian_stats(fake), self.stats)
        if self.floor is None:
            return {name: distance}
        over = distance / self.floor if self.floor > 0 else float("inf")
        figures = {name: distance, f"{name}_halves": self.floor, f"{name}_over_halves": over}
        if name == "fid" and self.real is not None:
            figures["kid"] = kernel_distance(fake, self.real, self.seed)
        return figures

    def _to_training(self, images: Tensor, k: int) -> Tensor:
        """Distances (N, k) to the nearest training images; several processes share the work."""
        assert self.training is not None
        mine = share(len(images))
        return gather(training_neighbours(images[mine.start : mine.stop], self.training, k)[0])

    def _extract(self, pixels: Tensor) -> Tensor:
        """Features of all images; several processes share the work, and each has all of them in the end."""
        mine = share(len(pixels))
        return gather(self.features.extract(pixels[mine.start : mine.stop]))

    def _check_shape(self, pixels: Tensor) -> None:
        if pixels.shape[1:] != self.reference.shape[1:]:
            raise UserError(
                f"generated images of shape {tuple(pixels.shape[1:])} and reference images of shape "
                f"{tuple(self.reference.shape[1:])} cannot be compared",
                "evaluate on the data that the model was trained on, at its resolution",
            )


def evaluate_images(
    generated: Tensor,
    reference: Tensor,
    *,
    features: str | Features = "pixels",
    training: Tensor | None = None,
    held_out: Tensor | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> dict[str, float]:
    """Figures of generated images; see `Evaluator` for several sets against one reference.

    Args:
        generated: (N, C, H, W), uint8 or float in [-1, 1]; floats become pixels first, as a saved image would.
        reference: Real images (M, C, H, W).
        features: Feature extractor.
        training: What the model was trained on, for the memorisation figures.
        held_out: Real images that it was not trained on.
        seed: Of the random halves and of KID's subsets.
        device: Where features and distances are computed; it must know float64.

    Returns:
        With D = `fid` for Inception-v3 and `fd_<features>` otherwise: D, the Frechet distance; `D_halves`, the distance
        between two random halves of the reference, which tells how much of D is due to finite data; `D_over_halves`,
        the ratio; `precision`, `recall`; `kid` for Inception-v3; with `training` those of `memorisation`.

    Raises:
        UserError: Shapes differ, too few images, a generated image with NaN or infinity, images that are neither uint8
            nor float in [-1, 1], or missing weights.
    """
    evaluator = Evaluator(reference, features=features, training=training, held_out=held_out, seed=seed, device=device)
    return evaluator.evaluate(generated)


def roomy(device: str, *images: Tensor) -> str:
    """Where sets of images (N, C, H, W) are judged: a GPU, if half of its free memory holds them in float64."""
    if torch.device(device).type != "cuda":
        return "cpu"
    needed = 8 * sum(one.numel() for one in images)
    return device if needed <= torch.cuda.mem_get_info(torch.device(device))[0] / 2 else "cpu"


def halves_distance(features: Tensor, num_halves: int = 4, seed: int = 0) -> float:
    """Mean Frechet distance between two random halves of features (N, D): what finite data leave under any model."""
    generator = torch.Generator().manual_seed(seed)
    distances = []
    for _ in range(num_halves):
        order = torch.randperm(len(features), generator=generator)
        first, second = order[: len(order) // 2], order[len(order) // 2 :]
        distances.append(frechet_distance(gaussian_stats(features[first]), gaussian_stats(features[second])))
    return sum(distances) / num_halves


@functools.cache
def warn_of_rank(features: str, dimensions: int, generated: int, reference: int | None) -> None:
    """Say on standard error, once, where a covariance cannot have its full rank."""
    fewest = min(generated, reference or generated)
    if fewest <= dimensions:
        print(
            f"warning: covariances of {dimensions} features ({features}) from {fewest} images have at most rank "
            f"{fewest - 1}; compare such distances at equal numbers of images only, or give more",
            file=sys.stderr,
        )


def kernel_distance(fake: Tensor, real: Tensor, seed: int = 0) -> float:
    """Kernel distance (KID, Binkowski et al. 2018, arXiv 1801.01401): mean squared MMD over random subsets.

    Args:
        fake: Features (N, D).
        real: Features (M, D).
        seed: Of the subsets: 100 of 1,000 images, or of as many as there are.
    """
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric

    size = min(KID_SUBSET_SIZE, len(fake), len(real))
    fake, real = fake.float().cpu(), real.float().cpu()
    result = kid_features_to_metric(
        fake,
        real,
        kid_subsets=KID_SUBSETS,
        kid_subset_size=size,
        rng_seed=seed,
        verbose=False,
    )
    return float(result[KEY_METRIC_KID_MEAN])


def pixels_of(images: Tensor, what: str) -> Tensor:
    """uint8 (N, C, H, W) of images, on the CPU.

    Raises:
        UserError: They are not a batch of images, some hold NaN or infinity, or they are neither uint8 nor in [-1, 1].
    """
    if images.dim() != 4 or not len(images):
        raise UserError(f"the {what} images have shape {tuple(images.shape)}", "give (N, C, H, W) with N of at least 1")
    if images.is_floating_point() and (bad := int((~images.isfinite()).flatten(1).any(1).sum())):
        raise UserError(
            f"{bad} of {len(images)} {what} images hold NaN or infinity",
            "the model has diverged: evaluate an earlier checkpoint, or train with a lower learning rate",
        )
    check_images(images, f"{what} images")
    return to_uint8(images).cpu()
