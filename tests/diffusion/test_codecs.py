import pytest
import torch
from torch import nn

import denoisezoo as dz
from denoisezoo.archs import Backbone, BackboneConfig
from denoisezoo.diffusion import (
    CODECS,
    OBJECTIVES,
    SAMPLERS,
    Codec,
    EDMLoss,
    Given,
    Haar,
    HaarPacket,
    Joint,
    Likelihood,
    MinSNR,
    Pixels,
    Prediction,
    SeedBlock,
    Simple,
    Step,
    create_codec,
    create_denoiser,
    create_sampler,
)
from denoisezoo.errors import UserError
from denoisezoo.evaluation.noise_curve import denoising_error


class Small(Backbone):
    """A convolution that hears the noise level, the condition, and whose output has the size of its input."""

    def __init__(self, channels=4, resolution=4, cond_channels=0, out_channels=None):
        out = out_channels or channels
        super().__init__(
            BackboneConfig(in_channels=channels, out_channels=out, resolution=resolution, cond_channels=cond_channels)
        )
        torch.manual_seed(0)
        self.conv = nn.Conv2d(channels + cond_channels, out, 3, padding=1)

    def forward(self, x, c_noise, given=Given(), effort=None):  # noqa: B008
        x = x if given.image is None else torch.cat([x, given.image], dim=1)
        return torch.tanh(self.conv(x)) * (1 + 0.1 * torch.tanh(c_noise))[:, None, None, None]


class InPixels(Backbone):
    """A network on wavelet coefficients as one on pixels; the same of each of the parts of a state."""

    def __init__(self, network, parts=1, haar=None):
        self_haar = haar or Haar()
        factor = 2**self_haar.levels
        channels, side = network.spec.in_channels // factor**2, factor * network.spec.resolution
        super().__init__(BackboneConfig(in_channels=channels, out_channels=channels, resolution=side))
        self.network, self.haar, self.parts = network, self_haar, parts

    def forward(self, x, c_noise, given=Given(), effort=None):  # noqa: B008
        z = torch.cat([self.haar.encode(part) for part in x.chunk(self.parts, dim=1)], dim=1)
        out = self.network(z, c_noise, given, effort)
        return torch.cat([self.haar.decode(part) for part in out.chunk(self.parts, dim=1)], dim=1)


