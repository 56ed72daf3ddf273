"""What each number is called, its unit, whether more of it is better, and how it is written."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Kind = Literal["plain", "count", "bytes", "seconds"]
Better = Literal["low", "high"] | None

# Steps of the scale of each kind, largest first: (size of the step, its suffix).
_SCALES: dict[Kind, tuple[tuple[float, str], ...]] = {
    "plain": ((1.0, ""),),
    "count": ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, "")),
    "bytes": ((2.0**40, "TiB"), (2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB"), (1.0, "B")),
    "seconds": ((3600.0, "h"), (60.0, "min"), (1.0, "s")),
}


@dataclass(frozen=True)
class Column:
    """One quantity: its key in the records, how it is headed, its unit, which direction is better, how it scales."""

    key: str
    label: str
    unit: str = ""
    better: Better = None
    kind: Kind = "plain"

    @property
    def heading(self) -> str:
        """Label with its unit; a unit that scales (12.3 MiB) stands at the number instead."""
        return f"{self.label} ({self.unit})" if self.unit and self.unit not in self.label else self.label

    @property
    def direction(self) -> str:
        """Which direction is better, in words; empty where neither is."""
        return {"low": "lower is better", "high": "higher is better"}.get(self.better or "", "")


COSTS = (
    Column("params", "Parameters", "", "low", "count"),
    Column("macs_per_image", "MACs per image", "MAC", "low", "count"),
    Column("latency_ms_per_image", "Latency per image", "ms", "low"),
    Column("latency_ms_p10", "Latency p10", "ms", "low"),
    Column("latency_ms_p90", "Latency p90", "ms", "low"),
    Column("nfe", "NFE", "calls", "low"),
    Column("macs_per_call", "MACs per call", "MAC", "low", "count"),
    Column("peak_memory_bytes", "Peak memory", "", "low", "bytes"),
    Column("train_seconds", "Training time", "", "low", "seconds"),
    Column("train_macs", "Training MACs", "MAC", "low", "count"),
    Column("images_per_s_training", "Training speed", "images/s", "high", "count"),
)
_COSTS = {column.key: column for column in COSTS}
_HIGH = {"precision", "recall", "density", "coverage", "inception_score"}
_HIGH |= {"psnr", "ssim", "consistency", "cosine", "class_accuracy"}
_LOW = ("fd_", "kd_", "fid", "kid", "memorised_share", "lpips", "mse_db")
_NAMES = {
    "fid": "FID",
    "kid": "KID",
    "precision": "Precision",
    "density": "Density",
    "coverage": "Coverage",
    "copying": "Test of copying",
    "recall": "Recall",
    "psnr": "PSNR",
    "mse_db": "MSE",
    "mse_db_mean": "MSE of the mean of draws",
    "ssim": "SSIM",
    "cosine": "Cosine similarity",
    "class_accuracy": "Class accuracy",
    "class_accuracy_clean": "Class accuracy, clean images",
    "lpips": "LPIPS",
    "consistency": "Consistency",
    "diversity": "Diversity",
    "memorised_share": "Memorised share",
    "nn_ratio": "Neighbour ratio",
    "nearer_than_held_out": "Nearer than held-out",
}
_UNITS = {"psnr": "dB", "mse_db": "dB", "mse_db_mean": "dB", "consistency": "dB", "diversity": "of 255"}
_MEANING = {
    "psnr": "PSNR and SSIM compare each sample with the truth that belongs to its condition; they favour means over "
    "samples.",
    "mse_db": "MSE is that of pixels in [-1, 1], averaged over all images and then put in dB.",
    "mse_db_mean": "The mean of the draws of a condition estimates E[x given y]; were they exact, the squared error of "
    "that would be half of a draw's.",
    "cosine": "Cosine similarity is that of brightness, 0 for black.",
    "class_accuracy": "Class accuracy is the share of samples that a small classifier of the data takes for what they "
    "should show.",
    "consistency": "Consistency is the PSNR between what the condition determines of the sample and of the truth.",
    "diversity": "Diversity is the mean standard deviation of a pixel over five samples of one condition.",
    "precision": "Precision is the share of samples that look like real images, recall the share of real images that "
    "look like samples (0 to 1).",
    "memorised_share": "Memorised share is the share of samples at most a third as far from their nearest training "
    "image as from the second nearest; neighbour ratio is the median of that ratio (1: no training image stands out).",
    "nearer_than_held_out": "Nearer than held-out is the chance that a sample is nearer to the training images than a "
    "held-out real image is (0.5: as new images would be; near 1: copies).",
}


def column(key: str) -> Column:
    """The column of a metric or cost; a key that is not known is headed by itself and has no better direction."""
    if key in _COSTS:
        return _COSTS[key]
    if key.endswith("_halves") and not key.endswith("_over_halves"):
        return Column(key, f"{key.removesuffix('_halves')} of two real halves")
    if key.endswith("_over_halves"):
        return Column(key, f"{key.removesuffix('_over_halves')} / floor", "×", "low")
    better: Better = "high" if key in _HIGH else "low" if key.startswith(_LOW) else None
    return Column(key, _NAMES.get(key, key), _UNITS.get(key, ""), better)


def explain(quality: str) -> str:
    """One sentence on what the deciding metric means; empty for a metric that needs none."""
    if not quality.startswith("fd_"):
        return ""
    features = quality.removeprefix("fd_")
    return (
        f"{quality} is the Fréchet distance between two Gaussians, one fitted to the generated and one to the real "
        f"images, on {features} as features (0 means equal mean and covariance; lower is better). This is not FID, "
        "which uses Inception-v3 features, and must not be compared with one."
    )


def glossary(keys: Iterable[str]) -> list[str]:
    """A sentence for each of the metrics that need one."""
    return [_MEANING[key] for key in keys if key in _MEANING]


def format_value(value: float | None, kind: Kind = "plain") -> str:
    """`value` to three significant digits with its suffix: 1.23 M, 45.6 MiB, 0.0123; a dash where there is none."""
    return format_spread(value, None, kind)


def format_spread(mean: float | None, std: float | None, kind: Kind = "plain") -> str:
    """Mean ± standard deviation on one scale and to the same decimal place: 12.3 ± 0.4 M."""
    if mean is None or not math.isfinite(mean):
        return "–"
    size, suffix = _scale(mean, kind)
    if std:
        # One more place than three digits, where a small spread would else read as zero.
        decimals = min(max(_decimals(mean / size), _decimals(std / size, 1)), _decimals(mean / size) + 1)
        return f"{mean / size:.{decimals}f} ± {std / size:.{decimals}f} {suffix}".rstrip()
    whole = float(mean).is_integer() and abs(mean) < 1e4 and size == 1
    return f"{mean / size:.{0 if whole else _decimals(mean / size)}f} {suffix}".rstrip()


def _scale(value: float, kind: Kind) -> tuple[float, str]:
    fitting = [step for step in _SCALES[kind] if abs(value) >= step[0] * 0.9995]
    return fitting[0] if fitting else _SCALES[kind][-1]


def _decimals(value: float, digits: int = 3) -> int:
    """Decimal places that show `digits` significant digits, at most 8."""
    if value == 0:
        return 0
    rounded = float(f"{value:.{digits - 1}e}")  # 0.9997 is written 1.00
    return min(8, max(0, digits - 1 - math.floor(math.log10(abs(rounded)))))
