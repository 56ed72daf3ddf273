"""DiCo, DiC, FCDM and U-DiT against what was measured on the authors' code, and against the traps of that code."""

import copy
import csv
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from denoisezoo.archs import create_backbone, get_variant
from denoisezoo.archs.fcdm import ResponseNorm
from denoisezoo.archs.udit import rotate
from denoisezoo.errors import UserError
from denoisezoo.nn.given import Given
from denoisezoo.profiling.counting import count

ROWS = list(csv.DictReader((Path(__file__).parent / "reference_costs_convs.csv").open()))
TINY = ["dico_tiny", "dic_tiny", "fcdm_tiny", "udit_tiny"]
DIGITS = {"in_channels": 1, "out_channels": 1, "resolution": 16, "num_classes": 10, "noise_features": 256}
PHOTOS = DIGITS | {"in_channels": 3, "out_channels": 3, "resolution": 32}


def counted(name, training=False, **overrides):
    """Parameters and counts of one call, without weights."""
    with torch.device("meta"):
        net = create_backbone(name, **overrides).train(training)
        spec = net.spec
        x = torch.empty(1, spec.in_channels, spec.resolution, spec.resolution)
        label = torch.zeros(1, dtype=torch.int64) if spec.num_classes else None
        return net.num_params(), count(lambda: net(x, torch.empty(1), Given(label=label)))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["model"])
def test_costs_of_the_authors_code(row):
    params, counts = counted(row["name"], row["form"] == "training", resolution=int(row["resolution"]))
    assert params == int(row["params"])
    assert counts.macs == round(1e9 * float(row["gmacs"]))
    assert counts.macs_attention == round(1e9 * float(row["gmacs_attention"]))
    assert not counts.uncounted


def test_published_costs():
    """DiCo's READ-ME: MACs by torchprofile, which counts norms and pooling, too: 0.1 to 0.6 % more; parameters to the
    digit that is printed. The others print MACs."""
    for row in ROWS:
        if row["published_params"]:
            assert int(row["params"]) / 1e6 == pytest.approx(float(row["published_params"]), rel=2e-3)
        if row["published_cost"]:
            assert float(row["gmacs"]) == pytest.approx(float(row["published_cost"]), rel=0.011)
    assert get_variant("dico_l").costs[0].params == 463_897_992  # 463.9 M, 60.24 G printed
    assert get_variant("dico_l").costs[0].macs == pytest.approx(60.24e9, rel=2e-3)


@pytest.mark.parametrize(
    ("name", "overrides", "params", "mega"),
    [
        ("dico_digits", DIGITS | {"channels": 16}, 339_889, 10.198),
        ("dico_digits", DIGITS | {"channels": 24}, 735_913, 22.606),
        ("dico_small32", PHOTOS | {"depths": (2,) * 5}, 1_284_387, 159.804),
        ("fcdm_digits", DIGITS | {"channels": 16}, 354_337, 8.908),
        ("fcdm_digits", DIGITS | {"channels": 24}, 754_705, 19.214),
        ("fcdm_small32", PHOTOS | {"depths": (1, 2, 4, 2, 1)}, 1_305_027, 133.862),
        ("dic_digits", DIGITS | {"depths": (2,) * 5}, 433_249, 16.925),
        ("dic_small32", PHOTOS | {"depths": (2,) * 5}, 1_667_139, 270.446),
        ("udit_digits", DIGITS, 573_217, 21.629),
    ],
)
def test_costs_of_small_networks_of_the_authors_code(name, overrides, params, mega):
    found, counts = counted(name, **overrides)
    assert (found, round(counts.macs / 1e6, 3)) == (params, mega)


def inputs(net, batch=2):
    spec = net.spec
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, spec.in_channels, spec.resolution, spec.resolution, generator=generator)
    cond = torch.randn(batch, spec.cond_channels, spec.resolution, spec.resolution, generator=generator)
    given = Given(torch.arange(batch) % spec.num_classes, cond, augment=torch.randn(batch, spec.augment_dim))
    return x, 100 * torch.rand(batch, generator=generator), given


def moved(name, **overrides):
    """A network whose weights are off zero."""
    torch.manual_seed(0)
    net = create_backbone(name, **overrides)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return net


