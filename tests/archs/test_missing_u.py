"""The Missing U against its published counts and against a second implementation of the released network."""

import math

import pytest
import torch
import torch.nn.functional as F
import torchdiffeq
from torch import nn

from denoisezoo.archs import create_backbone, get_variant, list_denoisers
from denoisezoo.archs.continuous_unet import with_solver
from denoisezoo.archs.lucid_unet import LinearAttention, LucidBlock
from denoisezoo.archs.missing_u import InstanceNorm, ReleasedSinusoids
from denoisezoo.diffusion import create_denoiser, create_sampler
from denoisezoo.errors import UserError
from denoisezoo.nn.blocks import RMSAttention
from denoisezoo.nn.given import Given
from denoisezoo.profiling.counting import count
from denoisezoo.profiling.trajectory import trace

DIGITS = list_denoisers("*_digits", family="missing_u")
BLIND = "missing_u_digits"


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def moved(name, **overrides):
    """A network with its weights moved off zero."""
    net = create_backbone(name, **overrides).eval()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return net


def macs(name, effort=None, **overrides):
    with torch.device("meta"):
        net = create_backbone(name, **overrides).eval()
        spec = net.spec
        x = torch.empty(1, spec.in_channels, spec.resolution, spec.resolution)
        return count(lambda: net(x, torch.empty(1), effort=effort))


# Counts of papers/missing_u.md, section 3

WIDTHS = (32, 64, 128, 256, 512)
BLOCKS = (*WIDTHS, *WIDTHS[-2::-1])  # channels of the nine blocks
IN_BLOCKS = sum(18 * C * C + 2 * C for C in BLOCKS)
FILM = sum(514 * C for C in BLOCKS)
ATTENTION = 514 * 256
TABLE = 1000 * 256


@pytest.mark.parametrize(
    ("name", "overrides", "params"),
    [
        ("missing_u_64", {}, 8_811_875),
        ("missing_u_64", {"attention": ()}, 8_548_707),
        ("missing_u_64", {"table": 0}, 8_555_875),
        ("missing_u_64_time", {}, 9_568_483),
        ("missing_u_64_discrete", {}, 9_568_483 + 3 * (IN_BLOCKS + FILM)),
        ("lucid_unet_64", {}, 35_710_339),
    ],
)
def test_published_parameters(name, overrides, params):
    with torch.device("meta"):
        net = create_backbone(name, **overrides)
    assert sum(p.numel() for p in net.parameters()) == params


def test_parameters_by_hand():
    levels = sum(C * 2 * C + 2 * C for C in WIDTHS[:-1]) + sum(3 * C * C + C for C in WIDTHS[:-1])
    stem, head = 27 * 16 + 16 + 16 * 32 + 32, 32 * 3 + 3
    assert IN_BLOCKS + levels + stem + head + 2 * ATTENTION + TABLE == 8_811_875
    assert 2 * ATTENTION == 8_811_875 - 8_548_707
    assert FILM == 9_568_483 - 8_811_875


