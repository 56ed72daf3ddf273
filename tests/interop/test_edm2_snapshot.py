"""Snapshots of EDM2: outputs equal those of its own code, and what does not fit is told."""

import numpy as np
import pytest
import torch

from denoisezoo.diffusion import Given
from denoisezoo.errors import UserError
from denoisezoo.runs.run import load_run
from tests.interop.written import Persistent, eight, image, write_edm2_snapshot

# NVlabs/edm2 4bf8162, training/networks_edm2.py: F of `Precond(8, 3, 3, ...)` with the weights of `edm2_snapshot`, in
# float16 as the file has them, for images of `image`, labels 0 and 2, or without; D for twice those at sigma 2; u(2).
F = [-0.049935, -0.08257, -0.025808, 0.002312, -0.074812, -0.014007, -0.037223, 0.004947]
WITHOUT = [-0.050493, -0.084498, -0.027492, 0.005466, -0.07274, -0.012764, -0.036297, 0.006274]
D = [0.071641, -0.153484, -0.092522, -0.08992, -0.129832, 0.112245, -0.109663, -0.08724]
U = 0.898883


def load(tmp_path, monkeypatch, **how):
    return load_run(f"edm:{write_edm2_snapshot(tmp_path / 'network.pkl', monkeypatch, **how)}")


def test_outputs_are_those_of_edm2(tmp_path, monkeypatch):
    run = load(tmp_path, monkeypatch)
    net = run.denoiser.backbone
    c_noise, label = torch.tensor([0.3, -1.2]), torch.tensor([0, 2])
    with torch.no_grad():
        y = net(image(2, 3, 8, 8), c_noise, Given(label=label))
        torch.testing.assert_close(eight(y), torch.tensor(F), rtol=0, atol=1e-6)
        y = net(image(2, 3, 8, 8), c_noise)
        torch.testing.assert_close(eight(y), torch.tensor(WITHOUT), rtol=0, atol=1e-6)
        sigma = torch.tensor([2.0, 2.0], dtype=torch.float64)
        found = run.denoiser(2 * image(2, 3, 8, 8).double(), sigma, Given(label=label)).u_0
        torch.testing.assert_close(eight(found).float(), torch.tensor(D), rtol=0, atol=2e-6)
        assert net.uncertainty(sigma.log().float() / 4)[0].item() == pytest.approx(U, abs=1e-5)
    assert run.sampling() == {"sampler": "edm", "steps": 32}
    assert "latents" not in run.config["source"]


def test_what_latents_are_scaled_by_is_in_the_card(tmp_path, monkeypatch):
    raw_std, raw_mean = np.float32([4, 2, 1]), np.float32([4, -4, 0])
    scale = np.float32(0.5) / raw_std
    arrays = {"scale": scale, "bias": -raw_mean * scale}
    encoder = Persistent("StabilityVAEEncoder", vae_name="stabilityai/x", _vae=None, **arrays)
    latents = load(tmp_path, monkeypatch, encoder=encoder).config["source"]["latents"]
    scaled = {"scale": [0.125, 0.25, 0.5], "shift": [-0.5, 1.0, 0.0]}
    assert latents == {"autoencoder": "stabilityai/x", "codec": "autoencoder_kl", **scaled}


WRONG = {
    "label_balance": (0.3, "has label_balance 0.3; only 0.5 is known here"),
    "resample_filter": ([1, 3, 3, 1], r"has resample_filter \[1, 3, 3, 1\]; only \[1, 1\] is known here"),
    "clip_act": (None, "clip_act of the EDM2 UNet in .* is no number"),
    "channel_mult_emb": (4, "has channel_mult_emb 4; only 2 is known here"),
    "gating": (1, "unknown argument of EDM2 UNet in .*: 'gating'"),
    "channels_per_head": (24, "head_channels 24 does not divide a width of 32"),
    "num_blocks": (2, "do not fit: unet.enc.8x8_block1.emb_gain is missing"),
    "model_channels": (32, "unet.emb_fourier.freqs is 16 and should give 32"),
}


@pytest.mark.parametrize("argument", WRONG)
def test_another_configuration_is_refused(argument, tmp_path, monkeypatch):
    value, message = WRONG[argument]
    with pytest.raises(UserError, match=message):
        load(tmp_path, monkeypatch, **{argument: value})


def test_the_first_ten_tensors_that_do_not_fit_are_named(tmp_path, monkeypatch):
    def spoil(weights):
        for key in [key for key in weights if "unet.dec" in key and key.endswith("weight")][:12]:
            del weights[key]
        weights["unet.more"] = torch.zeros(3)

    with pytest.raises(UserError) as caught:
        load(tmp_path, monkeypatch, change=spoil)
    assert caught.value.what.count("is missing") == 10
    assert "more, and" not in caught.value.what
    assert "and 3 more" in caught.value.what
    assert "\n" not in str(caught.value)
