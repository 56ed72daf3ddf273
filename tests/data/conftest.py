from __future__ import annotations

import pickle
import zipfile
from hashlib import md5
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def picture(seed: int, size: tuple[int, int] = (16, 16), mode: str = "RGB") -> Image.Image:
    shape = (size[1], size[0]) if mode == "L" else (size[1], size[0], len(mode))
    return Image.fromarray(np.random.RandomState(seed).randint(0, 256, shape, dtype=np.uint8), mode)


def save(path: Path, image: Image.Image) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path


def pack(folder: Path) -> Path:
    target = folder.with_suffix(".zip")
    with zipfile.ZipFile(target, "w") as file:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                file.write(path, path.relative_to(folder).as_posix())
    return target


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of ten 16x16 images, and files that are no images."""
    root = tmp_path / "images"
    for i in range(20):
        save(root / ("cat" if i % 2 else "ant") / f"{i:02}.png", picture(i))
    (root / "README.txt").write_text("not an image")
    (root / "cat" / "._01.png").write_bytes(b"a shadow that macOS leaves")
    return root


@pytest.fixture
def cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny data set in CIFAR-10's format on disk, whose checksums torchvision is told."""
    from torchvision.datasets import CIFAR10

    root = tmp_path / "data"
    (root / "cifar-10-batches-py").mkdir(parents=True)

    def write(name: str, entry: dict) -> list[str]:
        content = pickle.dumps(entry)
        (root / "cifar-10-batches-py" / name).write_bytes(content)
        return [name, md5(content).hexdigest()]

    def batch(seed: int) -> dict:
        data = np.random.RandomState(seed).randint(0, 256, (10, 3072), dtype=np.uint8)
        return {"data": data, "labels": list(range(10))}

    train = [write(f"data_batch_{i}", batch(i)) for i in range(1, 6)]
    name, checksum = write("batches.meta", {"label_names": list("abcdefghij")})
    monkeypatch.setattr(CIFAR10, "train_list", train)
    monkeypatch.setattr(CIFAR10, "test_list", [write("test_batch", batch(6))])
    monkeypatch.setattr(CIFAR10, "meta", {"filename": name, "key": "label_names", "md5": checksum})
    return root