class Turned(SeedBlock):
    """The noise of latents, in pixels."""

    def __init__(self, seeds, parts=1, haar=None):
        super().__init__(seeds)
        self.parts, self.haar = parts, haar or Haar()

    def normal(self, shape):
        (B, C, H, W), factor = shape, 2**self.haar.levels
        drawn = super().normal((B, factor**2 * C, H // factor, W // factor)).double().chunk(self.parts, dim=1)
        return torch.cat([self.haar.decode(part) for part in drawn], dim=1)


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_haar_is_an_isometry_with_an_exact_inverse(levels):
    haar = Haar(levels)
    x = torch.randn(2, 3, 16, 24)
    z = haar.encode(x)
    assert z.shape[1:] == haar.latent_shape(3, 16, 24) == (3 * 4**levels, 16 >> levels, 24 >> levels)
    assert haar.image_shape(*z.shape[1:]) == (3, 16, 24)
    torch.testing.assert_close(haar.decode(z), x, rtol=0, atol=1e-6 * 2**levels)
    torch.testing.assert_close(z.square().sum(), x.square().sum())
    flat = haar.encode(torch.ones(1, 1, 16, 24))
    assert torch.equal(flat[:, 0], torch.full((1, 16 >> levels, 24 >> levels), 2.0**levels))
    assert not flat[:, 1:].any()


def test_channels_of_haar_are_the_sums_and_differences_of_four_pixels():
    a, b, c, d = 1.0, 2.0, 5.0, 11.0
    z = Haar().encode(torch.tensor([[[[a, b], [c, d]]]]))
    expected = [a + b + c + d, a - b + c - d, a + b - c - d, a - b - c + d]
    assert z.flatten().tolist() == [x / 2 for x in expected]


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_packets_are_an_isometry_onto_the_walsh_functions_of_a_block(levels):
    codec, x = HaarPacket(levels), torch.randn(2, 3, 16, 24)
    z = codec.encode(x)
    assert z.shape[1:] == codec.latent_shape(3, 16, 24)
    torch.testing.assert_close(codec.decode(z), x, rtol=0, atol=1e-6 * 2**levels)
    torch.testing.assert_close(z.square().sum(), x.square().sum())
    n = 2**levels
    blocks = codec.encode(torch.eye(n * n).reshape(n * n, 1, n, n)).flatten(1)  # of a basis, each coefficient
    torch.testing.assert_close(blocks.abs(), torch.full((n * n, n * n), 1 / n))
    torch.testing.assert_close(blocks @ blocks.T, torch.eye(n * n))


def test_packets_of_one_level_are_the_pyramid():
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(HaarPacket().encode(x), Haar().encode(x))
    two = HaarPacket(2).encode(x)
    expected = [Haar().encode(band) for band in Haar().encode(x).split(3, dim=1)]
    for digit, bands in enumerate(expected):  # the last level's digit comes first
        for last, band in enumerate(bands.split(3, dim=1)):
            b = 4 * last + digit
            torch.testing.assert_close(two[:, 3 * b : 3 * b + 3], band)


def test_affine_moves_the_range_of_images_and_of_their_averages():
    codec, x = create_codec("affine"), torch.tensor([[[[-1.0, 1.0], [0.5, 0.0]]]])
    assert codec.encode(x).flatten().tolist() == [0.0, 1.0, 0.75, 0.5]
    assert torch.equal(codec.decode(codec.encode(x)), x)
    assert codec.clamp(torch.tensor([-1.0, 1.5, 3.0]), 2.0).tolist() == [
        0.0,
        1.5,
        2.0,
    ]  # sums of [0, 1], not of [-1, 1]
    doubling = create_codec("affine:scale=2,shift=0")
    assert (codec.title, doubling.title) == ("affine", "affine:scale=2,shift=0")
    assert doubling.encode(x).flatten().tolist() == [-2.0, 2.0, 1.0, 0.0]
    with pytest.raises(UserError, match=r"scale is 0.0 and shift 0.5; give a scale other than 0"):
        create_codec("affine:scale=0")


def walkable(name):
    """A process that a sampler can walk, at which steps."""
    sampler = create_sampler(name)
    for process in ("vp", "vp_discrete", "geometric_ve", "cld"):
        try:
            sampler.checked_grid(create_denoiser(Small(4 if process != "cld" else 8), process).process, 3)
            return process
        except UserError:
            continue
    raise AssertionError(name)


# UDPM's steps halve latents as others' do pixels, which is another process; tolerances hold for each number alone. The
# jump of `consistency` from VP's noise would divide the rounding of noise, drawn in float32, by a signal of 0.007.
SPECS = [*sorted({*SAMPLERS} - {"udpm", "rk45", "consistency"}), "rk45:rtol=1e-6,atol=1e-6", "consistency on edm"]


@pytest.mark.parametrize("spec", [*SPECS, "ddim:clip=true,eta=0.5", "gddim on cld", "gddim:clip=true on cld"])
def test_a_walk_in_haar_latents_is_that_in_pixels(spec):
    spec, _, process = spec.partition(" on ")
    process = process or walkable(spec)
    parts = 2 if process == "cld" else 1
    latent = create_denoiser(Small(4 * parts), process, codec="haar").double().eval()
    pixels = create_denoiser(InPixels(Small(4 * parts), parts), process, latent.preconditioning).double().eval()
    assert pixels.image_shape == latent.image_shape == (1, 8, 8)
    assert latent.latent_shape == (4, 4, 4)
    images = []
    for denoiser, noise in ((latent, SeedBlock([0, 1])), (pixels, Turned([0, 1], parts))):
        sampler = create_sampler(spec)
        u_T = sampler.prior(denoiser.process, (2, *denoiser.latent_shape), 3, noise)
        images.append(sampler(denoiser, u_T, steps=3, generator=noise).images)
    torch.testing.assert_close(*images, rtol=1e-5, atol=1e-5)
    plain = create_denoiser(Small(4 * parts), process, latent.preconditioning).double().eval()
    if "clip=true" not in spec and not getattr(create_sampler(spec), "clip", False):
        noise = SeedBlock([0, 1])
        u_T = sampler.prior(plain.process, (2, 4, 4, 4), 3, noise)
        same = sampler(plain, u_T, steps=3, generator=noise).images
        torch.testing.assert_close(Haar().decode(same), images[0], rtol=0, atol=0)


WALKED = [spec for spec in SPECS if not spec.startswith("rk45")]


@pytest.mark.parametrize("spec", [*WALKED, "rk45:rtol=1e-8,atol=1e-8", "ddim:clip=true,eta=0.5"])
def test_a_walk_in_packets_is_that_in_pixels(spec):
    spec, _, process = spec.partition(" on ")
    haar, process = HaarPacket(2), process or walkable(spec)
    latent = create_denoiser(Small(16, 2), process, codec=haar).double().eval()
    pixels = create_denoiser(InPixels(Small(16, 2), haar=haar), process, latent.preconditioning).double().eval()
    images = []
    for denoiser, noise in ((latent, SeedBlock([0, 1])), (pixels, Turned([0, 1], haar=haar))):
        sampler = create_sampler(spec)
        u_T = sampler.prior(denoiser.process, (2, *denoiser.latent_shape), 3, noise)
        images.append(sampler(denoiser, u_T, steps=3, generator=noise).images)
    torch.testing.assert_close(*images, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("haar", [Haar(), HaarPacket()], ids=lambda haar: haar.title)
@pytest.mark.parametrize("objective", [Simple(), EDMLoss(), MinSNR(), Likelihood()], ids=lambda o: type(o).__name__)
def test_an_objective_gives_what_it_gives_on_the_transformed_data(objective, haar):
    assert type(objective) in OBJECTIVES.values()
    latent = create_denoiser(Small(), "vp", codec=haar)
    plain = create_denoiser(Small(), "vp")
    image = torch.rand(3, 1, 8, 8) * 2 - 1
    losses = [
        objective(Step(denoiser, batch, torch.Generator().manual_seed(3)))
        for denoiser, batch in (
            (latent, latent.codec.to_batch({"image": image})),
            (plain, {"image": Haar().encode(image)}),
        )
    ]
    assert torch.equal(losses[0].loss, losses[1].loss)
    pixels = create_denoiser(InPixels(Small()), "vp")
    eps, t = torch.randn(3, 1, 8, 8), losses[0].t
    errors = []
    for denoiser, codec in ((latent, latent.codec), (pixels, Pixels())):
        error, c_out = denoiser.training_error(codec.encode(image), codec.encode(eps), t)
        weight = objective.weight(denoiser.process, t, c_out)
        errors.append(weight * error.square().mean((1, 2, 3)))
    torch.testing.assert_close(*errors, rtol=1e-5, atol=1e-5)


def test_a_condition_is_encoded_too():
    denoiser = create_denoiser(Small(cond_channels=4), "vp", codec="haar").eval()
    plain = create_denoiser(Small(cond_channels=4), "vp").eval()
    assert denoiser.cond_shape == (1, 8, 8) == denoiser.blank().image.shape[1:]
    y = torch.randn(2, 1, 8, 8)
    shown = denoiser.sample(2, steps=2, given=Given(image=y)).images
    made = plain.sample(2, steps=2, given=Given(image=Haar().encode(y))).images
    assert torch.equal(shown, Haar().decode(made))
    batch = denoiser.codec.to_batch({"image": y, "cond": -y, "label": torch.tensor([1, 2])})
    assert torch.equal(batch["cond"], -Haar().encode(y))
    assert batch["label"].tolist() == [1, 2]


def test_a_condition_within_the_state_is_encoded_too():
    process = Joint(channels=4, cond_channels=4)
    latent, plain = (create_denoiser(Small(8), process, codec=codec).eval() for codec in ("haar", None))
    assert (latent.image_shape, latent.cond_shape, latent.latent_shape) == ((1, 8, 8), (1, 8, 8), (4, 4, 4))
    y = torch.randn(2, 1, 8, 8)
    shown = latent.sample(2, steps=2, sampler="pc", given=Given(image=y)).images
    made = plain.sample(2, steps=2, sampler="pc", given=Given(image=Haar().encode(y))).images
    assert torch.equal(shown, Haar().decode(made))


def test_denoising_errors_are_of_latents():
    images = torch.rand(4, 1, 8, 8) * 2 - 1
    latent, plain = create_denoiser(Small(), "vp", codec="haar"), create_denoiser(Small(), "vp")
    assert denoising_error(latent.eval(), images) == denoising_error(plain.eval(), Haar().encode(images))


def test_denoising_errors_in_pixels_are_those_of_what_is_decoded():
    from tests.examples.latents import ToyAutoencoder

    images = torch.rand(4, 1, 8, 8) * 2 - 1
    latent = create_denoiser(Small(), "vp", codec="haar").eval()  # an isometry: an error is as large on either side
    for z, x in zip(denoising_error(latent, images), denoising_error(latent, images, in_pixels=True), strict=True):
        assert z[:2] == x[:2]
        assert z[2] == pytest.approx(x[2], rel=1e-5)
    codec = ToyAutoencoder()
    oracle = create_denoiser(Small(), "vp", codec=codec).eval()
    z = codec.to_latents(images)
    oracle.forward = lambda u_t, t, given, effort=None: Prediction(z, u_t)
    lost = (codec.decode(z) - images).square().mean()
    for row in denoising_error(oracle, images, in_pixels=True):
        assert row[2] == pytest.approx(float(lost))
    assert {row[2] for row in denoising_error(oracle, images)} == {0.0}


def test_a_codec_is_frozen_and_moves_with_the_denoiser():
    from tests.examples.latents import ToyAutoencoder

    codec = ToyAutoencoder()
    denoiser = create_denoiser(Small(), "vp", codec=codec).train()
    assert denoiser.training
    assert not any(part.training for part in codec.modules())
    assert not any(weight.requires_grad for weight in codec.parameters())
    hash_before = codec.weights_sha256()
    assert denoiser.bfloat16().codec.dtype is torch.bfloat16
    assert codec.weights_sha256() != hash_before
    assert denoiser.sample(1, steps=1).images.dtype is torch.float32
    assert next(denoiser.to("meta").codec.parameters()).is_meta
    assert (Pixels().weights_sha256(), Haar(2).title) == (None, "haar:levels=2")


def test_samplers_clip_no_latents_of_an_autoencoder():
    from tests.examples.latents import ToyAutoencoder

    codec = ToyAutoencoder()
    z = 5 * torch.randn(2, 4, 4, 4)
    assert codec.clamp(z, 1) is z
    clipped = Haar().decode(Haar().clamp(z, 1))
    torch.testing.assert_close(clipped, Haar().decode(z).clamp(-1, 1))
    denoiser = create_denoiser(Small(), "vp", codec=codec).eval()
    free, clipping = (denoiser.sample(2, steps=3, sampler=f"ddim:clip={value}").images for value in ("false", "true"))
    assert torch.equal(free, clipping)


BAD = {
    "unknown": (lambda: create_codec("har"), "unknown codec 'har'; did you mean haar"),
    "unknown option": (lambda: create_codec("haar:level=2"), "unknown option of codec haar 'level'"),
    "no name": (lambda: create_codec("{class_path: Har}"), "codec is '{class_path: Har}'"),
    "levels": (lambda: Haar(0), "levels is 0"),
    "odd size": (lambda: Haar().to_latents(torch.zeros(1, 1, 7, 8)), "cannot halve images of 7x8"),
    "channels": (lambda: create_denoiser(Small(3), "vp", codec="haar"), "no latents of 3 channels"),
    "condition": (
        lambda: create_denoiser(Small(cond_channels=3), "vp", codec="haar"),
        "no latents of 3 channels",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_does_not_fit_is_refused(case):
    call, message = BAD[case]
    with pytest.raises(UserError, match=message):
        call()


def test_a_codec_that_does_not_fit_the_network_is_refused():
    from tests.examples.latents import ToyAutoencoder

    class Mixing(ToyAutoencoder):
        def decode(self, z):
            return super().decode(torch.einsum("bchw,cd->bdhw", z, torch.eye(4, device=z.device)))

    with pytest.raises(UserError, match="toy_autoencoder makes latents of 4x4x4, and the network takes 3x4x4"):
        create_denoiser(Small(3), "vp", codec=ToyAutoencoder())
    with pytest.raises(UserError, match="Mixing cannot decode latents of 3x4x4, which the network makes"):
        create_denoiser(Small(3), "vp", codec=Mixing())
    with pytest.raises(UserError, match="encodes images of 1 channels, not 3"):
        ToyAutoencoder().to_latents(torch.zeros(1, 3, 8, 8))


@pytest.mark.parametrize("name", [name for name, codec in CODECS.items() if not codec.from_file])
def test_a_codec_keeps_its_word(name):
    codec = create_codec(name).requires_grad_(False)
    image = torch.rand(2, 1, 8, 8) * 2 - 1
    z = codec.to_latents(image)
    assert z.shape[1:] == codec.latent_shape(1, 8, 8)
    assert codec.to_images(z).shape == image.shape
    assert codec.image_shape(*z.shape[1:]) == Codec.image_shape(codec, *z.shape[1:]) == (1, 8, 8)
    assert codec.title == name
    torch.testing.assert_close(codec.encode_all(image, "cpu", batch_size=1), z, rtol=0, atol=1e-6)
    if codec.lossless:
        torch.testing.assert_close(codec.decode(z), image, rtol=0, atol=1e-6)


def test_pixels_are_left_alone():
    x = torch.randn(1, 3, 4, 4)
    codec = dz.create_denoiser("ddpm_digits").codec
    assert codec.to_latents(x) is codec.to_images(x) is codec.encode_all(x, "cpu") is x
    batch = {"image": x}
    assert codec.to_batch(batch) is batch
    assert not codec.state_dict()
