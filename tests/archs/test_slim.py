"""Slimmable layers and networks against their definition: what a call at a width reads of the weights."""

import threading

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from denoisezoo.archs import create_backbone, get_variant
from denoisezoo.archs.slim import Slim, SlimConfig
from denoisezoo.errors import UserError
from denoisezoo.nn.blocks import BlockStyle, ResidualBlock, Shift, kaiming
from denoisezoo.nn.given import Given
from denoisezoo.nn.slimmable import SlimConv2d, SlimGroupNorm, SlimLinear, Slimming, densify, first, slim
from denoisezoo.profiling.counting import count


def randomised(net: nn.Module, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return net.eval()


def test_first_takes_a_share_of_every_part():
    assert first(torch.arange(12), 0, (4, 8), 1, 4).tolist() == [0, 4, 5]
    assert first(torch.arange(12), 0, (12,), 1, 4).tolist() == [0, 1, 2]
    whole = torch.arange(12)
    assert first(whole, 0, (4, 8), 4, 4) is whole


def test_a_convolution_takes_the_first_columns_or_the_first_of_each_part():
    conv = randomised(nn.Conv2d(12, 8, 3, padding=1))
    x = torch.randn(2, 6, 5, 5)
    misaligned, aligned = SlimConv2d(conv), SlimConv2d(conv, in_parts=(8, 4))
    columns = [0, 1, 2, 3, 8, 9]
    expected = F.conv2d(x, conv.weight[:4, :6], conv.bias[:4], padding=1)
    assert torch.equal(misaligned(x), expected)
    expected = F.conv2d(x, conv.weight[:4][:, columns], conv.bias[:4], padding=1)
    assert torch.equal(aligned(x), expected)


def test_a_linear_layer_slices_every_part_of_its_output():
    layer = randomised(nn.Linear(4, 12))
    found = SlimLinear(layer, out_parts=(4, 4, 4))(torch.ones(1, 2))
    rows = [0, 1, 4, 5, 8, 9]
    assert torch.equal(found, F.linear(torch.ones(1, 2), layer.weight[rows][:, :2], layer.bias[rows]))


@pytest.mark.parametrize(("groups", "expected"), [("fixed", 4), ("scaled", 2)])
def test_groups_of_a_narrow_norm(groups, expected):
    norm = randomised(nn.GroupNorm(4, 16))
    slimmed = SlimGroupNorm(norm, Slimming((0.5, 1.0), groups=groups, norms="shared"))
    x = torch.randn(2, 8, 3, 3)
    assert torch.equal(slimmed(x), F.group_norm(x, expected, norm.weight[:8], norm.bias[:8]))


def test_scaled_groups_hold_the_same_channels_at_every_width():
    """So the narrow norm is a part of the wide one."""
    slimmed = SlimGroupNorm(randomised(nn.GroupNorm(4, 16)), Slimming((0.5, 1.0), norms="shared"))
    x = torch.randn(2, 16, 3, 3)
    torch.testing.assert_close(slimmed(x[:, :8]), slimmed(x)[:, :8])


def test_norms_per_width_have_scales_of_their_own():
    slimmed = SlimGroupNorm(nn.GroupNorm(2, 8), Slimming((0.5, 1.0), norms="per_width"))
    x = torch.randn(2, 4, 3, 3)
    before = slimmed(x)
    with torch.no_grad():
        slimmed.weight.fill_(5.0)
    assert torch.equal(slimmed(x), before)
    slimmed(x).sum().backward()
    assert slimmed.weight.grad is None
    assert slimmed.scales[0].grad is not None


@pytest.mark.parametrize("aligned", [True, False])
def test_a_skip_meets_the_same_weights_at_every_width_if_aligned(aligned):
    """Silence the decoder's half of a block's weights: the skip is then all it sees, at every width, if aligned."""
    block = ResidualBlock(BlockStyle(Shift(), kaiming), 16, 8, skip_channels=8)
    holder = nn.ModuleDict({"block": block})
    slim(holder, Slimming((0.5, 1.0), aligned=aligned, norms="shared"))
    with torch.no_grad():
        block.skip.weight[:, :8] = 0
        block.skip.weight[:, 8:] = 1
    decoder, skip = torch.ones(1, 4, 2, 2), torch.zeros(1, 4, 2, 2)
    with torch.no_grad():
        block.skip.bias.zero_()
    heard = block.skip(torch.cat([decoder, skip], dim=1)).abs().max() > 0
    assert not heard
    deaf = block.skip(torch.cat([skip, decoder], dim=1)).abs().max() == 0
    assert deaf != aligned


@pytest.mark.parametrize("name", ["slim_tiny", "slim_missing_u_tiny", "slim_ddpm_digits"])
def test_dense_layers_are_contiguous_and_their_own(name):
    net = randomised(create_backbone(name))
    dense = net.extract(net.efforts[0])
    assert all(p.is_contiguous() for p in dense.parameters())
    shared = {p.data_ptr() for p in net.parameters()} & {p.data_ptr() for p in dense.parameters()}
    assert not shared
    assert not any("Slim" in type(module).__name__ for module in dense.modules())


def test_extraction_keeps_channels_last():
    net = create_backbone("slim_tiny").to(memory_format=torch.channels_last)
    weight = net.extract(0.5).network.encoder[0].conv0.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("options", [{}, {"aligned": False, "groups": "fixed", "norms": "shared"}])
def test_the_extracted_network_of_the_published_size(options):
    """Both ways of slimming, at the widths of the paper, where at width 0.25 a group is a single channel."""
    net = randomised(Slim(SlimConfig(base="ddpm_cifar10", resolution=16, **({"groups": "fixed"} | options))))
    assert net.net.norm.groups == {32: 32, 64: 32, 96: 32, 128: 32}
    x, c_noise = torch.randn(2, 3, 16, 16), torch.tensor([1.0, 500.0])
    for effort in net.efforts:
        y = net(x, c_noise, effort=effort)
        torch.testing.assert_close(net.extract(effort)(x, c_noise), y, rtol=1e-5, atol=1e-5 * float(y.detach().std()))


def test_threads_at_different_widths_do_not_disturb_each_other():
    """Nothing but the call's argument decides the width: eight threads give what serial calls gave, bit for bit."""
    net = randomised(create_backbone("slim_tiny"))
    inputs = torch.randn(2, 3, 8, 8), torch.randn(2), Given(image=torch.randn(2, 1, 8, 8))
    with torch.no_grad():
        expected = {effort: net(*inputs, effort) for effort in net.efforts}
    wrong: list[float] = []

    def work(effort: float) -> None:
        with torch.no_grad():
            answers = [net(*inputs, effort) for _ in range(20)]
        wrong.extend(effort for y in answers if not torch.equal(y, expected[effort]))

    threads = [threading.Thread(target=work, args=(net.efforts[i % 2],)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert not torch.equal(expected[0.5], expected[1.0])


def test_width_and_solver_steps_are_both_chosen():
    net = randomised(create_backbone("slim_missing_u_tiny"))
    assert net.efforts == (0.5, 1.5, 1.0, 2.0)
    assert net.choices[1.5] == (0.5, 2.0)
    inputs = torch.randn(2, 3, 8, 8), torch.randn(2), Given(image=torch.randn(2, 1, 8, 8))
    answers = [net(*inputs, effort) for effort in net.efforts]
    assert all(not torch.allclose(a, b, atol=1e-4) for i, a in enumerate(answers) for b in answers[:i])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widths": (0.5, 0.7)}, "end at 1"),
        ({"widths": (1.0, 0.5)}, "increasing"),
        ({"widths": (0.3, 1.0), "base": "ddpm_tiny"}, "is not whole"),
        ({"base": "ddpm_tinny"}, "did you mean"),
        ({"base": "slim_tiny"}, "slimmable already"),
        ({"base": "missing_u_tiny"}, "stem or its noise embedding has no slimmable form; choose another base"),
        ({"base": "multiscale_tiny"}, "multiscale_tiny cannot be slimmed: it is no U-Net by itself; choose a plain"),
        ({"base": "udpm_tiny"}, "udpm_tiny cannot be slimmed: it is no U-Net by itself"),
        ({"base": "ncsnpp_tiny"}, "ncsnpp_tiny cannot be slimmed: its pyramid of the input"),
        ({"base": "lucid_unet_tiny"}, "LinearAttention"),
        ({"base": "adm_tiny", "widths": (0.25, 1.0), "out_channels": 6}, "cannot be slimmed"),
        ({"steps": (2, 1), "base": "missing_u_fast_tiny"}, "increasing"),
        ({"steps": (1, 2), "base": "ddpm_tiny"}, "steps"),
    ],
)
def test_impossible_configurations_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        create_backbone("slim_tiny", **{"num_classes": 0, "augment_dim": 0, "cond_channels": 0} | options)


@pytest.mark.parametrize("base", ["ddpmpp_tiny", "adm_tiny", "missing_u_fast_tiny"])
def test_other_unets_are_slimmed_by_configuration(base):
    """At full width it is the base, with its very weights; at half width it is what `extract` takes out."""
    plain = create_backbone(base)
    spec = plain.spec
    options = {name: getattr(spec, name) for name in ("in_channels", "out_channels", "resolution", "augment_dim")}
    net = create_backbone("slim_tiny", base=base, norms="shared", **options)
    net.net.load_state_dict(plain.state_dict())
    randomised(net)
    plain.load_state_dict(net.net.state_dict())
    given = Given(label=torch.tensor([0, 2]), image=torch.randn(2, 1, 8, 8), augment=torch.randn(2, spec.augment_dim))
    inputs = torch.randn(2, spec.in_channels, 8, 8), torch.randn(2), given
    with torch.no_grad():
        torch.testing.assert_close(net(*inputs), plain.eval()(*inputs), rtol=1e-5, atol=1e-5)
        narrow = net(*inputs, 0.5)
        torch.testing.assert_close(net.extract(0.5)(*inputs), narrow, rtol=1e-5, atol=1e-5)
    assert narrow.shape == (2, spec.out_channels, 8, 8)
    assert not torch.allclose(narrow, net(*inputs), atol=1e-3)
    assert net.num_params(0.5) < 0.4 * net.num_params()


@pytest.mark.parametrize("base", ["ddpmpp_cifar10", "adm_imagenet256"])
def test_published_unets_can_be_slimmed(base):
    config = get_variant(base).config
    with torch.device("meta"):
        given = torch.empty(1, 3, config.resolution, config.resolution), torch.empty(1)
        options = {"resolution": config.resolution, "out_channels": config.out_channels}
        net = create_backbone("slim_ddpm_cifar10_aligned", base=base, widths=(0.5, 1.0), **options).eval()
        macs = [count(lambda effort=effort: net(*given, effort=effort)).macs for effort in net.efforts]
    # A width's convolutions cost its square; ends, norms' embeddings and attention's products only the width itself.
    for width, found in zip(net.efforts, macs, strict=True):
        assert width**2 <= found / macs[-1] < width**2 + 0.05


def test_a_network_with_unknown_parameters_is_refused():
    class Strange(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))

    with pytest.raises(UserError, match="Strange"):
        slim(nn.Sequential(Strange()), Slimming())


def test_densify_of_a_plain_network_changes_nothing():
    net = nn.Sequential(nn.Conv2d(3, 4, 3))
    conv = net[0]
    densify(net, 0.5)
    assert net[0] is conv
