"""Rotary tables, neighbourhoods and windows against a second implementation, or against their definitions."""

import pytest
import torch

from denoisezoo.nn.attention import (
    Attention,
    RMSNorm,
    Table,
    axial_angles,
    head_angles,
    neighborhood_attention,
    rotary_table,
    rotate,
    stretched_angles,
    window_attention,
    with_prefix,
)
from denoisezoo.nn.blocks import xavier
from denoisezoo.nn.transformer import GatedFeedForward, sincos_positions, xavier_uniform

timm = pytest.importorskip("timm.layers")


def randn(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def test_axial_rotary_embedding_is_that_of_timm():
    x, (rows, columns) = randn(2, 15, 3, 16), (3, 5)
    table = rotary_table(axial_angles(16, rows, columns))
    theirs = timm.RotaryEmbeddingCat(16, in_pixels=False, feat_shape=[rows, columns]).get_embed()
    expected = timm.apply_rot_embed_cat(x.transpose(1, 2), theirs).transpose(1, 2)
    torch.testing.assert_close(rotate(x, table), expected, rtol=0, atol=1e-6)


def test_compiled_rotation_is_the_eager_one():
    x, table = randn(2, 12, 2, 24), rotary_table(head_angles(2, 24, 4))[:12]
    assert table.shape == (12, 2, 12)
    torch.compiler.reset()
    compiled = torch.compile(rotate, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, table), rotate(x, table), rtol=0, atol=1e-6)
    assert torch.equal(rotate(x, table)[..., 12:], x[..., 12:])


def test_products_of_turned_features_depend_on_the_distance_alone():
    q, k = (randn(1, 1, 1, 8).expand(1, 36, 1, 8) + part for part in (0, 1))
    table = rotary_table(axial_angles(8, 6, 6))
    products = (rotate(q, table)[0, :, 0] @ rotate(k, table)[0, :, 0].T).view(6, 6, 6, 6)
    torch.testing.assert_close(products[1, 2, 3, 5], products[2, 0, 4, 3], rtol=0, atol=1e-5)
    assert (products[1, 2, 3, 5] - products[1, 2, 3, 4]).abs() > 1e-3


def test_rotary_positions_of_ddt_reach_from_0_to_16_whatever_the_size():
    for rows, columns in ((4, 4), (7, 3)):
        angles = stretched_angles(8, rows, columns)[:, 0]
        assert angles.shape == (rows * columns, 4)
        assert angles[0].tolist() == [0, 0, 0, 0]
        torch.testing.assert_close(angles[-1], torch.tensor([16, 16, 0.16, 0.16]).double())
        torch.testing.assert_close(angles[columns - 1], torch.tensor([16, 0, 0.16, 0]).double())


def test_heads_of_hdit_share_one_range_of_frequencies():
    """pi 10^(n / (M H)) for n = m H + h, at the centre of the last cell, 0.75 on a grid of 4."""
    angles = head_angles(3, 16, 4)[-1]
    expected = torch.pi * 10.0 ** (torch.arange(6).double() / 6) * 0.75
    torch.testing.assert_close(angles[:, :2].T.flatten(), expected)
    assert torch.equal(angles[:, :2], angles[:, 2:])


def test_tokens_in_front_are_not_turned():
    x, table = randn(1, 11, 2, 8), rotary_table(axial_angles(8, 3, 3))
    turned = rotate(x, with_prefix(table, 2))
    assert torch.equal(turned[:, :2], x[:, :2])
    assert torch.equal(turned[:, 2:], rotate(x[:, 2:], table))


def test_a_table_moves_with_its_network_and_stays_in_float32():
    table = Table(rotary_table(axial_angles(8, 3, 3)))
    before = table.values.clone()
    half = torch.nn.Sequential(table, torch.nn.Linear(2, 2)).to(torch.bfloat16)
    assert (half[0].values.dtype, half[1].weight.dtype) == (torch.float32, torch.bfloat16)
    assert torch.equal(half[0].values, before)
    assert half.to("meta")[0].values.is_meta
    assert not table.state_dict()