def norm_elements(evaluations):
    """Elements that enter an InstanceNorm: image, stem, and twice per evaluation of a block."""
    states = [C * (64 * 32 // C) ** 2 for C in BLOCKS]
    return (3 + 16) * 64 * 64 + 2 * evaluations * sum(states)


@pytest.mark.parametrize(("solver", "evaluations", "thop"), [("rk4", 4, 2_830_983_168), ("euler", 1, 786_554_880)])
def test_macs_are_those_that_thop_found(solver, evaluations, thop):
    """thop takes two operations for each normalised element and does not see the attention products."""
    counts = macs("missing_u_64", solver=solver)
    assert counts.macs - counts.macs_attention + 2 * norm_elements(evaluations) == thop
    assert counts.macs_attention == 2 * 2 * 64 * 64 * 128
    assert abs(counts.macs / thop - 1) < 0.005


def test_macs_of_the_baseline_are_those_that_thop_found():
    """thop counts one operation for each pixel doubled and does not see any attention product, linear or not."""
    linear_attention = sum(2 * 2 * 4 * 32 * 32 * pixels for pixels in (64**2, 32**2, 16**2))
    full_attention = 3 * 2 * (8 * 8) ** 2 * 128
    doubled = 512 * 16**2 + 256 * 32**2 + 128 * 64**2
    counts = macs("lucid_unet_64")
    assert counts.macs_attention == full_attention
    assert counts.macs - linear_attention - full_attention + doubled == 7_206_256_640


def test_discrete_twin_computes_as_much():
    """But for the conditioning, of which it has four times as much."""
    film = 256 * 2 * sum(BLOCKS)
    assert macs("missing_u_64_discrete").macs - macs("missing_u_64_time").macs == 3 * film
    assert macs("missing_u_64_time").macs - macs("missing_u_64").macs == film


# The released network, a second time


def released(net, x):
    """Sergio20f/cDDPM's forward pass in its own operations, with the weights of `net`."""

    def vector_field(approximator, z):
        h = F.softplus(F.conv2d(F.instance_norm(z), *weights(approximator.conv0), padding=1))
        return F.softplus(F.conv2d(F.instance_norm(h), *weights(approximator.conv1), padding=1)) + z

    def ode_block(block, z):
        t = torch.tensor([0.0, 1.0])
        return torchdiffeq.odeint(lambda _, z: vector_field(block.field.approximator, z), z, t, method="rk4")[1]

    def halve(x):
        return F.interpolate(x, scale_factor=0.5, mode="bilinear", align_corners=False)

    def double(x):
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)

    def attended(module, x):
        return x if isinstance(module, nn.Identity) else attention_by_definition(module, x)

    h = F.softplus(F.conv2d(F.instance_norm(x), *weights(net.stem.conv0), padding=1))
    h = F.softplus(F.conv2d(F.instance_norm(h), *weights(net.stem.conv1)))
    features = []
    for block, attention, down in zip(net.encoder, net.encoder_attention, net.down, strict=True):
        features.append(attended(attention, ode_block(block, h)))
        h = halve(F.softplus(F.conv2d(features[-1], *weights(down.conv))))
    h = ode_block(net.middle, h)
    for up, block, attention in zip(net.up, net.decoder, net.decoder_attention, strict=True):
        h = F.softplus(F.conv2d(torch.cat((double(h), features.pop()), dim=1), *weights(up.conv)))
        h = attended(attention, ode_block(block, h))
    return F.conv2d(h, *weights(net.head))


def weights(layer):
    return layer.weight, layer.bias


def attention_by_definition(module, x):
    """RMSNorm, heads of the same size, softmax, and no residual sum."""
    B, C, H, W = x.shape
    h = F.normalize(x, dim=1) * module.norm.scale.view(1, C, 1, 1) * math.sqrt(C)
    qkv = F.conv2d(h, module.qkv.weight[:, :, None, None]).chunk(3, dim=1)
    q, k, v = (part.unflatten(1, (module.heads, -1)).flatten(3) for part in qkv)  # (B, heads, channels, pixels)
    scores = torch.einsum("bhdi,bhdj->bhij", q, k) / math.sqrt(q.shape[2])
    out = torch.einsum("bhij,bhdj->bhdi", scores.softmax(dim=-1), v).reshape(B, -1, H, W)
    return F.conv2d(out, module.out.weight[:, :, None, None], module.out.bias)


def test_equals_a_second_implementation():
    # In float64, because the norms of all but constant channels magnify what rounding leaves.
    net = moved("missing_u_digits", in_channels=3, out_channels=3).double()
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    y = net(x, torch.zeros(2))
    torch.testing.assert_close(y, released(net, x), rtol=0, atol=1e-9 * y.std().item())


def test_attention_is_its_definition():
    x = torch.randn(2, 12, 4, 6)
    for residual in (False, True):
        attention = RMSAttention(12, heads=3, head_channels=8, residual=residual)
        nn.init.normal_(attention.norm.scale)
        torch.testing.assert_close(attention(x), attention_by_definition(attention, x) + x * residual)


def test_instance_norm():
    x = 3 * torch.randn(2, 5, 4, 4) + 1
    torch.testing.assert_close(InstanceNorm(5)(x), F.instance_norm(x))


def test_instance_norm_is_as_exact_in_channels_last():
    x = (torch.randn(2, 8, 32, 32) + 5).contiguous(memory_format=torch.channels_last)
    found = InstanceNorm(8)(x)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert (found - F.instance_norm(x.double())).abs().max() < 5e-6  # torch's kernel alone: 5e-5 to 2e-4


@pytest.mark.parametrize("width", [256, 64])
def test_sinusoids_are_rows_of_the_released_table(width):
    """As the released code fills it, its slip included: the exponent counts channels, and they come in pairs."""
    table = torch.zeros(1000, width)
    wk = torch.tensor([1 / 10_000 ** (2 * j / width) for j in range(width)])[None]
    t = torch.arange(1000)[:, None]
    table[:, ::2] = torch.sin(t * wk[:, ::2])
    table[:, 1::2] = torch.cos(t * wk[:, ::2])
    ours = ReleasedSinusoids(width)
    torch.testing.assert_close(ours(torch.arange(1000)), table, rtol=0, atol=2e-4)
    assert ours(torch.tensor([0.5]))[0, 0] == pytest.approx(math.sin(0.5))


def test_table_is_counted_and_frozen():
    net = create_backbone("missing_u_digits", table=10, embedding=64)
    torch.testing.assert_close(net.table, ReleasedSinusoids(64)(torch.arange(10)))
    assert not net.table.requires_grad
    assert create_backbone("missing_u_digits").table is None


# What depends on the noise level


@pytest.mark.parametrize("name", DIGITS)
def test_only_the_released_network_is_blind(name):
    net, x = moved(name), torch.randn(2, 1, 16, 16)
    change = (net(x, torch.zeros(2)) - net(x, torch.tensor([500.0, 0.5]))).flatten(1).abs().amax(1)
    assert (change == 0).all() if name == BLIND else (change > 1e-3).all()


@pytest.mark.parametrize("name", ["missing_u_digits", "missing_u_time_digits"])
def test_the_released_stem_erases_brightness_and_contrast(name):
    net, x = moved(name).double(), torch.randn(2, 1, 16, 16, dtype=torch.float64)
    y = net(x, torch.zeros(2))
    torch.testing.assert_close(net(3 * x + 5, torch.zeros(2)), y, rtol=0, atol=1e-3 * y.std().item())


@pytest.mark.parametrize("name", ["missing_u_second_order_digits", "missing_u_fast_digits"])
def test_the_others_see_brightness(name):
    net, x = moved(name), torch.randn(2, 1, 16, 16)
    assert (net(x + 5, torch.zeros(2)) - net(x, torch.zeros(2))).abs().mean() > 0.05


def test_blind_network_takes_no_labels():
    with pytest.raises(UserError, match="a network without conditioning takes no labels; set conditioning=mlp"):
        create_backbone("missing_u_digits", num_classes=10)


# Variants


@pytest.mark.parametrize("size", ["64", "small32", "digits"])
def test_fast_variants_cost_a_quarter_at_most(size):
    fast, baseline = get_variant(f"missing_u_fast_{size}").costs[-1], get_variant(f"lucid_unet_{size}").costs[-1]
    assert fast.params <= 0.25 * baseline.params
    assert fast.macs <= 0.25 * baseline.macs


@pytest.mark.parametrize("kind", ["missing_u", "missing_u_time", "missing_u_second_order", "missing_u_fast"])
def test_small_variants(kind):
    digits, small = get_variant(f"{kind}_digits"), get_variant(f"{kind}_small32")
    assert (digits.spec.in_channels, digits.spec.resolution) == (1, 16)
    assert 300_000 < digits.costs[-1].params < 700_000
    assert digits.costs[-1].macs < 20_000_000
    assert (small.spec.in_channels, small.spec.resolution) == (3, 32)
    assert 1_500_000 < small.costs[-1].params < 6_000_000


@pytest.mark.parametrize("name", ["missing_u_fast_digits", "missing_u_second_order_digits"])
def test_starts_at_zero(name):
    assert not create_backbone(name)(torch.randn(2, 1, 16, 16), torch.rand(2)).any()


@pytest.mark.parametrize("name", DIGITS)
def test_layout_is_kept_throughout(name):
    """In channels_last no convolution sees, or makes, a tensor of another layout: each would cost a copy."""
    net = create_backbone(name).to(memory_format=torch.channels_last)
    layouts = []

    def note(module, args, output):
        layouts.extend(t.is_contiguous(memory_format=torch.channels_last) for t in (*args, output))

    for path, module in net.named_modules():
        if isinstance(module, nn.Conv2d) and not path.startswith("stem"):
            module.register_forward_hook(note)
    net(torch.randn(2, 1, 16, 16), torch.zeros(2))
    assert len(layouts) > 40
    assert all(layouts)


@pytest.mark.parametrize("name", DIGITS)
def test_exports(name):
    net = moved(name)
    x, c_noise = torch.randn(2, 1, 16, 16), torch.rand(2)
    program = torch.export.export(net, (x, c_noise))
    y = net(x, c_noise)
    torch.testing.assert_close(program.module()(x, c_noise), y, rtol=0, atol=1e-5 * y.std().item())


def test_adaptive_network_does_not_export():
    net = create_backbone("missing_u_tiny", cond_channels=0, solver="dopri5")
    with pytest.raises(UserError, match=r"solver dopri5 of block encoder\.0 cannot be exported"):
        torch.export.export(net, (torch.randn(2, 3, 8, 8), torch.rand(2)))


def test_takes_other_sizes_than_its_own():
    net = create_backbone("missing_u_fast_digits")
    assert net(torch.randn(1, 1, 32, 24), torch.zeros(1)).shape == (1, 1, 32, 24)
    with pytest.raises(UserError, match="input size 16x18 is not divisible by 8"):
        net(torch.randn(1, 1, 16, 18), torch.zeros(1))


# Solvers in the network


def test_discrete_twin_with_tied_weights_is_four_euler_steps():
    time = moved("missing_u_time_digits")
    twin, tied = create_backbone("missing_u_discrete_digits").eval(), {}
    own, c_widths = time.state_dict(), [block.c_width for block in time.blocks]
    for key, value in own.items():
        if key.startswith("conditioning."):
            tied[key] = torch.cat([part for part in value.split(c_widths) for _ in range(4)])
        elif ".field." in key or key.startswith("middle.field."):
            tied |= {key.replace("field.", f"fields.{n}.", 1): value for n in range(4)}
        else:
            tied[key] = value
    twin.load_state_dict(tied)
    x, c_noise = torch.randn(2, 1, 16, 16), torch.tensor([3.0, 700.0])
    expected = with_solver(time, "euler", steps=(4,))(x, c_noise)
    torch.testing.assert_close(twin(x, c_noise), expected, rtol=0, atol=1e-4 * expected.std().item())


def test_adjoint_trains_the_network():
    x, grads = torch.randn(2, 3, 8, 8, dtype=torch.float64), []
    for adjoint in (False, True):
        torch.manual_seed(1)
        settings = {"solver": "rk4", "steps": (16,), "single_step_levels": 0, "adjoint": adjoint}
        net = moved("missing_u_fast_tiny", cond_channels=0, **settings).double()
        net(x, torch.tensor([0.3, 0.8]), Given(label=torch.tensor([0, 2]))).square().sum().backward()
        grads.append({name: p.grad for name, p in net.named_parameters() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys()
    for name, expected in grads[0].items():
        torch.testing.assert_close(grads[1][name], expected, rtol=0, atol=1e-4 * expected.abs().max().item(), msg=name)


@pytest.mark.parametrize(
    ("name", "effort", "evaluations"),
    [
        ("missing_u_digits", 1, 7 * 4),
        ("missing_u_discrete_digits", 4, 7 * 4),
        ("missing_u_second_order_digits", 2, 7 * 2 * 2),
        ("missing_u_fast_digits", 1, 7),
    ],
)
def test_evaluations_are_seen_from_outside(name, effort, evaluations):
    denoiser, sampler = create_denoiser(create_backbone(name)), create_sampler("euler")

    class Plan:
        def effort(self, log_snr):
            return float(effort)

    u_T = torch.randn(1, 1, 16, 16)
    calls = trace(denoiser, sampler, u_T, steps=2, plan=Plan(), timed=False).calls
    assert [call.inner_nfe for call in calls] == [evaluations] * 2
    costs = dict(zip(denoiser.efforts, get_variant(name).costs, strict=True))
    assert {call.macs for call in calls} == {costs[float(effort)].macs}


def test_levels_can_be_kept_to_a_single_step():
    net = create_backbone("missing_u_fast_digits", steps=(1, 2), single_step_levels=1)
    u_T = torch.randn(1, 1, 16, 16)
    (call,) = trace(create_denoiser(net), create_sampler("euler"), u_T, steps=1, timed=False).calls
    assert call.inner_nfe == 2 * 1 + 5 * 2  # of 7 blocks two are at the full resolution


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"solver": "rk5"}, "unknown solver 'rk5'; did you mean rk4"),
        ({"steps": ()}, "steps is"),
        ({"steps": (2, 1)}, "steps is"),
        ({"steps": (0, 1)}, "steps is"),
        ({"widths": (8,)}, "widths is"),
        ({"widths": (8, 17)}, "widths is"),
        ({"widths": (8, 8, 8, 8, 8)}, "the middle has a single pixel"),
        ({"resolution": 18}, "resolution 18 cannot be halved 3 times"),
        ({"tied": False}, "untied blocks have no solver to choose; use solver=euler"),
        ({"heads": 0}, "heads is 0"),
        ({"embedding": 3}, "embedding is 3"),
        ({"table": -1}, "table is -1"),
        ({"design": "slow"}, "design of missing_u_digits is 'slow'"),
    ],
)
def test_impossible_configuration(override, message):
    with pytest.raises(UserError, match=message):
        create_backbone("missing_u_digits", **override)


