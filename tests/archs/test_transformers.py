"""Transformers against second implementations, their beginnings, the traps of their released code, and bad input."""

import math
import re
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from denoisezoo.archs import create_backbone, get_variant, list_denoisers
from denoisezoo.archs.vit import noise_features
from denoisezoo.diffusion.network_denoiser import create_denoiser
from denoisezoo.errors import UserError
from denoisezoo.nn.given import Given
from denoisezoo.nn.transformer import Block, TransformerStyle, patchify, unpatchify
from tests.contracts.test_backbones import call, inputs

FAMILIES = ("dit", "sit", "uvit", "hdit", "lightningdit", "jit", "ddt")
each_family = pytest.mark.parametrize("family", FAMILIES)


def tiny(family, **overrides):
    torch.manual_seed(0)
    return create_backbone(f"{family}_tiny", **overrides).eval()


def moved(net):
    """The network with its weights moved off zero, so that no branch is silent."""
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return net


@each_family
def test_every_family_has_the_sizes_that_it_should(family):
    sizes = {
        "dit": "s_2 s_4 s_8 b_2 b_4 b_8 l_2 l_4 l_8 xl_2 xl_4 xl_8",
        "sit": "s_2 s_4 s_8 b_2 b_4 b_8 l_2 l_4 l_8 xl_2 xl_4 xl_8",
        "uvit": "cifar10 celeba64 m_imagenet64 l_imagenet64 l_2 h_2",
        "hdit": "s_4 s_8 s_16 m_4 m_8 m_16 l_4 l_8 l_16",
        "lightningdit": "b_2 l_2 xl_2 b_1 xl_1",
        "jit": "b_16 l_16 h_16 b_32 l_32 h_32",
        "ddt": "b_2 l_2 xl_2",
    }
    expected = {f"{family}_{size}" for size in f"{sizes[family]} small32 digits tiny".split()}
    assert set(list_denoisers(family=family)) == expected
    small, digits = (get_variant(f"{family}_{size}") for size in ("small32", "digits"))
    assert (small.spec.resolution, digits.spec.resolution, digits.spec.in_channels) == (32, 16, 1)
    assert 2.2e6 < small.costs[-1].params < 2.6e6
    assert 0.4e6 < digits.costs[-1].params < 0.6e6


@each_family
def test_what_begins_at_zero(family):
    """Nothing comes out of a fresh network, but of U-ViT, in which nothing begins at zero."""
    net, given = tiny(family), inputs(get_variant(f"{family}_tiny"), 2)
    assert (call(net, given).abs().max() == 0) == (family != "uvit")


@pytest.mark.parametrize(("family", "identity"), [("dit", True), ("lightningdit", True), ("jit", True), ("ddt", False)])
def test_blocks_begin_as_the_identity_where_gates_are_zero(family, identity):
    """DDT's released blocks begin with torch's own linear layers."""
    net = tiny(family)
    block = (net.decoder if family == "ddt" else net.blocks)[0]
    x, c = torch.randn(2, 4, 32), torch.randn(2, 32)
    context = (torch.randn(2, 3, 32), None) if family == "dit" else None
    assert torch.equal(block(x, c, None, context), x) == identity


def test_layers_of_hdit_begin_as_the_identity():
    net = tiny("hdit")
    x = torch.randn(2, 16, 16)
    assert torch.equal(net.down[0](x, torch.randn(2, 16)), x)


def test_a_plain_block_is_that_of_timm():
    vit = pytest.importorskip("timm.models.vision_transformer")
    torch.manual_seed(0)
    style = TransformerStyle(torch.nn.LayerNorm, activation=F.gelu, qkv_bias=False, modulated=False)
    ours = Block(style, 32, 4)
    theirs = vit.Block(32, 4, norm_layer=torch.nn.LayerNorm)
    pairs = {"norm1": ours.norm1, "norm2": ours.norm2, "attn.qkv": ours.attention.qkv, "attn.proj": ours.attention.out}
    for name, part in (pairs | {"mlp.fc1": ours.feed.up, "mlp.fc2": ours.feed.down}).items():
        theirs.get_submodule(name).load_state_dict(part.state_dict())
    x = torch.randn(2, 9, 32)
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-5)


