"""Shards: names, classes, splits, what a run trains on, and damaged ones."""

import io
import tarfile

import numpy as np
import pytest
import torch

from denoisezoo.cli import main
from denoisezoo.data import WebDataset
from denoisezoo.data.webdataset import expand_braces
from denoisezoo.errors import UserError
from tests.data.conftest import picture

NUM = 4
"""Samples of a shard."""


def pack_shard(path, members):
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def png(seed):
    buffer = io.BytesIO()
    picture(seed).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def shards(tmp_path):
    """Three shards of four images, of the classes 0, 1, 2, 0, 1, ..."""
    for shard in range(3):
        samples = range(NUM * shard, NUM * (shard + 1))
        members = {f"./{i:04}.png": png(i) for i in samples} | {f"./{i:04}.cls": f"{i % 3}\n".encode() for i in samples}
        pack_shard(tmp_path / f"train-{shard:03}.tar", dict(sorted(members.items())))
    return tmp_path


def data_of(path, **options):
    return WebDataset(str(path), **{"resolution": 16, "batch_size": 4, "holdout_every": 0} | options)


def test_shards_give_their_pixels_and_classes(shards):
    data = data_of(shards / "train-{000..002}.tar", labels=True)
    expected = torch.stack([torch.from_numpy(np.array(picture(i))).permute(2, 0, 1) for i in range(12)])
    assert torch.equal(data.images(), expected)
    assert data.labels().tolist() == [i % 3 for i in range(12)]
    assert (data.class_names, data.card()["dataset"]) == (("0", "1", "2"), "webdataset:train-{000..002}.tar")
    folder = data_of(shards)
    assert torch.equal(folder.images(), expected)
    assert folder.fingerprint() == data.fingerprint()
    assert folder.content_hash() == data.content_hash()
    lazy = data_of(shards, memory_limit_gb=0)
    assert torch.equal(lazy.train_dataloader().batch(2)["image"], folder.train_dataloader().batch(2)["image"])
    held = data_of(shards / "train-{000..001}.tar", test_path=str(shards / "train-002.tar"), labels=True)
    assert torch.equal(held.images("test"), expected[8:])


def test_braces_expand_as_in_a_shell():
    assert expand_braces("a") == ["a"]
    assert expand_braces("{1..2}-{08..10}.tar") == [f"{i}-{j}.tar" for i in (1, 2) for j in ("08", "09", "10")]


def test_one_extension_of_samples_that_have_several(tmp_path):
    pack_shard(tmp_path / "a.tar", {"1.input.png": png(1), "1.target.png": png(2), "2.input.png": png(3)})
    assert len(data_of(tmp_path, batch_size=1).images()) == 3
    assert len(data_of(tmp_path, batch_size=1, image="input.png").images()) == 2
    with pytest.raises(UserError, match=r"holds no images \.jpg"):
        data_of(tmp_path, image="jpg").setup()


def test_a_run_trains_on_them_wherever_it_is_asked_for(shards, arguments, monkeypatch):
    words = ["--data", "WebDataset", "--data.path", "train-{000..002}.tar", "--data.resolution", 16]
    words += ["--data.channels", 1, "--data.batch_size", 4, "--trainer.max_steps", 2]
    monkeypatch.chdir(shards)
    assert main(["train", *arguments(*words)]) == 0
    (shards / "elsewhere").mkdir()
    monkeypatch.chdir(shards / "elsewhere")
    assert main(["evaluate", str(shards / "run"), "--num", "4", "--steps", "1", "--sampler", "euler"]) == 0
    (shards / "train-001.tar").write_bytes((shards / "train-001.tar").read_bytes()[:3000])
    monkeypatch.chdir(shards)
    assert main(["train", *arguments(*words, folder="other")]) == 2
    assert not (shards / "other").exists()


def cut_within(content):
    return content[:3000]


def cut_between(content):
    return content[: content.index(b"./0006.cls")]


def without_end(content):
    return content.rstrip(b"\0")


def header_damaged(content):
    place = content.index(b"./0006.cls")
    return content[:place] + b"?" * 20 + content[place + 20 :]


def nothing(content):
    return b""


@pytest.mark.parametrize("damage", [cut_within, cut_between, without_end, header_damaged, nothing])
def test_a_damaged_shard_is_named(shards, damage):
    path = shards / "train-001.tar"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=f"shard {path} is damaged or incomplete; fetch or pack it again"):
        data_of(shards).setup()


def test_what_is_missing_or_odd_is_one_line(shards):
    with pytest.raises(UserError, match=r"there is no shard .*train-003\.tar"):
        data_of(shards / "train-{000..003}.tar").setup()
    with pytest.raises(UserError, match="names no shard"):
        data_of(shards / "train-{3..0}.tar").setup()
    pack_shard(shards / "train-003.tar", {"1.png": png(1)})
    with pytest.raises(UserError, match=r"train-003.tar/1.png of .* has no class \(the file .cls of a sample\)"):
        data_of(shards, labels=True).setup()
    assert data_of(shards).labels()[-1] == -1
    pack_shard(shards / "train-003.tar", {"1.png": png(1), "1.cls": b"-2"})
    with pytest.raises(UserError, match=r"class b'-2' in train-003.tar/1.cls is no class"):
        data_of(shards).setup()
    pack_shard(shards / "train-003.tar", {"1.png": b"\x89PNG", "1.cls": b"1"})
    with pytest.raises(UserError, match=r"train-003.tar/1.png in .* cannot be read as an image"):
        data_of(shards).setup()
    (shards / "train-003.tar").write_bytes(b"\x1f\x8b rest")
    with pytest.raises(UserError, match="is compressed; unpack it"):
        data_of(shards).setup()
    pack_shard(shards / "only.tar", {"1.png": png(1)})
    with pytest.raises(UserError, match="has no classes"):
        data_of(shards / "only.tar", labels=True, batch_size=1).setup()
    assert data_of(shards / "only.tar", batch_size=1).labels().tolist() == [0]
