"""Data sets of Hugging Face that the tests write: columns found and named, splits, and what is missing."""

import re
import socket
import sys

import numpy as np
import pytest
import torch

from denoisezoo.cli import main
from denoisezoo.data import HuggingFace
from denoisezoo.errors import UserError
from tests.data.conftest import picture, save

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    """No test reaches a network, and the cache is a test's own."""

    def refuse(*_, **__):
        raise AssertionError("something was fetched")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    datasets.disable_progress_bars()


def pixels(num):
    return torch.stack([torch.from_numpy(np.array(picture(i))).permute(2, 0, 1) for i in range(num)])


def rows(start, num, **columns):
    features = {"photo": datasets.Image(), "kind": datasets.ClassLabel(names=["ant", "bee", "cat"])}
    made = {"photo": [picture(i) for i in range(start, start + num)], "kind": [i % 3 for i in range(num)]}
    features |= {name: feature for name, (feature, _) in columns.items()}
    made |= {name: values for name, (_, values) in columns.items()}
    return datasets.Dataset.from_dict(made, features=datasets.Features(features))


def data_of(path, **options):
    return HuggingFace(str(path), **{"resolution": 16, "batch_size": 4, "holdout_every": 0} | options)


@pytest.fixture
def saved(tmp_path):
    """Two splits, as `save_to_disk` writes them."""
    datasets.DatasetDict({"train": rows(0, 9), "valid": rows(9, 3)}).save_to_disk(tmp_path / "saved")
    return tmp_path / "saved"


def test_a_saved_data_set_gives_its_pixels_classes_and_splits(saved):
    data = data_of(saved, labels=True, test_split="valid")
    assert torch.equal(data.images("all"), pixels(12))
    assert data.labels("test").tolist() == [0, 1, 2]
    assert (data.class_names, data.num_classes, data.title) == (("ant", "bee", "cat"), 3, "huggingface:saved")
    lazy = data_of(saved, memory_limit_gb=0)
    assert torch.equal(lazy.train_dataloader().batch(1)["image"], data_of(saved).train_dataloader().batch(1)["image"])
    other = data_of(saved, split="valid", batch_size=1)
    assert len({data.content_hash(), other.content_hash(), data.fingerprint(), other.fingerprint()}) == 4
    assert data.fingerprint() == data_of(saved, test_split="valid").fingerprint()


def test_folders_of_images_and_parquet_files_are_read_in_place(tmp_path):
    for i in range(6):
        save(tmp_path / "images" / ("ant", "bee")[i % 2] / f"{i}.png", picture(i))
    folder = data_of(tmp_path / "images", labels=True)
    assert torch.equal(folder.images(), pixels(6)[[0, 2, 4, 1, 3, 5]])
    assert (folder.class_names, folder.labels().tolist()) == (("ant", "bee"), [0, 0, 0, 1, 1, 1])
    rows(0, 6).to_parquet(tmp_path / "rows.parquet")
    file = data_of(tmp_path / "rows.parquet", labels=True)
    assert torch.equal(file.images(), pixels(6))
    assert file.class_names == ("ant", "bee", "cat")


def test_columns_are_found_or_named(tmp_path):
    texts = [["wolf", "ape", "wolf"][i % 3] for i in range(6)]
    table = rows(0, 6, text=(datasets.Value("string"), texts), number=(datasets.Value("int64"), [4, 0, 1] * 2))
    table.save_to_disk(tmp_path / "rows")
    assert data_of(tmp_path / "rows", label="text", labels=True).class_names == ("ape", "wolf")
    assert data_of(tmp_path / "rows", label="text").labels().tolist() == [1, 0, 1] * 2
    assert data_of(tmp_path / "rows", label="number", labels=True).num_classes == 5
    table.remove_columns(["kind", "text", "number"]).save_to_disk(tmp_path / "bare")
    assert data_of(tmp_path / "bare").labels().tolist() == [0] * 6
    with pytest.raises(UserError, match=r"bare has no classes \(no column of classes\); leave `data.labels` out"):
        data_of(tmp_path / "bare", labels=True).setup()


def test_a_run_trains_on_it(saved, arguments, capsys):
    words = ["--data", "HuggingFace", "--data.path", saved, "--data.resolution", 16, "--data.channels", 1]
    words += ["--data.batch_size", 4, "--trainer.max_steps", 2]
    assert main(["train", *arguments(*words)]) == 0
    capsys.readouterr()
    for change, expected in {
        ("--data.image", "foto"): "unknown column of .*'foto'; did you mean photo",
        ("--data.path", "some/name"): "data set some/name with the split train is not on this machine; pass --data.dow",
    }.items():
        assert main(["train", *arguments(*words, *change, folder="other")]) == 2
        error = capsys.readouterr().err
        assert len(error.splitlines()) == 1, error
        assert re.search(expected, error), error
    assert not (saved.parent / "other").exists()


def test_what_does_not_fit_is_one_line(saved, tmp_path):
    for options, expected in [
        ({"split": "vali"}, r"unknown split of .*saved 'vali'; did you mean valid"),
        ({"image": "kind"}, "column kind of .*saved holds no images; give another `data.image`"),
        ({"label": "kinds"}, "unknown column of .*saved 'kinds'; did you mean kind"),
        ({"resolution": 32}, "images in .*saved are 16x16 .* and resolution is 32"),
    ]:
        with pytest.raises(UserError, match=expected):
            data_of(saved, **options).setup()
    with pytest.raises(UserError, match="there is no /no/where"):
        data_of("/no/where").setup()
    with pytest.raises(UserError, match="is a URL"):
        data_of("https://huggingface.co/datasets/mnist").setup()
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty cannot be read as a data set"):
        data_of(tmp_path / "empty").setup()
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(UserError, match=r"bad\.parquet cannot be read as a data set"):
        data_of(tmp_path / "bad.parquet").setup()


def test_labels_out_of_range_and_broken_images_are_named(tmp_path):
    rows(0, 3, number=(datasets.Value("int64"), [0, -1, None])).save_to_disk(tmp_path / "rows")
    with pytest.raises(UserError, match=r"00000001 of .* has no class \(column number\)"):
        data_of(tmp_path / "rows", label="number", labels=True, batch_size=1).setup()
    broken = datasets.Dataset.from_dict({"image": [{"bytes": b"x", "path": None}]})
    broken.cast_column("image", datasets.Image()).save_to_disk(tmp_path / "broken")
    with pytest.raises(UserError, match=r"00000000 in .*broken cannot be read as an image"):
        data_of(tmp_path / "broken", batch_size=1).setup()
    table = rows(0, 3, score=(datasets.Value("float32"), [0.5] * 3))
    table.save_to_disk(tmp_path / "scores")
    with pytest.raises(UserError, match=r"column score of .* holds float, no classes"):
        data_of(tmp_path / "scores", label="score", batch_size=1).setup()


def test_without_the_package_the_extra_is_named(saved, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"need datasets; pip install 'denoisezoo\[huggingface\]'"):
        data_of(saved).setup()
