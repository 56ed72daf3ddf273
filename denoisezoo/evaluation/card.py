"""The result card: everything without which a number is not a result. What is not known is None, never invented."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Literal

from denoisezoo.version import git_commit

PACKAGES = (
    "denoisezoo",
    "torch",
    "torchvision",
    "lightning",
    "torchmetrics",
    "torch-fidelity",
    "scikit-learn",
    "numpy",
)


@dataclass(frozen=True, kw_only=True)
class ResultCard:
    """The circumstances of one row of metrics; flat, and every value fits in JSON and CSV.

    Attributes:
        dataset: Name of the data set.
        dataset_sha256: Hash of its file, or of its decoded content.
        split: Which images were the reference: "train", "test" or "all".
        resolution: Height and width in pixels.
        num_generated: Generated images.
        num_reference: Reference images.
        features: Feature extractor.
        features_sha256: Hash of its weights; None where it has none.
        weights: The averaged weights ("ema") or those of the optimiser ("raw").
        sampler: Name of the sampler.
        steps: Its steps.
        nfe: Denoiser calls for one image.
        guidance: Scale of classifier-free guidance and its interval, None where there is none.
        task: Image-to-image task, None for an unconditional run, as the next two.
        num_conditions: Conditions that the generated images share among them.
        lpips_sha256: Hash of AlexNet's weights, None where LPIPS was not asked for.
        plan: Effort plan, None for the full network throughout.
        seeds: Seeds of the generated images, such as "0-1796".
        noise: Where their noise was drawn: "cpu", the same numbers for every device, or "device", other ones there.
        training_seed: Seed of the training run.
        images_seen: Training images, repeats included.
        train_steps: Optimiser steps.
        train_seconds: Wall time of training.
        train_macs: Multiply-adds of training, forward and backward.
        perceptual: Network that a perceptual loss compared images by in training; None where there was no such loss.
        teacher_sha256: Hash of the file of the run that training learned from; None where there was none.
        codec: What was diffused in place of pixels, "pixels" for nothing else.
        codec_sha256: Hash of the codec's weights, None where it has none.
        codec_license: Licence of these weights, None where none is known.
        params: Parameters of the network, without those of the codec.
        macs_per_image: Multiply-adds of sampling one image, decoded.
        device: "cpu" or "cuda".
        device_name: Processor or GPU.
        dtype: What the network computed in while sampling.
        compiled: Whether it was compiled.
        threads: Threads that torch computes with on the CPU.
        versions: Python and library versions.
        git_commit: Commit of the source, with "-dirty" if changed; None where neither git nor the build knows.
        date: When the card was made, ISO 8601, UTC.
    """

    dataset: str | None = None
    dataset_sha256: str | None = None
    split: str | None = None
    resolution: int | None = None
    num_generated: int | None = None
    num_reference: int | None = None
    features: str | None = None
    features_sha256: str | None = None
    weights: Literal["ema", "raw"] | None = None
    sampler: str | None = None
    steps: int | None = None
    nfe: int | None = None
    guidance: str | None = None
    task: str | None = None
    num_conditions: int | None = None
    lpips_sha256: str | None = None
    plan: str | None = None
    seeds: str | None = None
    noise: Literal["cpu", "device"] | None = None
    training_seed: int | None = None
    images_seen: int | None = None
    train_steps: int | None = None
    train_seconds: float | None = None
    train_macs: int | None = None
    perceptual: str | None = None
    teacher_sha256: str | None = None
    codec: str | None = None
    codec_sha256: str | None = None
    codec_license: str | None = None
    params: int | None = None
    macs_per_image: int | None = None
    device: str | None = None
    device_name: str | None = None
    dtype: str | None = None
    compiled: bool | None = None
    threads: int | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    git_commit: str | None = None
    date: str | None = None

    @classmethod
    def here(cls, device: str = "cpu", **facts: Any) -> ResultCard:
        """A card with this machine's facts filled in: device name, versions, commit and date.

        Args:
            device: Where the images were generated, as torch names it ("cpu", "cuda", "cuda:1").
            **facts: The other fields; one that is a fact of the machine wins over what is found here.
        """
        found: dict[str, Any] = {
            "device": device.split(":")[0],
            "device_name": None if "device_name" in facts else device_name(device),
            "versions": versions(),
            "git_commit": git_commit(),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        return cls(**(found | facts))

    def as_dict(self) -> dict[str, Any]:
        """The fields, for JSON; `versions` is a dictionary."""
        # Not asdict: it deep-copies, and a read-only mapping cannot be.
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)} | {"versions": dict(self.versions)}

    def as_row(self) -> dict[str, str | int | float | bool | None]:
        """The fields for one line of CSV; `versions` becomes columns such as `version_torch`."""
        row = self.as_dict()
        installed = row.pop("versions")
        return row | {f"version_{name.replace('-', '_')}": version for name, version in installed.items()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ResultCard:
        """The card that `as_dict` wrote; fields that this version does not know are left out."""
        names = {f.name for f in dataclasses.fields(cls)}
        return cls(**{key: value for key, value in data.items() if key in names})


def seed_range(first: int, count: int) -> str:
    """How a card writes a block of seeds: "0-1796", or "5" for one."""
    return str(first) if count == 1 else f"{first}-{first + count - 1}"


def device_name(device: str) -> str | None:
    """What the processor or GPU calls itself; None where it does not say."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(device) if torch.cuda.is_available() else None
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine() or None


@cache
def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that a number may depend on; one that is not installed is left out."""
    installed = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            installed[name] = importlib.metadata.version(name)
    return installed
