"""Training an autoencoder, and the codec around one."""

import pytest
import torch
from torch.distributions import Normal, kl_divergence

import denoisezoo as dz
from denoisezoo.archs import create_backbone
from denoisezoo.archs.small_autoencoder import SmallAutoencoder
from denoisezoo.data import Digits
from denoisezoo.diffusion import (
    EDM,
    Autoencoding,
    EDMPreconditioning,
    Haar,
    NetworkDenoiser,
    Noiseless,
    Posterior,
    Step,
    Unscaled,
    create_denoiser,
)
from denoisezoo.diffusion.codecs.autoencoder import Autoencoder
from denoisezoo.diffusion.objectives.autoencoding import kl_of
from denoisezoo.errors import UserError
from denoisezoo.pixels import to_float
from denoisezoo.profiling.counting import count

SIZES = {"resolution": 16, "in_channels": 1, "latent_channels": 2, "channels": 4, "multipliers": (1, 2)}


@pytest.fixture
def denoiser():
    torch.manual_seed(0)
    return NetworkDenoiser(SmallAutoencoder(**SIZES), Noiseless(), Unscaled())


def step_of(denoiser, seed=0):
    image = torch.randn(3, 1, 16, 16, generator=torch.Generator().manual_seed(1)).clamp(-1, 1)
    return Step(denoiser, {"image": image}, torch.Generator().manual_seed(seed))


def test_kl_is_that_of_torch():
    mean, log_variance = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    found = kl_of(Posterior(mean, log_variance))
    assert torch.allclose(found, kl_divergence(Normal(mean, (log_variance / 2).exp()), Normal(0, 1)).mean())


def test_the_loss_is_the_weighted_sum_of_its_parts(denoiser):
    loss = Autoencoding(l1=2.0, kl=0.5)(step_of(denoiser))
    step = step_of(denoiser)
    mean, log_variance = denoiser.backbone.encode(step.batch["image"])
    z = mean + (log_variance / 2).exp() * torch.randn(mean.shape, generator=step.generator)
    error = denoiser.backbone.decode(z) - step.batch["image"]
    assert torch.allclose(loss.loss, 2 * error.abs().mean() + 0.5 * kl_of(Posterior(mean, log_variance)))
    assert torch.allclose(loss.per_sample, error.square().mean((1, 2, 3)))
    assert torch.equal(denoiser.process.log_snr(loss.t), torch.full((3,), torch.inf, dtype=torch.float64))


def test_a_step_costs_forward_and_twice_that_back(denoiser):
    once = count(lambda: denoiser.backbone(torch.zeros(1, 1, 16, 16), torch.zeros(1))).macs
    no_gradient = 9 * 1 * 4 * 256  # of the image itself, at the first layer
    cost = Autoencoding().cost(denoiser, lambda call: count(call).macs)
    assert cost == 3 * once - no_gradient


def test_latents_have_unit_variance_once_they_are_measured(denoiser):
    """Of the draws: the variance of the means, and the mean of the variances."""
    data, net = Digits(), denoiser.backbone
    Autoencoding().calibrate(denoiser, data)
    images = to_float(data.images("train"))
    with torch.no_grad():
        mean, log_variance = (part.double() for part in net.encode(images))
    assert torch.allclose(net.latent_mean.flatten().double(), mean.mean((0, 2, 3)), atol=1e-6)
    spread = (mean.var((0, 2, 3), correction=0) + log_variance.exp().mean((0, 2, 3))).sqrt()
    assert torch.allclose(net.latent_std.flatten().double(), spread, rtol=1e-5)
    codec = Autoencoder.around(net)
    z = codec.to_latents(images, torch.Generator().manual_seed(0))
    assert z.std((0, 2, 3)).tolist() == pytest.approx([1, 1], abs=0.01)
    assert z.mean((0, 2, 3)).tolist() == pytest.approx([0, 0], abs=0.01)
    codec.std = 0.5
    half = codec.to_latents(images, torch.Generator().manual_seed(0))
    assert torch.allclose(half, z / 2, atol=1e-5)
    assert torch.allclose(codec.to_images(codec.to_latents(images[:4])), net(images[:4], torch.zeros(4)), atol=1e-5)


