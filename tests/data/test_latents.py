"""Latents on disk: what batches hold, what a run trains on, and what is refused."""

import numpy as np
import pytest
import torch

from denoisezoo.data.latents import Latents
from denoisezoo.errors import UserError
from denoisezoo.train.fit import train


@pytest.fixture
def folder(tmp_path):
    generator = np.random.default_rng(0)
    np.save(tmp_path / "latents.npy", generator.standard_normal((12, 4, 8, 8)).astype(np.float16))
    np.save(tmp_path / "labels.npy", np.arange(12) % 3)
    return tmp_path


def latents(folder, **options):
    return Latents(str(folder), **{"resolution": 8, "batch_size": 6, "num_labels": 3, "labels": True} | options)


def test_batches_are_scaled_latents_with_their_labels(folder):
    data = latents(folder, scale=0.5)
    stored = np.load(folder / "latents.npy").astype(np.float32)
    batch = next(iter(data.train_dataloader()))
    assert batch["image"].dtype == torch.float32
    for image, label in zip(batch["image"], batch["label"], strict=True):
        (n,) = [i for i in range(12) if np.array_equal(0.5 * stored[i], image.numpy())]
        assert label == n % 3
    assert (data.num_classes, data.channels, data.val_dataloader()) == (3, 4, [])


def test_other_latents_have_another_fingerprint(folder):
    before, scaled = latents(folder).fingerprint(), latents(folder, scale=2.0).fingerprint()
    array = np.load(folder / "latents.npy")
    array[7] += 1
    np.save(folder / "latents.npy", array)
    assert len({before, scaled, latents(folder).fingerprint()}) == 3


def test_a_network_trains_on_them(folder, tmp_path):
    words = [
        *("--config", "imagenet_latents/dit", "--data.path", str(folder), "--data.resolution", "8"),
        *("--data.num_labels", "3", "--data.batch_size", "6", "--model.denoiser", "dit_tiny"),
        *("--model.network.in_channels", "4", "--model.network.out_channels", "8"),
        *("--model.network.cond_channels", "0", "--model.network.augment_dim", "0"),
        *("--model.network.token_dim", "0", "--model.network.tokens", "0"),
        *("--trainer.accelerator", "cpu", "--trainer.precision", "32-true", "--trainer.max_steps", "2"),
        *("--trainer.default_root_dir", str(tmp_path / "run"), "--trainer.enable_progress_bar", "false"),
    ]
    result = train(words)
    assert (result.steps, result.facts["images_seen"]) == (2, 12)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"channels": 3}, r"holds float16 \(12, 4, 8, 8\); give floating latents \(N, 3, 8, 8\)"),
        ({"num_labels": 2}, "labels range from 0 to 2; give numbers from 0 to 1"),
        ({"scale": 0.0}, "scale is 0.0; give a positive number"),
        ({"batch_size": 13}, "use a batch_size of at most 12"),
    ],
)
def test_what_does_not_fit_is_one_line(folder, options, expected):
    with pytest.raises(UserError, match=expected):
        latents(folder, **options).setup()


def test_missing_and_damaged_files_are_one_line(folder):
    with pytest.raises(UserError, match=r"there is no .*latents\.npy"):
        latents(folder / "nowhere").setup()
    (folder / "labels.npy").write_bytes(b"no array")
    with pytest.raises(UserError, match=r"labels\.npy is no array of numpy"):
        latents(folder).setup()
    with pytest.raises(UserError, match="latents are no images"):
        latents(folder).images()
