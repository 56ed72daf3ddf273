"""Blocks shared by the U-Nets: residual block, self-attention, resampling, initialisation.

Sources: DDPM (Ho et al. 2020, arXiv 2006.11239), ADM (Dhariwal and Nichol 2021, arXiv 2105.05233), EDM (Karras et al.
2022, arXiv 2206.00364, appendix F). Where they differ, the difference is an object in `BlockStyle`, never a name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Resample = Callable[[Tensor], Tensor]
"""Halves or doubles height and width and keeps the channels."""

Init = Callable[[Tensor, Tensor | None, float], None]
"""Initialises (weight, bias, gain) in place; gain 0 asks for the (near-)zero start of a residual branch."""


def xavier(weight: Tensor, bias: Tensor | None, gain: float) -> None:
    """Xavier-uniform weights, zero biases (DDPM, DDPM++, NCSN++). Their "zero" layers start at 1e-5 of that."""
    nn.init.xavier_uniform_(weight, gain=gain or 1e-5)
    if bias is not None:
        nn.init.zeros_(bias)


def kaiming(weight: Tensor, bias: Tensor | None, gain: float) -> None:
    """PyTorch's own start for convolutions and linear layers (ADM), and exact zeros for gain 0."""
    fan_in = weight[0].numel()
    bound = gain / math.sqrt(fan_in)
    for tensor in (weight, bias):
        if tensor is not None:
            nn.init.uniform_(tensor, -bound, bound)


def conv(
    in_channels: int,
    out_channels: int,
    kernel: int,
    init: Init,
    gain: float = 1.0,
    stride: int = 1,
    *,
    bias: bool = True,
    groups: int = 1,
) -> nn.Conv2d:
    """A convolution that keeps the size at stride 1."""
    padding = kernel // 2 if stride == 1 else 0
    layer = nn.Conv2d(in_channels, out_channels, kernel, stride=stride, padding=padding, groups=groups, bias=bias)
    init(layer.weight, layer.bias, gain)
    return layer


def linear(in_features: int, out_features: int, init: Init, gain: float = 1.0, bias: bool = True) -> nn.Linear:
    """A linear layer."""
    layer = nn.Linear(in_features, out_features, bias=bias)
    init(layer.weight, layer.bias, gain)
    return layer


class GroupNorm(nn.GroupNorm):
    """PyTorch's, without the check of the batch in Python that takes as long as the norm of a small image."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, C, H, W)."""
        return torch.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


