"""U-DiT: "U-DiTs: Downsample Tokens in U-Shaped Diffusion Transformers", Tian, Tu, Chen, Hu, Xu, Wang 2024, arXiv
2405.02730.

Self-attention among every second pixel, four phases of which make up the image, and a feed-forward layer with a 5x5
depthwise convolution, in a U-Net of three levels whose last is twice as wide as its first. Layer for layer the network
of the paper's own code.

The feed-forward layers train in a wider form (two 1x1 convolutions for one, a sum of depthwise ones) and are merged in
evaluation mode, into weights of their own: the released `eval()` adds into the parameters and so changes them. What the
registry prices is a call so merged, with the parameters as trained, 1.8 times as many. Under `torch.compile(network)`,
which would not see weights change, and in exports of the module the form in training runs: the same numbers for up to a
fifth more multiply-adds.

What differs: a class is dropped once, by label -1, where the released training drops it at each of three levels by
itself; rotary positions are of rows and columns of any image, not of square ones alone; a conditioning image is
concatenated to the input, augmentation labels are added to every level's condition, and both are ours; the small
variants have 64 features of c_noise in the place of 256.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denoisezoo.archs.backbone import Effort
from denoisezoo.archs.level_unet import DIGITS, SMALL32, TINY, LevelUNet, LevelUNetConfig, LevelUNetDesign
from denoisezoo.archs.variants import Cost, Family
from denoisezoo.errors import UserError
from denoisezoo.nn.adaln import channel_norm, modulate
from denoisezoo.nn.blocks import Stage, conv, linear, xavier
from denoisezoo.nn.given import NOTHING, Given


@dataclass(frozen=True, kw_only=True)
class UDiTConfig(LevelUNetConfig):
    """Sizes of a U-DiT; see `LevelUNetConfig`. A block is two of attention and feed-forward layer.

    Attributes:
        num_heads: Attention heads at every level.
        expansion: Width of the feed-forward layer as a multiple of the block's.
    """

    channels: int = 96
    multipliers: tuple[int, ...] = (1, 2, 4, 2, 2)
    depths: tuple[int, ...] = (2, 5, 8, 5, 2)
    num_heads: int = 4
    expansion: int = 2

    def validate(self) -> None:
        """See `BackboneConfig.validate`."""
        super().validate()
        if self.num_heads < 1 or (uneven := [w for w in self.widths if w % (4 * self.num_heads)]):
            what = (
                f" does not divide a width of {uneven[0]} into heads of a multiple of 4" if self.num_heads > 0 else ""
            )
            raise UserError(f"num_heads is {self.num_heads}{' and' if what else ''}{what}", "change it, or channels")
        if self.expansion < 1 or self.expansion * self.channels % 2:
            raise UserError(f"expansion is {self.expansion}", "give a whole number of at least 1")
        self.require_halvings(self.levels)


def rotate(x: Tensor, height: int, width: int) -> Tensor:
    """Rotary positions of an image's pixels, in float32: (B, N, heads, d), N = height width, d a multiple of 4.

    Channels 2i and 2i + 1 are a plane that turns by the column for even i and by the row for odd i, at frequency
    10000^(-4 (i // 2) / d).
    """
    d, device = x.shape[-1], x.device
    frequencies = torch.exp(torch.arange(0, d, 4, dtype=torch.float32, device=device) * (-math.log(10000) / d))
    row, column = torch.arange(height, device=device), torch.arange(width, device=device)
    angle = torch.stack(
        [column.repeat(height)[:, None] * frequencies, row.repeat_interleave(width)[:, None] * frequencies], dim=-1
    ).flatten(1)[:, None]
    cos, sin = angle.cos(), angle.sin()
    a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1).flatten(-2)


class PhaseAttention(nn.Module):
    """Cosine attention within each of the four phases of every second pixel: (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.depthwise = conv(channels, channels, 5, xavier, groups=channels)
        self.qkv = linear(channels, 3 * channels, xavier)
        self.log_scale = nn.Parameter(torch.full((num_heads,), math.log(10)))
        self.out = conv(channels, channels, 1, xavier)

    def forward(self, x: Tensor) -> Tensor:
        """Attend; queries and keys are normalised in float32."""
        B, C, H, W = x.shape
        h, w = H // 2, W // 2
        x = self.depthwise(x) + x
        tokens = x.permute(0, 2, 3, 1).reshape(B, h, 2, w, 2, C).permute(0, 2, 4, 1, 3, 5).reshape(4 * B, h * w, C)
        q, k, v = self.qkv(tokens).unflatten(-1, (3, self.num_heads, -1)).unbind(2)
        scale = self.log_scale.float().clamp(max=4.6052).exp()  # ln 100
        q = F.normalize(rotate(q, h, w), dim=-1) * scale[:, None]
        k = F.normalize(rotate(k, h, w), dim=-1)
        q, k, v = (tensor.to(v.dtype).transpose(1, 2) for tensor in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, scale=1.0).transpose(1, 2)
        y = y.reshape(B, 2, 2, h, w, C).permute(0, 5, 3, 1, 4, 2).reshape(B, C, H, W)
        return self.out(y)


class Merged(NamedTuple):
    """Weights of a feed-forward layer's three convolutions, each one of several in training."""

    widen: Tensor
    widen_bias: Tensor
    depthwise: Tensor
    depthwise_bias: Tensor
    narrow: Tensor
    narrow_bias: Tensor


class FeedForward(nn.Module):
    """Pointwise, GELU, depthwise, pointwise, each linear map of several layers: (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.widen = nn.ModuleList([conv(channels, hidden // 2, 1, xavier), conv(hidden // 2, hidden, 1, xavier)])
        self.depthwise = nn.ModuleList(conv(hidden, hidden, k, xavier, groups=hidden) for k in (5, 3, 1))
        self.narrow = nn.ModuleList([conv(hidden, hidden // 2, 1, xavier), conv(hidden // 2, channels, 1, xavier)])

    def forward(self, x: Tensor, merged: Merged | None = None) -> Tensor:
        """Evaluate, with the merged weights where there are some."""
        if merged is not None:
            h = F.gelu(F.conv2d(x, merged.widen, merged.widen_bias))
            h = F.conv2d(h, merged.depthwise, merged.depthwise_bias, padding=2, groups=len(merged.depthwise))
            return F.conv2d(h, merged.narrow, merged.narrow_bias)
        for layer in self.widen:
            x = layer(x)
        h = x = F.gelu(x)
        for layer in self.depthwise:
            h = h + layer(x)
        for layer in self.narrow:
            h = layer(h)
        return h


def merge(*parameters: Tensor) -> Merged:
    """The convolutions that a feed-forward layer's `parameters()` make up, computed in float32 and written to none."""
    layers = [(p.float(), b.float()) for p, b in zip(parameters[::2], parameters[1::2], strict=True)]
    first, depthwise, second = _product(*layers[:2]), layers[2:5], _product(*layers[5:])
    side = depthwise[0][0].shape[-1]
    # Training adds the input itself, too, as a kernel of one pixel would.
    kernels = [weight for weight, _ in depthwise] + [torch.ones_like(depthwise[-1][0])]
    kernel = torch.stack([F.pad(k, (side // 2 - k.shape[-1] // 2,) * 4) for k in kernels]).sum(0)
    bias = torch.stack([bias for _, bias in depthwise]).sum(0)
    return Merged(*(tensor.to(parameters[0].dtype) for tensor in (*first, kernel, bias, *second)))


def _product(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Weight and bias of the 1x1 convolution that two in a row are."""
    (w1, b1), (w2, b2) = first, second
    w2 = w2.flatten(1)
    return (w2 @ w1.flatten(1))[:, :, None, None], (w2 * b1).sum(1) + b2


class Remembered(torch.autograd.Function):
    """Merged weights that are known already, as a function of the parameters: only a backward pass merges anew."""

    @staticmethod
    def forward(known: Merged, *parameters: Tensor) -> tuple[Tensor, ...]:
        """The known weights."""
        return tuple(tensor.view_as(tensor) for tensor in known)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Keep the parameters."""
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the parameters."""
        with torch.enable_grad():
            parameters = [p.detach().requires_grad_() for p in ctx.saved_tensors]
            return None, *torch.autograd.grad(merge(*parameters), parameters, gradients)


class UDiTBlock(Stage):
    """Two of attention and feed-forward layer, each modulated and gated; its condition may come with merged weights."""

    c_parts = 12

    def __init__(self, channels: int, num_heads: int, expansion: int) -> None:
        super().__init__()
        self.c_width = 12 * channels
        self.attention = nn.ModuleList(PhaseAttention(channels, num_heads) for _ in range(2))
        self.feed_forward = nn.ModuleList(FeedForward(channels, expansion * channels) for _ in range(2))

    def forward(self, x: Tensor, c: Tensor | tuple[Tensor, list[Merged]]) -> Tensor:
        """See `Stage`."""
        merged: Sequence[Merged | None]
        c, merged = (c, (None, None)) if isinstance(c, Tensor) else c
        parts = c[:, :, None, None].chunk(12, dim=1)
        for half, (attend, feed) in enumerate(zip(self.attention, self.feed_forward, strict=True)):
            shift1, scale1, gate1, shift2, scale2, gate2 = parts[6 * half : 6 * half + 6]
            x = torch.addcmul(x, gate1, attend(modulate(channel_norm(x), shift1, scale1)))
            x = torch.addcmul(x, gate2, feed(modulate(channel_norm(x), shift2, scale2), merged[half]))
        return x


class _Known(NamedTuple):
    """Merged weights by level and block, and the parameters that they were made of as they then were."""

    merged: list[list[list[Merged]]]
    made_of: list[tuple[Tensor, int]]

    def holds(self, parameters: Iterable[nn.Parameter]) -> bool:
        """Whether nothing has been written to any, nor has one another place; holding them keeps the place taken."""
        return all(
            old.data_ptr() == p.data_ptr() and old.dtype == p.dtype and version == _version(p) >= 0
            for (old, version), p in zip(self.made_of, parameters, strict=True)
        )


def _version(p: Tensor) -> int:
    """How often it was written to; tensors of inference mode do not count, and are taken for new every time."""
    return -1 if p.is_inference() else p._version


class UDiT(LevelUNet):
    """The network; c_noise is the step index t in 0 ... 999."""

    def __init__(self, config: UDiTConfig) -> None:
        def block(config: UDiTConfig, channels: int, skip: int) -> Stage:
            return UDiTBlock(channels, config.num_heads, config.expansion)

        super().__init__(config, LevelUNetDesign(partial(block, config)))
        self.factor *= 2  # attention is among every second pixel
        self._known: _Known | None = None

    def train(self, mode: bool = True) -> UDiT:
        """Training mode or evaluation mode, for which weights are merged at once."""
        super().train(mode)
        self._known = None
        if not mode:
            self.merged()
        return self

    def __call__(self, x: Tensor, c_noise: Tensor, given: Given = NOTHING, effort: Effort | None = None) -> Tensor:
        """`forward`, with merged weights in evaluation mode; a compiler of all this would not see them change."""
        self.check_inputs(x, given)
        merged = None if self.training or torch.compiler.is_compiling() else self.merged()
        y: Tensor = nn.Module.__call__(self, x, c_noise, given, effort, merged)
        return y

    def forward(
        self,
        x: Tensor,
        c_noise: Tensor,
        given: Given = NOTHING,
        effort: Effort | None = None,
        merged: list[list[list[Merged]]] | None = None,
    ) -> Tensor:
        """See `Backbone.forward`; `merged` has the feed-forward layers of each block, by level."""
        self.check_effort(effort)
        embeddings, told = self.embed(c_noise, given)
        if merged is None:
            return self.evaluate(x, given, embeddings, told)
        pairs = [zip(c, level, strict=True) for c, level in zip(told, merged, strict=True)]
        return self.evaluate(x, given, embeddings, pairs)

    def merged(self) -> list[list[list[Merged]]]:
        """Merged weights of the feed-forward layers by level and block: those of before while no parameter changed."""
        layers = [
            [list(block.feed_forward) for block in self.blocks_of(level)] for level in range(len(self.modulations))
        ]
        parameters = [p for blocks in layers for halves in blocks for layer in halves for p in layer.parameters()]
        if self._known is None or not self._known.holds(parameters):
            device = self.stem.weight.device.type
            exactly = (
                torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()
            )
            with torch.no_grad(), exactly:
                merged = [[[merge(*layer.parameters()) for layer in halves] for halves in blocks] for blocks in layers]
            self._known = _Known(merged, [(p.detach(), _version(p)) for p in parameters])
        if not torch.is_grad_enabled() or not any(p.requires_grad for p in parameters):
            return self._known.merged
        return [
            [
                [Merged(*Remembered.apply(known, *layer.parameters())) for layer, known in zip(*pair, strict=True)]
                for pair in zip(*level, strict=True)
            ]
            for level in zip(layers, self._known.merged, strict=True)
        ]


FAMILY = Family(
    "udit",
    UDiT,
    "U-DiTs: Downsample Tokens in U-Shaped Diffusion Transformers",
    "Tian, Tu, Chen, Hu, Xu, Wang",
    2024,
    "2405.02730",
)

FAMILY.variant("udit_s", UDiTConfig(), Cost(58_896_568, 6_020_797_440), tags=("reference",))
FAMILY.variant("udit_b", UDiTConfig(channels=192, num_heads=8), Cost(231_251_304, 22_179_287_040), tags=("reference",))
FAMILY.variant("udit_l", UDiTConfig(channels=384, num_heads=16), Cost(916_335_304, 84_909_342_720), tags=("reference",))
FAMILY.variant(
    "udit_small32",
    UDiTConfig(**SMALL32, depths=(1, 1, 3, 1, 1)),
    Cost(2_629_435, 396_418_048),
    tags=("small",),
)
FAMILY.variant(
    "udit_digits",
    UDiTConfig(**DIGITS, channels=16, depths=(1, 1, 2, 1, 1)),
    Cost(550_481, 21_607_680),
    tags=("small",),
)
FAMILY.variant(
    "udit_tiny",
    UDiTConfig(**TINY, depths=(1, 1, 1), multipliers=(1, 2, 2), num_heads=2),
    Cost(37_271, 1_074_480),
    tags=("tiny",),
)
