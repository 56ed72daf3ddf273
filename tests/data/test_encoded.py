"""Latents that are encoded once: the same training as encoding in each step, and the same cache however it was made."""

import json
import multiprocessing
import os
import shutil
import signal

import numpy as np
import pytest
import torch

from denoisezoo import cli
from denoisezoo.data import Digits, Encoded, Paired, Photos, TrainLoader, latent_cache
from denoisezoo.data.tasks import TASKS
from denoisezoo.diffusion import Haar, Pixels
from denoisezoo.errors import UserError
from denoisezoo.runs.run import load_run
from tests.examples.latents import ToyAutoencoder

LATENTS = ["--model.network.in_channels=4", "--model.network.out_channels=4", "--model.network.resolution=8"]
CODEC = ["--model.codec=toy_autoencoder", *LATENTS, "--trainer.limit_val_batches=1", "--trainer.max_steps=3"]
FORK = multiprocessing.get_context("fork")  # a fresh process would take seconds to import what is here


def digits(cache, **options):
    return Encoded(data=Digits(batch_size=8, horizontal_flip=True, **options), cache=str(cache))


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken") / "cache"
    digits(folder).encode_with(ToyAutoencoder(), "cpu")
    return folder


def test_what_is_kept_is_the_posterior_of_each_image_and_of_its_mirror_image(unbroken):
    data, codec = digits(unbroken), ToyAutoencoder()
    data.encode_with(codec, "cpu")
    loader, plain = data.train_dataloader(), data.data.train_dataloader()
    assert isinstance(loader, TrainLoader)
    assert len(loader) == len(plain)
    for n in (0, 1, len(loader) + 3):
        found, image = loader.batch(n), plain.batch(n)["image"]
        mean, log_variance = codec.posterior(image)
        torch.testing.assert_close(found["image"], mean, rtol=0, atol=1e-6)
        torch.testing.assert_close(found["log_variance"], log_variance)
        drawn = codec.to_batch(found, torch.Generator().manual_seed(n))
        torch.testing.assert_close(
            drawn["image"], codec.to_latents(image, torch.Generator().manual_seed(n)), rtol=0, atol=1e-6
        )
        assert set(drawn) == {"image"}
    for found, batch in zip(data.val_dataloader(), data.data.val_dataloader(), strict=True):
        torch.testing.assert_close(found["image"], codec.encode(batch["image"]), rtol=0, atol=1e-6)
    assert torch.equal(data.images("test"), data.data.images("test"))


def test_a_codec_without_a_posterior_draws_nothing(tmp_path):
    data = digits(tmp_path / "cache", labels=True)
    data.encode_with(Haar(), "cpu")
    batch = data.train_dataloader().batch(0)
    assert sorted(file.name for file in data.latents.folder.glob("*.npy")) == ["test_mean.npy", "train_mean.npy"]
    drawn = Haar().to_batch(batch, torch.Generator())
    assert torch.equal(drawn["image"], batch["image"])
    torch.testing.assert_close(Haar().decode(drawn["image"]), data.data.train_dataloader().batch(0)["image"])
    assert torch.equal(drawn["label"], data.data.train_dataloader().batch(0)["label"])


MOMENTS = {"before there is an index": 0, "at first": 1, "amid the images": 20, "among mirrored ones": 40, "late": 53}


def fill_until(folder, writes, after):
    """Fill a cache, and be killed before or after its index is written for the so-manieth time."""
    write = latent_cache.write_json
    left = [writes]

    def counted(path, data):
        if left[0] == 0 and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        write(path, data)
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1

    latent_cache.write_json = counted
    digits(folder).encode_with(ToyAutoencoder(), "cpu")


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("moment", MOMENTS)
def test_encoding_that_was_killed_goes_on_and_ends_with_the_same_cache(tmp_path, unbroken, moment, after):
    process = FORK.Process(target=fill_until, args=(tmp_path / "cache", MOMENTS[moment], after))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    calls = []

    class Counting(ToyAutoencoder):
        def posterior(self, image):
            calls.append(len(image))
            return super().posterior(image)

    Counting.title = "toy_autoencoder"
    digits(tmp_path / "cache").encode_with(Counting(), "cpu")
    assert contents(tmp_path / "cache") == contents(unbroken)
    batches = 2 * 26 + 3  # of 64: 1,621 images and their mirror images, and 176 that are held out
    written = MOMENTS[moment] + after
    # The first writing says that there are arrays; without it one image tells how large these must be.
    assert len(calls) == (batches - written + 1 if written else batches + 1)


def fill_and_count(folder, counts):
    class Counting(ToyAutoencoder):
        def posterior(self, image):
            counts.put(len(image))
            return super().posterior(image)

    Counting.title = "toy_autoencoder"
    data = digits(folder)
    data.encode_with(Counting(), "cpu")
    counts.put(data.train_dataloader().batch(5)["image"].numpy().tobytes())


