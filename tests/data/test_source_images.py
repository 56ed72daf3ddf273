"""Objects as data: what counts as a source, what images may be, and what is refused."""

import struct
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from denoisezoo.data import (
    DATASETS,
    TASKS,
    Augmented,
    Cifar10,
    Digits,
    Encoded,
    HuggingFace,
    ImageFolder,
    ImageNpz,
    ImageZip,
    Paired,
    Photos,
    Source,
    SourceImages,
    Torchvision,
    WebDataset,
)
from denoisezoo.data.source_images import as_data
from denoisezoo.errors import UserError
from tests.data.conftest import pack, picture

SCANS = np.random.default_rng(0).integers(0, 256, (12, 8, 8), dtype=np.uint8)


def npz(folder):
    np.savez(folder / "batch.npz", SCANS, np.arange(12) % 2)
    return str(folder / "batch.npz")


def parquet(folder):
    datasets = pytest.importorskip("datasets")
    rows = {"image": [picture(i) for i in range(8)], "label": [i % 2 for i in range(8)]}
    datasets.Dataset.from_dict(rows).save_to_disk(folder / "rows")
    return str(folder / "rows")


def shard(folder):
    with tarfile.open(folder / "shard.tar", "w") as archive:
        archive.add(folder, "images")
    return str(folder / "shard.tar")


def idx_files(folder):
    """MNIST's, as torchvision keeps them."""
    for name in ("train", "t10k"):
        for kind, array in (
            ("images-idx3", np.tile(SCANS, (1, 4, 4))[:, :28, :28]),
            ("labels-idx1", SCANS[:, 0, 0] % 10),
        ):
            path = folder / "MNIST" / "raw" / f"{name}-{kind}-ubyte"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(struct.pack(f">{1 + array.ndim}I", 0x800 + array.ndim, *array.shape) + array.tobytes())
    return str(folder)


MADE = {
    "augmented": lambda folder, cifar: Augmented(data=Digits()),
    "encoded": lambda folder, cifar: Encoded(data=Digits(), cache=str(folder / "cache")),
    "cifar10": lambda folder, cifar: Cifar10(str(cifar), batch_size=10),
    "digits": lambda folder, cifar: Digits(),
    "huggingface": lambda folder, cifar: HuggingFace(path=parquet(folder), resolution=16, batch_size=4),
    "image_folder": lambda folder, cifar: ImageFolder(path=str(folder), resolution=16, batch_size=4),
    "image_npz": lambda folder, cifar: ImageNpz(path=npz(folder), resolution=8, batch_size=4),
    "image_zip": lambda folder, cifar: ImageZip(path=str(pack(folder)), resolution=16, batch_size=4),
    "paired": lambda folder, cifar: Paired(data=Digits(), task=TASKS["super_resolution"]()),
    "photos": lambda folder, cifar: Photos(resolution=16, batch_size=8, num_train=16, num_test=4),
    "torchvision": lambda folder, cifar: Torchvision("mnist", idx_files(folder), batch_size=4),
    "webdataset": lambda folder, cifar: WebDataset(path=shard(folder), resolution=16, batch_size=4),
}
"""Every registered data set, small."""


@pytest.mark.parametrize("name", [name for name in DATASETS if name != "latents"])  # which has no images to give
def test_registered_data_are_sources(name, folder, cifar):
    data = MADE[name](folder, cifar)
    source, split = data.items("train"), data.split("train")
    assert isinstance(source, Source)
    assert len(source) == len(split.images)
    assert torch.equal(source[-1]["image"], split.images.all()[-1])
    assert source[3]["label"] == int(split.labels[3])
    assert source.classes == data.class_names
    assert source.fingerprint() == data.fingerprint()
    with pytest.raises(IndexError):
        source[len(source)]


def test_a_source_is_data():
    digits = Digits(resolution=16)
    again = SourceImages(digits.items("train"), digits.items("test"), batch_size=64, labels=True)
    for split in ("train", "test"):
        assert torch.equal(again.images(split), digits.images(split))
        assert torch.equal(again.labels(split), digits.labels(split))
    assert again.class_names == digits.class_names
    assert again.num_classes == 10
    assert not isinstance([1], Source)


@pytest.mark.parametrize(
    "images",
    [
        list(SCANS),
        [{"image": scan} for scan in SCANS],
        [torch.from_numpy(scan)[None] for scan in SCANS],
        torch.from_numpy(SCANS)[:, None],
        torch.from_numpy(SCANS)[:, None] / 127.5 - 1,
        [Image.fromarray(scan) for scan in SCANS],
        [scan[..., None].astype(int) for scan in SCANS],
    ],
    ids=["arrays", "items", "tensors", "tensor", "floats", "pictures", "integers"],
)
def test_images_may_be_many_things(images):
    data = SourceImages(images, batch_size=4)
    assert (data.channels, data.resolution, data.num_classes) == (1, 8, 0)
    assert torch.equal(data.images(), torch.from_numpy(SCANS)[:, None])
    assert len(data.images("test")) == 0
    assert data.fingerprint() == SourceImages(list(SCANS), batch_size=4).fingerprint()


def test_colours_classes_and_held_out_images():
    items = [{"picture": np.stack([scan] * 3, -1), "kind": i % 3} for i, scan in enumerate(SCANS)]
    data = SourceImages(items, image="picture", label="kind", holdout_every=2, labels=True, batch_size=2)
    assert data.images().shape == (6, 3, 8, 8)
    assert data.class_names == ("0", "1", "2")
    assert sorted(data.labels("test").tolist()) == [0, 0, 1, 1, 2, 2]
    grey = SourceImages(
        [Image.fromarray(scan).convert("RGB") for scan in SCANS], channels=1, resolution=4, batch_size=2
    )
    assert grey.images().shape == (12, 1, 4, 4)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        ([], "no images"),
        ([SCANS[0][:4]], "4x8"),
        ([SCANS[0], SCANS[0][:4, :4]], r"image 1 is \(1, 4, 4\)"),
        ([{"scan": SCANS[0]}], "has no 'image' but scan"),
        ([SCANS[0].astype(int) + 300], "out of range"),
        ([SCANS[None]], "shape"),
    ],
)
def test_what_is_no_image_is_refused(images, words):
    with pytest.raises(UserError, match=words):
        SourceImages(images, batch_size=1).images()


def test_a_data_module_keeps_its_batch_size():
    digits = Digits(batch_size=32)
    assert as_data(digits) is digits is as_data(digits, 32)
    with pytest.raises(UserError, match="batch_size is 8, and the data's 32"):
        as_data(digits, 8)
    assert as_data(torch.from_numpy(SCANS)[:, None]).batch_size == 12
