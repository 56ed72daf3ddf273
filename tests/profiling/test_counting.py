"""Every expected number here is derived by hand from the definition: 1 MAC = 1 multiply-add."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules import module as torch_module

from denoisezoo.errors import UserError
from denoisezoo.profiling.counting import Counts, count, is_heavy, operator_macs

needs_cuda = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
DEVICES = ["cpu", "meta", pytest.param("cuda", marks=needs_cuda)]
GRAD_MODES = [torch.enable_grad, torch.no_grad, torch.inference_mode]


@pytest.fixture(params=DEVICES)
def device(request):
    return request.param


@pytest.fixture(params=GRAD_MODES, ids=lambda mode: mode.__name__)
def grad_mode(request):
    with request.param():
        yield


CONVOLUTIONS = {
    # batch * output height * width * output channels * (input channels / groups) * kernel area
    "plain": (lambda: nn.Conv2d(3, 8, 3, padding=1), 2 * 6 * 6 * 8 * 3 * 9),
    "strided": (lambda: nn.Conv2d(3, 8, 3, stride=2, padding=1), 2 * 3 * 3 * 8 * 3 * 9),
    "grouped": (lambda: nn.Conv2d(3, 9, 3, padding=1, groups=3), 2 * 6 * 6 * 9 * 1 * 9),
    "depthwise": (lambda: nn.Conv2d(3, 3, 5, padding=2, groups=3), 2 * 6 * 6 * 3 * 1 * 25),
    # every input pixel meets every weight once
    "transposed": (lambda: nn.ConvTranspose2d(3, 8, 4, stride=2, padding=1), 2 * 6 * 6 * 3 * 8 * 16),
    "one-dimensional": (lambda: nn.Conv1d(3, 8, 3, padding=1), 2 * 6 * 8 * 3 * 3),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolution(name, device, grad_mode):
    build, expected = CONVOLUTIONS[name]
    conv = build().to(device)
    x = torch.zeros((2, 3, 6) if name == "one-dimensional" else (2, 3, 6, 6), device=device)
    counts = count(lambda: conv(x))
    assert (counts.macs, counts.flops, counts.macs_attention) == (expected, 2 * expected, 0)
    assert not counts.uncounted


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolution_backward_costs_twice_the_forward(name):
    build, expected = CONVOLUTIONS[name]
    conv = build()
    x = torch.zeros((2, 3, 6) if name == "one-dimensional" else (2, 3, 6, 6), requires_grad=True)
    assert count(lambda: conv(x).sum().backward()).macs == 3 * expected
    # The first layer of a network does not need its input's gradient.
    assert count(lambda: conv(x.detach()).sum().backward()).macs == 2 * expected


def test_linear_with_and_without_bias(device, grad_mode):
    x = torch.zeros(4, 5, 16, device=device)
    for bias in (True, False):
        linear = nn.Linear(16, 24, bias=bias, device=device)
        assert count(lambda linear=linear: linear(x)).macs == 4 * 5 * 16 * 24


def test_linear_backward():
    linear, x = nn.Linear(16, 24), torch.zeros(4, 16, requires_grad=True)
    assert count(lambda: linear(x).sum().backward()).macs == 3 * 4 * 16 * 24


def test_width_sliced_weights_count_only_what_is_used(device):
    weight = torch.zeros(64, 32, 3, 3, device=device)
    x = torch.zeros(1, 16, 8, 8, device=device)
    assert count(lambda: F.conv2d(x, weight[:32, :16], padding=1)).macs == 64 * 32 * 16 * 9


def test_products(device, grad_mode):
    a, b = torch.zeros(3, 4, 5, device=device), torch.zeros(3, 5, 6, device=device)
    expected = 3 * 4 * 5 * 6
    assert count(lambda: torch.bmm(a, b)).macs == expected
    assert count(lambda: a @ b).macs == expected
    assert count(lambda: torch.einsum("bij,bjk->bik", a, b)).macs == expected
    assert count(lambda: torch.baddbmm(torch.zeros(3, 4, 6, device=device), a, b)).macs == expected
    assert count(lambda: torch.zeros(3, 4, 6, device=device).baddbmm_(a, b)).macs == expected
    assert count(lambda: a[0] @ b[0, :, 0]).macs == 4 * 5
    assert count(lambda: a[0, 0] @ b[0, :, 0]).macs == 5
    assert count(lambda: a[0] @ b[0]).macs == 4 * 5 * 6


@pytest.mark.parametrize("masked", [False, True])
def test_attention(device, grad_mode, masked):
    q, k, v = (torch.zeros(2, 3, n, c, device=device) for n, c in [(16, 8), (10, 8), (10, 4)])
    mask = torch.ones(16, 10, dtype=torch.bool, device=device) if masked else None
    counts = count(lambda: F.scaled_dot_product_attention(q, k, v, attn_mask=mask))
    assert counts.macs == counts.macs_attention == 2 * 3 * 16 * 10 * (8 + 4)
    assert not counts.uncounted


def test_attention_is_told_apart_from_other_products(device, grad_mode):
    """Projections are not attention, nor is a product of matrices that a network makes for itself."""
    to_qkv = nn.Linear(8, 24, device=device)
    x = torch.zeros(2, 1, 16, 8, device=device)

    def block():
        q, k, v = to_qkv(x).chunk(3, dim=-1)
        out = F.scaled_dot_product_attention(query=q, key=k, value=v)
        return out.transpose(-2, -1) @ out

    counts = count(block)
    assert counts.macs_attention == 2 * 2 * 16 * 16 * 8
    assert counts.macs == counts.macs_attention + 2 * 16 * 8 * 24 + 2 * 8 * 16 * 8


def test_attention_formula_of_each_fused_kernel():
    """A kernel that is reached past the Python function (by an older torch, or from C++) has a formula too."""
    q = torch.zeros(2, 3, 16, 8)
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    counts = count(lambda: kernel(q, q, q))
    assert counts.macs == counts.macs_attention == 2 * 2 * 3 * 16 * 16 * 8
    assert operator_macs(kernel, (q, q, q), {}, (q, q)) == 2 * 2 * 3 * 16 * 16 * 8


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("need_weights", [False, True])
def test_multi_head_attention_has_no_fast_path_while_counting(device, grad_mode, need_weights, frozen):
    attention = nn.MultiheadAttention(16, 2, batch_first=True, device=device).eval().requires_grad_(not frozen)
    x = torch.zeros(3, 10, 16, device=device)
    counts = count(lambda: attention(x, x, x, need_weights=need_weights))
    assert counts.macs_attention == 3 * 2 * 10 * 10 * 16
    assert counts.macs == counts.macs_attention + 3 * 10 * 16 * (3 * 16 + 16)
    attention.requires_grad_()
    assert counts.macs_diff_pruning == count(lambda: attention(x, x, x, need_weights=need_weights)).macs_diff_pruning


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_transformer_layer_has_no_fast_path_while_counting(grad_mode, frozen, batch_first):
    layer = nn.TransformerEncoderLayer(16, 2, dim_feedforward=64, batch_first=batch_first).eval()
    x = torch.zeros(3, 10, 16) if batch_first else torch.zeros(10, 3, 16)
    counts = count(lambda: layer.requires_grad_(not frozen)(x))
    assert counts.macs_attention == 3 * 2 * 10 * 10 * 16
    assert counts.macs == 3 * 10 * 16 * (4 * 16 + 2 * 64) + counts.macs_attention


def test_a_loop_counts_every_turn(device):
    linear = nn.Linear(8, 8, device=device)

    def loop():
        x = torch.zeros(2, 8, device=device)
        for _ in range(10):
            x = linear(x)

    assert count(loop).macs == 10 * 2 * 8 * 8


class EulerBlock(nn.Module):
    """Five explicit Euler steps of a field."""

    def __init__(self):
        super().__init__()
        self.field = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x):
        for _ in range(5):
            x = x + self.field(x) / 5
        return x


def test_an_ode_block_costs_its_function_evaluations(device):
    block = EulerBlock().to(device)
    x = torch.zeros(2, 4, 8, 8, device=device)
    field = 2 * 64 * 4 * 4 * 9
    assert count(lambda: block.field(x)).macs == field
    assert count(lambda: block(x)).macs == 5 * field


def test_adjoint_backward_is_counted():
    from torchdiffeq import odeint_adjoint

    class Field(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 3, padding=1)

        def forward(self, t, x):
            return self.conv(x)

    field, x, t = Field(), torch.zeros(1, 4, 8, 8, requires_grad=True), torch.tensor([0.0, 1.0])
    options = {"method": "rk4", "options": {"step_size": 1.0}}
    counts = count(lambda: odeint_adjoint(field, x, t, **options)[-1].sum().backward(), root=field)
    # 4 evaluations forward; 4 more backward, each with its two gradients.
    assert counts.macs == (4 + 4 * 3) * 64 * 4 * 4 * 9


def test_compiled_modules_count_like_eager_ones():
    linear, x = nn.Linear(8, 8), torch.zeros(2, 8)
    linear.compile(backend="eager")
    linear(x)
    assert count(lambda: linear(x)).macs == 2 * 8 * 8


@pytest.mark.parametrize(
    ("call", "operator"),
    [
        (lambda: F.grid_sample(torch.zeros(1, 2, 4, 4), torch.zeros(1, 3, 3, 2), align_corners=False), "grid_sampler"),
        (lambda: torch.fft.fft2(torch.zeros(4, 4)), "_fft"),
        (lambda: nn.LSTM(4, 4)(torch.zeros(3, 2, 4)), "rnn"),
        (lambda: torch.cdist(torch.zeros(3, 4), torch.zeros(5, 4)), "cdist"),
    ],
)
def test_heavy_operators_without_a_formula_are_listed(call, operator):
    counts = count(lambda: [call(), call()])
    assert [(operator in name, calls) for name, calls in counts.uncounted.items()] == [(True, 2)]


def test_custom_operators_are_listed():
    @torch.library.custom_op("denoisezoo_test::square", mutates_args=())
    def square(x: torch.Tensor) -> torch.Tensor:
        return x @ x

    assert count(lambda: square(torch.zeros(3, 3))).uncounted == {"denoisezoo_test.square": 1}


def test_light_operators_are_not_listed():
    x = torch.zeros(2, 4, 8, 8, requires_grad=True)

    def light():
        y = F.silu(F.group_norm(x, 2)) + F.interpolate(F.avg_pool2d(x, 2), scale_factor=2, mode="bilinear")
        y = F.dropout(torch.cat([y, F.max_pool2d(F.pad(x, (1, 1, 1, 1)), 3, 1)], dim=1).softmax(1), 0.5)
        (y.mean() + torch.randn(3).exp().clone().norm()).backward()

    counts = count(light)
    assert (counts.macs, counts.uncounted) == (0, {})


HEAVY = ["aten._int_mm", "aten.addmm_", "aten.conv_tbc", "aten._conv_depthwise2d", "aten.linear_backward", "lib.scan"]
LIGHT = ["aten.upsample_bilinear2d", "aten._convert_indices_from_coo_to_csr", "aten.linalg_vector_norm", "prim.device"]


@pytest.mark.parametrize("operator", HEAVY)
def test_heavy_operators_are_told_by_their_names(operator):
    assert is_heavy(operator)


@pytest.mark.parametrize("operator", LIGHT)
def test_light_operators_are_told_by_their_names(operator):
    assert not is_heavy(operator)


def test_modules_are_named_by_their_paths():
    first, second = nn.Linear(4, 8), nn.Linear(8, 8)
    net = nn.Sequential(first, nn.Sequential(second, second))
    counts = count(lambda: net(torch.zeros(3, 4)), root=net)
    # `second` runs twice; its cost stands once, under its first path.
    assert counts.by_module == {"": 3 * 32 + 2 * 3 * 64, "0": 3 * 32, "1": 2 * 3 * 64, "1.0": 2 * 3 * 64}
    assert set(count(lambda: net(torch.zeros(3, 4))).by_module) == {
        "Sequential", "Sequential.0", "Sequential.1", "Sequential.1.0"
    }  # fmt: skip


def test_an_exception_leaves_everything_as_it_was():
    class Broken(nn.Module):
        def forward(self, x):
            raise RuntimeError("in the middle")

    linear = nn.Linear(4, 4)
    hooks = len(torch_module._global_forward_hooks), len(torch_module._global_forward_pre_hooks)
    with pytest.raises(RuntimeError, match="in the middle"):
        count(lambda: Broken()(linear(torch.zeros(2, 4))))
    assert hooks == (len(torch_module._global_forward_hooks), len(torch_module._global_forward_pre_hooks))
    assert torch.backends.mha.get_fastpath_enabled()
    assert torch._C._len_torch_function_stack() == 0
    assert torch._C._len_torch_dispatch_stack() == 0
    assert count(lambda: linear(torch.zeros(2, 4))).macs == 32


def test_a_module_that_swallows_an_exception_does_not_shift_the_rows():
    class Broken(nn.Module):
        def forward(self, x):
            raise ValueError

    class Careful(nn.Module):
        def __init__(self):
            super().__init__()
            self.broken, self.linear = Broken(), nn.Linear(4, 4)

        def forward(self, x):
            try:
                self.broken(x)
            except ValueError:
                return self.linear(x)

    net = Careful()
    assert count(lambda: net(torch.zeros(2, 4)), root=net).by_module == {"": 32, "linear": 32}


def test_the_share_of_one_image_is_whole():
    linear, x = nn.Linear(4, 4), torch.zeros(6, 4)
    counts = count(lambda: linear(x), root=linear)
    assert counts.per_image(6) == Counts(
        macs=16,
        macs_attention=0,
        uncounted={},
        by_module={"": 16},
        by_operator={"aten.addmm": 16},
        macs_diff_pruning=16 + 4,
        bytes_products=4 * (6 * 4 + 4 * 4 + 4 + 6 * 4) // 6,
        bytes_elementwise=0,
        activation_bytes={"": 4 * 4},
    )
    with pytest.raises(UserError, match="no whole number for each of 5 images"):
        counts.per_image(5)


def test_attention_counts_tangents_too():
    """Q K^T and A V have two factors each, both with tangents: three products in the place of one."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    x = torch.zeros(1, 2, 6, 4, device="meta")
    once = 2 * 2 * 6 * 6 * 4

    def attend(x):
        return F.scaled_dot_product_attention(x, x, x)

    def pushed():
        with sdpa_kernel(SDPBackend.MATH):
            torch.func.jvp(attend, (x,), (x,))

    assert count(lambda: attend(x)).macs == once
    assert count(pushed).macs == 3 * once