def test_several_processes_share_a_cache_that_one_of_them_fills(tmp_path, unbroken):
    counts = FORK.SimpleQueue()
    processes = [FORK.Process(target=fill_and_count, args=(tmp_path / "cache", counts)) for _ in range(3)]
    for process in processes:
        process.start()
    found = []
    while len([one for one in found if isinstance(one, bytes)]) < 3:
        found.append(counts.get())
    for process in processes:
        process.join()
        assert process.exitcode == 0
    data = digits(unbroken)
    whole = 2 * len(data.images("train")) + len(data.images("test"))
    assert sum(one for one in found if not isinstance(one, bytes)) == whole + 1  # and one to see what there will be
    assert len({one for one in found if isinstance(one, bytes)}) == 1
    assert contents(tmp_path / "cache") == contents(unbroken)


OTHERS = {
    "data": (lambda folder: Encoded(data=Photos(batch_size=8, resolution=16), cache=folder), "other data"),
    "resolution": (lambda folder: digits(folder, resolution=32), "another resolution: resolution is 16, not 32"),
    "flips": (lambda folder: Encoded(data=Digits(batch_size=8), cache=folder), "other flips: flips is True, not False"),
    "dtype": (
        lambda folder: Encoded(data=Digits(batch_size=8, horizontal_flip=True), cache=folder, dtype="float16"),
        "another type: dtype is float32, not float16",
    ),
}


@pytest.mark.parametrize("case", OTHERS)
def test_a_cache_of_something_else_is_refused_by_name(unbroken, case):
    make, message = OTHERS[case]
    with pytest.raises(UserError, match=f"holds latents of {message}.*; give another folder, or delete"):
        make(str(unbroken)).encode_with(ToyAutoencoder(channels=3 if case == "data" else 1), "cpu")


def test_a_cache_of_another_codec_is_refused_by_name(unbroken, tmp_path):
    with pytest.raises(UserError, match="latents of another codec: codec is toy_autoencoder, not haar"):
        digits(unbroken).encode_with(Haar(), "cpu")
    with pytest.raises(UserError, match="latents of a codec of other weights; give"):
        digits(unbroken).encode_with(ToyAutoencoder(seed=1), "cpu")
    shutil.copytree(unbroken, tmp_path / "cache")
    (tmp_path / "cache" / "index.json").write_text("{}")
    with pytest.raises(UserError, match=r"index.json is damaged"):
        digits(tmp_path / "cache").encode_with(ToyAutoencoder(), "cpu")
    shutil.copy(unbroken / "index.json", tmp_path / "cache")
    np.save(tmp_path / "cache" / "train_mean.npy", np.zeros(3, np.float32))
    data = digits(tmp_path / "cache")
    data.encode_with(ToyAutoencoder(), "cpu")
    with pytest.raises(UserError, match=r"train_mean.npy holds other latents; delete"):
        data.train_dataloader()


def test_what_cannot_be_encoded_beforehand_is_refused(tmp_path):
    with pytest.raises(UserError, match="pixels need not be encoded"):
        digits(tmp_path).encode_with(Pixels(), "cpu")
    with pytest.raises(UserError, match="cannot be encoded beforehand"):
        Encoded(data=Paired(data=Digits(), task=TASKS["edges"]()), cache=str(tmp_path))
    with pytest.raises(UserError, match="have not been encoded"):
        digits(tmp_path).train_dataloader()


def test_training_on_a_cache_is_training_on_images(arguments, tmp_path, monkeypatch, capsys):
    cached = ["--data=Encoded", "--data.data=Digits", f"--data.cache={tmp_path / 'cache'}"]
    plain = ["--data=Digits", "--data.batch_size=32"]
    assert cli.main(["train", *arguments(*CODEC, *plain, folder="plain")]) == 0
    assert cli.main(["train", *arguments(*CODEC, *cached, "--data.data.batch_size=32", folder="first")]) == 0
    encode = ToyAutoencoder.encode

    def counted(self, image, generator=None):
        assert image.is_meta, "from here on nothing is encoded"
        return encode(self, image, generator)

    monkeypatch.setattr(ToyAutoencoder, "encode", counted)
    assert cli.main(["train", *arguments(*CODEC, *cached, "--data.data.batch_size=32", folder="again")]) == 0
    plain, first, again = (load_run(tmp_path / name).denoiser.state_dict() for name in ("plain", "first", "again"))
    for name, value in plain.items():
        torch.testing.assert_close(first[name], value, rtol=0, atol=1e-5)
        assert torch.equal(again[name], first[name])
    costs = [json.loads((tmp_path / name / "run.json").read_text())["train_macs"] for name in ("plain", "first")]
    encode = 16 * 16 * 9 * 1 * 8 + 8 * 8 * 4 * 8 * 4  # a convolution of 3x3, then one of 2x2 with stride 2
    assert costs[0] - costs[1] == (3 * 32 - 1797) * encode  # once for each image, not in each step
    run = load_run(tmp_path / "first")
    shutil.rmtree(tmp_path / "cache")
    assert run.data().images("test").dtype == torch.uint8
    assert run.data().title == "digits"
    capsys.readouterr()
    words = [*CODEC[1:], *cached, "--data.data.batch_size=32"]
    assert cli.main(["train", *arguments("--model.codec=haar", *words, folder="other")]) == 0
    assert cli.main(["train", *arguments("--model.codec=haar_packet", *words, folder="else")]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "holds latents of another codec: codec is haar, not haar_packet; give another" in line