@pytest.mark.parametrize("name", TINY)
def test_untrained_output_is_zero_and_blocks_are_the_identity(name):
    net = create_backbone(name)
    assert not net(*inputs(net)).any()
    for level, width in enumerate(net.config.widths[: net.config.levels]):
        e = torch.randn(2, width)
        for block, c in zip(net.blocks_of(level), net.modulations[level](e), strict=True):
            if not block.takes_skip:
                x = torch.randn(2, c.shape[1] // block.c_parts, 4, 4)
                assert torch.equal(block(x, c), x)


def test_released_gates_of_dic_are_near_zero_by_small_embeddings():
    """Released: mean 0.0007, deviation 0.008; the paper's are zero, and so are ours unless asked for."""
    torch.manual_seed(0)
    for gate, most, least in (("zero", 0.0, 0.0), ("released", 0.05, 1e-4)):
        with torch.no_grad():
            net = create_backbone("dic_digits", gate=gate, num_classes=10, noise_features=256)
            embedding = net.embeddings[1](torch.arange(0.0, 1000.0, 50.0), Given(label=torch.arange(20) % 10))
            gates = torch.cat([c.chunk(3, dim=1)[0] for c in net.modulations[1](embedding)])
        assert least <= gates.std() <= most
        assert not net(torch.randn(1, 1, 16, 16), torch.ones(1)).any()


@pytest.mark.parametrize("name", TINY)
def test_no_label_is_the_null_row_of_every_level(name):
    """One draw drops a label at all levels, where FCDM and U-DiT as released draw for each."""
    net = moved(name).eval()
    x, c_noise, given = inputs(net)
    null = net.spec.num_classes
    before = net(x, c_noise, given._replace(label=torch.tensor([-1, 1])))
    for embedding in net.embeddings:
        weight = embedding.late.classes.table.weight
        assert weight.shape[0] == null + 1
        with torch.no_grad():
            weight[null] += 1
        after = net(x, c_noise, given._replace(label=torch.tensor([-1, 1])))
        assert (after[0] - before[0]).abs().max() > 1e-4
        torch.testing.assert_close(after[1], before[1])
        before = after


def test_noise_levels_of_edm_are_told_apart():
    """ln(sigma)/4 from 0.002 to 80 lies within 2.7, where the sinusoids of steps 0 ... 999 hardly move: features of
    norm 5.7 change by 0.1 from one of 40 levels to the next, and with the option by more than a tenth of their norm."""
    c_noise = torch.linspace(-1.55, 1.1, 40)
    gaps = {}
    for scale in (1.0, 250.0):
        net = create_backbone("dico_tiny", noise_scale=scale, noise_features=64)
        features = net.embeddings[0].features(net.noise_scale * c_noise)
        assert torch.allclose(features.norm(dim=1), torch.tensor(32.0).sqrt())
        gaps[scale] = (features[1:] - features[:-1]).norm(dim=1).min().item()
    assert gaps[1.0] < 0.11
    assert gaps[250.0] > 0.57


def test_response_norm():
    """By the formula, and without the overflow of a half-precision sum of squares."""
    norm = ResponseNorm(2)
    x = torch.tensor([[[[3.0, 4.0]], [[0.0, 10.0]]]])
    assert torch.equal(norm(x), x)
    with torch.no_grad():
        norm.gamma.fill_(2.0)
        norm.beta.fill_(0.5)
    expected = x + 2 * x * torch.tensor([5 / 7.5, 10 / 7.5])[:, None, None] + 0.5
    torch.testing.assert_close(norm(x), expected)
    large = torch.full((1, 2, 64, 64), 300.0, dtype=torch.float16)
    assert norm.half()(large).isfinite().all()


def test_rotary_positions_are_relative_and_of_both_axes():
    q, k = torch.randn(2, 1, 1, 1, 8)

    def product(place, other):
        whole = [t.expand(1, 16, 1, 8) for t in (q, k)]
        a, b = (rotate(t, 4, 4)[0, :, 0].unflatten(0, (4, 4)) for t in whole)
        return (a[place] * b[other]).sum()

    torch.testing.assert_close(product((0, 1), (2, 3)), product((1, 0), (3, 2)))
    assert (product((0, 1), (2, 3)) - product((0, 1), (3, 2))).abs() > 1e-4
    complex = torch.view_as_complex(q.expand(1, 16, 1, 8).reshape(16, 4, 2).contiguous())
    angle = torch.tensor([[col, row, 0.01 * col, 0.01 * row] for row in range(4) for col in range(4)])
    turned = torch.view_as_real(complex * torch.polar(torch.ones(16, 4), angle)).flatten(1)
    torch.testing.assert_close(rotate(q.expand(1, 16, 1, 8), 4, 4)[0, :, 0], turned)


def test_merging_udit_changes_no_weight_and_no_answer():
    """The released eval() adds into the parameters: the second one gives another network."""
    net = moved("udit_tiny").train()
    told = inputs(net)
    before = copy.deepcopy(net.state_dict())
    expected = net(*told)
    for _ in range(2):
        torch.testing.assert_close(net.eval()(*told), expected, rtol=1e-5, atol=1e-5)
        with torch.no_grad():
            torch.testing.assert_close(net(*told), expected, rtol=1e-5, atol=1e-5)
        net.train()
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    torch.testing.assert_close(net(*told), expected, rtol=0, atol=0)


@pytest.mark.parametrize("change", ["in place", "loaded", "another place", "moved"])
def test_merged_weights_follow_the_parameters(change):
    net, other = moved("udit_tiny").eval(), create_backbone("udit_tiny")
    told = inputs(net)
    with torch.inference_mode():
        before = net(*told)
    torch.manual_seed(1)
    layer = net.blocks_of(0)[0].feed_forward[0].depthwise[1]
    with torch.no_grad():
        if change == "in place":
            layer.weight.add_(1.0)
        elif change == "loaded":
            other.load_state_dict(net.state_dict())
            other.blocks_of(0)[0].feed_forward[0].depthwise[1].weight.add_(1.0)
            net.load_state_dict(other.state_dict())
        elif change == "another place":
            layer.weight.data = layer.weight.data + 1.0
        else:
            layer.weight = torch.nn.Parameter(layer.weight + 1.0)
        found = net(*told)
        expected = copy.deepcopy(net).train()(*told)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert (found - before).abs().max() > 1e-4


def test_gradients_pass_through_merged_weights():
    net = moved("udit_tiny")
    x, c_noise, given = inputs(net)
    found = []
    for training in (True, False):
        image = x.clone().requires_grad_()
        net.train(training).zero_grad()
        net(image, c_noise, given).square().sum().backward()
        found.append([image.grad, *[p.grad.clone() for p in net.parameters()]])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * a.abs().max().item())