def test_the_price_of_an_image_is_calls_and_decoding(denoiser):
    codec = Autoencoder.around(denoiser.backbone)
    small = create_denoiser("ddpm_digits", codec=codec, in_channels=2, out_channels=2, resolution=8)
    decode = 9 * 2 * 8 * 64 + 2 * 9 * 8 * 8 * 64 + 9 * 8 * 8 * 256 + (9 * 8 * 4 + 9 * 4 * 4 + 8 * 4) * 256 + 9 * 4 * 256
    (row,) = dz.profile(small, sampler="ddim", steps=3, counts_only=True).rows()
    assert [call.get("label", call["call"]) for call in row["trajectory"]] == [0, 1, 2, "decode"]
    assert row["macs_per_image"] == 3 * row["macs"] + decode
    assert row["trajectory"][-1]["macs"] == decode == 358_400


def test_a_smaller_decoder_learns_what_the_larger_one_makes_of_the_same_latents(denoiser):
    small = NetworkDenoiser(SmallAutoencoder(**SIZES, decoder_channels=8), Noiseless(), Unscaled())
    Autoencoding().calibrate(denoiser, Digits())
    objective = Autoencoding(teacher="runs/large").learn_from(denoiser)
    objective.setup(small, None, None)
    objective.calibrate(small, None)  # measured by the teacher
    assert not any(weight.requires_grad for weight in small.backbone.encoder.parameters())
    theirs, ours = Autoencoder.around(denoiser.backbone), Autoencoder.around(small.backbone)
    image = torch.randn(4, 1, 16, 16)
    assert torch.equal(theirs.to_latents(image), ours.to_latents(image))
    small.backbone.decoder.requires_grad_(True)
    optimizer = torch.optim.Adam(small.backbone.decoder.parameters(), 0.01)
    losses = []
    for _ in range(30):
        loss = objective(step_of(small))
        optimizer.zero_grad()
        loss.loss.backward()
        optimizer.step()
        losses.append(loss.loss.item())
    step = step_of(small)
    mean, log_variance = denoiser.backbone.encode(step.batch["image"])
    z = Posterior(mean, log_variance).draw(step.generator)
    error = small.backbone.decode(z) - denoiser.backbone.decode(z)
    assert torch.allclose(objective(step_of(small)).error, error)
    assert losses[-1] < 0.5 * losses[0]


REFUSED = {
    "no autoencoder": (lambda: create_denoiser("ddpm_digits"), "Autoencoding cannot train DDPM"),
    "noise": (lambda: NetworkDenoiser(SmallAutoencoder(**SIZES), EDM(), EDMPreconditioning()), "EDM adds noise"),
    "codec": (
        lambda: NetworkDenoiser(SmallAutoencoder(**SIZES | {"in_channels": 4}), Noiseless(), Unscaled(), Haar()),
        "is to be a codec, and has one",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_it_cannot_train_is_one_line(case):
    build, message = REFUSED[case]
    with pytest.raises(UserError, match=message):
        Autoencoding().check(build())


def test_no_weight_and_no_noise_are_refused(denoiser):
    with pytest.raises(UserError, match="nothing asks for the images again"):
        Autoencoding(l1=0.0)
    with pytest.raises(UserError, match="kl is -1"):
        Autoencoding(kl=-1.0)
    with pytest.raises(UserError, match="the teacher is no autoencoder"):
        Autoencoding().learn_from(create_denoiser("ddpm_digits")).setup(denoiser, None, None)
    with pytest.raises(UserError, match="holds a DDPM, which is no autoencoder"):
        Autoencoder.around(create_backbone("ddpm_digits"))
    with pytest.raises(UserError, match="which has noise"):
        NetworkDenoiser(create_backbone("ddpm_digits"), EDM(), Unscaled())
    for name in ("ddim", "heun", "edm"):
        with pytest.raises(UserError, match="this is an autoencoder"):
            denoiser.sample(1, sampler=name, steps=2)
