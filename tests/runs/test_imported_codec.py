"""Imported networks of latents with a codec: what they make are decoded images, priced with the decoder."""

import json
import shutil

import pytest
import torch
from PIL import Image

import denoisezoo as dz
from denoisezoo.cli import main
from denoisezoo.errors import UserError
from denoisezoo.interop import Foreign
from denoisezoo.runs.imported_codec import codec_for
from denoisezoo.runs.run import load_run
from tests.diffusion.autoencoder_folders import write_autoencoder
from tests.interop.written import of_latents, write_transformer

pytest.importorskip("diffusers", reason="the test extra brings diffusers")


@pytest.fixture
def files(tmp_path, monkeypatch):
    """The address of a DiT of latents 4x8x8, and the folder of an autoencoder that halves images."""
    monkeypatch.chdir(tmp_path)
    vae = write_autoencoder(tmp_path / "vae", "autoencoder_kl")
    return f"dit,num_heads=2:{write_transformer(tmp_path / 'DiT.pt', change=of_latents)}", vae


def test_images_are_what_the_autoencoder_makes_of_the_latents(files):
    address, vae = files
    latents = dz.load(address).sample(2, steps=2, progress=False).images
    denoiser = dz.load(address, codec="autoencoder_kl:path=vae")
    images = denoiser.sample(2, steps=2, progress=False).images
    assert denoiser.image_shape == (3, 16, 16)
    # 0.18215 is that of Stable Diffusion's latents, which DiT was trained on, whatever the folder says.
    expected = vae.decode((latents / 0.18215).float()).sample
    assert images.shape == (2, 3, 16, 16)
    torch.testing.assert_close(images.float(), expected.float(), rtol=0, atol=2e-4)


def test_a_scale_that_is_given_counts(files):
    address, _ = files
    codec = dz.load(address, codec="autoencoder_kl:path=vae,scale=0.5").codec
    assert (codec.scale.item(), codec.shift.item()) == (0.5, pytest.approx(0.3))  # the folder's shift
    same = dz.load(address, codec=codec).codec
    assert same.scale.item() == 0.5
    write_autoencoder("tiny", "autoencoder_tiny")
    assert dz.load(address, codec="autoencoder_tiny:path=tiny").codec.scale.item() == 1  # of latents that are scaled


def test_latents_of_each_channel_s_own_scale(files):
    """As EDM2's snapshots tell them: raw latents times scale plus shift."""
    _, vae = files
    scale, shift = [0.125, 0.25, 0.5, 1.0], [-0.5, 1.0, 0.0, 2.0]
    facts = {"latents": {"codec": "autoencoder_kl", "scale": scale, "shift": shift}}
    found = Foreign(
        denoiser="x",
        network={},
        process={},
        preconditioning={},
        objective={},
        weights={},
        sampler="edm",
        steps=1,
        file=None,
        facts=facts,
    )
    described, _ = codec_for(found, "autoencoder_kl:path=vae")
    codec = dz.diffusion.create_codec(dz.diffusion.CODECS["autoencoder_kl"](**described["init_args"]))
    x = torch.rand(1, 3, 16, 16)
    raw = vae.encode(x).latent_dist.mean
    expected = raw * torch.tensor(scale)[:, None, None] + torch.tensor(shift)[:, None, None]
    torch.testing.assert_close(codec.to_latents(x), expected, rtol=0, atol=1e-5)


def test_a_run_with_its_codec_is_whole(files, tmp_path):
    address, _ = files
    assert main(["import", address, "--codec", "autoencoder_kl:path=vae", "--out", "runs/dit"]) == 0
    before = load_run(address, codec="autoencoder_kl:path=vae").denoiser.state_dict()
    shutil.rmtree("vae")
    run = load_run("runs/dit")
    after = run.denoiser.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    (tmp_path / "photos").mkdir()
    for i in range(4):
        Image.new("RGB", (16, 16), (60 * i, 40, 90)).save(tmp_path / "photos" / f"{i}.png")
    assert main(["sample", "runs/dit", "--num", "1", "--steps", "2"]) == 0
    assert Image.open(next(tmp_path.glob("runs/dit/samples/*/000000.png"))).size == (16, 16)
    words = ["--data.path", "photos", "--features", "pixels16", "--num", "4", "--steps", "1", "--json", "row.json"]
    assert main(["evaluate", "runs/dit", *words]) == 0
    (row,) = json.loads((tmp_path / "row.json").read_text())
    assert row["codec"] == "autoencoder_kl"
    words = ["--counts-only", "--sampler", "ddpm:variance=learned", "--steps", "2", "--json", "price.json"]
    assert main(["profile", "runs/dit", *words]) == 0
    (row,) = json.loads((tmp_path / "price.json").read_text())
    assert row["trajectory"][-1]["label"] == "decode"
    assert row["macs_per_image"] == sum(entry["macs"] for entry in row["trajectory"])


WRONG = {
    "no run": ("runs/dit", "autoencoder_kl:path=vae", "there is no run runs/dit"),
    "no folder": ("{}", "autoencoder_kl:path=none", "none is no folder; give a folder"),
    "an unknown codec": ("{}", "autoencoder_lk:path=vae", "unknown codec 'autoencoder_lk'; did you mean"),
    "an unknown option": ("{}", "autoencoder_kl:scael=1", "unknown option of codec autoencoder_kl 'scael'"),
    "a network of pixels": (
        "pixels",
        "autoencoder_kl:path=vae",
        "has latents of 4 channels, and the network takes 3",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_codec_that_does_not_fit_is_refused(case, files, tmp_path):
    address, _ = files
    path, codec, message = WRONG[case]
    if path == "pixels":
        path = f"dit,num_heads=2:{write_transformer(tmp_path / 'pixels.pt')}"
    with pytest.raises(UserError, match=message):
        load_run(path.format(address), codec=codec)


def test_import_refuses_in_one_line_and_writes_nothing(files, capsys):
    address, _ = files
    assert main(["import", address, "--codec", "autoencoder_kl:path=none", "--out", "runs/none"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert not load_run(address).folder.exists()
