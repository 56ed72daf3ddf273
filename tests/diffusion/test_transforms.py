"""Haar and DCT: isometries with exact inverses, against matrices written down by hand, scipy and autocast."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from denoisezoo.diffusion.transforms import dct, haar, haar_bands, inverse_dct, inverse_haar, laplacian
from denoisezoo.errors import UserError

f64 = torch.float64


def images(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=f64)


@settings(deadline=None, max_examples=40)
@given(
    levels=st.integers(0, 4), h=st.integers(1, 3), w=st.integers(1, 3), batch=st.integers(1, 3), seed=st.integers(0, 99)
)
def test_haar_is_an_isometry_with_an_exact_inverse(levels, h, w, batch, seed):
    x = images(seed, batch, 2, h << levels, w << levels)
    u = haar(x, levels)
    torch.testing.assert_close(u.square().sum(), x.square().sum(), rtol=1e-12, atol=0)
    torch.testing.assert_close(inverse_haar(u, levels), x, rtol=0, atol=1e-12)


@settings(deadline=None, max_examples=40)
@given(h=st.integers(1, 33), w=st.integers(1, 33), seed=st.integers(0, 99))
def test_dct_is_an_isometry_with_an_exact_inverse(h, w, seed):
    x = images(seed, 2, 1, h, w)
    u = dct(x)
    torch.testing.assert_close(u.square().sum(), x.square().sum(), rtol=1e-12, atol=0)
    torch.testing.assert_close(inverse_dct(u), x, rtol=0, atol=1e-12)


def test_haar_of_four_pixels():
    x = torch.tensor([[1.0, 2.0], [3.0, 7.0]], dtype=f64)
    expected = torch.tensor([[13.0, -5.0], [-7.0, 3.0]], dtype=f64) / 2
    torch.testing.assert_close(haar(x, 1), expected)


def test_the_approximation_is_the_top_left_crop():
    x = images(0, 1, 3, 16, 16)
    twice = haar(x, 2)
    torch.testing.assert_close(inverse_haar(twice[..., :8, :8], 1), haar(x, 1)[..., :8, :8])
    torch.testing.assert_close(twice[..., :4, :4], torch.nn.functional.avg_pool2d(x, 4) * 4)


def test_bands_are_those_that_the_transform_fills():
    """The transform of a detail of one level is silent in the bands of all others."""
    bands = haar_bands(16, 3)
    assert torch.bincount(bands.flatten()).tolist() == [192, 48, 12, 4]
    for level in range(4):
        u = images(level, 16, 16) * (bands == level)
        rebuilt = haar(inverse_haar(u, 3), 3)
        assert rebuilt[bands != level].abs().max() < 1e-12
        side = 16 >> level
        blocks = inverse_haar(u, 3).reshape(side, 1 << level, side, 1 << level)
        assert blocks.std(dim=(1, 3), unbiased=False).max() < 1e-12  # constant over squares of 2^level pixels


def test_dct_is_scipys():
    scipy_fft = pytest.importorskip("scipy.fft")
    x = images(0, 2, 3, 8, 12)
    torch.testing.assert_close(dct(x), torch.from_numpy(scipy_fft.dctn(x.numpy(), axes=(-2, -1), norm="ortho")))


def test_cosines_diagonalise_the_neumann_laplacian_to_leading_order():
    """The slowest cosine decays at Lambda: (f/2 sinc)^2 is f^2 up to f^4/12."""
    u = torch.zeros(1, 1, 64, 64, dtype=f64)
    u[..., 0, 1] = 1
    x = torch.nn.functional.pad(inverse_dct(u), (1, 1, 0, 0), mode="replicate")
    second = x[..., 2:] - 2 * x[..., 1:-1] + x[..., :-2]
    rate = laplacian(64)[0, 1]
    torch.testing.assert_close(-dct(second)[0, 0, 0, 1], rate, rtol=float(rate) / 10, atol=0)


@pytest.mark.parametrize("shape", [(15, 16), (16, 12), (17, 17)])
def test_sizes_that_cannot_be_halved_are_refused(shape):
    for transform in (haar, inverse_haar):
        with pytest.raises(UserError, match=r"cannot be halved 3 times.*8"):
            transform(torch.zeros(1, 1, *shape), 3)
    with pytest.raises(UserError, match="halved"):
        haar_bands(10, 2)


@pytest.mark.parametrize(
    ("forward", "back"), [(dct, inverse_dct), (lambda x: haar(x, 2), lambda u: inverse_haar(u, 2))]
)
def test_types_gradients_and_autocast(forward, back):
    x = images(0, 2, 3, 8, 8)
    for dtype, error in ((torch.bfloat16, 0.06), (torch.float32, 1e-5)):
        assert forward(x.to(dtype)).dtype == dtype
        assert (back(forward(x.to(dtype))).double() - x).abs().max() < error
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (back(forward(x.float())).double() - x).abs().max() < 1e-5
    x.requires_grad_()
    weight = images(1, 2, 3, 8, 8)
    (forward(x) * weight).sum().backward()
    torch.testing.assert_close(x.grad, back(weight))  # the transpose of an orthonormal map is its inverse


def test_they_compile_as_one_graph():
    torch.compiler.reset()
    x = images(0, 2, 1, 8, 8)
    both = torch.compile(lambda x: inverse_haar(dct(inverse_dct(haar(x, 3))), 3), fullgraph=True, backend="eager")
    torch.testing.assert_close(both(x), x)


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-6), (torch.bfloat16, 0.03)])
def test_they_compile_to_machine_code(dtype, error):
    """By inductor, without a break: as exact as without it, each way and back."""
    torch.compiler.reset()
    x, cosines, mosaic = images(0, 2, 1, 8, 8), dct(images(0, 2, 1, 8, 8)), haar(images(0, 2, 1, 8, 8), 2)

    @torch.compile(fullgraph=True)
    def all_four(x, cosines, mosaic):
        return dct(x), inverse_dct(cosines), haar(x, 2), inverse_haar(mosaic, 2)

    found = all_four(x.to(dtype), cosines.to(dtype), mosaic.to(dtype))
    for mine, expected in zip(found, (cosines, x, mosaic, x), strict=True):
        assert mine.dtype == dtype
        assert (mine.double() - expected).abs().max() < error


@pytest.mark.gpu
def test_they_run_on_a_gpu():
    x = images(0, 2, 3, 16, 16)
    for forward in (dct, lambda x: haar(x, 3)):
        torch.testing.assert_close(forward(x.cuda()).cpu(), forward(x), atol=1e-12, rtol=0)
