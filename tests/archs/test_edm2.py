"""EDM2 against a second implementation of its formulas, step by step as the paper has them, and its traps."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from denoisezoo.archs import create_backbone
from denoisezoo.archs.edm2 import EDM2Block
from denoisezoo.errors import UserError
from denoisezoo.nn.given import Given


def normalized(x, dims):
    return x / (1e-4 + x.square().mean(dims, keepdim=True).sqrt())


def weight(layer, gain=1.0):
    w = layer.weight
    return normalized(w, tuple(range(1, w.ndim))) * gain / math.sqrt(w[0].numel())


def conv(x, layer, gain=1.0):
    return F.conv2d(x, weight(layer, gain), padding=layer.weight.shape[-1] // 2)


def silu(x):
    return F.silu(x) / 0.596


def mix(a, b, t):
    return ((1 - t) * a + t * b) / math.sqrt((1 - t) ** 2 + t**2)


def box(x, up):
    kernel = torch.full((x.shape[1], 1, 2, 2), 0.25, dtype=x.dtype)
    if up:
        return F.conv_transpose2d(x, 4 * kernel, stride=2, groups=x.shape[1])
    return F.conv2d(x, kernel, stride=2, groups=x.shape[1])


def attention(x, layer):
    B, C, H, W = x.shape
    qkv = torch.einsum("oc,bchw->bohw", weight(layer.qkv), x).reshape(B, 3, layer.heads, C // layer.heads, H * W)
    q, k, v = normalized(qkv, 3).unbind(1)
    logits = torch.einsum("bhcq,bhck->bhqk", q, k) / math.sqrt(C // layer.heads)
    y = torch.einsum("bhqk,bhck->bhcq", logits.softmax(-1), v).reshape(B, C, H, W)
    return mix(x, torch.einsum("oc,bchw->bohw", weight(layer.out), y), 0.3)


def block(net: EDM2Block, x, e, modulation):
    if net.resample is not None:
        x = box(x, up=net.decoder)
    if not net.decoder:
        x = normalized(x if net.skip is None else conv(x, net.skip), 1)
    y = conv(silu(x), net.conv0)
    y = conv(silu(y * (e @ modulation.T * net.gain + 1)[:, :, None, None]), net.conv1)
    x = mix(conv(x, net.skip) if net.decoder and net.skip is not None else x, y, 0.3)
    return (x if net.attention is None else attention(x, net.attention)).clip(-256, 256)


def reference(net, x, c_noise, label):
    features, classes = net.embedding.features, net.config.num_classes
    e = math.sqrt(2) * torch.cos(2 * math.pi * (c_noise[:, None] * features.frequencies + features.phases))
    one_hot = torch.zeros(len(x), classes, dtype=x.dtype)
    for row, known in zip(one_hot, label.tolist(), strict=True):
        row[known] = math.sqrt(classes) if known >= 0 else 0.0
        row *= known >= 0
    e = silu(mix(e.to(x) @ weight(net.embedding.noise).T, one_hot @ weight(net.embedding.label).T, 0.5))
    blocks = [*net.encoder, *net.middle, *net.decoder]
    parts = dict(zip(blocks, weight(net.modulation).split([b.width for b in blocks]), strict=True))
    skips = [x := conv(torch.cat([x, torch.ones_like(x[:, :1])], 1), net.stem)]
    for b in net.encoder:
        x = block(b, x, e, parts[b])
        skips.append(x)
    for b in net.middle:
        x = block(b, x, e, parts[b])
    for b in net.decoder:
        if b.takes_skip:
            s = skips.pop()
            C = math.sqrt((x.shape[1] + s.shape[1]) / 0.5)
            x = torch.cat([x * 0.5 * C / math.sqrt(x.shape[1]), s * 0.5 * C / math.sqrt(s.shape[1])], 1)
        x = block(b, x, e, parts[b])
    return conv(x, net.head) * net.gain


@pytest.fixture
def net():
    """In float64, with weights that are not normalised and gains that are not 0."""
    torch.manual_seed(0)
    net = create_backbone("edm2_tiny", cond_channels=0, augment_dim=0, multipliers=(1, 2, 3), dropout=0.0).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(1.5).add_(0.4 * torch.randn_like(parameter))
        net.gain.fill_(1.5)
    return net


def inputs():
    x, label = torch.randn(3, 3, 8, 8, dtype=torch.float64), torch.tensor([2, -1, 0])
    return x, torch.tensor([-1.2, 0.1, 0.8], dtype=torch.float64), label


def test_the_network_is_that_of_the_formulas(net):
    x, c_noise, label = inputs()
    expected = reference(net, x, c_noise.float(), label)
    assert expected.std() > 0.1
    for training in (True, False):
        actual = net.train(training)(x, c_noise, Given(label=label))
        torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ["edm2_tiny", "edm2_digits"])
def test_an_untrained_network_puts_out_zero(name):
    net = create_backbone(name, cond_channels=0)
    spec = net.spec
    x = torch.randn(2, spec.in_channels, spec.resolution, spec.resolution)
    assert torch.equal(net(x, torch.zeros(2)), torch.zeros_like(x))


def test_calls_leave_weights_alone_and_steps_normalise_them(net):
    """Trap: eval() or a call outside of training that corrupts weights."""
    x, c_noise, label = inputs()
    before = copy.deepcopy(net.state_dict())
    answers = [net.train(training)(x, c_noise, Given(label=label)) for training in (False, True, False)]
    assert all(torch.equal(net.state_dict()[key], value) for key, value in before.items())
    assert torch.equal(answers[0], answers[2])
    net.after_step()
    torch.testing.assert_close(net(x, c_noise, Given(label=label)), answers[0], rtol=3e-3, atol=3e-3)
    for name, parameter in net.named_parameters():
        if parameter.ndim > 1:
            rms = parameter.flatten(1).square().mean(1).sqrt()
            torch.testing.assert_close(rms, torch.ones_like(rms), rtol=3e-4, atol=0, msg=name)
        else:
            assert torch.equal(parameter, before[name]), "a gain is no direction"


def test_a_step_may_call_it_several_times(net):
    """Trap: normalisation within the forward pass forbids this."""
    x, c_noise, label = inputs()
    net.train()
    first, given = net(x, c_noise, Given(label=label)), Given(label=label)
    with torch.no_grad():
        net(x, c_noise, given)
    (first + net(2 * x, c_noise, given)).square().mean().backward()
    assert all(p.grad is not None for p in net.parameters() if p.requires_grad)
    with sdpa_kernel(SDPBackend.MATH):  # the fused kernel has no forward mode
        _, tangent = torch.func.jvp(lambda u: net(u, c_noise, given), (x,), (torch.ones_like(x),))
    step = 1e-6
    finite = (net(x + step, c_noise, given) - net(x - step, c_noise, given)) / (2 * step)
    torch.testing.assert_close(tangent, finite, rtol=1e-4, atol=1e-6)


def test_u_is_counted_but_frozen(net):
    trained = sum(p.numel() for p in net.parameters() if p.requires_grad)
    assert net.num_params() - trained == net.config.uncertainty == 128
    assert create_backbone("edm2_tiny", uncertainty=0).uncertainty is None


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"head_channels": 5}, "head_channels 5 does not divide a width of 16"),
        ({"resolution": 9}, "resolution 9 cannot be halved 1 times"),
        ({"multipliers": ()}, "multipliers"),
        ({"dropout": 1.0}, "dropout"),
        ({"uncertainty": -1}, "uncertainty"),
        ({"channels": 0}, "channels is 0"),
    ],
)
def test_impossible_sizes(overrides, words):
    with pytest.raises(UserError) as caught:
        create_backbone("edm2_tiny", **overrides)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
