"""Embeddings of noise level, class label and augmentation label."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denoisezoo.nn.blocks import Init, linear
from denoisezoo.nn.given import Given

Wave = Callable[[Tensor], Tensor]
Rounding = Literal["rate", "quotient", "power"]
"""How code computes the frequencies P^(-k/n) of sinusoids: as exp(k (-ln P / n)) (DDPM), exp(-ln P k / n)
(guided-diffusion and its heirs) or (1 / P)^(k / n) (EDM). They differ in the last digit: by 6e-5 rad at c_noise = 999.
"""


def sinusoid_frequencies(rounding: Rounding, k: Tensor, n: int, P: float) -> Tensor:
    """P^(-k/n) for every k (N,), in the type of k; see `Rounding`."""
    if rounding == "power":
        frequencies: Tensor = (1 / P) ** (k / n)
        return frequencies
    return torch.exp(k * (-math.log(P) / n) if rounding == "rate" else -math.log(P) * k / n)


class Sinusoidal(nn.Module):
    """Sines and cosines of c_noise at geometric frequencies from 1 towards 1/10000: (B,) -> (B, width).

    Args:
        width: Number of features, even.
        endpoint: Whether the last frequency is 1/10000 itself (DDPM) or one step short of it (ADM).
        waves: Order of the two halves.
        period: The inverse of the last frequency, 10000 above.
        scale: What c_noise is multiplied by first.
        offset: What is added to that.
        rounding: How the frequencies are computed.
    """

    def __init__(
        self,
        width: int,
        endpoint: bool = True,
        waves: tuple[Wave, Wave] = (torch.sin, torch.cos),
        *,
        period: float = 10000.0,
        scale: float = 1.0,
        offset: float = 0.0,
        rounding: Rounding = "rate",
    ) -> None:
        super().__init__()
        self.width, self.waves, self.period, self.scale, self.offset = width, waves, period, scale, offset
        self.rounding: Rounding = rounding
        self.steps = max(1, width // 2 - int(endpoint))

    def forward(self, c_noise: Tensor) -> Tensor:
        """Embed, in float32: at c_noise = 1000 half precision would be off by whole radians."""
        k = torch.arange(self.width // 2, dtype=torch.float32, device=c_noise.device)
        time = c_noise.float()
        if (self.scale, self.offset) != (1.0, 0.0):
            time = time * self.scale + self.offset
        angle = time[:, None] * sinusoid_frequencies(self.rounding, k, self.steps, self.period)
        return torch.cat([wave(angle) for wave in self.waves], dim=1)


class Float32Buffers(nn.Module):
    """Its buffers move to a device but stay in float32: rounded to bfloat16, phases would be random ones."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Float32Buffers:
        before = dict(self.named_buffers(recurse=False))
        super()._apply(fn, recurse)
        for name, buffer in before.items():
            if (after := getattr(self, name)).dtype != buffer.dtype:
                setattr(self, name, buffer.to(after.device))
        return self


