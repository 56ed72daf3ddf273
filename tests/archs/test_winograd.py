import pytest
import torch
from torch import nn

from denoisezoo.archs import create_denoiser
from denoisezoo.archs.winograd import A_T, B_T, G, WinogradConv2d, opaque_convolve, with_winograd
from denoisezoo.profiling.counting import count


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def test_transforms_give_the_four_sums_of_a_row():
    """F(4, 3) by hand: y_i = sum_j d_(i+j) g_j."""
    A, B, g_matrix = (torch.tensor(m, dtype=torch.float64) for m in (A_T, B_T, G))
    d, g = torch.randn(6, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    torch.testing.assert_close(A @ ((g_matrix @ g) * (B @ d)), torch.stack([d[i : i + 3] @ g for i in range(4)]))


@pytest.mark.parametrize("size", [(8, 8), (4, 12), (6, 9), (1, 1)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("bias", [True, False])
def test_equals_the_convolution(size, layout, bias):
    conv = nn.Conv2d(3, 5, 3, padding=1, bias=bias).double().to(memory_format=layout)
    x = torch.randn(2, 3, *size, dtype=torch.float64).to(memory_format=layout)
    y = WinogradConv2d(conv, min_tiles=1)(x)
    torch.testing.assert_close(y, conv(x))
    assert y.is_contiguous(memory_format=torch.channels_last)


def test_large_batches_are_cut_into_chunks():
    conv = nn.Conv2d(4, 4, 3, padding=1).double()
    x = torch.randn(5, 4, 32, 32, dtype=torch.float64)  # 64 tiles per image: chunks of 2, 2 and 1 images
    y = WinogradConv2d(conv)(x)
    torch.testing.assert_close(y, conv(x))
    assert y.is_contiguous(memory_format=torch.channels_last)


def test_takes_a_quarter_of_the_products():
    conv = nn.Conv2d(64, 64, 3, padding=1)
    fast, x = WinogradConv2d(conv), torch.randn(1, 64, 16, 16)
    with torch.no_grad():
        products = count(lambda: torch.bmm(torch.randn(36, 16, 64), torch.randn(36, 64, 64))).macs
        assert 4 * products == count(lambda: conv(x)).macs == 16 * 16 * 9 * 64 * 64
        transforms = count(lambda: fast(x)).macs - products
        assert transforms == 16 * 64 * (36 * 36 + 16 * 36)


def test_few_tiles_take_the_original():
    conv = nn.Conv2d(8, 8, 3, padding=1)
    x = torch.randn(1, 8, 8, 8)
    assert torch.equal(WinogradConv2d(conv, min_tiles=5)(x), conv(x))
    assert not torch.equal(WinogradConv2d(conv, min_tiles=4)(x), conv(x))


@pytest.mark.parametrize("prefix", ["ddpm", "ddpmpp", "ncsnpp", "adm"])
def test_network_gives_the_same_numbers(prefix):
    net = create_denoiser(f"{prefix}_digits").eval()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.02 * torch.randn_like(p))
        x, c_noise = torch.randn(2, 1, 16, 16), torch.rand(2)
        fast = with_winograd(net, min_channels=4)
        assert sum(isinstance(m, WinogradConv2d) for m in fast.modules()) > 10
        assert not any(isinstance(m, WinogradConv2d) for m in net.modules())
        expected = net(x, c_noise)
        torch.testing.assert_close(fast(x, c_noise), expected, rtol=0, atol=1e-4 * expected.abs().max().item())


def test_compiles_as_one_graph():
    fast, x = WinogradConv2d(nn.Conv2d(8, 4, 3, padding=1)), torch.randn(2, 8, 16, 16)
    torch.compiler.reset()
    with torch.no_grad():
        compiled = torch.compile(fast, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x), fast(x))
    kernel, into, out_of = fast.kernel, fast.into, fast.out_of
    torch.library.opcheck(opaque_convolve, (x, kernel, into, out_of), test_utils=("test_schema", "test_faketensor"))


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
