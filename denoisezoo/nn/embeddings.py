"""Embeddings of noise level, class label and augmentation label, shared by the U-Nets."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denoisezoo.nn.blocks import Init, linear
from denoisezoo.nn.given import Given

Wave = Callable[[Tensor], Tensor]


class Sinusoidal(nn.Module):
    """Sines and cosines of c_noise at geometric frequencies from 1 towards 1/10000: (B,) -> (B, width).

    Args:
        width: Number of features, even.
        endpoint: Whether the last frequency is 1/10000 itself (DDPM) or one step short of it (ADM).
        waves: Order of the two halves.
        scale: Factor on c_noise, which improved DDPM scales from its chain of 4,000 steps to one of 1,000.
    """

    def __init__(
        self,
        width: int,
        endpoint: bool = True,
        waves: tuple[Wave, Wave] = (torch.sin, torch.cos),
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.width, self.waves, self.scale = width, waves, scale
        self.steps = max(1, width // 2 - int(endpoint))

    def forward(self, c_noise: Tensor) -> Tensor:
        """Embed, in float32: at c_noise = 1000 half precision would be off by whole radians."""
        k = torch.arange(self.width // 2, dtype=torch.float32, device=c_noise.device)
        angle = (self.scale * c_noise.float())[:, None] * torch.exp(k * (-math.log(10000) / self.steps))
        return torch.cat([wave(angle) for wave in self.waves], dim=1)


class Fourier(nn.Module):
    """Random Fourier features of c_noise, frequencies ~ 16 N(0, 1), not trained (NCSN++): (B,) -> (B, width)."""

    frequencies: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", 16 * torch.randn(width // 2))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Fourier:
        """Move to a device but stay in float32: rounded to bfloat16, the phases would be random ones."""
        before = self.frequencies
        super()._apply(fn, recurse)
        if self.frequencies.dtype != before.dtype:
            self.frequencies = before.to(self.frequencies.device)
        return self

    def forward(self, c_noise: Tensor) -> Tensor:
        """Embed, in float32."""
        angle = c_noise.float()[:, None] * (2 * math.pi * self.frequencies)
        return torch.cat([torch.sin(angle), torch.cos(angle)], dim=1)


class ClassTable(nn.Module):
    """One learned vector per class, zero for label -1: (B,) -> (B, width)."""

    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(num_classes, width)

    def forward(self, label: Tensor) -> Tensor:
        """Look up."""
        return self.table(label.clamp(min=0)) * (label >= 0).to(self.table.weight.dtype)[:, None]


class OneHot(nn.Module):
    """A linear layer with bias on one-hot labels of unit variance (EDM); label -1 is the zero vector."""

    def __init__(self, num_classes: int, width: int, init: Init) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.project = linear(num_classes, width, init)

    def forward(self, label: Tensor) -> Tensor:
        """Project: (B,) -> (B, width)."""
        classes = torch.arange(self.num_classes, device=label.device)
        one_hot = (label[:, None] == classes).to(self.project.weight.dtype)
        return self.project(one_hot * math.sqrt(self.num_classes))


class Extras(nn.Module):
    """Sum of the class embedding and the augmentation embedding: (B, width), or 0.0 where there is neither.

    Args:
        classes: Class embedding; None for an unconditional network.
        augment: Linear map of the augmentation label; None if there is none.
    """

    def __init__(self, classes: nn.Module | None, augment: nn.Module | None) -> None:
        super().__init__()
        self.classes, self.augment = classes, augment

    def forward(self, given: Given, like: Tensor) -> Tensor | float:
        """Embed label (B,) and augmentation label (B, A) for the batch of `like` (B, ...)."""
        total: Tensor | float = 0.0
        if self.classes is not None:
            total = total + self.classes(no_label(like) if given.label is None else given.label)
        if self.augment is not None and given.augment is not None:
            total = total + self.augment(given.augment)
        return total


def no_label(like: Tensor) -> Tensor:
    """Labels -1 for the batch of `like`."""
    return torch.full((like.shape[0],), -1, dtype=torch.int64, device=like.device)


class NoiseEmbedding(nn.Module):
    """Features of c_noise through two linear layers, class and augmentation embeddings added, SiLU: (B, width).

    Args:
        features: (B,) -> (B, in_features).
        in_features: Width of the features.
        width: Width of the embedding.
        init: Initialisation.
        early: Added to the features (EDM's form of DDPM++ and NCSN++), width `in_features`.
        late: Added after the second layer (ADM), width `width`.
        activation: Between the layers.
    """

    def __init__(
        self,
        features: nn.Module,
        in_features: int,
        width: int,
        init: Init,
        *,
        early: Extras | None = None,
        late: Extras | None = None,
        activation: Wave = F.silu,
    ) -> None:
        super().__init__()
        self.features, self.early, self.late, self.activation = features, early, late, activation
        self.first = linear(in_features, width, init)
        self.second = linear(width, width, init)
        self.width = width

    def forward(self, c_noise: Tensor, given: Given, **entrance: int) -> Tensor:
        """Embed c_noise (B,), and labels and augmentation labels; `entrance` is for a slimmable first layer."""
        e = self.features(c_noise).to(self.first.weight.dtype)
        if self.early is not None:
            e = e + self.early(given, e)
        e = self.second(self.activation(self.first(e, **entrance)))
        if self.late is not None:
            e = e + self.late(given, e)
        return F.silu(e)


class BareEmbedding(nn.Module):
    """SiLU of features and labels, without layers of its own: (B, width)."""

    def __init__(self, features: nn.Module, width: int, extras: Extras) -> None:
        super().__init__()
        self.features, self.width, self.extras = features, width, extras

    def forward(self, c_noise: Tensor, given: Given) -> Tensor:
        """Embed c_noise (B,), and labels and augmentation labels."""
        e = self.features(c_noise)
        return F.silu(e + self.extras(given, e))
