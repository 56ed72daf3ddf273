"""Slimmable layers: one set of weights, of which a call uses the first channels (Yu et al. 2018, arXiv 1812.08928).

The width travels with the tensors. A layer sees how many of its input channels arrived, and returns the same share of
its output channels; only the layers at the entrance, whose input has one size, are told how many to return. So nothing
outside a call decides its width, and any network made of these layers is slimmable without knowing it.

`slim` turns the layers of a network into slimmable ones, in place; `densify` turns them back, at one width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denoisezoo.errors import UserError
from denoisezoo.nn.blocks import Conditioning, ResidualBlock, RMSAttention, RMSNorm, SelfAttention, rms_norm
from denoisezoo.nn.embeddings import ClassTable


@dataclass(frozen=True)
class Slimming:
    """How layers share their weights between widths.

    Attributes:
        widths: Shares of the channels, increasing; the last is 1.
        aligned: Whether the two tensors that a decoder block concatenates are sliced apart, so that a channel meets the
            same weights at every width. DDSM's code takes the first columns of the whole instead.
        groups: Groups of a norm at smaller widths: as many as at full width (DDSM), or in proportion, so that a group
            holds the same channels at every width.
        norms: Scales and shifts of the norms: slices of one set (DDSM), or a set for each width.
    """

    widths: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)
    aligned: bool = True
    groups: Literal["fixed", "scaled"] = "scaled"
    norms: Literal["shared", "per_width"] = "per_width"

    def check(self, channels: int, what: str) -> None:
        """Refuse channels that a width does not divide into a whole number.

        Raises:
            UserError: Such a width.
        """
        for width in self.widths:
            if not (channels * width).is_integer():
                raise UserError(f"width {width:g} of the {channels} channels of {what} is not whole", "change widths")


def first(tensor: Tensor, dim: int, parts: Sequence[int], now: int, full: int) -> Tensor:
    """The first `now` / `full` of each of `parts`, which follow one another along `dim`."""
    if now == full:
        return tensor
    pieces = [part.narrow(dim, 0, part.shape[dim] * now // full) for part in tensor.split(list(parts), dim)]
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim)


class Slimmable(nn.Module):
    """A layer whose width is that of its input, or is told to its call."""

    def dense(self, width: float) -> nn.Module:
        """The plain layer of one width, with weights of its own, contiguous."""
        raise NotImplementedError


class SlimLayer(Slimmable):
    """Weights (out, in, ...) and biases (out,) of which a call uses a part.

    Args:
        layer: Its weights are taken over, not copied.
        in_parts: Channels of the tensors that are concatenated in the input; one unless given.
        out_parts: Channels of the parts of the output, each of which is sliced; one unless given.
        fixed_in: Whether the input always has all its channels; then `forward` must be told how many to return.
        fixed_out: Whether all output channels are always returned.
    """

    def __init__(
        self,
        layer: nn.Conv2d | nn.Linear,
        *,
        in_parts: Sequence[int] | None = None,
        out_parts: Sequence[int] | None = None,
        fixed_in: bool = False,
        fixed_out: bool = False,
    ) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias
        self.out_full, self.in_full = layer.weight.shape[:2]
        self.in_parts = tuple(in_parts or (self.in_full,))
        self.out_parts = tuple(out_parts or (self.out_full,))
        self.fixed_in, self.fixed_out = fixed_in, fixed_out

    def check(self, slimming: Slimming) -> None:
        """Refuse widths that leave no whole number of channels."""
        parts = (() if self.fixed_in else self.in_parts) + (() if self.fixed_out else self.out_parts)
        for part in parts:
            slimming.check(part, "a layer")

    def weights(self, channels: int, out: int | None = None) -> tuple[Tensor, Tensor | None]:
        """Weight and bias for an input of `channels` and an output of `out`, by default in proportion."""
        weight, bias = self.weight, self.bias
        if not self.fixed_in:
            weight = first(weight, 1, self.in_parts, channels, self.in_full)
        if not self.fixed_out:
            now, full = (channels, self.in_full) if out is None else (out, self.out_full)
            weight = first(weight, 0, self.out_parts, now, full)
            bias = None if bias is None else first(bias, 0, self.out_parts, now, full)
        return weight, bias

    def at(self, width: float) -> tuple[nn.Parameter, nn.Parameter | None]:
        """Weight and bias at one width, contiguous, as parameters of their own."""
        channels = self.in_full if self.fixed_in else round(self.in_full * width)
        weight, bias = self.weights(channels, round(self.out_full * width) if self.fixed_in else None)
        channels_last = weight.dim() == 4 and self.weight.is_contiguous(memory_format=torch.channels_last)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        return own(weight, layout), None if bias is None else own(bias)


def own(tensor: Tensor, layout: torch.memory_format = torch.contiguous_format) -> nn.Parameter:
    """A parameter with a copy of the tensor."""
    return nn.Parameter(tensor.detach().clone(memory_format=layout))


class SlimConv2d(SlimLayer):
    """A convolution; see `SlimLayer`."""

    def __init__(self, layer: nn.Conv2d, **options: Any) -> None:
        super().__init__(layer, **options)
        self.stride, self.padding, self.kernel_size = layer.stride, layer.padding, layer.kernel_size

    def forward(self, x: Tensor, out: int | None = None) -> Tensor:
        """Convolve (B, C, H, W) to (B, out, H', W')."""
        weight, bias = self.weights(x.shape[1], out)
        return F.conv2d(x, weight, bias, self.stride, self.padding)

    def dense(self, width: float) -> nn.Conv2d:
        """See `Slimmable`."""
        weight, bias = self.at(width)
        sizes: dict[str, Any] = {"kernel_size": self.kernel_size, "stride": self.stride, "padding": self.padding}
        layer = nn.Conv2d(weight.shape[1], weight.shape[0], **sizes, bias=bias is not None, device="meta")
        layer.weight, layer.bias = weight, bias
        return layer


class SlimLinear(SlimLayer):
    """A linear layer; see `SlimLayer`."""

    def __init__(self, layer: nn.Linear, **options: Any) -> None:
        super().__init__(layer, **options)

    def forward(self, x: Tensor, out: int | None = None) -> Tensor:
        """Map (..., C) to (..., out)."""
        return F.linear(x, *self.weights(x.shape[-1], out))

    def dense(self, width: float) -> nn.Linear:
        """See `Slimmable`."""
        weight, bias = self.at(width)
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
        layer.weight, layer.bias = weight, bias  # type: ignore[assignment]
        return layer


class SlimConditioning(SlimLayer):
    """The conditioning projections of all stages as one product; see `blocks.Conditioning`.

    Args:
        layer: The projections.
    """

    def __init__(self, layer: Conditioning) -> None:
        parts = [width // n for width, n in zip(layer.widths, layer.parts, strict=True) for _ in range(n)]
        super().__init__(layer, out_parts=parts)
        self.widths, self.parts = layer.widths, layer.parts

    def forward(self, embedding: Tensor) -> tuple[Tensor, ...]:
        """Project (B, E) and split."""
        now = embedding.shape[1]
        out = F.linear(embedding, *self.weights(now))
        return out.split([width * now // self.in_full for width in self.widths], dim=1)

    def dense(self, width: float) -> Conditioning:
        """See `Slimmable`."""
        layer: Conditioning = Conditioning.__new__(Conditioning)
        weight, bias = self.at(width)
        nn.Linear.__init__(layer, weight.shape[1], weight.shape[0], device="meta")
        layer.weight, layer.bias = weight, bias  # type: ignore[assignment]
        layer.widths, layer.parts = [round(w * width) for w in self.widths], self.parts
        return layer


class SlimGroupNorm(Slimmable):
    """A group norm; see `Slimming`.

    Args:
        norm: Its scale and shift are taken over.
        slimming: How widths share them.
        parts: Channels of the tensors that are concatenated in its input.
    """

    def __init__(self, norm: nn.GroupNorm, slimming: Slimming, parts: Sequence[int] | None = None) -> None:
        super().__init__()
        self.channels, self.num_groups, self.eps = norm.num_channels, norm.num_groups, norm.eps
        self.weight, self.bias = norm.weight, norm.bias
        self.parts = tuple(parts or (self.channels,)) if slimming.aligned else (self.channels,)
        self.groups = {round(self.channels * w): self._groups(w, slimming) for w in slimming.widths}
        self.sizes = sorted(self.groups)[:-1]
        per_width = self.sizes if slimming.norms == "per_width" and norm.affine else []
        self.scales = nn.ParameterList(torch.ones(size) for size in per_width)
        self.shifts = nn.ParameterList(torch.zeros(size) for size in per_width)

    def _groups(self, width: float, slimming: Slimming) -> int:
        channels = round(self.channels * width)
        if slimming.groups == "fixed":
            if channels % self.num_groups:
                raise UserError(f"{self.num_groups} groups do not divide {channels} channels", "use groups=scaled")
            return self.num_groups
        return next(g for g in range(max(1, round(self.num_groups * width)), 0, -1) if channels % g == 0)

    def affine(self, channels: int) -> tuple[Tensor | None, Tensor | None]:
        """Scale and shift for so many channels."""
        if channels in self.sizes and len(self.scales):
            index = self.sizes.index(channels)
            return self.scales[index], self.shifts[index]
        if self.weight is None:
            return None, None
        weight, bias = (first(p, 0, self.parts, channels, self.channels) for p in (self.weight, self.bias))
        return weight, bias

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, C, H, W)."""
        return F.group_norm(x, self.groups[x.shape[1]], *self.affine(x.shape[1]), eps=self.eps)

    def dense(self, width: float) -> nn.GroupNorm:
        """See `Slimmable`."""
        channels = round(self.channels * width)
        weight, bias = self.affine(channels)
        norm = nn.GroupNorm(self.groups[channels], channels, self.eps, affine=weight is not None, device="meta")
        if weight is not None and bias is not None:
            norm.weight, norm.bias = own(weight), own(bias)
        return norm