class Fourier(Float32Buffers):
    """Random Fourier features of c_noise, frequencies ~ 16 N(0, 1), not trained (NCSN++): (B,) -> (B, width).

    Args:
        width: Number of features, even.
        std: Standard deviation of the frequencies, 16 above.
        inputs: Numbers that are embedded together, (B, inputs) in place of (B,); None for c_noise.
        turns_last: Whether c_noise is multiplied by the frequencies before 2 pi, as score_sde does, or by their
            product, as EDM does. Angles of some 1,000 differ by 1e-4.
    """

    frequencies: Tensor

    def __init__(self, width: int, std: float = 16.0, inputs: int | None = None, *, turns_last: bool = False) -> None:
        super().__init__()
        self.turns_last = turns_last
        shape = (width // 2,) if inputs is None else (inputs, width // 2)
        self.register_buffer("frequencies", std * torch.randn(shape))

    def forward(self, c_noise: Tensor) -> Tensor:
        """Embed, in float32."""
        frequencies = self.frequencies if self.turns_last else 2 * math.pi * self.frequencies
        angle = c_noise.float()[:, None] * frequencies if frequencies.dim() == 1 else c_noise.float() @ frequencies
        if self.turns_last:
            angle = angle * 2 * math.pi
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


class SecondTime(nn.Module):
    """What a second time adds to an embedding, as flow maps are told one: (B, width), zero where there is none.

    Features h / (|h| + a) of the span h = c_noise - until at geometric scales a, through one linear layer without bias
    that starts at zero. So a span of zero is no second time, and a network that was trained without one goes on from
    its weights. The features are bounded, know no unit of c_noise (0 ... 999, or ln(sigma)/4), and h d/dh of them is at
    most 1/4, where a sinusoid's grows with its frequency: objectives that differentiate with respect to time need that.

    Args:
        width: Width of the embedding.
    """

    SCALES = 32
    """Features; scales are from 1/32 to about 1,450, half an octave apart."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.project = nn.Linear(self.SCALES, width, bias=False)
        nn.init.zeros_(self.project.weight)

    def features(self, c_noise: Tensor, until: Tensor) -> Tensor:
        """(B, SCALES) of the two times (B,), in their precision."""
        h = (c_noise - until)[:, None]
        exponents = torch.arange(self.SCALES, device=h.device, dtype=h.dtype) / 2 - 5
        return h / (h.abs() + torch.exp2(exponents))

    def forward(self, c_noise: Tensor, given: Given, like: Tensor) -> Tensor | float:
        """What to add to an embedding `like` (B, width) of c_noise (B,)."""
        if given.until is None:
            return 0.0
        added: Tensor = self.project(self.features(c_noise, given.until).to(like.dtype))
        return added


class NoiseEmbedding(nn.Module):
    """Features of c_noise through two linear layers, class and augmentation embeddings added, SiLU: (B, width).

    Args:
        features: (B,) -> (B, in_features).
        in_features: Width of the features.
        width: Width of the embedding.
        init: Initialisation.
        early: Added to the features (EDM's form of DDPM++ and NCSN++), width `in_features`.
        late: Added after the second layer (ADM), width `width`.
        until: Added there, too, width `width`.
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
        until: SecondTime | None = None,
        activation: Wave = F.silu,
    ) -> None:
        super().__init__()
        self.features, self.early, self.late, self.activation = features, early, late, activation
        self.until = until
        self.first = linear(in_features, width, init)
        self.second = linear(width, width, init)
        self.width = width

    def forward(self, c_noise: Tensor, given: Given, **entrance: int) -> Tensor:
        """Embed c_noise (B,), and labels and augmentation labels; `entrance` is for a slimmable first layer."""
        e = self.noise(c_noise, given, **entrance)
        if self.late is not None:
            e = e + self.late(given, e)
        return F.silu(e)

    def noise(self, c_noise: Tensor, given: Given, **entrance: int) -> Tensor:
        """What both layers make of c_noise, and of the second time, before `late` is added."""
        e = self.features(c_noise).to(self.first.weight.dtype)
        if self.early is not None:
            e = e + self.early(given, e)
        e = self.second(self.activation(self.first(e, **entrance)))
        return e if self.until is None else e + self.until(c_noise, given, e)


class BareEmbedding(nn.Module):
    """SiLU of features and labels, without layers of its own: (B, width)."""

    def __init__(self, features: nn.Module, width: int, extras: Extras, until: SecondTime | None = None) -> None:
        super().__init__()
        self.features, self.width, self.extras, self.until = features, width, extras, until

    def forward(self, c_noise: Tensor, given: Given) -> Tensor:
        """Embed c_noise (B,), and labels and augmentation labels."""
        e = self.features(c_noise)
        if self.until is not None:
            e = e + self.until(c_noise, given, e)
        return F.silu(e + self.extras(given, e))