def test_dit_is_that_of_diffusers():
    """On the same weights; theirs embed noise level and label in each block anew, and end its frequencies elsewhere."""
    diffusers = pytest.importorskip("diffusers")
    ours = moved(create_backbone("dit_tiny", num_classes=1000, cond_channels=0, augment_dim=0, token_dim=0, tokens=0))
    sizes = {"num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 2, "sample_size": 8, "patch_size": 4}
    theirs = diffusers.DiTTransformer2DModel(in_channels=3, out_channels=3, **sizes).eval()

    def put(module, weight, bias):
        module.weight.data.copy_(weight.view_as(module.weight))
        module.bias.data.copy_(bias)

    put(theirs.pos_embed.proj, ours.stem.weight, ours.stem.bias)
    theirs.pos_embed.pos_embed.copy_(ours.positions[None])
    for block, peer in zip(ours.blocks, theirs.transformer_blocks, strict=True):
        peer.norm1.emb.time_proj.downscale_freq_shift = 0
        embedder = peer.norm1.emb
        put(embedder.timestep_embedder.linear_1, ours.embedding.first.weight, ours.embedding.first.bias)
        put(embedder.timestep_embedder.linear_2, ours.embedding.second.weight, ours.embedding.second.bias)
        embedder.class_embedder.embedding_table.weight.data.copy_(ours.embedding.late.classes.table.weight)
        put(peer.norm1.linear, block.modulation.weight, block.modulation.bias)
        for i, name in enumerate(("to_q", "to_k", "to_v")):
            qkv = block.attention.qkv
            put(getattr(peer.attn1, name), qkv.weight.chunk(3)[i], qkv.bias.chunk(3)[i])
        put(peer.attn1.to_out[0], block.attention.out.weight, block.attention.out.bias)
        put(peer.ff.net[0].proj, block.feed.up.weight, block.feed.up.bias)
        put(peer.ff.net[2], block.feed.down.weight, block.feed.down.bias)
    put(theirs.proj_out_1, ours.last.modulation.weight, ours.last.modulation.bias)
    put(theirs.proj_out_2, ours.last.linear.weight, ours.last.linear.bias)
    x, t, label = torch.randn(3, 3, 8, 8), torch.tensor([3.0, 411.0, 998.0]), torch.tensor([0, 7, 999])
    with torch.no_grad():
        y, z = ours(x, t, Given(label=label)), theirs(x, timestep=t, class_labels=label).sample
    assert z.std() > 0.05
    torch.testing.assert_close(y, z, rtol=0, atol=1e-5)


def test_patches_are_those_of_a_convolution_and_come_back():
    x, kernel = torch.randn(2, 3, 8, 12), torch.randn(5, 3, 4, 4)
    tokens = patchify(x, 4) @ kernel.flatten(1).T
    torch.testing.assert_close(tokens, F.conv2d(x, kernel, stride=4).flatten(2).mT, rtol=0, atol=1e-4)
    channels_last = patchify(x, 4).unflatten(-1, (3, 16)).mT.flatten(-2)
    assert torch.equal(unpatchify(channels_last, 4, (8, 12)), x)


def rank(table):
    """Effective rank of a table of features: the exponential of the entropy of its squared singular values."""
    squares = torch.linalg.svdvals(table - table.mean(0)).square()
    p = squares / squares.sum()
    return (-(p * p.clamp(min=1e-30).log()).sum()).exp().item()


@pytest.mark.parametrize(("family", "released_period"), [("sit", 10000.0), ("lightningdit", 10000.0), ("ddt", 10.0)])
def test_flow_networks_can_tell_times_apart(family, released_period):
    """The released ones put t in [0, 1] into sinusoids that hardly bend there: one direction of 256."""
    config, c_noise = get_variant(f"{family}_digits").config, torch.linspace(0, 999, 1000)
    released = noise_features(replace(config, released_time=True), released_period=released_period)
    assert rank(released(c_noise)) == pytest.approx(1.05, abs=0.01)
    assert rank(noise_features(config, released_period=released_period)(c_noise)) == pytest.approx(59, abs=0.5)


def test_random_features_can_tell_sigmas_apart():
    """DiT's sinusoids of ln(sigma)/4 are one direction, too."""
    torch.manual_seed(0)
    config, c_noise = get_variant("dit_digits").config, torch.linspace(math.log(0.002), math.log(80), 1000) / 4
    assert rank(noise_features(config)(c_noise)) == pytest.approx(1.26, abs=0.01)
    assert rank(noise_features(replace(config, features="fourier"))(c_noise)) > 50


def test_released_time_is_that_of_the_authors():
    """cos(t f), sin(t f) with f = 10000^(-k / 128) and t = 1 at the data."""
    features = noise_features(replace(get_variant("sit_digits").config, released_time=True))
    t, f = torch.tensor([0.25, 1.0]), 10000 ** (-torch.arange(128) / 128)
    angle = t[:, None] * f
    torch.testing.assert_close(features(999 * (1 - t)), torch.cat([angle.cos(), angle.sin()], dim=1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", ["dit", "uvit", "hdit", "jit"])
def test_no_label_is_the_last_row_of_the_table(family):
    net, given = moved(tiny(family)), inputs(get_variant(f"{family}_tiny"), 2)
    (table,) = (m.table for m in net.modules() if hasattr(m, "table"))
    assert table.num_embeddings == 4
    before = call(net, given | {"label": torch.tensor([-1, 1])})
    with torch.no_grad():
        table.weight[3] += 1
    after = call(net, given | {"label": torch.tensor([-1, 1])})
    assert (before[0] - after[0]).abs().max() > 1e-3
    assert torch.equal(before[1], after[1])


def test_no_label_is_nothing_where_the_table_has_no_row_for_it():
    """U-ViT's ImageNet-64, as released."""
    net = moved(tiny("uvit", null_label=False))
    assert net.classes.table.num_embeddings == 3
    assert torch.equal(net.classes(torch.tensor([-1])), torch.zeros(1, 32))


@pytest.mark.parametrize("family", ["dit", "uvit"])
def test_hidden_tokens_are_not_seen(family):
    net, given = moved(tiny(family)), inputs(get_variant(f"{family}_tiny"), 2)
    mask = torch.tensor([[True, True, False], [False, False, False]])
    found = call(net, given | {"tokens_mask": mask})
    changed = given["tokens"].clone()
    changed[~mask] += 1
    assert torch.equal(call(net, given | {"tokens": changed, "tokens_mask": mask}), found)
    nothing = call(net, given | {"tokens": None})
    torch.testing.assert_close(found[1], nothing[1], rtol=0, atol=1e-5)
    assert (found[0] - nothing[0]).abs().max() > 1e-3


def test_dit_puts_out_a_learned_variance():
    """The second half of its channels, as a denoiser tells it; its small variants have none."""
    assert get_variant("dit_xl_2").spec.learned_variance
    assert not get_variant("dit_small32").spec.learned_variance
    net = moved(tiny("dit", out_channels=6, cond_channels=0))
    denoiser, x, t = create_denoiser(net, "vp_discrete"), torch.randn(2, 3, 8, 8), torch.tensor([0.1, 0.9])
    outputs = net(*denoiser.preconditioning.inputs(denoiser.process, x, t))
    assert denoiser(x, t).variance.shape == (2, 3, 8, 8)
    torch.testing.assert_close(denoiser(x, t).variance, outputs[:, 3:], rtol=0, atol=1e-5)


def test_dropout_of_jit_is_in_the_middle_half():
    assert create_backbone("jit_digits", depth=6, dropout=0.2).config.rates == (0, 0.2, 0.2, 0, 0, 0)
    assert get_variant("jit_h_16").config.rates == (0.0,) * 8 + (0.2,) * 16 + (0.0,) * 8
    net, given = moved(tiny("jit", depth=4, dropout=0.5)).train(), inputs(get_variant("jit_tiny"), 2)
    assert not torch.equal(call(net, given), call(net, given))


def test_class_tokens_of_jit_are_left_out_of_the_image():
    net, given = moved(tiny("jit")), inputs(get_variant("jit_tiny"), 2)
    before = call(net, given)
    with torch.no_grad():
        net.class_places.add_(1)
    assert (call(net, given) - before).abs().max() > 1e-3
    assert call(create_backbone("jit_tiny", class_tokens=0), given).shape == before.shape


def test_ddt_is_its_encoder_and_its_decoder():
    net, given = moved(tiny("ddt")), inputs(get_variant("ddt_tiny"), 2)
    told = Given(given["label"], given["image"], augment=given["augment"])
    z = net.encode(given["x"], given["c_noise"], told)
    assert z.shape == (2, 4, 32)
    assert torch.equal(net.decode(given["x"], z, told), call(net, given))
    baseline = moved(tiny("ddt", encoder_depth=0))
    assert baseline.encode(given["x"], given["c_noise"], told).shape == (2, 32)
    assert call(baseline, given).std() > 0


def test_neighborhoods_of_hdit_are_the_same_either_way():
    gathered, masked = (moved(tiny("hdit", neighborhood=how)) for how in ("gathered", "masked"))
    masked.load_state_dict(gathered.state_dict())
    given = inputs(get_variant("hdit_tiny"), 2)
    torch.testing.assert_close(call(masked, given), call(gathered, given), rtol=0, atol=1e-5)


@pytest.mark.parametrize("attentions", [("window", "none"), ("none", "global")])
def test_other_attentions_of_hdit(attentions):
    net, given = (
        moved(tiny("hdit", attentions=attentions, window=2, depths=(2, 1))),
        inputs(get_variant("hdit_tiny"), 2),
    )
    call(net, given).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in net.parameters() if p.requires_grad)


@each_family
def test_norms_are_float32_under_autocast(family, monkeypatch):
    net, given = moved(tiny(family)), inputs(get_variant(f"{family}_tiny"), 2)
    expected, seen = call(net, given), []
    for name in ("layer_norm", "rms_norm", "normalize"):
        original = getattr(F, name)
        monkeypatch.setattr(
            F, name, lambda x, *args, original=original, **rest: seen.append(x.dtype) or original(x, *args, **rest)
        )
    with torch.autocast("cpu", torch.bfloat16):
        y = call(net, given)
    assert set(seen) == {torch.float32}
    assert (y.float() - expected).abs().max() < 0.1 * expected.std()


@each_family
def test_exported_programs_are_the_network(family):
    net, given = moved(tiny(family)), inputs(get_variant(f"{family}_tiny"), 2)
    told = Given(**{key: value for key, value in given.items() if key not in ("x", "c_noise")})
    expected = call(net, given)
    program = torch.export.export(net, (given["x"], given["c_noise"], told), strict=False).module()
    torch.testing.assert_close(program(given["x"], given["c_noise"], told), expected, rtol=0, atol=1e-5)


BAD = [
    ("dit_digits", {"resolution": 15}, "a patch of 2 does not divide a resolution of 15; use a resolution of 16"),
    ("dit_digits", {"heads": 3}, "3 heads do not divide a width of 64; use 2"),
    ("dit_digits", {"width": 63}, "width is 63; give a multiple of 4, such as 64"),
    ("dit_digits", {"token_dim": 4}, "token_dim is 4 and tokens 0"),
    ("dit_digits", {"patch": 0}, "patch is 0"),
    ("dit_digits", {"features": "fourrier"}, "features of dit_digits is 'fourrier'"),
    ("sit_digits", {"released_time": True, "features": "fourier"}, "released_time is for sinusoids"),
    ("jit_digits", {"width": 72, "heads": 12}, "12 heads of a width of 72 have 6; give heads of a multiple of 4"),
    ("jit_digits", {"class_start": 6}, "class_start is 6; give 0 to 5"),
    ("uvit_digits", {"depth": 5}, "depth is 5; give an even number"),
    ("ddt_digits", {"encoder_depth": 6}, "encoder_depth is 6 of 6 blocks"),
    (
        "hdit_digits",
        {"resolution": 18},
        "patches of 2 and 2 levels do not divide a resolution of 18; use a multiple of 4",
    ),
    ("hdit_digits", {"widths": (64, 100)}, "heads of 32 do not divide a width of 100"),
    ("hdit_digits", {"widths": (64,)}, "there are 2 depths, 1 widths and 2 attentions"),
    ("hdit_digits", {"attentions": ("global", "local")}, "attentions has 'local'; use global, neighborhood"),
    ("hdit_digits", {"attentions": ("global", "neighborhood")}, "a neighbourhood of 7 does not fit a grid of 4"),
    ("hdit_digits", {"attentions": ("window", "global"), "window": 3}, "windows of 3 do not divide a grid of 8"),
]


@pytest.mark.parametrize(("name", "overrides", "expected"), BAD, ids=lambda value: str(value)[:40])
def test_impossible_sizes_are_one_line(name, overrides, expected):
    with pytest.raises(UserError, match=re.escape(expected)) as caught:
        create_backbone(name, **overrides)
    assert "\n" not in str(caught.value)


@each_family
def test_impossible_inputs_are_one_line(family):
    net = create_backbone(f"{family}_digits").eval()
    x, c_noise = torch.zeros(1, 1, 16, 16), torch.zeros(1)
    for bad, given, expected in (
        (x, Given(label=torch.zeros(1, dtype=torch.int64)), "a label was given to an unconditional network"),
        (x, Given(tokens=torch.zeros(1, 2, 8)), "a token has 8 numbers; this network takes 0"),
        (torch.zeros(1, 1, 15, 16), Given(), "input size 15x16 is not divisible by"),
        (torch.zeros(1, 1, 32, 32), Given(), "input is 32x32, and this network has positions for 16x16"),
    ):
        with pytest.raises(UserError, match=expected):
            net(bad, c_noise, given)


@pytest.mark.parametrize("family", ["dit", "uvit"])
def test_tokens_of_another_width_are_one_line(family):
    given = inputs(get_variant(f"{family}_tiny"), 1)
    with pytest.raises(UserError, match="a token has 6 numbers; this network takes 5"):
        call(tiny(family), given | {"tokens": torch.zeros(1, 2, 6)})
