import math

import pytest
import torch
import torch.nn.functional as F

from denoisezoo.archs.songunet import FilterDown, FilterUp, Pyramid
from denoisezoo.nn.blocks import (
    BlockStyle,
    Conditioning,
    ConvDown,
    ResidualBlock,
    ScaleShift,
    SelfAttention,
    Shift,
    average_pool,
    group_norm,
    kaiming,
    nearest,
    xavier,
)
from denoisezoo.nn.embeddings import ClassTable, Fourier, OneHot, Sinusoidal


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize(("channels", "groups"), [(128, 32), (384, 32), (64, 16), (48, 12), (144, 24), (8, 2), (2, 1)])
def test_group_norm_keeps_at_least_four_channels_per_group(channels, groups):
    assert group_norm(channels, 1e-6).num_groups == groups


def test_box_filter_is_pooling_and_repetition():
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(FilterDown((1, 1))(x), average_pool(x))
    torch.testing.assert_close(FilterUp((1, 1))(x), nearest(x))


def test_filters_keep_the_mean_of_flat_regions():
    x = torch.full((1, 2, 8, 8), 3.0)
    down, up = FilterDown((1, 3, 3, 1))(x), FilterUp((1, 3, 3, 1))(x)
    assert (down.shape, up.shape) == ((1, 2, 4, 4), (1, 2, 16, 16))
    torch.testing.assert_close(down[:, :, 1:-1, 1:-1], torch.full((1, 2, 2, 2), 3.0))
    torch.testing.assert_close(up[:, :, 1:-1, 1:-1], torch.full((1, 2, 14, 14), 3.0))


def test_filter_weights_are_binomial():
    impulse = torch.zeros(1, 1, 8, 8)
    impulse[0, 0, 4, 4] = 64.0
    # Outputs 1 and 2 of a row read inputs 1..4 and 3..6: weights 1 and 3 of 8 for input 4.
    assert FilterDown((1, 3, 3, 1))(impulse)[0, 0, 1:3, 1:3].tolist() == [[1.0, 3.0], [3.0, 9.0]]


def test_pyramid_convolves_before_it_filters():
    step = Pyramid((1, 3, 3, 1), 3, 4)
    x = torch.randn(1, 3, 8, 8)
    wide = F.conv2d(F.pad(x, (2, 2, 2, 2)), step.conv.weight, step.conv.bias)
    weights = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    expected = torch.einsum("bcijkl,k,l->bcij", wide.unfold(2, 4, 2).unfold(3, 4, 2), weights, weights)
    torch.testing.assert_close(step(x), expected)


def test_ddpm_pads_right_and_bottom_before_halving():
    down = ConvDown(1, xavier)
    torch.nn.init.ones_(down.conv.weight)
    x = torch.arange(16.0).view(1, 1, 4, 4)
    assert down(x, torch.empty(1, 0))[0, 0].tolist() == [[45.0, 39.0], [66.0, 50.0]]


