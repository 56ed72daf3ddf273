"""What tells data from others, and how the difference is said."""

from __future__ import annotations

import pytest

from denoisezoo.data import Digits, ImageFolder, ImageZip, Paired
from denoisezoo.data.identity import difference
from denoisezoo.data.sources import FolderSource, ZipSource
from denoisezoo.data.tasks import SuperResolution
from tests.data.conftest import pack, picture, save

OPTIONS = {"resolution": 16, "batch_size": 4, "holdout_every": 5}
BEFORE = {"sha256": "a", "class_names": ["cat", "dog"], "num_train": 16, "num_test": 4}


@pytest.mark.parametrize(
    ("now", "said"),
    [
        ({}, None),
        ({"class_names": ["dog", "zebra"], "sha256": "b"}, "class 0 was 'cat' and is 'dog'"),
        ({"class_names": ["cat"]}, "class 1 was 'dog' and is none"),
        ({"class_names": ["cat", "dog", "emu"]}, "class 2 was none and is 'emu'"),
        ({"num_train": 17, "sha256": "b"}, "there were 16 training images and are 17"),
        ({"num_test": 0}, "there were 4 held-out images and are 0"),
        ({"sha256": "b"}, "their contents or names differ"),
    ],
)
def test_the_difference_is_said_in_the_most_telling_way(now, said):
    assert difference(BEFORE, BEFORE | now) == said


def test_nothing_is_known_of_data_of_earlier_versions():
    assert difference({}, BEFORE) is None


def test_a_folder_in_memory_is_known_by_its_contents(folder):
    def found(**more: object) -> dict:
        return dict(ImageFolder(str(folder), **(OPTIONS | more)).identity())

    first = found()
    assert first["class_names"] == ["ant", "cat"]
    assert (first["num_train"], first["num_test"]) == (16, 4)
    assert found(batch_size=2, labels=True, seed=3) == first  # settings are none of it
    content = bytearray((folder / "ant" / "00.png").read_bytes())
    content[-1] ^= 1  # the last byte of the last chunk's checksum, which no decoder minds
    (folder / "ant" / "00.png").write_bytes(content)
    assert difference(first, found()) == "their contents or names differ"


def test_larger_data_and_zips_are_known_without_being_read(folder, monkeypatch):
    """Reading a terabyte once more would take longer than much of the training."""
    for kind in (FolderSource, ZipSource):
        monkeypatch.setattr(kind, "hash_content", lambda source: pytest.fail("read again"))
    for data in (ImageFolder(str(folder), memory_limit_gb=0, **OPTIONS), ImageZip(str(pack(folder)), **OPTIONS)):
        first = data.identity()
        assert data.source().listing_sha256
        assert len(first["sha256"]) == 64


def test_the_same_zip_packed_again_is_the_same(folder):
    first = ImageZip(str(pack(folder)), **OPTIONS).identity()
    for path in folder.rglob("*.png"):
        path.touch()
    assert ImageZip(str(pack(folder)), **OPTIONS).identity() == first


def test_held_out_images_belong_to_the_data(folder, tmp_path):
    save(tmp_path / "held" / "ant" / "0.png", picture(100))
    options = OPTIONS | {"test_path": str(tmp_path / "held")}
    first = ImageFolder(str(folder), **options).identity()
    save(tmp_path / "held" / "ant" / "0.png", picture(101))
    assert difference(first, ImageFolder(str(folder), **options).identity()) == "their contents or names differ"


def test_a_task_is_no_part_of_them_and_its_data_are_read_once(monkeypatch):
    load, loads = Digits.load, []
    monkeypatch.setattr(Digits, "load", lambda data: loads.append(data) or load(data))
    two, four = (Paired(data=Digits(), task=SuperResolution(factor)) for factor in (2, 4))
    assert two.identity() == four.identity() == Digits().identity()
    assert len(loads) == 3


def test_other_data_than_a_run_was_trained_on_are_told_of_once(folder, capsys):
    data = ImageFolder(str(folder), **OPTIONS)
    data.trained_on = ImageFolder(str(folder), **OPTIONS).identity()
    data.setup()
    assert (data.changed, capsys.readouterr().err) == (None, "")
    (folder / "ant").rename(folder / "dog")
    data = ImageFolder(str(folder), **OPTIONS)
    data.trained_on = {"class_names": ["ant", "cat"]}
    data.setup()
    data.images("test")
    assert data.changed == "class 0 was 'ant' and is 'cat'"
    said = "warning: image_folder:images is not what the run was trained on: class 0 was 'ant' and is 'cat'\n"
    assert capsys.readouterr().err == said
