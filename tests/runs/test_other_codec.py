"""A smaller decoder for a run on latents: the same latents, other images, another price."""

import csv
import json
from pathlib import Path

import pytest
import torch

import denoisezoo as dz
from denoisezoo.cli import main
from denoisezoo.errors import UserError
from denoisezoo.profiling.trajectory import trace_codec

SHORT = ("--trainer.max_steps", "1", "--trainer.limit_val_batches", "0", "--samples.every_n_steps", "0")
NAMES = ("own", "other")


def watch(codec, decoded):
    """Write down what a codec decodes, and to what."""
    decode = codec.decode

    def watched(z):
        decoded.append((z, decode(z)))
        return decoded[-1][1]

    codec.decode = watched


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Runs of an autoencoder, of a smaller decoder for its latents, and of a slimmable denoiser of them."""
    monkeypatch.chdir(tmp_path)
    for name in ("autoencoder", "autoencoder_small_decoder", "slim_latent"):
        assert main(["train", "--config", f"digits/{name}", *SHORT]) == 0
    return tmp_path / "runs" / "digits"


def test_the_same_latents_are_decoded_by_another(runs, capsys):
    """In Python and in the shell, in the card, and in the price of each plan, by the difference of the decoders."""
    run, small = str(runs / "slim_latent"), "autoencoder:path=runs/digits/autoencoder_small_decoder"
    own, other = dz.load(run), dz.load(run, codec=small)
    decoded = []
    for denoiser in (own, other):
        watch(denoiser.codec, decoded)
    mine, theirs = (d.sample(2, steps=2, seed=3, progress=False).images for d in (own, other))
    (z, image), (other_z, other_image) = decoded
    assert torch.equal(z, other_z)
    assert torch.equal(mine, image)
    assert torch.equal(theirs, other_image)
    assert not torch.allclose(mine, theirs, atol=1e-3)

    codec, words = ["--codec", small], ["search", run, "--sampler", "ddim", "--steps", "3", "--budget", "0.6"]
    assert main([*words, "--csv", "own.csv"]) == main([*words, "--csv", "other.csv", *codec]) == 0
    prices = [
        {
            row["plan"]: int(row["macs_per_image"])
            for row in csv.DictReader(Path(f"{name}.csv").read_text().splitlines())
        }
        for name in NAMES
    ]
    decoders = [trace_codec(d.codec, torch.zeros(1, 1, 16, 16)).codec[-1].macs for d in (own, other)]
    assert prices[0]["effort 1"] - prices[1]["effort 1"] == decoders[0] - decoders[1] > 0
    assert main(["evaluate", run, "--steps", "1", "--num", "8", "--json", "e.json", *codec]) == 0
    (row,) = json.loads(Path("e.json").read_text())
    assert row["codec_sha256"] == other.codec.weights_sha256() != own.codec.weights_sha256()


def test_codecs_of_other_latents_are_refused(runs):
    small = "autoencoder:path=runs/digits/autoencoder_small_decoder"
    for codec in (f"{small},std=0.5", "haar"):
        with pytest.raises(UserError, match="makes other latents than those that slim_ddpm_digits was trained on"):
            dz.load(runs / "slim_latent", codec=codec)
    with pytest.raises(UserError, match="denoises pixels"):
        dz.load(runs / "autoencoder", codec=small)
