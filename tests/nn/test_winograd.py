import pytest
import torch
from torch import nn

from denoisezoo.archs import create_backbone
from denoisezoo.nn import winograd
from denoisezoo.nn.winograd import A_T, B_T, G, WinogradConv2d, winograd_conv2d, with_winograd
from denoisezoo.profiling.counting import count


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def test_transforms_give_the_four_sums_of_a_row():
    """F(4, 3) by hand: y_i = sum_j d_(i+j) g_j."""
    A, B, g_matrix = (torch.tensor(m, dtype=torch.float64) for m in (A_T, B_T, G))
    d, g = torch.randn(6, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    torch.testing.assert_close(A @ ((g_matrix @ g) * (B @ d)), torch.stack([d[i : i + 3] @ g for i in range(4)]))


@pytest.fixture
def uncompiled(monkeypatch):
    """Run the transforms as they are written: the compiler takes seconds for each shape."""
    monkeypatch.setattr(winograd, "compiled", lambda function, *_: function)


def apply(conv, x):
    fast = WinogradConv2d(conv)
    return winograd_conv2d(x, fast.kernel, fast.bias)


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("size", [(8, 8), (4, 12), (6, 9), (1, 1)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("bias", [True, False])
def test_equals_the_convolution(size, layout, bias):
    conv = nn.Conv2d(3, 5, 3, padding=1, bias=bias).double().to(memory_format=layout)
    x = torch.randn(2, 3, *size, dtype=torch.float64).to(memory_format=layout)
    y = apply(conv, x)
    torch.testing.assert_close(y, conv(x))
    assert y.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.usefixtures("uncompiled")
def test_large_batches_are_cut_into_chunks():
    conv = nn.Conv2d(4, 4, 3, padding=1).double()
    x = torch.randn(5, 4, 32, 32, dtype=torch.float64)  # 64 tiles per image: chunks of 2, 2 and 1 images
    torch.testing.assert_close(apply(conv, x), conv(x))


@pytest.mark.usefixtures("uncompiled")
def test_takes_a_quarter_of_the_products():
    conv, x = nn.Conv2d(64, 64, 3, padding=1), torch.randn(1, 64, 16, 16)
    fast = WinogradConv2d(conv)
    with torch.no_grad():
        counts = count(lambda: winograd_conv2d(x, fast.kernel, fast.bias))
        assert not counts.uncounted
        assert 4 * counts.macs == count(lambda: conv(x)).macs == 16 * 16 * 9 * 64 * 64


def test_compiled_transforms_equal_the_convolution():
    conv = nn.Conv2d(16, 8, 3, padding=1)
    x = torch.randn(3, 16, 32, 32)  # chunks of 2 images and of 1
    with torch.no_grad():
        torch.testing.assert_close(apply(conv, x), conv(x), rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("uncompiled")
def test_few_tiles_take_the_original():
    x = torch.randn(1, 8, 8, 8)
    conv = nn.Conv2d(8, 8, 3, padding=1)
    assert count_winograd(WinogradConv2d(conv, min_tiles=5), x) == 0
    assert count_winograd(WinogradConv2d(conv, min_tiles=4), x) == 1


def count_winograd(module, *inputs):
    """How many of the compiled graph's nodes are Winograd convolutions."""
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph

    torch.compiler.reset()
    with torch.no_grad():
        torch.compile(module, backend=backend)(*inputs)
    return sum("winograd" in str(node.target) for graph in graphs for node in graph.graph.nodes)


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("prefix", ["ddpm", "ddpmpp", "ncsnpp", "adm"])
def test_network_gives_the_same_numbers(prefix):
    net = create_backbone(f"{prefix}_digits").eval()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.02 * torch.randn_like(p))
        x, c_noise = torch.randn(2, 1, 16, 16), torch.rand(2)
        fast = with_winograd(net, min_channels=4)
        assert sum(isinstance(m, WinogradConv2d) for m in fast.modules()) > 10
        assert not any(isinstance(m, WinogradConv2d) for m in net.modules())
        expected = net(x, c_noise)
        torch.compiler.reset()
        y = torch.compile(fast, backend="aot_eager", fullgraph=True)(x, c_noise)
        torch.testing.assert_close(y, expected, rtol=0, atol=1e-4 * expected.abs().max().item())


@pytest.mark.usefixtures("uncompiled")
def test_is_a_well_behaved_operator():
    fast, x = WinogradConv2d(nn.Conv2d(8, 4, 3, padding=1)), torch.randn(2, 8, 16, 16)
    arguments = (x, fast.kernel, fast.bias)
    torch.library.opcheck(winograd_conv2d, arguments, test_utils=("test_schema", "test_faketensor"))


def test_only_plain_convolutions_change():
    others = [
        nn.Conv2d(8, 8, 3, padding=1, stride=2),
        nn.Conv2d(8, 8, 3, padding=1, groups=2),
        nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(8, 8, 1),
        nn.Conv2d(8, 8, 3, padding=2, dilation=2),
        nn.Conv2d(2, 8, 3, padding=1),
    ]
    fast = with_winograd(nn.Sequential(*others, nn.Conv2d(8, 8, 3, padding=1)), min_channels=4)
    assert [isinstance(m, WinogradConv2d) for m in fast] == [False] * 6 + [True]