class SlimRMSNorm(Slimmable):
    """An RMS norm over channels-last tokens; see `Slimming`."""

    def __init__(self, norm: RMSNorm) -> None:
        super().__init__()
        self.scale = norm.scale

    def forward(self, tokens: Tensor) -> Tensor:
        """Normalise (..., C)."""
        return rms_norm(tokens, self.scale[: tokens.shape[-1]])

    def dense(self, width: float) -> RMSNorm:
        """See `Slimmable`."""
        norm = RMSNorm(round(len(self.scale) * width))
        norm.scale = own(self.scale[: len(norm.scale)])
        return norm


class SlimClassTable(Slimmable):
    """Class vectors, cut to the width asked for; see `embeddings.ClassTable`."""

    def __init__(self, table: ClassTable) -> None:
        super().__init__()
        self.table = table.table

    def forward(self, label: Tensor, out: int) -> Tensor:
        """Look up: (B,) -> (B, out)."""
        found = F.embedding(label.clamp(min=0), self.table.weight[:, :out])
        return found * (label >= 0).to(found.dtype)[:, None]

    def dense(self, width: float) -> ClassTable:
        """See `Slimmable`."""
        classes, full = self.table.weight.shape
        table = ClassTable(classes, round(full * width))
        table.table.weight = own(self.table.weight[:, : round(full * width)])
        return table


