"""Training on latents: images are encoded on the way, and the run knows its codec."""

import json
import shutil

import pytest
import torch

import denoisezoo as dz
from denoisezoo import cli
from denoisezoo.diffusion import create_denoiser
from denoisezoo.errors import UserError
from denoisezoo.runs.build import denoiser_of
from denoisezoo.runs.run import load_run
from denoisezoo.train.checkpoint import sum_path
from denoisezoo.train.efforts import Sandwich, expected_macs, training_macs
from tests.diffusion.autoencoder_folders import write_autoencoder

LATENTS = ["--model.network.in_channels=4", "--model.network.out_channels=4", "--model.network.resolution=8"]


WIDER = ["--model.network.in_channels=16", "--model.network.out_channels=16", "--model.network.resolution=4"]


@pytest.fixture
def recipe_of(arguments):
    """Makes the trainer and module of a recipe, and the recipe as it is resolved."""

    def make(*words):
        from denoisezoo.train.recipe import parse_recipe, plain_config

        built = parse_recipe(arguments(*words))
        return built, plain_config(built)

    return make


def test_a_run_on_haar_latents_is_sampled_and_priced(arguments, tmp_path):
    words = ["--model.codec=haar", *LATENTS, "--samples.every_n_steps=2", "--samples.steps=2", "--trainer.max_steps=2"]
    assert cli.main(["train", *arguments(*words)]) == 0
    run = load_run(tmp_path / "run")
    assert run.denoiser.codec.title == "haar"
    assert run.image_shape == (1, 16, 16)
    assert {"fact": "codec", "value": "haar"} in run.summary().data
    assert run.denoiser.sample(2, steps=2).images.shape == (2, 1, 16, 16)
    (row,) = dz.profile(run, sampler="ddim:clip=true", steps=2, counts_only=True, efforts=[1.0]).rows()
    assert [call.get("label", call["call"]) for call in row["trajectory"]] == [0, 1, "clip", "decode"]
    assert row["macs_per_image"] == 2 * row["macs"]  # sums and differences are no multiply-adds
    assert list((tmp_path / "run" / "samples").glob("*.png"))


def test_a_run_of_before_is_one_on_pixels(trained):
    path = (trained() / "checkpoints" / "last.ckpt").resolve()
    found = torch.load(path, weights_only=True)
    assert found["denoisezoo"]["recipe"]["model"].pop("codec") is None
    torch.save(found, path)
    sum_path(path).unlink()
    denoiser = load_run(path).denoiser
    assert denoiser.codec.identity
    assert denoiser.image_shape == denoiser.latent_shape == (1, 16, 16)


REFUSED = {
    "unknown": (["--model.codec=har"], "unknown codec 'har'; did you mean haar"),
    "no class": (["--model.codec=os.system"], "codec is 'os.system'"),
    "option": (["--model.codec=haar:level=2"], "unknown option of codec haar 'level'; did you mean levels"),
    "channels": (["--model.codec=haar"], "codec haar has no latents of 1 channels; give the network a multiple of 4"),
    "size": (
        ["--model.codec=haar", *LATENTS[:2]],
        "takes latents of 16 pixels a side, and digits in codec haar has 8; set --model.network.resolution 8",
    ),
    "levels": (
        ["--model.codec=haar:levels=2", *WIDER[:2]],
        "takes latents of 16 pixels a side, and digits in codec haar:levels=2 has 4",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_one_line(arguments, capsys, case):
    words, message = REFUSED[case]
    assert cli.main(["train", *arguments(*words)]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line


@pytest.mark.parametrize("value", ["os.system", "haar: {class_path: os.system}", "nothing", "haar:levels=os.path"])
def test_a_file_names_no_codec_that_is_not_registered(recipe_of, value):
    _, config = recipe_of()
    with pytest.raises(UserError, match=r"no registered name|give a whole number"):
        denoiser_of(config["model"] | {"codec": value})


def test_a_class_is_named_as_those_of_processes_are(recipe_of):
    _, config = recipe_of("--model.codec=Haar", "--model.codec.levels=2", *WIDER)
    assert config["model"]["codec"] == {"class_path": "denoisezoo.diffusion.Haar", "init_args": {"levels": 2}}
    assert denoiser_of(config["model"])[0].codec.levels == 2


def test_steps_encode_alike_and_with_their_own_noise(recipe_of):
    from tests.examples.latents import ToyAutoencoder

    built, _ = recipe_of("--model.codec=toy_autoencoder", *LATENTS)
    module = built.model
    module._trainer = built.trainer
    batch = {"image": torch.rand(4, 1, 16, 16) * 2 - 1}
    first, again, later = (module.encoded(batch, index)["image"] for index in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, later)
    spread = torch.stack([module.encoded(batch, i)["image"] for i in range(64)]).std(0).mean()
    assert float(spread) == pytest.approx(ToyAutoencoder().posterior_std, rel=0.05)
    assert not first.requires_grad


def test_training_costs_the_encoder_once_for_each_image():
    from tests.examples.latents import ToyAutoencoder

    sizes = {"in_channels": 4, "out_channels": 4, "resolution": 8, "num_classes": 0, "augment_dim": 0}
    network = dz.create_backbone("slim_tiny", **sizes, cond_channels=0)
    denoisers = [create_denoiser(network, codec=codec) for codec in (None, ToyAutoencoder())]
    encode = 16 * 16 * 9 * 1 * 8 + 8 * 8 * 4 * 8 * 4  # a convolution of 3x3, then one of 2x2 with stride 2
    plain, latent = (training_macs(denoiser) for denoiser in denoisers)
    assert latent - plain == encode
    plain, latent = (expected_macs(denoiser, "sandwich", Sandwich()) for denoiser in denoisers)
    assert latent - plain == encode
    told = dz.create_backbone("slim_tiny", **sizes, cond_channels=4)
    plain, latent = (training_macs(create_denoiser(told, codec=codec)) for codec in (None, ToyAutoencoder()))
    assert latent - plain == 2 * encode


def test_a_run_behind_an_autoencoder_needs_no_folder_once_it_is_trained(arguments, tmp_path, capsys):
    theirs = write_autoencoder(tmp_path / "vae", "autoencoder_kl", channels=1)
    words = arguments(f"--model.codec=autoencoder_kl:path={tmp_path / 'vae'}", *LATENTS, "--trainer.max_steps=1")
    assert cli.main(["train", *words]) == 0
    shutil.move(tmp_path / "vae", tmp_path / "gone")
    run = load_run(tmp_path / "run")
    z = torch.randn(1, 4, 8, 8)
    torch.testing.assert_close(run.denoiser.codec.decode(z), theirs.decode(z / 0.7 + 0.3).sample)
    assert run.denoiser.sample(1, steps=1).images.shape == (1, 1, 16, 16)
    (row,) = dz.profile(run, sampler="ddim", steps=2, counts_only=True, efforts=[1.0]).rows()
    *_, decode = row["trajectory"]
    assert (decode["label"], row["macs_per_image"]) == ("decode", 2 * row["macs"] + decode["macs"])
    written = json.loads((tmp_path / "run" / "run.json").read_text())
    assert written["codec_sha256"] == run.denoiser.codec.weights_sha256()
    capsys.readouterr()
    assert cli.main(["train", *words]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert f"{tmp_path / 'vae'} is no folder" in line
