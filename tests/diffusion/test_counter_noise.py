"""Noise by counter against the published vectors of Philox, and against what a standard normal is."""

import pytest
import torch

from denoisezoo.archs import create_backbone
from denoisezoo.diffusion import CounterBlock, create_denoiser, create_sampler
from denoisezoo.diffusion.counter_noise import philox
from denoisezoo.diffusion.generate import generate

# Random123's known answers for philox4x32, 10 rounds: counter, key, words.
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_words_are_the_published_ones(counter, key, words):
    counter = [torch.tensor([word]) for word in counter]
    assert [int(word) for word in philox(counter, key)] == list(words)


def test_numbers_are_standard_normal():
    draws = CounterBlock(range(64), "cpu").normal((64, 3, 32, 32)).double()
    n = draws.numel()
    assert abs(draws.mean()) < 4 / n**0.5
    assert abs(draws.square().mean() - 1) < 4 * (2 / n) ** 0.5
    assert abs(draws.pow(4).mean() - 3) < 4 * (96 / n) ** 0.5
    for q, share in ((1.0, 0.158655), (2.0, 0.022750), (3.0, 0.001350)):
        assert abs((draws > q).double().mean() - share) < 4 * (share / n) ** 0.5
    flat = draws.flatten(1)
    for a, b in ((flat[:, :-1], flat[:, 1:]), (flat[:, 0::2], flat[:, 1::2]), (flat[:-1], flat[1:])):
        assert (
            abs((a * b).mean()) < 4 / a.numel() ** 0.5
        )  # neighbours in place, pairs of a transform, neighbouring seeds


def test_an_image_depends_on_its_seed_and_the_draw_alone():
    whole, part = CounterBlock(range(5, 9), "cpu"), CounterBlock([8, 6], "cpu")
    first, second = (whole.normal((4, 1, 3, 3)) for _ in range(2))
    assert torch.equal(part.normal((2, 1, 3, 3)), first[[3, 1]])
    assert torch.equal(part.normal((2, 1, 3, 3)), second[[3, 1]])
    assert not torch.isclose(first, second).any()
    far = CounterBlock([5 + 2**32, 2**63 + 1], "cpu").normal((2, 1, 3, 3))
    assert not torch.isclose(far[0], first[0]).any()
    with pytest.raises(ValueError, match="3 images and 2 seeds"):
        part.normal((3, 1, 3, 3))


def test_samples_do_not_depend_on_the_batch_and_are_others_than_those_of_the_cpu():
    denoiser = create_denoiser(
        create_backbone("ddpm_tiny", cond_channels=0, augment_dim=0, num_classes=0), "edm"
    ).eval()
    sampler = create_sampler("ddpm")
    all_at_once, in_turns, other = (
        generate(denoiser, sampler, 3, (3, 8, 8), steps=3, batch_size=batch, noise=noise).images
        for batch, noise in ((3, "device"), (2, "device"), (3, "cpu"))
    )
    torch.testing.assert_close(all_at_once, in_turns, rtol=1e-4, atol=1e-5)
    assert (all_at_once - other).abs().max() > 0.1


@pytest.mark.gpu
def test_a_gpu_draws_the_numbers_of_a_cpu():
    here, there = (CounterBlock(range(8), device).normal((8, 3, 16, 16)).cpu() for device in ("cpu", "cuda"))
    torch.testing.assert_close(here, there, rtol=1e-5, atol=1e-5)
