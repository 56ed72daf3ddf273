"""Magnitude-preserving layers (EDM2): what comes in with unit mean square goes out with it, whatever the weights are.

Karras, Aittala, Lehtinen, Hellsten, Aila, Laine 2023, "Analyzing and Improving the Training Dynamics of Diffusion
Models", arXiv 2312.02696, section 2 and appendix B. No layer has a bias.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denoisezoo.nn.embeddings import Float32Buffers

EPS = 1e-4
"""Added to the root mean square by which is divided; outside of the root."""
SILU_RMS = 0.596
"""E[silu(z)^2]^(1/2) for z ~ N(0, 1), as the paper rounds it (equation 81)."""


def normalize(x: Tensor, dim: int | Sequence[int]) -> Tensor:
    """x / (eps + RMS of x over `dim`), the RMS taken in float32 (or better): of unit mean square, in the type of x."""
    count = 1  # a loop, since torch.compile breaks at the generator that math.prod would take
    for axis in (dim,) if isinstance(dim, int) else dim:
        count = count * x.shape[axis]
    return x / torch.add(EPS, _norm(x, dim), alpha=math.sqrt(1 / count)).to(x.dtype)


def _norm(x: Tensor, dim: int | Sequence[int]) -> Tensor:
    """2-norms over `dim`, which stays."""
    norm: Tensor = torch.linalg.vector_norm(x, dim=dim, keepdim=True, dtype=torch.promote_types(x.dtype, torch.float32))
    return norm


def mp_weights(t: float) -> tuple[float, float]:
    """Factors of a and b in `mp_sum`: (1 - t, t) / sqrt((1 - t)^2 + t^2)."""
    scale = math.hypot(1 - t, t)
    return (1 - t) / scale, t / scale


def mp_sum(a: Tensor, b: Tensor, t: float) -> Tensor:
    """From a to b by t, of unit mean square if both are and are not correlated (equation 88)."""
    w_a, w_b = mp_weights(t)
    return torch.add(a * w_a, b, alpha=w_b)


def mp_cat(a: Tensor, b: Tensor, t: float = 0.5) -> Tensor:
    """a and b behind each other as channels, contributing to a following layer as 1 - t to t (equation 103)."""
    N_a, N_b = a.shape[1], b.shape[1]
    C = math.sqrt((N_a + N_b) / ((1 - t) ** 2 + t**2))
    return torch.cat([a * (C / math.sqrt(N_a) * (1 - t)), b * (C / math.sqrt(N_b) * t)], dim=1)


class MPLayer(nn.Module):
    """A layer whose weight counts by its direction alone: each output unit has a weight vector of norm `gain`.

    That holds at every call, in training and after it (equation 66). `normalize_` makes the stored weight one of unit
    mean square (forced weight normalisation, section 2.3): then a learning rate means the same at every step.

    Args:
        shape: Of the weight, output units first.
    """

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(*shape))
        self.normalize_()

    @property
    def _inside(self) -> tuple[int, ...]:
        """All dimensions but that of the output units."""
        return tuple(range(1, self.weight.ndim))

    @torch.no_grad()
    def normalize_(self) -> None:
        """Normalise the stored weight in place, which changes no output but by the rounding and `EPS`."""
        self.weight.copy_(normalize(self.weight, self._inside))

    def scaled(self, gain: float | Tensor) -> Tensor:
        """normalize(weight) * gain / sqrt(fan_in), in which the roots of fan_in cancel."""
        fan_in = self.weight[0].numel()
        scale = gain / (_norm(self.weight, self._inside) + EPS * math.sqrt(fan_in))
        return self.weight * scale.to(self.weight.dtype)


class MPLinear(MPLayer):
    """(..., in_features) -> (..., out_features)."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(out_features, in_features)

    def forward(self, x: Tensor, gain: float | Tensor = 1.0) -> Tensor:
        """Multiply; the result is scaled by `gain`."""
        return F.linear(x, self.scaled(gain))


class MPConv(MPLayer):
    """(B, in_channels, H, W) -> (B, out_channels, H, W)."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int) -> None:
        super().__init__(out_channels, in_channels, kernel, kernel)
        self.padding = kernel // 2

    def forward(self, x: Tensor, gain: float | Tensor = 1.0) -> Tensor:
        """Convolve; the result is scaled by `gain` (), or (1,)."""
        if isinstance(gain, Tensor):
            gain = gain.reshape(-1, 1, 1, 1)
        return F.conv2d(x, self.scaled(gain), padding=self.padding)


class MPFourier(Float32Buffers):
    """sqrt(2) cos(2 pi (f c_noise + phase)), f ~ N(0, 1) and phase ~ U(0, 1), not trained: (B,) -> (B, width)."""

    frequencies: Tensor
    phases: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.randn(width))
        self.register_buffer("phases", torch.rand(width))

    def forward(self, c_noise: Tensor) -> Tensor:
        """Embed, in float32 (equation 75)."""
        return math.sqrt(2) * torch.cos(2 * math.pi * (c_noise.float()[:, None] * self.frequencies + self.phases))


class Uncertainty(nn.Module):
    """u(sigma), the logarithm of the error that is to be expected at a noise level: (B,) c_noise -> (B,).

    One linear layer on Fourier features (section 2.2, equation 15). A loss trains it beside the denoiser.

    Args:
        features: Fourier features.
    """

    def __init__(self, features: int = 128) -> None:
        super().__init__()
        self.features = MPFourier(features)
        self.linear = MPLinear(features, 1)

    def forward(self, c_noise: Tensor) -> Tensor:
        """Estimate."""
        return self.linear(self.features(c_noise).to(self.linear.weight.dtype))[:, 0]

    def after_step(self) -> None:
        """Forced weight normalisation, after each step of an optimiser."""
        self.linear.normalize_()


def normalize_weights(network: nn.Module) -> None:
    """Forced weight normalisation of all layers of a network, in place: to be done after each step of an optimiser."""
    for layer in network.modules():
        if isinstance(layer, MPLayer):
            layer.normalize_()
