"""How good images are that belong to a condition: against the truth, against the condition, and among themselves.

Batzolis et al. 2021, arXiv 2111.13606, section on metrics, as its code has them: PSNR and SSIM against the truth,
consistency (PSNR between the degraded sample and the degraded truth), diversity (mean standard deviation of a pixel,
0 to 255, over several draws), and the joint Frechet distance of features of condition and image side by side, which
sees whether they fit each other.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from denoisezoo.data.pairs import Pair
from denoisezoo.evaluation.features import Features
from denoisezoo.evaluation.frechet import frechet_distance, gaussian_stats
from denoisezoo.pixels import as_image

DRAWS = 5
"""Draws per condition over which diversity is taken."""


def _same(image: Tensor) -> Tensor:
    return image


def consistency(pair: Pair, sample: Tensor) -> Tensor:
    """PSNR (N,) in dB between what the condition determines of samples (N, C, H, W) and of the truth."""
    shown, true = ((pair.operator or _same)(as_image(image).clamp(-1, 1)) for image in (sample, pair.x))
    return psnr(shown, true, pair.mask)


def unit(image: Tensor) -> Tensor:
    """Images in float64, clamped to [-1, 1]; of uint8 or float.

    Raises:
        UserError: They are neither, or floats of another range: see `check_images`.
    """
    return as_image(image).double().clamp(-1, 1)


def psnr(a: Tensor, b: Tensor, mask: Tensor | None = None, *, clamp: bool = True) -> Tensor:
    """Peak signal-to-noise ratio (N,) in dB of images (N, C, H, W) in [-1, 1]; at most 100.

    Args:
        a: Images.
        b: Images.
        mask: Which pixels count (N, 1, H, W), 0 or 1; all unless given.
        clamp: Clamp both to [-1, 1] first, as a picture is shown; not so for a signal that is measured as it came,
            such as an image with noise.
    """
    # torchmetrics has no mask, and averages the error of a batch before the logarithm unless it is told dimensions.
    x, y = ((unit(image) if clamp else as_image(image).double()) for image in (a, b))
    squared = (x - y).square() / 4
    if mask is None:
        error = squared.flatten(1).mean(1)
    else:
        weight = mask.double().expand_as(squared)
        error = (squared * weight).flatten(1).sum(1) / weight.flatten(1).sum(1).clamp(min=1)
    return -10 * error.clamp(min=1e-10).log10()


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity (N,) of images (N, C, H, W) in [-1, 1] (Wang et al. 2004): window 11, Gaussian of 1.5.

    Only whole windows count; for images below 11 pixels the window is as large as they are.
    """
    # torchmetrics reflects images at their borders, crops what it made of that, and has nothing left below 11 pixels.
    a, b = ((unit(image) + 1) / 2 for image in (a, b))
    channels, size = a.shape[1], min(11, *a.shape[-2:])
    place = torch.arange(size, dtype=torch.float64, device=a.device) - (size - 1) / 2
    line = torch.exp(-(place**2) / (2 * 1.5**2))
    window = (line[:, None] * line / line.sum() ** 2).expand(channels, 1, size, size)

    def mean(image: Tensor) -> Tensor:
        return F.conv2d(image, window, groups=channels)

    mu_a, mu_b = mean(a), mean(b)
    var_a, var_b, cov = mean(a * a) - mu_a**2, mean(b * b) - mu_b**2, mean(a * b) - mu_a * mu_b
    C_1, C_2 = 0.01**2, 0.03**2
    index = (2 * mu_a * mu_b + C_1) * (2 * cov + C_2) / ((mu_a**2 + mu_b**2 + C_1) * (var_a + var_b + C_2))
    return index.flatten(1).mean(1)


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union (N,) of where images (N, C, H, W) are above 0; 1 where neither is anywhere."""
    a, b = ((unit(image) > 0).flatten(1) for image in (a, b))
    union = (a | b).sum(1)
    return torch.where(union > 0, (a & b).sum(1) / union.clamp(min=1), 1.0)


def mse_db(a: Tensor, b: Tensor) -> float:
    """10 log10 of the mean squared error of images (N, C, H, W), clamped to [-1, 1]; at least -100."""
    error = (unit(a) - unit(b)).square().mean()
    return 10 * float(error.clamp(min=1e-10).log10())


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine similarity (N,) of images (N, C, H, W) as brightness, 0 for black: (image + 1) / 2."""
    a, b = ((unit(image).flatten(1) + 1) / 2 for image in (a, b))
    return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1)).clamp(min=1e-12)


