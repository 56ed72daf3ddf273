"""Adaptive layer norm for convolutional networks, and what goes with it in the networks of DiT's training frame.

"adaLN-Zero" is of DiT (Peebles and Xie 2022, arXiv 2212.09748): the condition scales and shifts after a norm without
weights of its own, and gates what a block adds; its last linear layer starts at zero, so that every block starts as the
identity. DiCo, DiC, FCDM and U-DiT have it at each pixel of a feature map, with embeddings of their own at each level.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denoisezoo.nn.blocks import conv, linear, xavier
from denoisezoo.nn.embeddings import Extras, NoiseEmbedding, SecondTime, Sinusoidal


def zeros(weight: Tensor, bias: Tensor | None, gain: float) -> None:
    """Exact zeros: the last linear layer of adaLN-Zero."""
    nn.init.zeros_(weight)
    if bias is not None:
        nn.init.zeros_(bias)


def normal(weight: Tensor, bias: Tensor | None, gain: float) -> None:
    """N(0, 0.02^2) weights, zero biases: the embeddings of DiT."""
    nn.init.normal_(weight, std=0.02 * gain)
    if bias is not None:
        nn.init.zeros_(bias)


def channel_norm(x: Tensor) -> Tensor:
    """Layer norm over the channels of each pixel, without weights: (B, C, H, W) -> (B, C, H, W), channels last."""
    return F.layer_norm(x.permute(0, 2, 3, 1), (x.shape[1],), eps=1e-6).permute(0, 3, 1, 2)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x (1 + scale) + shift; shift and scale (B, C, 1, 1)."""
    return torch.addcmul(shift, x, 1 + scale)


class NullTable(nn.Module):
    """One learned vector per class and one more, the last, for label -1: (B,) -> (B, width)."""

    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.table = nn.Embedding(num_classes + 1, width)
        nn.init.normal_(self.table.weight, std=0.02)

    def forward(self, label: Tensor) -> Tensor:
        """Look up."""
        return self.table(torch.where(label < 0, self.num_classes, label))


def level_embedding(
    features: int, width: int, num_classes: int, augment_dim: int, second_time: bool = False
) -> NoiseEmbedding:
    """SiLU of one level's condition, noise + second time + class + augmentation: (c_noise, given) -> (B, width)."""
    return NoiseEmbedding(
        Sinusoidal(features, endpoint=False, waves=(torch.cos, torch.sin)),
        features,
        width,
        normal,
        late=Extras(
            NullTable(num_classes, width) if num_classes else None,
            linear(augment_dim, width, normal, bias=False) if augment_dim else None,
        ),
        until=SecondTime(width) if second_time else None,
    )


class PixelDown(nn.Module):
    """3x3 convolution, then four pixels become one: (B, C, H, W) -> (B, C', H/2, W/2)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = conv(in_channels, out_channels // 4, 3, xavier, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve, halve."""
        return F.pixel_unshuffle(self.conv(x), 2)


class PixelUp(nn.Module):
    """3x3 convolution, then one pixel becomes four: (B, C, H, W) -> (B, C', 2H, 2W)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = conv(in_channels, 4 * out_channels, 3, xavier, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve, double."""
        return F.pixel_shuffle(self.conv(x), 2)


class AdaLNHead(nn.Module):
    """Norm, modulation, 3x3 convolution to the output; all of it starts at zero: (B, C, H, W) -> (B, C', H, W)."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.modulation = linear(channels, 2 * channels, zeros)
        self.conv = conv(channels, out_channels, 3, zeros)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Put out what x becomes under an embedding (B, C), the SiLU of its level's condition."""
        shift, scale = self.modulation(embedding)[:, :, None, None].chunk(2, dim=1)
        return self.conv(modulate(channel_norm(x), shift, scale))
