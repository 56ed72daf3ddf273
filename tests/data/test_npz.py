"""Images in .npz files: pixels, classes, splits, what a run trains on, and what is refused."""

import numpy as np
import pytest
import torch

from denoisezoo.cli import main
from denoisezoo.data import ImageNpz
from denoisezoo.errors import UserError

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 16, 16, 3), dtype=np.uint8)
LABELS = np.arange(12) % 3


@pytest.fixture
def file(tmp_path):
    np.savez(tmp_path / "batch.npz", IMAGES, LABELS)
    return str(tmp_path / "batch.npz")


def npz(file, **options):
    return ImageNpz(file, **{"resolution": 16, "batch_size": 4, "holdout_every": 0} | options)


def test_a_reference_batch_gives_its_pixels_and_classes(file):
    data = npz(file, labels=True)
    assert torch.equal(data.images(), torch.from_numpy(IMAGES).permute(0, 3, 1, 2))
    assert data.labels().tolist() == LABELS.tolist()
    assert (data.class_names, data.num_classes, data.title) == (("0", "1", "2"), 3, "image_npz:batch.npz")
    parts = npz(file, holdout_every=2)
    assert parts.labels("test").tolist() == [0, 1, 2, 0, 1, 2]
    assert torch.equal(parts.images("test")[0], data.images()[3])


def test_channels_and_sizes_are_made_as_pillow_makes_them(file, tmp_path):
    from PIL import Image

    grey = npz(file, channels=1, resolution=8, resize=True).images()
    expected = Image.fromarray(IMAGES[5]).convert("L").resize((8, 8), Image.Resampling.LANCZOS)
    assert torch.equal(grey[5, 0], torch.from_numpy(np.array(expected)))
    np.savez(tmp_path / "grey.npz", x=IMAGES[..., 0])
    assert torch.equal(
        npz(str(tmp_path / "grey.npz"), image="x").images(),
        torch.from_numpy(IMAGES[..., 0])[:, None].expand(-1, 3, -1, -1),
    )


def test_a_run_trains_on_it(file, arguments, tmp_path):
    np.savez(tmp_path / "grey.npz", IMAGES[..., 0], LABELS)
    words = ["--data", "ImageNpz", "--data.path", tmp_path / "grey.npz", "--data.resolution", 16, "--data.channels", 1]
    assert main(["train", *arguments(*words, "--data.batch_size", 4, "--trainer.max_steps", 2)]) == 0
    words[3] = tmp_path / "gone.npz"
    assert main(["train", *arguments(*words, "--data.batch_size", 4, folder="other")]) == 2
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("arrays", "options", "expected"),
    [
        ({"mu": IMAGES}, {}, "holds mu, and no arr_0; give `data.image`"),
        ({"arr_0": IMAGES}, {"labels": True}, "holds arr_0, and no classes arr_1; leave `data.labels` out"),
        ({"arr_0": IMAGES, "arr_1": LABELS - 1}, {"labels": True}, "range from -1 to 1; give numbers from 0 to 1"),
        ({"arr_0": IMAGES, "arr_1": LABELS / 2}, {}, r"arr_1 of .* is float64 \(12,\); give whole numbers"),
        ({"arr_0": IMAGES, "arr_1": LABELS[1:]}, {}, "holds 11 labels of 12 images"),
        ({"arr_0": IMAGES / 255}, {}, r"arr_0 of .* is float64 \(12, 16, 16, 3\); give images, uint8"),
        ({"arr_0": IMAGES.transpose(0, 3, 1, 2)}, {}, r"is uint8 \(12, 3, 16, 16\); give images"),
        ({"arr_0": IMAGES[:0]}, {}, "holds no images"),
        ({"arr_0": IMAGES}, {"resolution": 32}, "are 16x16, and resolution is 32; set resolution to 16, or give"),
    ],
)
def test_what_does_not_fit_is_one_line(tmp_path, arrays, options, expected):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(UserError, match=expected):
        npz(str(tmp_path / "x.npz"), **options).setup()


def test_damaged_files_are_one_line(file, tmp_path):
    with pytest.raises(UserError, match=r"there is no .*gone\.npz"):
        npz(str(tmp_path / "gone.npz")).setup()
    content = (tmp_path / "batch.npz").read_bytes()
    for broken in (b"", b"nothing", content[:3000], content[:600] + b"xyz" + content[603:]):
        (tmp_path / "batch.npz").write_bytes(broken)
        with pytest.raises(UserError, match=r"batch\.npz is no \.npz file, or is damaged"):
            npz(file).setup()
    np.savez(tmp_path / "batch.npz", arr_0=np.array([object()]))
    with pytest.raises(UserError, match="is damaged"):  # an object would be unpickled
        npz(file).setup()
