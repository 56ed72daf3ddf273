"""Folders and archives as they come from other systems: names, classes, links, hashes."""

from __future__ import annotations

import json
import os
import unicodedata
import zipfile
from pathlib import Path

import numpy as np
import pytest

from denoisezoo.data import ImageFolder, ImageZip
from denoisezoo.data.sources import FolderSource, ZipSource
from denoisezoo.errors import UserError
from denoisezoo.files import sha256
from tests.data.conftest import pack, picture, save

LATIN = os.fsdecode(b"caf\xe9")
"""A name of an old archive that is no UTF-8, as Python shows it."""


@pytest.fixture
def tree(tmp_path):
    """Two classes of three images."""
    for i in range(6):
        save(tmp_path / "tree" / ("cat", "dog")[i % 2] / f"{i}.png", picture(i))
    return tmp_path / "tree"


@pytest.fixture
def png(tmp_path):
    """The bytes of an image."""
    return save(tmp_path / "one.png", picture(0)).read_bytes()


def zipped(path: Path, members: list[tuple[str | zipfile.ZipInfo, bytes]]) -> ZipSource:
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members:
            file.writestr(name, content)
    return ZipSource(path)


# Links.


@pytest.mark.parametrize(
    "links", [{"cat/up": ".."}, {"self": "."}, {"cat/self": "."}, {"a": "b", "b": "a"}, {"a": "cat"}]
)
def test_each_real_folder_counts_once_and_in_its_own_place(tree, links):
    names = FolderSource(tree).names
    for link, target in links.items():
        (tree / link).symlink_to(target)
    source = FolderSource(tree)
    assert source.names == names
    assert source.class_names == ("cat", "dog")


def test_links_to_folders_elsewhere_are_followed_once(tree, tmp_path):
    """Two of them lead to each other, and a third one to the first again."""
    for name, other in (("one", "two"), ("two", "one")):
        save(tmp_path / name / f"{name}.png", picture(9))
        (tmp_path / name / "other").symlink_to(tmp_path / other)
    (tree / "b").symlink_to(tmp_path / "one")
    (tree / "c").symlink_to(tmp_path / "one")
    found = set(FolderSource(tree).names) - {f"{name}/{i}.png" for i in range(6) for name in ("cat", "dog")}
    assert found == {"b/one.png", "b/other/two.png"}


def test_links_to_images_are_images(tree):
    (tree / "cat" / "again.png").symlink_to("0.png")
    assert len(FolderSource(tree).names) == 7


def test_a_folder_that_may_not_be_read_is_named_and_not_left_out(tree, monkeypatch):
    scan = os.scandir

    def refuse(path):
        if str(path).endswith("dog"):
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr("os.scandir", refuse)
    with pytest.raises(UserError, match="dog cannot be read: Permission denied; check its permissions"):
        FolderSource(tree)


# Names.


def test_names_that_are_no_utf8_are_hashed_shown_and_read(tree):
    (tree / "cat" / "0.png").rename(tree / "cat" / f"{LATIN}.png")
    plain = FolderSource(tree).sha256
    (tree / "dog").rename(tree / LATIN)
    data = ImageFolder(str(tree), resolution=16, batch_size=2, labels=True)
    assert data.class_names == (r"caf\xe9", "cat")
    assert data.card()["dataset_sha256"] != plain
    tree.rename(tree.with_name(LATIN))
    assert ImageFolder(str(tree.with_name(LATIN)), resolution=16, batch_size=2).title == r"image_folder:caf\xe9"


def test_the_hash_of_a_folder_is_that_of_versions_before(tree):
    lines = "".join(f"{name}\0{sha256(tree / name)}\n" for name in FolderSource(tree).names)
    (tree.parent / "lines").write_text(lines)
    assert FolderSource(tree).sha256 == sha256(tree.parent / "lines")


def test_accents_of_macos_are_those_of_other_systems(tree):
    """It decomposes them in the names of files."""
    composed = unicodedata.normalize("NFC", "café")
    (tree / "cat").rename(tree / unicodedata.normalize("NFD", composed))
    assert set(FolderSource(tree).class_names) == {composed, "dog"}


