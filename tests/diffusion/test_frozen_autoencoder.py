"""Autoencoders of diffusers as codecs, against diffusers itself on the same weights."""

import copy

import pytest
import torch

from denoisezoo.diffusion import create_codec
from denoisezoo.diffusion.codecs import Codec, without_weights
from denoisezoo.errors import UserError
from denoisezoo.profiling.counting import count
from tests.diffusion.autoencoder_folders import KINDS, change_config, write_autoencoder


@pytest.fixture
def images():
    return torch.rand(3, 3, 16, 24, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_encode_and_decode_are_those_of_diffusers_with_scale_and_shift(tmp_path, images):
    theirs = write_autoencoder(tmp_path, "autoencoder_kl")
    codec = create_codec(f"autoencoder_kl:path={tmp_path},batch_size=2").requires_grad_(False)
    dist = theirs.encode(images).latent_dist
    scale, shift = theirs.config.scaling_factor, theirs.config.shift_factor
    assert (scale, shift) == (0.7, 0.3)
    torch.testing.assert_close(codec.encode(images), (dist.mode() - shift) * scale)
    drawn = codec.to_latents(images, torch.Generator().manual_seed(3))
    torch.testing.assert_close(drawn, (dist.sample(torch.Generator().manual_seed(3)) - shift) * scale)
    z = codec.encode(images)
    torch.testing.assert_close(codec.decode(z), theirs.decode(z / scale + shift).sample)
    found = codec.posterior(images)
    torch.testing.assert_close((0.5 * found.log_variance).exp(), dist.std * scale)
    mean = create_codec(f"autoencoder_kl:path={tmp_path},posterior=mean").requires_grad_(False)
    assert torch.equal(mean.encode(images, torch.Generator()), mean.encode(images))


@pytest.mark.parametrize(("name", "output"), [("autoencoder_dc", "latent"), ("autoencoder_tiny", "latents")])
def test_encoders_without_a_posterior_are_those_of_diffusers(tmp_path, images, name, output):
    theirs = write_autoencoder(tmp_path, name)
    codec = create_codec(f"{name}:path={tmp_path}").requires_grad_(False)
    z = codec.encode(images, torch.Generator())
    torch.testing.assert_close(z, getattr(theirs.encode(images), output) * theirs.config.scaling_factor)
    torch.testing.assert_close(codec.decode(z), theirs.decode(z / theirs.config.scaling_factor).sample)
    assert codec.posterior(images).log_variance is None


@pytest.mark.parametrize("name", KINDS)
def test_sizes_follow_from_the_configuration(tmp_path, images, name):
    write_autoencoder(tmp_path, name)
    codec = create_codec(f"{name}:path={tmp_path}").requires_grad_(False)
    shape = codec.latent_shape(3, 16, 24)
    assert codec.to_latents(images).shape[1:] == shape == (4, 8, 12)
    assert codec.image_shape(*shape) == Codec.image_shape(codec, *shape) == (3, 16, 24)
    assert codec.title == name
    assert not any(part.training for part in codec.train().modules())
    again = type(codec)(**{**codec.made_of, "path": None})
    again.load_state_dict(codec.state_dict())
    assert again.weights_sha256() == codec.weights_sha256()
    torch.testing.assert_close(again.encode(images), codec.encode(images))


def test_latents_of_each_channel_are_brought_to_half_a_standard_deviation(tmp_path, images):
    theirs = write_autoencoder(tmp_path, "autoencoder_kl")
    raw = theirs.encode(images).latent_dist.mode()
    mean, std = raw.mean((0, 2, 3)), raw.std((0, 2, 3))
    codec = type(create_codec(f"autoencoder_kl:path={tmp_path}"))(str(tmp_path), mean=mean.tolist(), std=std.tolist())
    z = codec.requires_grad_(False).encode(images)
    torch.testing.assert_close(z.mean((0, 2, 3)), torch.zeros(4), rtol=0, atol=1e-5)
    torch.testing.assert_close(z.std((0, 2, 3)), torch.full((4,), 0.5))
    torch.testing.assert_close(codec.decode(z), theirs.decode(raw).sample)
    # As diffusers' pipelines read latents_mean and latents_std of a configuration.
    change_config(tmp_path, latents_mean=mean.tolist(), latents_std=std.tolist())
    stored = create_codec(f"autoencoder_kl:path={tmp_path}").requires_grad_(False)
    expected = (raw - mean.reshape(-1, 1, 1)) * 0.7 / std.reshape(-1, 1, 1)
    torch.testing.assert_close(stored.encode(images), expected)


def test_large_images_are_decoded_in_tiles_where_asked(tmp_path):
    theirs = write_autoencoder(tmp_path, "autoencoder_kl")
    codec = create_codec(f"autoencoder_kl:path={tmp_path},tiled=true").requires_grad_(False)
    z = torch.randn(1, 4, 20, 20)
    raw = z / 0.7 + 0.3
    whole = theirs.decode(raw).sample
    theirs.enable_tiling()
    torch.testing.assert_close(codec.decode(z), theirs.decode(raw).sample)
    assert not torch.equal(codec.decode(z), whole)


def test_a_call_costs_what_its_layers_cost_by_hand(tmp_path):
    write_autoencoder(tmp_path, "autoencoder_tiny")
    codec = without_weights(create_codec(f"autoencoder_tiny:path={tmp_path}").requires_grad_(False))
    image, z = torch.zeros(1, 3, 16, 16, device="meta"), torch.zeros(1, 4, 8, 8, device="meta")
    large, small, hidden = 16 * 16, 8 * 8, 8 * 8 * 9  # pixels; a convolution of 3x3 from 8 channels to 8, for one pixel
    encode = large * (3 * 8 * 9 + 3 * hidden) + small * (hidden + 3 * hidden + 8 * 4 * 9)  # a block has three
    decode = small * (4 * 8 * 9 + 3 * hidden) + large * (hidden + 3 * hidden + 8 * 3 * 9)
    assert count(lambda: codec.encode(image)).macs == encode
    assert count(lambda: codec.decode(z)).macs == decode


def test_the_licence_is_that_of_the_model_card(tmp_path):
    write_autoencoder(tmp_path / "vae", "autoencoder_tiny")
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n")
    codec = create_codec(f"autoencoder_tiny:path={tmp_path}")  # a pipeline's folder
    assert codec.facts() == {
        "codec": "autoencoder_tiny",
        "codec_sha256": codec.weights_sha256(),
        "codec_license": "mit",
    }
    assert copy.deepcopy(codec).made_of == codec.made_of


def folder(tmp_path, **changes):
    write_autoencoder(tmp_path, "autoencoder_tiny")
    change_config(tmp_path, **changes)
    return tmp_path


BAD = {
    "no path": (lambda path: "autoencoder_kl", "autoencoder_kl has no weights; give path"),
    "no folder": (lambda path: f"autoencoder_kl:path={path}/none", "none is no folder; give a folder"),
    "empty": (lambda path: f"autoencoder_kl:path={path}", "holds no config.json"),
    "another class": (
        lambda path: f"autoencoder_kl:path={folder(path)}",
        "holds a AutoencoderTiny, not AutoencoderKL; use the codec autoencoder_tiny",
    ),
    "no autoencoder": (
        lambda path: f"autoencoder_kl:path={folder(path, _class_name='UNet2DModel')}",
        "holds a UNet2DModel, not AutoencoderKL; give a folder that save_pretrained",
    ),
    "a scale of 0": (
        lambda path: f"autoencoder_tiny:path={folder(path, scaling_factor=0)}",
        "the scale of the latents of autoencoder_tiny is 0; give scale",
    ),
    "an infinite scale": (lambda path: f"autoencoder_tiny:path={folder(path)},scale=inf", "scale is .inf."),
    "other sizes": (
        lambda path: f"autoencoder_tiny:path={folder(path, latent_channels=5)}",
        "the autoencoder in .* cannot be read",
    ),
    "no images at a time": (lambda path: f"autoencoder_tiny:path={folder(path)},batch_size=0", "batch_size is 0"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_autoencoder_is_refused(tmp_path, case):
    spec, message = BAD[case]
    with pytest.raises(UserError, match=message) as error:
        create_codec(spec(tmp_path))
    assert "\n" not in str(error.value)


def test_damaged_weights_and_wrong_numbers_are_refused(tmp_path, images):
    write_autoencoder(tmp_path, "autoencoder_tiny")
    cls = type(create_codec(f"autoencoder_tiny:path={tmp_path}"))
    with pytest.raises(UserError, match="mean has 1 numbers, and latents of autoencoder_tiny have 4 channels"):
        cls(str(tmp_path), mean=[1.0])
    with pytest.raises(UserError, match="the scale of the latents of autoencoder_tiny is 0 or infinite"):
        cls(str(tmp_path), std=[1.0, 0.0, 1.0, 1.0])
    codec = cls(str(tmp_path))
    with pytest.raises(UserError, match="cannot divide images of 15x16 by 2"):
        codec.to_latents(images[:, :, :15, :16])
    with pytest.raises(UserError, match="encodes images of 3 channels, not 1"):
        codec.to_latents(images[:, :1])
    with pytest.raises(UserError, match="has latents of 4 channels, and the network takes 3"):
        codec.image_shape(3, 8, 8)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(UserError, match="cannot be read"):
        cls(str(tmp_path))
