"""torchvision's data sets, written here as it keeps them: pixels, classes, splits, and what is missing or damaged."""

import pickle
import struct
from hashlib import md5

import numpy as np
import pytest
import torchvision.datasets
from PIL import Image

from denoisezoo.cli import main
from denoisezoo.data import Torchvision
from denoisezoo.errors import UserError

RANDOM = np.random.RandomState(0)


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return md5(content).hexdigest()


def mnist(root, monkeypatch):
    """Idx files: magic number, sizes, bytes."""
    arrays = {}
    for part, name in ((True, "train"), (False, "t10k")):
        images, labels = RANDOM.randint(0, 256, (20, 28, 28), dtype=np.uint8), np.arange(20, dtype=np.uint8) % 10
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            head = struct.pack(f">{1 + array.ndim}I", 0x800 + array.ndim, *array.shape)
            write(root / "MNIST" / "raw" / f"{name}-{kind}-ubyte", head + array.tobytes())
        arrays[part] = images[:, None]
    return arrays


def cifar100(root, monkeypatch):
    arrays, lists = {}, {}
    for part, name in ((True, "train"), (False, "test")):
        data = RANDOM.randint(0, 256, (20, 3072), dtype=np.uint8)
        content = pickle.dumps({"data": data, "fine_labels": list(range(80, 100))})
        lists[name] = [[name, write(root / "cifar-100-python" / name, content)]]
        arrays[part] = data.reshape(-1, 3, 32, 32)
    names = pickle.dumps({"fine_label_names": [f"class {i}" for i in range(100)]})
    meta = {"filename": "meta", "key": "fine_label_names", "md5": write(root / "cifar-100-python" / "meta", names)}
    for name, value in {"train_list": lists["train"], "test_list": lists["test"], "meta": meta}.items():
        monkeypatch.setattr(torchvision.datasets.CIFAR100, name, value)
    return arrays


def stl10(root, monkeypatch):
    arrays, folder = {}, root / "stl10_binary"
    lists = {}
    for part, name in ((True, "train"), (False, "test")):
        images = RANDOM.randint(0, 256, (20, 3, 96, 96), dtype=np.uint8)
        labels = np.arange(20, dtype=np.uint8) % 10 + 1
        content = images.transpose(0, 1, 3, 2).tobytes()  # column by column
        lists[name] = [
            [f"{name}_X.bin", write(folder / f"{name}_X.bin", content)],
            [f"{name}_y.bin", write(folder / f"{name}_y.bin", labels.tobytes())],
        ]
        arrays[part] = images
    write(folder / "class_names.txt", "\n".join("abcdefghij").encode())
    folds = [["fold_indices.txt", write(folder / "fold_indices.txt", b"")]]
    train = [*lists["train"], *folds, ["unlabeled_X.bin", write(folder / "unlabeled_X.bin", b"")]]
    monkeypatch.setattr(torchvision.datasets.STL10, "train_list", train)
    monkeypatch.setattr(torchvision.datasets.STL10, "test_list", lists["test"])
    return arrays


def celeba(root, monkeypatch):
    folder, arrays = root / "celeba", {True: [], False: []}
    (folder / "img_align_celeba").mkdir(parents=True)
    names = [f"{i:06}.jpg" for i in range(1, 6)]
    for i, name in enumerate(names):
        Image.fromarray(RANDOM.randint(0, 256, (218, 178, 3), dtype=np.uint8)).save(folder / "img_align_celeba" / name)
        with Image.open(folder / "img_align_celeba" / name) as image:
            cut = image.crop((0, 20, 178, 198)).resize((64, 64), Image.Resampling.LANCZOS)
        arrays[i < 3].append(np.array(cut).transpose(2, 0, 1))
    texts = {
        "list_eval_partition.txt": "".join(f"{name} {0 if i < 3 else 2}\n" for i, name in enumerate(names)),
        "identity_CelebA.txt": "".join(f"{name} 1\n" for name in names),
        "list_bbox_celeba.txt": "5\nimage_id x_1 y_1 width height\n" + "".join(f"{name} 1 1 1 1\n" for name in names),
        "list_landmarks_align_celeba.txt": "5\nx y\n" + "".join(f"{name} 1 1\n" for name in names),
        "list_attr_celeba.txt": "5\nMale Young\n" + "".join(f"{name} 1 -1\n" for name in names),
    }
    files = [["", write(folder / name, text.encode()), name] for name, text in texts.items()]
    monkeypatch.setattr(torchvision.datasets.CelebA, "file_list", files)
    return {part: np.stack(images) for part, images in arrays.items()}


