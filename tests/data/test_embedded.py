from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits, load_sample_images

from denoisezoo.data import Digits, Photos
from denoisezoo.errors import UserError

DIGITS_SHA256 = "791994201e3a45913d803c11a103948a4f6aa9a99e38e53b7d766f0ed8722557"


def test_digits_are_the_scans_at_their_own_resolution():
    data = Digits(resolution=8, batch_size=64)
    ours = torch.cat([data.images("train"), data.images("test")]).flatten(1)
    scans = torch.from_numpy(load_digits().images).flatten(1) / 16 * 255
    assert sorted(map(tuple, ours.tolist())) == sorted(map(tuple, scans.round().to(torch.uint8).tolist()))


def test_digits_shapes_splits_and_classes():
    data = Digits(labels=True)
    assert data.images("train").shape == (1621, 1, 16, 16)
    assert data.images("test").shape == (176, 1, 16, 16)
    assert data.images("all").shape == (1797, 1, 16, 16)
    assert data.images().dtype == torch.uint8
    assert data.labels("all").bincount().tolist() == np.bincount(load_digits().target).tolist()
    assert data.labels("test").bincount().min() >= 17  # every class is held out alike
    assert (data.num_classes, data.channels, Digits().num_classes) == (10, 1, 0)


def test_digits_hash_is_the_same_everywhere():
    assert Digits().card()["dataset_sha256"] == DIGITS_SHA256


def test_digits_hash_does_not_depend_on_how_they_are_batched():
    assert Digits(batch_size=7, seed=5, labels=True, horizontal_flip=True).content_hash() == DIGITS_SHA256


def test_digits_enlarged_keep_their_mean_over_blocks():
    """Bicubic weights sum to one, so a scan of one grey level stays what it is."""
    from denoisezoo.data.embedded import enlarge_digits

    flat = torch.full((1, 8, 8), 8.0)
    assert enlarge_digits(flat, 16).unique().tolist() == [128]
    assert enlarge_digits(torch.zeros(1, 8, 8), 32).unique().tolist() == [0]


def test_digits_refuse_other_resolutions():
    with pytest.raises(UserError, match="resolution 24; use 8, 16, 32 or 64"):
        Digits(resolution=24)


@pytest.mark.parametrize(("resolution", "zoom", "used"), [(16, None, 8), (32, 1, 1), (48, None, 2), (128, None, 1)])
def test_photos_shapes(resolution, zoom, used):
    data = Photos(resolution=resolution, zoom=zoom, num_train=130, num_test=5, labels=True)
    assert data.zoom == used
    assert data.images("train").shape == (130, 3, resolution, resolution)
    assert data.images("test").shape == (5, 3, resolution, resolution)
    assert data.labels("test").tolist() == [0, 1, 0, 1, 0]
    assert data.num_classes == 2


def test_photo_crops_are_pixels_of_their_own_region():
    data = Photos(resolution=16, zoom=1, num_train=6, num_test=6, batch_size=2)
    photos = [torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in load_sample_images().images]
    for split, columns in (("train", slice(0, 512)), ("test", slice(512, 640))):
        for crop, label in zip(data.images(split), data.labels(split), strict=True):
            windows = photos[label][:, :, columns].unfold(1, 16, 1).unfold(2, 16, 1)
            corners = (windows[..., ::15, ::15] == crop[:, None, None, ::15, ::15]).flatten(3).all(-1).all(0)
            assert any(torch.equal(windows[:, top, left], crop) for top, left in corners.nonzero().tolist())


def test_photo_zoom_averages():
    fine = Photos(resolution=64, zoom=1, num_train=8, num_test=2, batch_size=2).images().double()
    coarse = Photos(resolution=32, zoom=2, num_train=8, num_test=2, batch_size=2).images().double()
    assert (torch.nn.functional.avg_pool2d(fine, 2) - coarse).abs().max() <= 0.5


def test_photos_depend_on_crop_seed_alone():
    options = {"resolution": 16, "num_train": 32, "num_test": 0, "batch_size": 4}
    first = Photos(**options).content_hash()
    assert Photos(**options, seed=9).content_hash() == first
    assert Photos(**options, crop_seed=9).content_hash() != first


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resolution": 8}, "photos cannot be cropped at resolution 8"),
        ({"resolution": 64, "zoom": 3}, "resolution 64 with zoom 3; .* at most 128"),
        ({"zoom": 0}, "zoom is 0"),
        ({"num_train": 0}, "num_train is 0"),
        ({"num_test": -1}, "num_test is -1"),
        ({"resolution": 0}, "resolution is 0"),
    ],
)
def test_photos_refuse(options, message):
    with pytest.raises(UserError, match=message):
        Photos(**options)


def test_photos_without_held_out_crops_have_no_validation():
    data = Photos(resolution=16, num_train=8, num_test=0, batch_size=4)
    assert data.val_dataloader() == []
    assert len(data.images("test")) == 0