def group_norm(channels: int, eps: float, most: int = 32) -> nn.GroupNorm:
    """GroupNorm of `most` groups; narrow layers have fewer, so that a group keeps at least four channels.

    With 32, the rule of score_sde's NCSN++ (arXiv 2011.13456) and of EDM (arXiv 2206.00364): min(32, C / 4).
    """
    groups = next(g for g in range(max(1, min(most, channels // 4)), 0, -1) if channels % g == 0)
    return GroupNorm(groups, channels, eps=eps)


def silu(x: Tensor) -> Tensor:
    """SiLU of a tensor that nobody else reads: in place when no gradient is wanted, which saves a buffer."""
    return F.silu(x, inplace=not torch.is_grad_enabled())


def add_to(h: Tensor, x: Tensor) -> Tensor:
    """h + x for an h (B, C, H, W) that nobody else reads: in place where `silu` is, and the type stays."""
    return h + x if torch.is_grad_enabled() or h.dtype != x.dtype else h.add_(x)


class Modulation(Protocol):
    """How conditioning enters a residual block, around its second norm."""

    factor: int
    """Conditioning values for each channel."""

    def __call__(self, norm: nn.GroupNorm, h: Tensor, c: Tensor) -> Tensor:
        """Normalise and modulate h (B, C, H, W) by c (B, factor * C)."""
        ...


class Shift:
    """Conditioning is added before the norm (DDPM, DDPM++, NCSN++)."""

    factor = 1

    def __call__(self, norm: nn.GroupNorm, h: Tensor, c: Tensor) -> Tensor:
        """See `Modulation`."""
        return norm(add_to(h, c[:, :, None, None]))


class ScaleShift:
    """Conditioning scales and shifts after the norm (ADM, "adaptive group normalisation")."""

    factor = 2

    def __call__(self, norm: nn.GroupNorm, h: Tensor, c: Tensor) -> Tensor:
        """See `Modulation`."""
        scale, shift = c[:, :, None, None].chunk(2, dim=1)
        return torch.addcmul(shift, norm(h), scale + 1)


def average_pool(x: Tensor) -> Tensor:
    """Halve the size with the box filter: (B, C, H, W) -> (B, C, H/2, W/2)."""
    return F.avg_pool2d(x, 2)


def nearest(x: Tensor) -> Tensor:
    """Double the size with the box filter: (B, C, H, W) -> (B, C, 2H, 2W)."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


@dataclass(frozen=True)
class BlockStyle:
    """What sets the residual blocks of one family apart from another's.

    Attributes:
        modulation: How conditioning enters.
        init: Initialisation of every layer.
        eps: Epsilon of the group norms.
        norm_groups: Groups of a norm at every width; None has fewer in narrow layers, see `group_norm`.
        dropout: Dropout before the second convolution.
        num_heads: Attention heads at every width; 0 leaves their number to `head_channels`.
        head_channels: Channels of an attention head at every width; 0 leaves them to `num_heads`. Both 0: one head.
        qkv_gain: Initial gain of the attention's query, key and value projection.
        sum_scale: Factor on every residual sum.
        project_resampled: Whether a block that changes the size has a 1x1 convolution on its skip.
    """

    modulation: Modulation
    init: Init
    eps: float = 1e-6
    norm_groups: int | None = None
    dropout: float = 0.0
    num_heads: int = 0
    head_channels: int = 0
    qkv_gain: float = 1.0
    sum_scale: float = 1.0
    project_resampled: bool = False

    def norm(self, channels: int) -> nn.GroupNorm:
        """A group norm."""
        if self.norm_groups is None:
            return group_norm(channels, self.eps)
        return GroupNorm(self.norm_groups, channels, eps=self.eps)

    def heads(self, channels: int) -> int:
        """Attention heads of so many channels."""
        return self.num_heads or (channels // self.head_channels if self.head_channels else 1)

    def add(self, x: Tensor, h: Tensor) -> Tensor:
        """The residual sum of x and an h that nobody else reads."""
        y = add_to(h, x)
        return y if self.sum_scale == 1.0 else y * self.sum_scale


class SelfAttention(nn.Module):
    """Self-attention over pixels with a residual sum: (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, channels: int, style: BlockStyle) -> None:
        super().__init__()
        self.style = style
        self.norm = style.norm(channels)
        self.qkv = linear(channels, 3 * channels, style.init, gain=style.qkv_gain)
        self.out = linear(channels, channels, style.init, gain=0.0)

    def forward(self, x: Tensor) -> Tensor:
        """Attend; softmax is taken in float32 by the fused kernel."""
        B, C, H, W = x.shape
        # Pixels as rows: free in channels_last, and the 1x1 convolutions become plain matrix products.
        tokens = self.norm(x).permute(0, 2, 3, 1).reshape(B, H * W, C)
        qkv = self.qkv(tokens).view(B, H * W, 3, self.style.heads(C), -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        h = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(B, H * W, C)
        return self.style.add(x, self.out(h).view(B, H, W, C).permute(0, 3, 1, 2))


def rms_norm(tokens: Tensor, scale: Tensor) -> Tensor:
    """RMSNorm of tokens (..., C) with scale (C,); under autocast both must be of one type for the fused kernel."""
    return F.rms_norm(tokens, scale.shape, scale.to(tokens.dtype), eps=1e-12)


class RMSNorm(nn.Module):
    """`rms_norm` with a learned scale."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels))

    def forward(self, tokens: Tensor) -> Tensor:
        """Normalise (..., C)."""
        return rms_norm(tokens, self.scale)


class RMSAttention(nn.Module):
    """Self-attention over pixels, as in lucidrains/denoising-diffusion-pytorch: (B, C, H, W) -> (B, C, H, W).

    RMSNorm, heads of a fixed size whatever C is: 2 C + 4 C `heads` `head_channels` parameters.

    Args:
        channels: C.
        heads: Heads.
        head_channels: Channels of each.
        residual: Whether the input is added; the released network replaces its features instead.
        gain: Initial gain of the last layer.
    """

    def __init__(
        self, channels: int, heads: int = 4, head_channels: int = 32, residual: bool = True, gain: float = 1.0
    ) -> None:
        super().__init__()
        self.heads, self.residual = heads, residual
        self.norm = RMSNorm(channels)
        self.qkv = linear(channels, 3 * heads * head_channels, kaiming, bias=False)
        self.out = linear(heads * head_channels, channels, kaiming, gain=gain)

    def forward(self, x: Tensor) -> Tensor:
        """Attend."""
        B, C, H, W = x.shape
        tokens = x.permute(0, 2, 3, 1).reshape(B, H * W, C)
        qkv = self.qkv(self.norm(tokens))
        q, k, v = qkv.view(B, H * W, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        h = self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(B, H * W, -1))
        h = h.view(B, H, W, C).permute(0, 3, 1, 2)
        return x + h if self.residual else h


class Stage(nn.Module):
    """One step of a U-Net's encoder, middle or decoder.

    Attributes:
        c_width: Conditioning values that it takes, 0 for none.
        c_parts: Into how many equal parts it splits them, such as a scale and a shift.
        takes_skip: Whether a decoder stage concatenates an encoder output to its input first.
    """

    c_width: int = 0
    c_parts: int = 1
    takes_skip: bool = False

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """Map x (B, C, H, W) with conditioning c (B, c_width)."""
        raise NotImplementedError


class ResidualBlock(Stage):
    """Norm, SiLU, convolution, twice, with conditioning between; optional resampling and attention.

    Args:
        style: What the family chose.
        in_channels: Channels of the input, a concatenated skip included.
        out_channels: Channels of the output.
        resample: Changes the size of both branches before the first convolution.
        attention: Whether self-attention follows.
        skip_channels: How many channels of the input are a concatenated skip; they are the last.
    """

    def __init__(
        self,
        style: BlockStyle,
        in_channels: int,
        out_channels: int,
        *,
        resample: Resample | None = None,
        attention: bool = False,
        skip_channels: int = 0,
    ) -> None:
        super().__init__()
        self.style, self.resample = style, resample
        self.skip_channels, self.takes_skip = skip_channels, skip_channels > 0
        self.c_parts = style.modulation.factor
        self.c_width = self.c_parts * out_channels
        self.norm0 = style.norm(in_channels)
        self.conv0 = conv(in_channels, out_channels, 3, style.init)
        self.norm1 = style.norm(out_channels)
        self.conv1 = conv(out_channels, out_channels, 3, style.init, gain=0.0)
        projects = in_channels != out_channels or (resample is not None and style.project_resampled)
        self.skip = conv(in_channels, out_channels, 1, style.init) if projects else None
        self.attention = SelfAttention(out_channels, style) if attention else None

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """See `Stage`."""
        h = silu(self.norm0(x))
        if self.resample is not None:
            h, x = self.resample(h), self.resample(x)
        h = silu(self.style.modulation(self.norm1, self.conv0(h), c))
        h = self.conv1(F.dropout(h, self.style.dropout, self.training))
        y = self.style.add(x if self.skip is None else self.skip(x), h)
        return y if self.attention is None else self.attention(y)


class ConvDown(Stage):
    """Halve the size with a strided convolution.

    Args:
        channels: Channels, which it keeps.
        init: Initialisation.
        around: Whether zeros are added all around (improved DDPM), or at the right and bottom only (DDPM).
    """

    def __init__(self, channels: int, init: Init, around: bool = False) -> None:
        super().__init__()
        self.conv = conv(channels, channels, 3, init, stride=2)
        self.around = around
        if around:
            self.conv.padding = (1, 1)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """See `Stage`; c is empty."""
        return self.conv(x if self.around else F.pad(x, (0, 1, 0, 1)))


class ConvUp(Stage):
    """Double the size by nearest neighbour, then convolve (DDPM)."""

    def __init__(self, channels: int, init: Init) -> None:
        super().__init__()
        self.conv = conv(channels, channels, 3, init)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """See `Stage`; c is empty."""
        return self.conv(nearest(x))


class Conditioning(nn.Linear):
    """The conditioning projections of all stages as one matrix product: (B, E) -> one (B, c_width) per stage."""

    def __init__(self, width: int, stages: Sequence[Stage], init: Init) -> None:
        self.widths, self.parts = [stage.c_width for stage in stages], [stage.c_parts for stage in stages]
        super().__init__(width, sum(self.widths))
        for weight, bias in zip(self.weight.split(self.widths), self.bias.split(self.widths), strict=True):
            if len(weight):
                init(weight.detach(), bias.detach(), 1.0)

    def forward(self, embedding: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        """Project and split."""
        return super().forward(embedding).split(self.widths, dim=1)