@pytest.mark.parametrize("name", ["a.PNG", "b.Png", "c.JPEG", "d.jfif"])
def test_the_case_of_a_suffix_does_not_matter(tmp_path, name):
    picture(0).save(tmp_path / name, "PNG")
    assert ImageFolder(str(tmp_path), resolution=16, batch_size=1).images().shape == (1, 3, 16, 16)


def test_what_systems_leave_beside_images_is_no_image(tree):
    for name in ("Thumbs.db", ".DS_Store", "desktop.ini", "__MACOSX/cat/._0.png", "@eaDir/0.png/SYNOPHOTO_THUMB_M.jpg"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(b"no image")
    for source in (FolderSource(tree), ZipSource(pack(tree))):
        assert (len(source.names), source.class_names) == (6, ("cat", "dog"))


def test_folders_that_differ_in_case_are_two_classes(tmp_path, png):
    source = zipped(tmp_path / "x.zip", [("cat/0.png", png), ("Cat/0.png", png)])
    assert source.class_names == ("Cat", "cat")


def test_an_outer_folder_is_no_part_of_the_class(tree, tmp_path):
    (tmp_path / "set" / "train").mkdir(parents=True)
    tree.rename(tmp_path / "set" / "train" / "images")
    save(tmp_path / "test" / "held" / "cat" / "0.png", picture(7))
    save(tmp_path / "test" / "held" / "dog" / "0.png", picture(8))
    packed, held = str(pack(tmp_path / "set")), str(pack(tmp_path / "test"))
    data = ImageZip(packed, test_path=held, resolution=16, batch_size=2, labels=True)
    assert data.class_names == ("cat", "dog")
    assert (data.labels("train").tolist(), data.labels("test").tolist()) == ([0, 0, 0, 1, 1, 1], [0, 1])


def test_one_folder_of_images_is_a_class(tmp_path):
    save(tmp_path / "set" / "cat" / "0.png", picture(0))
    assert FolderSource(tmp_path / "set").class_names == ("cat",)


# Archives.


@pytest.mark.parametrize("outer", ["", "set\\", "C:\\set\\", "/", "/set/", "../", "./", "../../set/"])
def test_members_are_named_as_one_would_name_them(tmp_path, png, outer):
    """Backslashes of old Windows tools, drives, roots, and ways up: labels are as ever, and no image is left out."""
    names = ["cat\\0.png", "dog\\0.png"] if "\\" in outer else ["cat/0.png", "dog/0.png"]
    source = zipped(tmp_path / "x.zip", [(f"{outer}{name}", png) for name in names])
    assert source.class_names == ("cat", "dog")
    assert [source.read(name) for name in source.names] == [png, png]


def bare(path: Path, png: bytes, name: bytes, *, flag: int = 0) -> Path:
    """A zip with one image whose name is these bytes."""
    stand_in = b"x" * len(name)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(stand_in.decode(), png)
    content = path.read_bytes().replace(stand_in, name)
    directory = content.rindex(b"PK\x01\x02")
    content = bytearray(content)
    content[6:8] = content[directory + 8 : directory + 10] = flag.to_bytes(2, "little")
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("encoding", ["cp437", "utf-8"])
def test_names_without_the_flag_for_utf8(tmp_path, png, encoding):
    """cp437 is what the format says, UTF-8 what macOS writes."""
    source = ZipSource(bare(tmp_path / "x.zip", png, "café/ü.png".encode(encoding)))
    assert (source.names, source.class_names) == (["café/ü.png"], ("café",))
    assert source.read("café/ü.png") == png


def test_names_that_are_no_utf8_though_they_say_so(tmp_path, png):
    with pytest.raises(UserError, match=r"x.zip is not a zip file, or is damaged"):
        ZipSource(bare(tmp_path / "x.zip", png, b"caf\xe9.png", flag=0x800))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_of_equal_names_the_last_counts_and_different_ones_may_not_become_equal(tmp_path, png):
    source = zipped(tmp_path / "a.zip", [("cat/0.png", b"old"), ("dog/0.png", png), ("cat/0.png", png)])
    assert (len(source.names), source.read("cat/0.png")) == (2, png)
    with pytest.raises(UserError, match=r"\.\./cat/0.png and cat/0.png in .*b.zip are both cat/0.png; pack it again"):
        zipped(tmp_path / "b.zip", [("cat/0.png", png), ("../cat/0.png", png)])


# What is known of files that are not read.


def test_the_listing_sees_names_and_sizes_and_in_a_zip_contents(tree, tmp_path):
    def listings() -> tuple[str, str]:
        return FolderSource(tree).listing_sha256, ZipSource(pack(tree)).listing_sha256

    first = listings()
    assert listings() == first
    (tree / "cat" / "0.png").rename(tree / "dog" / "0.png")
    renamed = listings()
    content = bytearray((tree / "dog" / "0.png").read_bytes())
    content[-1] ^= 1
    (tree / "dog" / "0.png").write_bytes(content)
    changed = listings()
    (tree / "dog" / "0.png").write_bytes(content + b"x")
    longer = listings()
    assert changed[0] == renamed[0]
    assert len({first[0], renamed[0], longer[0]}) == 3
    assert len({first[1], renamed[1], changed[1], longer[1]}) == 4


# Classes in dataset.json, as EDM and StyleGAN write them.


def labelled(tree, labels):
    (tree / "dataset.json").write_text(json.dumps({"labels": labels}))
    return {"folder": ImageFolder(str(tree), **EDM), "zip": ImageZip(str(pack(tree)), **EDM)}


EDM = {"resolution": 16, "batch_size": 2, "holdout_every": 0, "labels": True}
PAIRS = [["cat/0.png", 3], ["cat/2.png", 0], ["cat/4.png", 3], ["dog/1.png", 1], ["dog/3.png", 0], ["dog/5.png", 10]]


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_dataset_json_says_the_classes_and_not_the_folders(tree, kind):
    data = labelled(tree, PAIRS)[kind]
    assert data.labels().tolist() == [label for _, label in PAIRS]
    assert data.class_names == tuple(map(str, range(11)))  # in the order of numbers, with those that no image has
    assert data.num_classes == 11


def test_arrays_beside_dataset_json_are_images(tree, tmp_path):
    array = np.random.RandomState(0).randint(0, 256, (3, 16, 16), dtype=np.uint8)
    np.save(tree / "a.npy", array)
    assert len(FolderSource(tree).names) == 6
    (mixed, _) = labelled(tree, [*PAIRS, ["a.npy", 2]]).values()
    assert np.array_equal(mixed.images()[0].numpy(), array)
    assert mixed.labels().tolist()[:2] == [2, 3]
    np.save(tree / "a.npy", array.astype(np.float32))
    with pytest.raises(UserError, match=r"a.npy in .*tree.zip is an array of float32 \(3, 16, 16\); give uint8"):
        labelled(tree, [*PAIRS, ["a.npy", 2]])["zip"].setup()


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (None, r"tree.zip has no classes \(dataset.json\); leave `data.labels` out"),
        (PAIRS[1:], r"cat/0.png of .*tree.zip has no class \(dataset.json\); give it one"),
        ([["cat/0.png", -1]], r"label -1 of cat/0.png in dataset.json of .*tree.zip is no class; give whole numbers"),
        ([["cat/0.png", [0.0, 1.0]]], r"label \[0.0, 1.0\] of cat/0.png in dataset.json of .* is no class"),
        ([["cat/0.png"]], r"dataset.json of .*tree.zip holds no labels \(ValueError\); write"),
        (7, r"dataset.json of .*tree.zip holds no labels \(TypeError\); write"),
    ],
)
def test_labels_that_do_not_serve_are_one_line(tree, labels, expected):
    with pytest.raises(UserError, match=expected):
        labelled(tree, labels)["zip"].setup()


def test_held_out_labels_beyond_those_of_training_are_refused(tree, tmp_path):
    (train, _) = labelled(tree, [[name, min(label, 3)] for name, label in PAIRS]).values()
    held = tmp_path / "held"
    save(held / "0.png", picture(0))
    (held / "dataset.json").write_text(json.dumps({"labels": [["0.png", 4]]}))
    data = ImageFolder(str(tree), test_path=str(held), **EDM)
    assert train.num_classes == 4
    with pytest.raises(UserError, match=r"class '4' of .*held is not among the training classes"):
        data.setup()


def test_without_labels_dataset_json_needs_none(tree):
    (tree / "dataset.json").write_text('{"labels": null}')
    assert ImageFolder(str(tree), **(EDM | {"labels": False})).labels().tolist() == [0] * 6
