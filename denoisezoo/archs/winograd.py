"""Winograd's 3x3 convolution for inference: the same numbers for a quarter of the multiply-adds.

Lavin and Gray 2015, "Fast Algorithms for Convolutional Neural Networks", arXiv 1509.09308, section 4.3, F(4x4, 3x3): an
output tile of 4x4 pixels comes from 6x6 input pixels by Y = A^T [(G g G^T) * (B^T d B)] A, which takes 36 products per
channel pair where the definition takes 144. Worth it on CPUs, where nothing else does it; on a GPU cuDNN chooses by
itself. In float32 results differ from the definition by about 1e-5 of the largest value.
"""

from __future__ import annotations

import copy
from typing import TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TILE, PATCH = 4, 6
CHUNK = 128
"""Tiles that are transformed at a time."""
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
    into: Tensor
    out_of: Tensor

    def __init__(self, conv: nn.Conv2d, min_tiles: int = 16) -> None:
        super().__init__()
        self.conv, self.min_tiles = conv, min_tiles
        weight = conv.weight.detach()
        g = torch.tensor(G, dtype=torch.float64, device=weight.device)
        kernel = torch.einsum("ai,bj,kcij->abck", g, g, weight.double()).flatten(0, 1)
        # Both one-dimensional transforms at once: a 36-row matrix product beats slicing and adding in every case.
        into, out_of = (torch.kron(m, m) for m in (torch.tensor(B_T), torch.tensor(A_T)))
        for name, tensor in (("kernel", kernel), ("into", into), ("out_of", out_of)):
            self.register_buffer(name, tensor.to(weight).contiguous(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (B, C, H, W) -> (B, K, H, W); the result is in channels_last."""
        B, _, H, W = x.shape
        if self.min_tiles > B * -(-H // TILE) * -(-W // TILE):
            return self.conv(x)
        convolve = opaque_convolve if torch.compiler.is_compiling() else convolve_chunks
        y = convolve(x, self.kernel, self.into, self.out_of)
        return y if self.conv.bias is None else y + self.conv.bias[:, None, None]


def convolve_chunks(x: Tensor, kernel: Tensor, into: Tensor, out_of: Tensor) -> Tensor:
    """Convolve (B, C, H, W) -> (B, K, H, W) with a transformed kernel (36, C, K).

    A few images at a time: patches and products are 2.25 times the size of the images, and fit the cache so.
    """
    images = max(1, CHUNK // (-(-x.shape[2] // TILE) * -(-x.shape[3] // TILE)))
    parts = [_convolve(part, kernel, into, out_of) for part in x.split(images)]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _convolve(x: Tensor, kernel: Tensor, into: Tensor, out_of: Tensor) -> Tensor:
    B, C, H, W = x.shape
    rows, columns = -(-H // TILE), -(-W // TILE)
    border = (0, 0, 1, columns * TILE + 1 - W, 1, rows * TILE + 1 - H)
    patches = F.pad(x.permute(0, 2, 3, 1), border).unfold(1, PATCH, TILE).unfold(2, PATCH, TILE)
    d = patches.permute(4, 5, 0, 1, 2, 3).reshape(PATCH * PATCH, -1)
    products = torch.bmm((into @ d).view(PATCH * PATCH, -1, C), kernel)
    y = (out_of @ products.flatten(1)).view(TILE, TILE, B, rows, columns, -1)
    y = y.permute(2, 3, 0, 4, 1, 5).reshape(B, rows * TILE, columns * TILE, -1)
    return y[:, :H, :W].contiguous().permute(0, 3, 1, 2)


# The compiler takes it as it is: left to itself it would compute the norm and SiLU before the convolution inside the
# copy to overlapping patches, 2.25 times for each pixel.
opaque_convolve = torch.library.custom_op("denoisezoo::winograd_conv2d", convolve_chunks, mutates_args=())


@opaque_convolve.register_fake
def _(x: Tensor, kernel: Tensor, into: Tensor, out_of: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], *x.shape[2:], kernel.shape[2]).permute(0, 3, 1, 2)


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
    """A copy of `net`, for inference, whose 3x3 convolutions are `WinogradConv2d`."""
    net = copy.deepcopy(net).requires_grad_(False).eval()
    for module in list(net.modules()):
        for name, child in module.named_children():
            if is_eligible(child, min_channels) and not isinstance(module, WinogradConv2d):
                setattr(module, name, WinogradConv2d(child))
    return net