def _residual_block(block: ResidualBlock, slimming: Slimming) -> None:
    """A block that concatenates has its input in two parts."""
    channels = block.conv0.in_channels
    parts = (channels - block.skip_channels, block.skip_channels) if block.takes_skip else (channels,)
    in_parts = parts if slimming.aligned else None
    block.norm0 = SlimGroupNorm(block.norm0, slimming, parts)  # type: ignore[assignment]
    block.conv0 = SlimConv2d(block.conv0, in_parts=in_parts)  # type: ignore[assignment]
    if block.skip is not None:
        block.skip = SlimConv2d(block.skip, in_parts=in_parts)  # type: ignore[assignment]


def _self_attention(attention: SelfAttention, slimming: Slimming) -> None:
    """Query, key and value are sliced apart; heads keep their size, or their number where that is what is fixed."""
    channels, head_channels = attention.out.in_features, attention.style.head_channels
    slimming.check(channels // (attention.style.num_heads or 1), "an attention head")
    for width in slimming.widths:
        if head_channels and round(channels * width) % head_channels:
            raise UserError(f"width {width:g} of {channels} channels is no whole number of heads", "change widths")
    attention.qkv = SlimLinear(attention.qkv, out_parts=[channels] * 3)  # type: ignore[assignment]


def _rms_attention(attention: RMSAttention, slimming: Slimming) -> None:
    """Query, key and value are sliced apart; heads keep their number and become narrower."""
    slimming.check(attention.out.in_features // attention.heads, "an attention head")
    attention.qkv = SlimLinear(attention.qkv, out_parts=[attention.out.in_features] * 3)  # type: ignore[assignment]


BLOCKS: tuple[tuple[type[nn.Module], Callable[[Any, Slimming], None]], ...] = (
    (ResidualBlock, _residual_block),
    (SelfAttention, _self_attention),
    (RMSAttention, _rms_attention),
)


def replace_layers(module: nn.Module, change: Callable[[nn.Module], Any]) -> None:
    """Put `change(child)` in the place of every descendant for which it is not None, in place."""
    for name, child in module.named_children():
        changed = change(child)
        if changed is None:
            replace_layers(child, change)
        else:
            setattr(module, name, changed)


def slim(network: nn.Module, slimming: Slimming) -> None:
    """Make the layers of a network slimmable, in place. Those at its ends are the caller's to make first.

    Args:
        network: Made of convolutions, linear layers, group and RMS norms and class tables.
        slimming: Widths, and how they share weights.

    Raises:
        UserError: A layer that has no slimmable form, or a width that leaves no whole number of channels.
    """
    for module in network.modules():
        for kind, rule in BLOCKS:
            if isinstance(module, kind):
                rule(module, slimming)
    replace_layers(network, lambda layer: _slimmed(layer, slimming))
    _refuse_others(network)
    for module in network.modules():
        if isinstance(module, SlimLayer):
            module.check(slimming)


def densify(network: nn.Module, width: float) -> None:
    """Turn slimmable layers into plain ones of one width, in place: copies of the weights, contiguous."""
    replace_layers(network, lambda layer: layer.dense(width) if isinstance(layer, Slimmable) else None)


def _slimmed(layer: nn.Module, slimming: Slimming) -> nn.Module | None:
    """The slimmable form of a plain layer; None for what is not one."""
    if isinstance(layer, nn.Conv2d) and layer.groups == 1:
        return SlimConv2d(layer)
    if type(layer) is nn.Linear:
        return SlimLinear(layer)
    if isinstance(layer, nn.GroupNorm):
        return SlimGroupNorm(layer, slimming)
    if isinstance(layer, RMSNorm):
        return SlimRMSNorm(layer)
    return None


def _refuse_others(module: nn.Module) -> None:
    """Refuse parameters that are not a slimmable layer's."""
    for name, child in module.named_children():
        if isinstance(child, Slimmable):
            continue
        if next(child.parameters(recurse=False), None) is not None:
            raise UserError(f"{type(child).__name__} ({name}) has no slimmable form", "choose another base")
        _refuse_others(child)