def test_every_phase_of_udit_attends_to_itself_alone():
    """A change at (0, 0) moves, through attention alone, every second pixel of every second row: its phase."""
    attention = moved("udit_tiny").blocks_of(0)[0].attention[0]
    with torch.no_grad():
        attention.depthwise.weight.zero_()  # leaves the input itself
        x = torch.randn(1, 8, 8, 8)
        other = x.clone()
        other[..., 0, 0] += 1
        change = (attention(other) - attention(x)).abs().amax((0, 1)) > 1e-7
    expected = F.pixel_shuffle(torch.tensor([1.0, 0, 0, 0]).view(1, 4, 1, 1).expand(1, 4, 4, 4), 2)[0, 0] > 0
    assert torch.equal(change, expected)


def test_skips_of_dic():
    """Every third block from the last of a level on gives one: 14 blocks 5, 7 blocks 3, 6 blocks 2."""
    for depth, skips in ((14, 5), (7, 3), (6, 2)):
        with torch.device("meta"):
            net = create_backbone("dic_s", depths=(depth, 1, 1, 1, depth))
        assert [i for i, block in enumerate(net.decoder[1]) if block.takes_skip] == list(range(0, depth, 3))
        assert sum(block.takes_skip for block in net.decoder[1]) == skips


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("dico_s", {"resolution": 30}, "cannot be halved 2 times"),
        ("udit_s", {"resolution": 36}, "cannot be halved 3 times"),
        ("udit_s", {"num_heads": 5}, "num_heads is 5 and does not divide a width of 96"),
        ("udit_s", {"num_heads": 0}, "num_heads is 0"),
        ("dico_s", {"channels": 3}, "channels is 3"),
        ("dico_s", {"depths": (1, 2)}, "depths is"),
        ("dico_s", {"multipliers": (1, 2, 3, 4, 5)}, "multipliers is"),
        ("dic_s", {"depths": (6, 6, 5, 6, 7)}, "give the two blocks of a level equal depths"),
        ("dic_s", {"skip_stride": 0}, "skip_stride is 0"),
        ("fcdm_s", {"kernel": 4}, "kernel is 4"),
        ("fcdm_s", {"noise_scale": 0.0}, "noise_scale is 0.0"),
        ("dico_s", {"expansion": 0}, "expansion is 0"),
    ],
)
def test_mistakes_are_one_line(name, overrides, message):
    with pytest.raises(UserError, match=message) as caught:
        create_backbone(name, **overrides)
    assert "\n" not in str(caught.value)