def reconstruction_figures(samples: Tensor, truth: Tensor) -> dict[str, float]:
    """How near images (N, C, H, W) in [-1, 1] are to the truth: `psnr`, `mse_db`, `ssim`, `cosine`, means over images.

    `psnr` averages over images in dB, and `mse_db` is that of the error averaged over all.
    """
    return {
        "psnr": float(psnr(samples, truth).mean()),
        "mse_db": mse_db(samples, truth),
        "ssim": float(ssim(samples, truth).mean()),
        "cosine": float(cosine(samples, truth).mean()),
    }


def means_of_draws(samples: Tensor, index: Tensor) -> Tensor:
    """The mean (M, C, H, W) of the samples of each condition 0 ... M - 1, clamped first: an estimate of E[x given y].

    Args:
        samples: (N, C, H, W) in [-1, 1].
        index: Condition of each (N,).
    """
    index = index.to(samples.device)
    total = samples.new_zeros(int(index.max()) + 1, *samples.shape[1:], dtype=torch.float64)
    total.index_add_(0, index, unit(samples))
    return total / torch.bincount(index).reshape(-1, 1, 1, 1)


def diversity(samples: Tensor, index: Tensor, draws: int = DRAWS) -> float | None:
    """Mean standard deviation of a pixel, 0 to 255, over the first `draws` samples of each condition.

    Args:
        samples: (N, C, H, W) in [-1, 1].
        index: Condition of each (N,).
        draws: How many samples of each condition are compared.

    Returns:
        None where no condition has so many.
    """
    samples, spreads, index = unit(samples), [], index.to(samples.device)
    for condition in index.unique():
        mine = samples[index == condition][:draws]
        if len(mine) == draws:
            spreads.append(((mine + 1) * 127.5).std(0, correction=0).mean())
    return float(torch.stack(spreads).mean()) if spreads else None


def joint_features(features: Features, pair: Pair) -> Tensor:
    """[features(y), features(x)] (N, D); of a condition with neither 1 nor 3 channels, those of its first."""
    y = pair.y if pair.y.shape[1] in (1, 3) else pair.y[:, :1]
    return torch.cat([features.extract(y), features.extract(pair.x)], dim=1)


def conditional_figures(
    samples: Tensor, pair: Pair, index: Tensor, features: Features, reference: Pair
) -> dict[str, float]:
    """All figures of samples of a conditional task.

    Args:
        samples: (N, C, H, W) in [-1, 1].
        pair: The conditions, with the truth.
        index: Condition of each sample (N,).
        features: Of the joint Frechet distance.
        reference: Real pairs for it.

    Returns:
        `reconstruction_figures`; `mse_db_mean`, that of the mean of the draws of a condition; `consistency` in dB;
        `diversity` (absent with fewer than 5 draws of each condition); the joint distance, `<distance>_joint`.
    """
    drawn = pair.take(index)
    made = replace(drawn, x=samples)
    means = means_of_draws(samples, index)
    figures = reconstruction_figures(samples, drawn.x) | {
        "mse_db_mean": mse_db(means, pair.x[: len(means)]),
        "consistency": float(consistency(drawn, samples).mean()),
    }
    spread = diversity(samples, index)
    figures |= {} if spread is None else {"diversity": spread}
    fake, real = (gaussian_stats(joint_features(features, pairs)) for pairs in (made, reference))
    return figures | {f"{features.distance_name}_joint": frechet_distance(fake, real)}


def condition_of(num: int, conditions: int, draws: int = DRAWS) -> Tensor:
    """Which condition each of `num` samples belongs to (num,): they go round, as many as have `draws` samples each."""
    used = max(1, min(conditions, num // draws))
    return torch.arange(num) % used


def shown_condition(y: Tensor, channels: int) -> Tensor:
    """A condition (N, Cy, H, W) as images of some channels to look at, in [-1, 1]."""
    y = y[:, :channels] if y.shape[1] >= channels else y[:, :1].expand(-1, channels, -1, -1)
    return y.clamp(-1, 1)


def picture_rows(
    samples: Tensor, pair: Pair, index: Tensor, *, rows: int = 8, draws: int = DRAWS, known: bool = True
) -> tuple[Tensor, int]:
    """Images (n, C, H, W) for a grid, and its columns: a row is a condition, its samples and, if known, the truth."""
    images, draws = [], min(draws, int((index == 0).sum()))
    for condition in range(min(rows, int(index.max()) + 1)):
        mine = samples[index == condition][:draws]
        y, x = pair.y[condition : condition + 1], pair.x[condition : condition + 1]
        if len(mine) == draws:
            images += [shown_condition(y, samples.shape[1]), mine, *([x] if known else [])]
    return torch.cat(images), draws + 1 + known
