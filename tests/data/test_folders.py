from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from PIL import Image

from denoisezoo.data import ImageFolder, ImageZip
from denoisezoo.data.store import LazyStore, TensorStore
from denoisezoo.errors import UserError
from tests.data.conftest import pack, picture, save

OPTIONS = {"resolution": 16, "batch_size": 4, "holdout_every": 5}


def pixels(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def test_a_folder_gives_its_pixels_classes_and_splits(folder):
    data = ImageFolder(str(folder), labels=True, **OPTIONS)
    assert (data.class_names, data.num_classes, data.channels) == (("ant", "cat"), 2, 3)
    assert data.labels("train").tolist() == [0] * 8 + [1] * 8
    assert data.labels("test").tolist() == [0, 0, 1, 1]
    assert torch.equal(data.images("train")[0], pixels(picture(0)))
    assert torch.equal(data.images("test")[0], pixels(picture(8)))
    assert data.images("all").shape == (20, 3, 16, 16)


def test_a_zip_gives_what_its_folder_gives(folder):
    packed = pack(folder)
    ours, theirs = ImageZip(str(packed), **OPTIONS), ImageFolder(str(folder), **OPTIONS)
    assert torch.equal(ours.images("all"), theirs.images("all"))
    assert torch.equal(ours.labels("all"), theirs.labels("all"))
    card = ours.card()
    assert card["dataset"] == "image_zip:images.zip"
    assert card["dataset_sha256"] == hashlib.sha256(packed.read_bytes()).hexdigest()
    assert (card["num_train"], card["num_test"], card["num_classes"]) == (16, 4, 0)


def test_the_hash_of_a_folder_sees_contents_and_names(folder, tmp_path):
    def digest() -> str:
        return ImageFolder(str(folder), **OPTIONS).card()["dataset_sha256"]

    first = digest()
    assert digest() == first
    (folder / "README.txt").write_text("changed, but no image")
    assert digest() == first
    (folder / "ant" / "00.png").rename(folder / "ant" / "99.png")
    renamed = digest()
    save(folder / "ant" / "99.png", picture(99))
    assert len({first, renamed, digest()}) == 3


def test_a_separate_test_set(folder, tmp_path):
    for i in range(3):
        save(tmp_path / "held" / "cat" / f"{i}.png", picture(100 + i))
    data = ImageFolder(str(folder), test_path=str(tmp_path / "held"), labels=True, **OPTIONS)
    assert (len(data.images("train")), data.labels("test").tolist()) == (20, [1, 1, 1])
    assert data.card()["test_sha256"] == ImageFolder(str(tmp_path / "held"), **OPTIONS).content_hash()
    assert ImageFolder(str(folder), **OPTIONS).card()["test_sha256"] is None


def test_a_test_set_with_an_unknown_class(folder, tmp_path):
    save(tmp_path / "held" / "dog" / "0.png", picture(100))
    options = {"test_path": str(tmp_path / "held"), **OPTIONS}
    with pytest.raises(UserError, match=r"class 'dog' of .*held is not among the training classes"):
        ImageFolder(str(folder), labels=True, **options).setup()
    assert ImageFolder(str(folder), **options).labels("test").tolist() == [-1]


def test_nothing_held_out(folder):
    data = ImageFolder(str(folder), **(OPTIONS | {"holdout_every": 0}))
    assert (len(data.images("train")), len(data.images("test")), data.val_dataloader()) == (20, 0, [])


def test_above_the_memory_limit_images_are_decoded_when_taken(folder):
    lazy = ImageZip(str(pack(folder)), memory_limit_gb=0, **OPTIONS)
    eager = ImageFolder(str(folder), **OPTIONS)
    assert isinstance(lazy.split("train").images, LazyStore)
    assert isinstance(eager.split("train").images, TensorStore)
    for n in (0, 5):
        assert torch.equal(lazy.train_dataloader().batch(n)["image"], eager.train_dataloader().batch(n)["image"])


def test_grey_among_rgb_becomes_rgb(folder):
    grey = picture(50, mode="L")
    save(folder / "ant" / "00.png", grey)
    image = ImageFolder(str(folder), **OPTIONS).images()[0]
    assert torch.equal(image, torch.from_numpy(np.array(grey)).expand(3, -1, -1))


def test_rgb_becomes_grey_when_asked(folder):
    images = ImageFolder(str(folder), channels=1, **OPTIONS).images()
    assert images.shape == (16, 1, 16, 16)
    assert torch.equal(images[0, 0], torch.from_numpy(np.array(picture(0).convert("L"))))


def test_exif_orientation_is_obeyed(folder):
    image = picture(50)
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    image.save(folder / "ant" / "00.png", exif=exif)
    assert torch.equal(ImageFolder(str(folder), **OPTIONS).images()[0], pixels(image).flip(1, 2))


def test_resize_cuts_the_middle_square(folder):
    wide = np.zeros((32, 64, 3), dtype=np.uint8)
    wide[:, 16:48] = 200  # the middle square is of one colour
    save(folder / "ant" / "00.png", Image.fromarray(wide))
    images = ImageFolder(str(folder), resize=True, **OPTIONS).images()
    assert images[0].unique().tolist() == [200]
    assert torch.equal(images[1], pixels(picture(2)))  # of the right size already: untouched


def test_mixed_sizes_name_two_images(folder):
    save(folder / "cat" / "03.png", picture(3, (24, 16)))
    with pytest.raises(UserError, match=r"differ in size: ant/00.png is 16x16 and cat/03.png is 24x16; .*resize=true"):
        ImageFolder(str(folder), **OPTIONS).setup()


def test_wrong_resolution_names_the_right_one(folder):
    with pytest.raises(UserError, match=r"are 16x16 \(ant/00.png\), and resolution is 32; set resolution to 16"):
        ImageZip(str(pack(folder)), resolution=32, batch_size=4).setup()


def test_wrong_and_not_square(tmp_path):
    save(tmp_path / "a.png", picture(0, (20, 10)))
    with pytest.raises(UserError, match=r"are 20x10 .* and resolution is 16; give `data.resize=true`"):
        ImageFolder(str(tmp_path), resolution=16, batch_size=1).setup()


@pytest.mark.parametrize("content", [b"", b"not a picture", "half"])
@pytest.mark.parametrize("kind", [ImageFolder, ImageZip])
def test_a_broken_image_is_named(folder, kind, content):
    path = folder / "cat" / "07.png"
    path.write_bytes(path.read_bytes()[:400] if content == "half" else content)
    where = folder if kind is ImageFolder else pack(folder)
    with pytest.raises(UserError, match=f"cat/07.png in {where} cannot be read as an image"):
        kind(str(where), **OPTIONS).setup()


def test_damage_inside_a_zip_is_named(folder):
    packed = pack(folder)
    content = bytearray(packed.read_bytes())
    content[content.find(b"ant/02.png") + 100] ^= 0xFF  # in the stored bytes, so that the checksum is wrong
    packed.write_bytes(content)
    with pytest.raises(UserError, match=r"ant/02.png in .* cannot be read as an image"):
        ImageZip(str(packed), **OPTIONS).setup()


def test_deep_pixels_are_refused_rather_than_clipped(folder):
    Image.fromarray(np.full((16, 16), 40_000, dtype=np.uint16)).save(folder / "ant" / "00.png")
    with pytest.raises(UserError, match=r"ant/00.png in .* more than 8 bits per channel; convert it"):
        ImageFolder(str(folder), **OPTIONS).setup()


def test_missing_empty_and_wrong_paths(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("no image")
    broken = tmp_path / "broken.zip"
    broken.write_bytes(pack(folder).read_bytes()[:500])
    cases = [
        (ImageFolder, tmp_path / "absent", "absent does not exist; give the path of a folder"),
        (ImageFolder, broken, "broken.zip is not a folder"),
        (ImageFolder, tmp_path / "empty", "empty holds no images; put images in it"),
        (ImageZip, tmp_path / "absent.zip", "absent.zip does not exist; give the path of a zip"),
        (ImageZip, folder, "images is not a file"),
        (ImageZip, broken, "broken.zip is not a zip file, or is damaged"),
        (ImageZip, pack(tmp_path / "empty"), "empty.zip holds no images"),
    ]
    for kind, path, message in cases:
        with pytest.raises(UserError, match=message):
            kind(str(path), **OPTIONS).setup()


def test_a_zip_that_may_not_be_read(folder, monkeypatch):
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    packed = pack(folder)
    monkeypatch.setattr("zipfile.ZipFile", refuse)
    with pytest.raises(UserError, match=r"images.zip cannot be read: Permission denied; check its permissions"):
        ImageZip(str(packed), **OPTIONS).setup()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 2}, "channels is 2; give 3 for RGB or 1 for grey"),
        ({"holdout_every": -1}, "holdout_every is -1"),
        ({"memory_limit_gb": -1.0}, "memory_limit_gb is -1"),
    ],
)
def test_impossible_arguments(folder, options, message):
    with pytest.raises(UserError, match=message):
        ImageFolder(str(folder), **(OPTIONS | options))


def test_more_images_in_a_batch_than_there_are(folder):
    with pytest.raises(UserError, match=r"batch_size 17 is larger .* image_folder:images \(16 images\)"):
        ImageFolder(str(folder), **(OPTIONS | {"batch_size": 17})).setup()


def test_errors_are_one_line(folder):
    with pytest.raises(UserError) as caught:
        ImageFolder(str(folder), resolution=32, batch_size=4).setup()
    assert "\n" not in str(caught.value)