# The baseline's parts


def test_linear_attention_is_its_definition():
    module, x = LinearAttention(12, heads=3, head_channels=8), torch.randn(2, 12, 4, 6)
    for scale in (module.scale, module.out_scale):
        nn.init.normal_(scale)

    def rms_norm(x, scale):
        return F.normalize(x, dim=1) * scale.view(1, -1, 1, 1) * math.sqrt(x.shape[1])

    qkv = F.conv2d(rms_norm(x, module.scale), module.qkv.weight[:, :, None, None]).chunk(3, dim=1)
    q, k, v = (part.unflatten(1, (3, 8)).flatten(3) for part in qkv)
    context = torch.einsum("bhdn,bhen->bhde", k.softmax(dim=-1), v)
    out = torch.einsum("bhde,bhdn->bhen", context, q.softmax(dim=-2) / math.sqrt(8)).reshape(2, 24, 4, 6)
    out = F.conv2d(out, module.out.weight[:, :, None, None], module.out.bias)
    torch.testing.assert_close(module(x), x + rms_norm(out, module.out_scale))


def test_lucid_block_normalises_after_its_convolutions():
    block, x, c = LucidBlock(8, 16), torch.randn(2, 8, 4, 4), torch.randn(2, 32)
    scale, shift = c[:, :16, None, None], c[:, 16:, None, None]
    h = F.silu(block.norm0(block.conv0(x)) * (scale + 1) + shift)
    torch.testing.assert_close(block(x, c), F.silu(block.norm1(block.conv1(h))) + block.skip(x))
    assert block.norm0.num_groups == 4
    assert LucidBlock(64, 64).norm0.num_groups == 8


def test_space_to_depth_is_a_strided_convolution():
    down = create_backbone("lucid_unet_digits").encoder[2].conv
    x = torch.randn(2, 16, 8, 8)
    one_by_one = F.conv2d(F.pixel_unshuffle(x, 2), down.weight.flatten(1)[:, :, None, None], down.bias)
    torch.testing.assert_close(down(x), one_by_one)
