"""Every shipped recipe builds; every mistake in one is told in a line that names what is right."""

import shlex
from pathlib import Path

import pytest
import torch

from denoisezoo.data import ImageFolder
from denoisezoo.errors import UserError
from denoisezoo.profiling.counting import count
from denoisezoo.train.fit import train
from denoisezoo.train.recipe import parse_recipe, plain_config
from denoisezoo.train.recipe_names import find_recipe, list_recipes
from denoisezoo.train.suited import check_data


@pytest.mark.parametrize("name", list_recipes())
def test_shipped_recipes_build(name, monkeypatch, untrained_codecs):
    monkeypatch.setattr(ImageFolder, "class_names", tuple(map(str, range(1000))), raising=False)  # no folder here
    with torch.device("meta"):
        cli = parse_recipe(["--config", name, "--trainer.accelerator", "cpu", "--trainer.precision", "32-true"])
    check_data(cli.model.name, cli.model.denoiser, cli.datamodule)
    assert cli.trainer.default_root_dir.endswith(f"runs/{name}")
    head = find_recipe(name).read_text().splitlines()
    assert head[0].startswith("# ")
    assert any(f"denoisezoo train --config {name}" in line for line in head if line.startswith("#"))
    assert plain_config(cli)["model"]["denoiser"].rpartition(".")[2] == cli.model.name


@pytest.mark.parametrize(
    ("name", "macs"),
    [
        ("imagenet_latents/dit", 118_621_421_568),
        ("imagenet_latents/sit", 118_621_421_568),
        ("imagenet_latents/uvit", 76_456_222_720),
        ("imagenet_latents/lightningdit", 118_626_140_160),
        ("imagenet_latents/ddt", 131_481_059_328),
        ("imagenet_latents/dico", 87_220_969_472),
        ("imagenet_latents/dic", 116_098_252_800),
        ("imagenet_latents/fcdm", 64_530_022_400),
        ("imagenet_latents/udit", 84_909_342_720),
        ("imagenet_latents/edm2", 100_818_696_192),
        ("imagenet/jit", 25_222_840_320),
    ],
)
def test_calls_of_imagenet_recipes_cost_what_their_networks_do(name, macs, monkeypatch):
    """The denoiser whole, preconditioning included, as a sampler calls it."""
    monkeypatch.setattr(ImageFolder, "class_names", tuple(map(str, range(1000))), raising=False)
    with torch.device("meta"):
        denoiser = parse_recipe(["--config", name, "--trainer.accelerator", "cpu"]).model.denoiser.eval()
    u_t, t = torch.empty(1, *denoiser.image_shape, device="meta"), torch.full((1,), 0.5, device="meta")
    assert count(lambda: denoiser(u_t, t, denoiser.blank(device="meta"))).macs == macs


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--config", "digits/dpm"], "digits/ddpm"),
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
        (["--model.optimizer.lrr", "1"], "lr"),
        (["--trainer.max_step", "1"], "max_steps"),
        (["--trainer.max_steps", "many"], "max_steps"),
        (["--trainer.max_steps", "-5"], "max_steps"),
        (["--model.denoiser", "ddpm_cifar11"], "ddpm_cifar10"),
        (["--model.network.blockz", "3"], "blocks"),
        (["--model.process", "EDMM"], "EDM"),
        (["--data.batch_size", "0"], "batch_size"),
        (["--data.batch_size", "100000"], "batch_size"),
        (["--data.class_path", "Digitz"], "Digits"),
        (["--ema.half_life", "-1"], "half_life"),
        (["--samples.sampler", "hevn"], "heun"),
        (["--model.optimizer.name", "adamww"], "adamw"),
        (["--model.network.resolution", "15"], "15"),
        (["--model.network.resolution", "32"], "resolution"),
        (["--model.network.in_channels", "3"], "puts out 1 channels, and 3 are to be predicted for images of 3"),
        (
            ["--model.network.out_channels", "3"],
            "set `model.network.out_channels` to 1, or `model.network.in_channels` to 3 for images",
        ),
        (
            ["--model.network.in_channels", "3", "--model.network.out_channels", "3"],
            "set `model.network.in_channels=1` and `model.network.out_channels=1`",
        ),
        (["--model.network.num_classes", "10"], "classes"),
        (["--model.process.sigma_min", "9999"], "sigma_min"),
    ],
)
def test_mistakes_are_one_line_that_names_the_cure(arguments, words, expected, tmp_path):
    with pytest.raises(UserError) as caught:
        train(arguments(*words))
    message = str(caught.value)
    assert expected in message
    assert "\n" not in message
    assert not (tmp_path / "run" / "checkpoints").exists()


def documented(page):
    """Arguments of the trainings that a page of docs/ shows."""
    text = (Path(__file__).parents[2] / "docs" / page).read_text().replace("\\\n", " ")
    shown = [line.strip() for line in text.splitlines() if line.startswith("    denoisezoo train ")]
    return [shlex.split(line, comments=True)[2:] for line in shown]


def test_the_documentation_has_four_levels():
    found = [
        words for words in documented("udpm.md") if "tinyimagenet_zip/udpm" in words and "--samples.steps" in words
    ]
    assert [words[words.index("--samples.steps") + 1] for words in found] == ["4"]


def test_a_recipe_that_is_no_yaml(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text("model: [unclosed")
    with pytest.raises(UserError) as caught:
        parse_recipe(["--config", str(path)])
    assert "\n" not in str(caught.value)


def test_a_folder_that_cannot_be_written(arguments, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        train(arguments(folder="file/run"))
