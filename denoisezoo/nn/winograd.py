"""Winograd's 3x3 convolution for compiled inference on CPUs: the same numbers for a quarter of the multiply-adds.

Lavin and Gray 2015, "Fast Algorithms for Convolutional Neural Networks", arXiv 1509.09308, section 4.3, F(4x4, 3x3): an
output tile of 4x4 pixels comes from 6x6 input pixels by Y = A^T [(G g G^T) * (B^T d B)] A, which takes 36 products per
channel pair where the definition takes 144. Worth it on CPUs, where nothing else does it; on a GPU cuDNN chooses by
itself. In float32 results differ from the definition by about 1e-5 of the largest value.

Both transforms are sums of slices with small constants. PyTorch's compiler makes one vectorised loop of each; without
it they cost more than the products that they save, so outside of `torch.compile` the original convolution runs.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from typing import TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import register_flop_formula

TILE, PATCH = 4, 6
CHUNK = 128
"""Tiles that are transformed at a time: patches and products, 2.25 times the size of the images, stay in cache so."""

A_T = ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1))
B_T = (
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)
G = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)


class WinogradConv2d(nn.Module):
    """A convolution with its kernel transformed beforehand; it follows no later change of the original's weights.

    Args:
        conv: A convolution for which `is_eligible` holds.
        min_tiles: With fewer tiles in the batch the transformed kernel, four times the size, costs more to read than
            the products that it saves, and the original runs instead.
    """

    kernel: Tensor
    bias: Tensor

    def __init__(self, conv: nn.Conv2d, min_tiles: int = 16) -> None:
        super().__init__()
        self.conv, self.min_tiles = conv, min_tiles
        weight = conv.weight.detach()
        bias = weight.new_zeros(len(weight)) if conv.bias is None else conv.bias.detach().clone()
        self.register_buffer("kernel", transformed(weight), persistent=False)
        self.register_buffer("bias", bias, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (B, C, H, W) -> (B, K, H, W); compiled, the result is in channels_last."""
        B, _, H, W = x.shape
        if not torch.compiler.is_compiling() or self.min_tiles > B * -(-H // TILE) * -(-W // TILE):
            return self.conv(x)
        return winograd_conv2d(x, self.kernel, self.bias)


def transformed(weight: Tensor) -> Tensor:
    """A kernel (K, C, 3, 3) as the products take it: G g G^T as (36, C, K)."""
    g = torch.tensor(G, dtype=torch.float64, device=weight.device)
    return torch.einsum("ai,bj,kcij->abck", g, g, weight.double()).flatten(0, 1).to(weight.dtype).contiguous()


# The surrounding compiler takes it as it is: left to itself it would compute the norm and SiLU before the convolution
# inside the copy to overlapping patches, 13 times for each pixel.
@torch.library.custom_op("denoisezoo::winograd_conv2d", mutates_args=())
def winograd_conv2d(x: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
    """Convolve (B, C, H, W) -> (B, K, H, W), channels_last, with a transformed kernel (36, C, K) and bias (K,)."""
    B, C, H, W = x.shape
    rows, columns = -(-H // TILE), -(-W // TILE)
    border = (0, 0, 1, columns * TILE + 1 - W, 1, rows * TILE + 1 - H)
    padded = F.pad(x.permute(0, 2, 3, 1).contiguous(), border)
    y = x.new_empty(B, rows * TILE, columns * TILE, len(bias))
    images = max(1, CHUNK // (rows * columns))
    for source, target in zip(padded.split(images), y.split(images), strict=True):
        patches = compiled(transform_input, source.shape, x.dtype)(source)
        products = torch.bmm(patches.view(PATCH * PATCH, -1, C), kernel)
        compiled(transform_output, products.shape, target.shape, bias.shape, x.dtype)(products, target, bias)
    return y[:, :H, :W].contiguous().permute(0, 3, 1, 2)


@winograd_conv2d.register_fake
def _(x: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], *x.shape[2:], kernel.shape[2]).permute(0, 3, 1, 2)


@register_flop_formula(torch.ops.denoisezoo.winograd_conv2d, get_raw=True)
def _(x: Tensor, kernel: Tensor, bias: Tensor, *_: Tensor, out_val: Tensor) -> int:
    """FLOPs of the 36 products of each tile, as torch's counter and ours read them."""
    tiles = x.shape[0] * -(-x.shape[2] // TILE) * -(-x.shape[3] // TILE)
    return 2 * tiles * kernel.numel()


def transform_input(padded: Tensor) -> Tensor:
    """B^T d B of every patch: (B, 4 rows + 2, 4 columns + 2, C) -> (36, B, rows, columns, C)."""
    rows, columns = ((size - 2) // TILE for size in padded.shape[1:3])
    slices = [padded[:, i : i + TILE * rows - 3 : TILE] for i in range(PATCH)]
    vertical = [weighted_sum(weights, slices) for weights in B_T]
    return torch.stack(
        [
            weighted_sum(weights, [d[:, :, j : j + TILE * columns - 3 : TILE] for j in range(PATCH)])
            for d in vertical
            for weights in B_T
        ]
    )


def transform_output(products: Tensor, y: Tensor, bias: Tensor) -> None:
    """Write A^T m A + bias of every tile: (36, B rows columns, K) into (B, 4 rows, 4 columns, K)."""
    B, H, W, K = y.shape
    m = products.view(PATCH, PATCH, B, H // TILE, W // TILE, K)
    vertical = [weighted_sum(weights, list(m)) for weights in A_T]
    tiles = torch.stack([weighted_sum(weights, list(v)) for v in vertical for weights in A_T])
    tiles = tiles.view(TILE, TILE, *m.shape[2:]).permute(2, 3, 0, 4, 1, 5)
    y.copy_(tiles.reshape(y.shape) + bias)


def weighted_sum(weights: Sequence[int], terms: Sequence[Tensor]) -> Tensor:
    """The sum of the terms by small whole weights, without the products by 0 and 1."""
    scaled = (term if weight == 1 else weight * term for weight, term in zip(weights, terms, strict=True) if weight)
    return functools.reduce(torch.add, scaled)


@functools.cache
def compiled(function: Callable[..., Tensor | None], *shapes_and_dtype: object) -> Callable[..., Tensor]:
    """`function` of contiguous tensors of these shapes, compiled: seconds at first, then from the compiler's cache."""
    *shapes, dtype = shapes_and_dtype
    examples = [torch.empty(shape, dtype=dtype) for shape in shapes]  # type: ignore[call-overload]
    return torch._inductor.compile(make_fx(function)(*examples), examples)


def is_eligible(module: nn.Module, min_channels: int) -> TypeGuard[nn.Conv2d]:
    """Whether `module` is a plain 3x3 convolution, wide enough for the transforms to pay."""
    return (
        type(module) is nn.Conv2d
        and (module.kernel_size, module.stride, module.padding, module.dilation) == ((3, 3), (1, 1), (1, 1), (1, 1))
        and module.groups == 1
        and module.padding_mode == "zeros"
        and min(module.in_channels, module.out_channels) >= min_channels
    )


def with_winograd(net: nn.Module, min_channels: int = 32) -> nn.Module:
    """A copy of `net`, for compiled inference, whose 3x3 convolutions are `WinogradConv2d`."""
    net = copy.deepcopy(net).requires_grad_(False).eval()
    for module in list(net.modules()):
        for name, child in module.named_children():
            if is_eligible(child, min_channels) and not isinstance(module, WinogradConv2d):
                setattr(module, name, WinogradConv2d(child))
    return net
