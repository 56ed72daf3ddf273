from __future__ import annotations

import pickle

import pytest
import torch

from denoisezoo.data import Cifar10
from denoisezoo.errors import UserError


def test_cifar_reads_what_is_on_disk(cifar):
    data = Cifar10(str(cifar), batch_size=10, labels=True)
    assert data.images("train").shape == (50, 3, 32, 32)
    assert data.images("test").shape == (10, 3, 32, 32)
    assert data.labels("test").tolist() == list(range(10))
    raw = pickle.loads((cifar / "cifar-10-batches-py" / "test_batch").read_bytes())["data"]
    assert torch.equal(data.images("test").flatten(1), torch.from_numpy(raw))
    assert (data.num_classes, data.resolution, data.horizontal_flip) == (10, 32, True)
    assert len(data.card()["dataset_sha256"]) == 64


def test_cifar_is_never_downloaded_unasked(tmp_path, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("something was fetched")

    monkeypatch.setattr("torchvision.datasets.utils.urllib.request.urlopen", fail)
    with pytest.raises(UserError, match=r"CIFAR-10 is not at .*cifar-10-batches-py; pass download=true, or as root"):
        Cifar10(str(tmp_path)).setup()
    assert list(tmp_path.iterdir()) == []


def test_cifar_damaged(cifar):
    with (cifar / "cifar-10-batches-py" / "data_batch_3").open("r+b") as file:
        file.seek(100)
        file.write(b"\0\1\2\3")
    with pytest.raises(UserError, match=r"is damaged or incomplete; delete it and pass download=true"):
        Cifar10(str(cifar), batch_size=10).setup()


def test_a_failed_download_is_one_line(tmp_path, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", refuse)
    with pytest.raises(UserError, match=r"cannot be fetched into .*: no route to host; put cifar-10-batches-py there"):
        Cifar10(str(tmp_path), download=True).prepare_data()