def test_attention_is_that_of_timm():
    torch.manual_seed(0)
    ours = Attention(32, 4, xavier, qk_norm=True)
    theirs = timm.AttentionRope(32, 4, num_prefix_tokens=0, qk_norm=True, norm_layer=timm.RmsNorm)
    with torch.no_grad():
        for norm in ours.norms:
            norm.weight.uniform_(0.5, 1.5)
    pairs = [(theirs.qkv, ours.qkv), (theirs.proj, ours.out), (theirs.q_norm, ours.norms[0])]
    for theirs_part, ours_part in [*pairs, (theirs.k_norm, ours.norms[1])]:
        theirs_part.load_state_dict(ours_part.state_dict())
    x = randn(2, 9, 32)
    rope = timm.RotaryEmbeddingCat(8, in_pixels=False, feat_shape=[3, 3]).get_embed()
    expected = theirs(x, rope=rope)
    torch.testing.assert_close(ours(x, rotary_table(axial_angles(8, 3, 3))), expected, rtol=0, atol=1e-5)


def test_swiglu_is_that_of_timm():
    torch.manual_seed(0)
    ours, theirs = GatedFeedForward(12, 20, xavier_uniform), timm.SwiGLU(12, 20)
    for name, part in (("fc1_g", ours.gate), ("fc1_x", ours.up), ("fc2", ours.down)):
        getattr(theirs, name).load_state_dict(part.state_dict())
    torch.testing.assert_close(ours(randn(5, 12)), theirs(randn(5, 12)), rtol=0, atol=1e-6)


def test_positions_are_those_of_timm_in_dits_order():
    theirs = timm.build_sincos2d_pos_embed([3, 3], 16, interleave_sin_cos=True)
    rows, columns = theirs.chunk(2, dim=1)
    torch.testing.assert_close(sincos_positions(16, 3, 3), torch.cat([columns, rows], dim=1), rtol=0, atol=1e-6)


def test_the_first_half_of_a_position_is_its_column():
    table = sincos_positions(8, 2, 3).view(2, 3, 8)
    assert torch.equal(table[0, :, :4], table[1, :, :4])
    assert not torch.equal(table[0, :, 4:], table[1, :, 4:])


def test_rms_norm_is_computed_in_float32():
    x = 300 * randn(4, 64)
    half = RMSNorm(64)(x.half())  # 300^2 alone would be infinite
    torch.testing.assert_close(half.float(), RMSNorm(64)(x), rtol=2e-3, atol=1e-3)
    assert half.dtype == torch.float16


@pytest.mark.parametrize("masked", [False, True])
def test_a_neighborhood_is_what_is_near(masked):
    """Against the definition: each token by itself, over the 3 x 3 tokens round it, moved inside at the border."""
    q, k, v = randn(3, 2, 25, 2, 8)
    found = neighborhood_attention(q, k, v, 5, 3, masked=masked, scale=0.7).view(2, 5, 5, 2, 8)
    for i, j in ((0, 0), (2, 3), (4, 1), (1, 4)):
        top, left = min(max(i - 1, 0), 2), min(max(j - 1, 0), 2)
        near = [5 * row + column for row in range(top, top + 3) for column in range(left, left + 3)]
        weights = torch.einsum("bhd,bnhd->bhn", q[:, 5 * i + j], k[:, near]).mul(0.7).softmax(-1)
        expected = torch.einsum("bhn,bnhd->bhd", weights, v[:, near])
        torch.testing.assert_close(found[:, i, j], expected, rtol=0, atol=1e-5)


def test_a_neighborhood_of_everything_is_global():
    q, k, v = randn(3, 2, 9, 2, 8)
    everything = torch.nn.functional.scaled_dot_product_attention(*(part.transpose(1, 2) for part in (q, k, v)))
    for masked in (False, True):
        found = neighborhood_attention(q, k, v, 3, 3, masked=masked)
        torch.testing.assert_close(found, everything.transpose(1, 2).flatten(2), rtol=0, atol=1e-5)


@pytest.mark.parametrize("shift", [0, 1])
def test_windows_see_what_is_in_them_and_was_beside_them(shift):
    """Windows of 2 on a grid of 4: with a shift of 1 their borders are at 1 and 3, and the first and last are cut."""
    q, k, v = randn(3, 2, 16, 1, 8)
    found = window_attention(q, k, v, 4, 2, shift).view(2, 4, 4, 8)
    part = [0, 0, 1, 1] if shift == 0 else [0, 1, 1, 2]
    for i, j in ((0, 0), (1, 2), (3, 0), (2, 3)):
        near = [4 * r + c for r in range(4) for c in range(4) if (part[r], part[c]) == (part[i], part[j])]
        weights = torch.einsum("bhd,bnhd->bhn", q[:, 4 * i + j], k[:, near]).mul(8**-0.5).softmax(-1)
        expected = torch.einsum("bhn,bnhd->bhd", weights, v[:, near])[:, 0]
        torch.testing.assert_close(found[:, i, j], expected, rtol=0, atol=1e-5)
