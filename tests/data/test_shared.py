"""Real data sets too large to ship; skipped where they are not beside the repository."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from denoisezoo.data import ImageZip
from denoisezoo.files import sha256

SHARED = Path(__file__).parents[3] / "shared" / "data"


def shared(name: str) -> str:
    if not (SHARED / name).is_file():
        pytest.skip(f"needs {name} in ../shared/data")
    return str(SHARED / name)


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("name", "resolution", "num_images", "num_classes"),
    [("cifar10-jpeg-test.zip", 32, 10_000, 10), ("tinyimagenet50-64-test.zip", 64, 2_500, 50)],
)
def test_real_zips(name, resolution, num_images, num_classes):
    path = shared(name)
    data = ImageZip(path, resolution=resolution, labels=True)
    images = data.images("all")
    assert images.shape == (num_images, 3, resolution, resolution)
    assert data.num_classes == num_classes
    assert data.labels("all").bincount().unique().tolist() == [num_images // num_classes]
    assert 90 < images.float().mean() < 150  # photographs, neither black nor scrambled
    assert data.card()["dataset_sha256"] == sha256(path)
    batch = data.train_dataloader().batch(0)
    assert batch["image"].shape == (128, 3, resolution, resolution)
    assert torch.unique(batch["label"]).numel() > 5