WRITERS = {"mnist": mnist, "cifar100": cifar100, "stl10": stl10, "celeba": celeba}
CLASSES = {"mnist": 10, "cifar100": 100, "stl10": 10, "celeba": 0}


@pytest.mark.parametrize("name", WRITERS)
def test_pixels_and_splits_are_those_on_disk(name, tmp_path, monkeypatch):
    arrays = WRITERS[name](tmp_path, monkeypatch)
    data = Torchvision(name, str(tmp_path), batch_size=2, labels=CLASSES[name] > 0)
    for part in ("train", "test"):
        assert np.array_equal(data.images(part).numpy(), arrays[part == "train"])
    assert (data.num_classes, data.channels) == (CLASSES[name], arrays[True].shape[1])
    assert (data.title, data.resolution) == (f"torchvision:{name}", arrays[True].shape[2])
    if CLASSES[name]:
        start = 80 if name == "cifar100" else 0
        assert data.labels("test").tolist() == [start + i % (100 if start else 10) for i in range(20)]


def test_grey_images_become_what_is_asked_for(tmp_path, monkeypatch):
    images = mnist(tmp_path, monkeypatch)[True]
    data = Torchvision("mnist", str(tmp_path), channels=3, resolution=32, batch_size=2)
    assert data.images().shape == (20, 3, 32, 32)
    expected = Image.fromarray(images[7, 0]).resize((32, 32), Image.Resampling.LANCZOS)
    assert all(np.array_equal(channel, np.array(expected)) for channel in data.images()[7].numpy())
    assert not data.horizontal_flip


def test_a_run_trains_on_mnist(tmp_path, monkeypatch, arguments):
    mnist(tmp_path, monkeypatch)
    words = ["--data", "Torchvision", "--data.name", "mnist", "--data.root", tmp_path, "--data.resolution", 16]
    assert main(["train", *arguments(*words, "--data.batch_size", 4, "--trainer.max_steps", 2)]) == 0


def test_nothing_is_fetched_unasked(tmp_path, monkeypatch, arguments, capsys):
    def fail(*_, **__):
        raise AssertionError("something was fetched")

    monkeypatch.setattr("torchvision.datasets.utils.urllib.request.urlopen", fail)
    for name in WRITERS:
        with pytest.raises(UserError, match=rf"{name} is not at .*; pass `data.download=true`, or as `data.root`"):
            Torchvision(name, str(tmp_path)).setup()
    words = ["--data", "Torchvision", "--data.name", "mnist", "--data.root", tmp_path / "none", "--data.resolution", 16]
    assert main(["train", *arguments(*words)]) == 2
    assert "pass --data.download true" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"recipe.yaml"}


def test_a_failed_download_is_one_line(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.datasets.utils.urllib.request.urlopen", refuse)
    with pytest.raises(UserError, match=r"cannot be fetched into .*; put MNIST there yourself"):
        Torchvision("mnist", str(tmp_path), download=True).prepare_data()


@pytest.mark.parametrize("name", WRITERS)
def test_damaged_files_are_one_line(name, tmp_path, monkeypatch):
    WRITERS[name](tmp_path, monkeypatch)
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".jpg"]
    largest = max(files, key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:50])
    with pytest.raises(UserError, match=f"{name} at .* is damaged or incomplete; delete it and pass"):
        Torchvision(name, str(tmp_path), batch_size=1).setup()


def test_what_does_not_fit_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"celeba has no classes; leave `data.labels` out"):
        Torchvision("celeba", labels=True)
    with pytest.raises(UserError, match=r"unknown data set of torchvision 'cifar200'; did you mean cifar100"):
        Torchvision("cifar200")
    assert Torchvision("cifar100", labels=True).num_classes == 100
    assert Torchvision("mnist", labels=True).class_names[3] == "3 - three"