@pytest.mark.parametrize(("heads", "options"), [(1, {}), (2, {"head_channels": 4}), (4, {"num_heads": 4})])
def test_attention_against_its_definition(heads, options):
    attention = SelfAttention(8, BlockStyle(Shift(), kaiming, **options))
    torch.nn.init.normal_(attention.out.weight)
    x = torch.randn(2, 8, 3, 5)
    rows = attention.norm(x).flatten(2).transpose(1, 2)  # (B, pixels, C)
    q, k, v = (part.unflatten(2, (heads, 8 // heads)).transpose(1, 2) for part in attention.qkv(rows).chunk(3, dim=2))
    weights = torch.softmax(q @ k.transpose(2, 3) / math.sqrt(q.shape[-1]), dim=-1)
    expected = x + attention.out((weights @ v).transpose(1, 2).flatten(2)).transpose(1, 2).view_as(x)
    torch.testing.assert_close(attention(x), expected)


def test_modulations():
    norm, h, c = group_norm(4, 1e-5), torch.randn(2, 4, 3, 3), torch.randn(2, 8)
    a, b = c[:, :4, None, None], c[:, 4:, None, None]
    torch.testing.assert_close(Shift()(norm, h, c[:, :4]), norm(h + a))
    torch.testing.assert_close(ScaleShift()(norm, h, c), norm(h) * (1 + a) + b)


@pytest.mark.parametrize(("resample", "size"), [(None, 4), (average_pool, 2), (nearest, 8)])
@pytest.mark.parametrize(("project", "out"), [(False, 8), (True, 8), (False, 12)])
def test_residual_block(resample, size, project, out):
    style = BlockStyle(Shift(), kaiming, sum_scale=0.5, project_resampled=project)
    block = ResidualBlock(style, 8, out, resample=resample)
    assert (block.skip is not None) == (out != 8 or (project and resample is not None))
    x, c = torch.randn(2, 8, 4, 4), torch.randn(2, block.c_width)
    resized = x if resample is None else resample(x)
    # The last convolution starts at zero, so that the block starts as its skip.
    torch.testing.assert_close(block(x, c), 0.5 * (resized if block.skip is None else block.skip(resized)))
    assert block(x, c).shape == (2, out, size, size)


def test_conditioning_is_one_linear_layer_per_stage():
    style = BlockStyle(Shift(), xavier)
    stages = [ResidualBlock(style, 8, 8), ConvDown(8, xavier), ResidualBlock(style, 8, 32)]
    conditioning = Conditioning(16, stages, xavier)
    e = torch.randn(3, 16)
    first, none, last = conditioning(e)
    torch.testing.assert_close(first, F.linear(e, conditioning.weight[:8], conditioning.bias[:8]))
    torch.testing.assert_close(last, F.linear(e, conditioning.weight[8:], conditioning.bias[8:]))
    assert none.shape == (3, 0)
    # Xavier's bound is that of each layer by itself, not of the joint matrix.
    for weight, width in ((conditioning.weight[:8], 8), (conditioning.weight[8:], 32)):
        bound = math.sqrt(6 / (16 + width))
        assert 0.9 * bound < weight.abs().max() <= bound


def test_initialisations():
    weight, bias = torch.empty(64, 32, 3, 3), torch.empty(64)
    kaiming(weight, bias, 1.0)
    bound = 1 / math.sqrt(32 * 9)
    assert 0.99 * bound < weight.abs().max() <= bound
    assert 0.8 * bound < bias.abs().max() <= bound
    kaiming(weight, bias, 0.0)
    assert not weight.any()
    assert not bias.any()
    xavier(weight, bias, 0.0)
    assert 0 < weight.abs().max() < 1e-5


def test_sinusoidal_frequencies():
    c_noise = torch.tensor([0.0, 1000.0])
    ddpm = Sinusoidal(6)(c_noise)
    angles = 1000.0 * torch.tensor([1.0, 1e-2, 1e-4], dtype=torch.float64)
    torch.testing.assert_close(ddpm[1].double(), torch.cat([angles.sin(), angles.cos()]), rtol=0, atol=1e-4)
    assert ddpm[0].tolist() == [0.0, 0.0, 0.0, 1.0, 1.0, 1.0]
    adm = Sinusoidal(4, endpoint=False, waves=(torch.cos, torch.sin))(c_noise)
    angles = 1000.0 * torch.tensor([1.0, 1e-2], dtype=torch.float64)
    torch.testing.assert_close(adm[1].double(), torch.cat([angles.cos(), angles.sin()]), rtol=0, atol=1e-4)


def test_fourier_features_stay_exact_in_half_precision():
    features, c_noise = Fourier(256), torch.tensor([0.3, -1.2])
    assert 12 < features.frequencies.std() < 20
    before = features(c_noise)
    assert torch.equal(features.to(torch.bfloat16)(c_noise), before)
    assert features.to("meta").frequencies.dtype == torch.float32


def test_no_class_is_the_zero_vector():
    label = torch.tensor([1, -1])
    table, one_hot = ClassTable(3, 4), OneHot(3, 4, kaiming)
    assert torch.equal(table(label), torch.stack([table.table.weight[1], torch.zeros(4)]))
    project = one_hot.project
    torch.testing.assert_close(one_hot(label)[0], project.weight[:, 1] * math.sqrt(3) + project.bias)
    torch.testing.assert_close(one_hot(label)[1], project.bias)
