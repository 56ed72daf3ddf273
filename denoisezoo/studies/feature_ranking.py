"""Which features order real images that were made worse by known amounts?

Images are split at random into two fifths that stand for the training data, which distances are taken to, two fifths
that are degraded, and a fifth held out, which with the training images gives the test of copying.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from denoisezoo.data import ImageData
from denoisezoo.data.image_sets import open_images
from denoisezoo.errors import UserError
from denoisezoo.evaluation.data_copying import copying_test
from denoisezoo.evaluation.degradations import COPIED, COPIES, DEGRADATIONS, TRACE, noise
from denoisezoo.evaluation.features import Features, create_features
from denoisezoo.evaluation.frechet import frechet_distance, gaussian_stats
from denoisezoo.evaluation.kernel_mmd import kernel_distance_with_error
from denoisezoo.studies.study import Plot, Row, Study
from denoisezoo.train.recipe import parse_recipe

FEWEST = 100
"""Images of a data set, for splits of it to say anything."""
PLOTS = tuple(
    Plot(
        f"{kind}: Frechet distance over that of untouched images", "level", f"over_clean {kind}", "features", log_y=True
    )
    for kind in (*DEGRADATIONS, COPIES)
)

Figures = dict[str, float]


def feature_study(
    data: ImageData,
    names: Sequence[str],
    num: int | None = None,
    splits: int = 3,
    progress: Callable[[str], None] = lambda text: None,
) -> Study:
    """Distances of images degraded step by step, in several features.

    Args:
        data: Real images.
        names: Feature extractors with their options.
        num: Images at most; a random choice.
        splits: Random splits, over which figures are averaged.
        progress: Told what is being done.

    Returns:
        A row for each of the features, kinds and levels (0: untouched), means over splits: `distance` and its standard
        deviation `distance_std`, `over_clean`, the distance over that of untouched images, `kernel_distance`,
        `copying`; and `rank_correlation`, Kendall's between level and distance over all pairs of levels, the same for
        all levels: 1 where every step makes the distance larger in every split.

    Raises:
        UserError: Too few images, or unknown features or ones without weights.
    """
    images = data.images("all")
    extractors = [create_features(name) for name in names]
    for extractor in extractors:
        extractor.check(tuple(images.shape[1:]))
    images = images[torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:num]]
    if len(images) < FEWEST:
        raise UserError(f"{data.title} has {len(images)} images for the study", f"give at least {FEWEST}")
    facts = {"dataset": data.card()["dataset"], "dataset_sha256": data.card()["dataset_sha256"]}
    rows: list[Row] = []
    for extractor in extractors:
        found, seconds = _figures(images, extractor, splits, progress)
        for kind in (*DEGRADATIONS, COPIES):
            of_kind = {key[1]: figures for key, figures in found.items() if key[0] in ("", kind)}
            common: Row = {"features": extractor.name, "degradation": kind, "images": len(images), "splits": splits}
            common |= {"rank_correlation": kendall([[f["distance"] for f in level] for level in of_kind.values()])}
            common |= facts | {"features_sha256": extractor.weights_sha256, "resolution": data.resolution}
            clean = statistics.mean(figures["distance"] for figures in of_kind[0])
            for level, figures in of_kind.items():
                row = common | {"level": level, "amount": amount_of(kind, level), "ms_per_image": 1e3 * seconds}
                row |= {key: statistics.mean(f[key] for f in figures) for key in figures[0]}
                row["distance_std"] = statistics.stdev(f["distance"] for f in figures) if splits > 1 else None
                row["over_clean"] = row[f"over_clean {kind}"] = row["distance"] / clean
                rows.append(row)
    return Study(rows, PLOTS)


def _figures(
    images: Tensor, extractor: Features, splits: int, progress: Callable[[str], None]
) -> tuple[dict[tuple[str, int], list[Figures]], float]:
    """Figures of each split by kind and level, ("", 0) for untouched images, and seconds for the features of one."""
    progress(f"{extractor.name}: features of untouched images")
    began = time.perf_counter()
    clean = extractor.extract(images)
    seconds = (time.perf_counter() - began) / len(images)
    changed: dict[tuple[str, int], Tensor] = {}
    for kind, degradation in DEGRADATIONS.items():
        if degradation.change is not None:
            for level, amount in enumerate(degradation.amounts, 1):
                progress(f"{extractor.name}: {kind} {amount:g}")
                worse = degradation.change(images, amount, torch.Generator().manual_seed(level))
                changed[kind, level] = extractor.extract(worse)
    traced = extractor.extract(noise(images, TRACE, torch.Generator().manual_seed(0)))
    found: dict[tuple[str, int], list[Figures]] = {}
    for split in range(splits):
        progress(f"{extractor.name}: split {split + 1} of {splits}")
        generator = torch.Generator().manual_seed(split)
        order = torch.randperm(len(images), generator=generator)
        n = 2 * len(images) // 5
        training, mine, held_out = order[:n], order[n : 2 * n], order[2 * n :]
        sets = {("", 0): clean[mine]} | {key: features[mine] for key, features in changed.items()}
        for kind, degradation in DEGRADATIONS.items():
            if degradation.choose is not None:
                for level, amount in enumerate(degradation.amounts, 1):
                    generator.manual_seed(split)  # what one level leaves out, the next does too
                    sets[kind, level] = clean[mine][degradation.choose(images[mine], amount, generator)]
        for level, share in enumerate(COPIED, 1):
            copies = round(share * n)
            sets[COPIES, level] = torch.cat([traced[training[:copies]], clean[mine[copies:]]])
        stats = gaussian_stats(clean[training])
        for key, features in sets.items():
            figures = {"distance": frechet_distance(gaussian_stats(features), stats)}
            figures["kernel_distance"] = kernel_distance_with_error(features, clean[training])[0]
            figures["copying"] = copying_test(features, clean[training], clean[held_out])
            found.setdefault(key, []).append(figures)
    return found, seconds


def amount_of(kind: str, level: int) -> float:
    """How much a level is; 0 for level 0."""
    amounts = COPIED if kind == COPIES else DEGRADATIONS[kind].amounts
    return amounts[level - 1] if level else 0.0


def kendall(levels: Sequence[Sequence[float]]) -> float:
    """Kendall's rank correlation of level and value, over pairs of different levels of one split.

    Args:
        levels: Values of each split, level by level.
    """
    pairs = [(a, b) for i, low in enumerate(levels) for high in levels[i + 1 :] for a, b in zip(low, high, strict=True)]
    return sum((b > a) - (b < a) for a, b in pairs) / len(pairs)


def data_of(name: str) -> ImageData:
    """Images at a path, or else the data of a recipe."""
    if Path(name).exists() and not name.endswith((".yaml", ".yml")):
        return open_images(name)
    found: Any = parse_recipe(["--config", name, "--trainer.logger", "false"]).datamodule
    if not isinstance(found, ImageData):
        raise UserError(f"{name} trains on pairs", "give a recipe without a task, or images")
    return found
