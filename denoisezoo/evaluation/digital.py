"""Digital links over as many real channel uses as an image has pixels: an ideal one, and a simple one bit by bit.

`ideal_link` is Shannon's: the source code of a Gaussian of the data's covariance at exactly the channel's capacity,
with no errors and codes of infinite length. No link with such a source model does better; a code that knew more of
images could. `BitLink` is a simple one that can be built: Karhunen-Loeve transform, scalar quantisers, repetition and
BPSK (one bit per real use, as QPSK has two per complex use), with every bit decided from the channel's own noise.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from denoisezoo.evaluation.linear import Moments

QUANTISED = (1.0, 0.3634, 0.1175, 0.03454, 0.009497, 0.002499)
"""Squared error of the best quantiser of a unit Gaussian with 0 to 5 bits (Max 1960, table 1); from there a quarter."""
MOST_BITS = 8
REPETITIONS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64, 96, 128)


def capacity(power: float, sigma: Tensor, shape: Sequence[int]) -> Tensor:
    """Bits (N,) that an image's uses (N, C, H, W) carry: the sum of log2(1 + power / sigma^2) / 2."""
    rate = torch.log2(1 + power / sigma.double().square()) / 2
    return rate.expand(tuple(shape)).flatten(1).sum(1)


def water_level(variances: Tensor, bits: Tensor) -> Tensor:
    """theta (N,) with sum of max(0, log2(variance / theta) / 2) = bits (reverse water-filling).

    Cover and Thomas, Elements of Information Theory, theorem 10.3.3.

    Args:
        variances: Of independent Gaussians (D,).
        bits: Rates (N,).
    """
    top = variances.max()
    low, high = torch.full_like(bits, -200.0), torch.zeros_like(bits)  # log2 of theta / top
    for _ in range(100):
        middle = (low + high) / 2
        rate = (torch.log2(variances / top).clamp(min=-400) - middle[:, None]).clamp(min=0).sum(1) / 2
        low, high = torch.where(rate > bits, middle, low), torch.where(rate > bits, high, middle)
    return top * torch.exp2((low + high) / 2)


def ideal_link(moments: Moments, x: Tensor, sigma: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Images as an ideal digital link delivers them: through the test channel of the Gaussian rate-distortion function.

    A coefficient of variance v above the water level theta arrives as (1 - theta/v) c + noise of variance
    theta (1 - theta/v), with the squared error theta; the others as 0. A link that fades has the rate of its fade, as
    though the transmitter knew it.

    Args:
        moments: Of the data.
        x: Images (N, C, H, W).
        sigma: Noise of the channel, which broadcasts over `x`.
        generator: Source of the test channel's noise.
    """
    bits = capacity(moments.power, sigma, x.shape)
    theta, v = water_level(moments.variances, bits)[:, None], moments.variances
    kept = (1 - theta / v.clamp(min=torch.finfo(torch.float64).tiny)).clamp(min=0)
    c = (x.flatten(1).double() - moments.mean) @ moments.basis
    noise = torch.randn(c.shape, generator=generator, dtype=torch.float64)
    arrived = kept * c + (theta * kept).sqrt() * noise
    return (moments.mean + arrived @ moments.basis.T).reshape(x.shape)


def allocate(variances: Tensor, bits: int) -> list[int]:
    """Bits for each coefficient, one after another to that whose error falls most; all of them or as many as fit."""
    given = [0] * len(variances)
    heap = [(-float(v) * (QUANTISED[0] - QUANTISED[1]), i) for i, v in enumerate(variances) if v > 0]
    heapq.heapify(heap)
    for _ in range(bits):
        if not heap:
            break
        _, i = heapq.heappop(heap)
        given[i] += 1
        if given[i] < MOST_BITS:
            saved = float(variances[i]) * (quantised(given[i]) - quantised(given[i] + 1))
            heapq.heappush(heap, (-saved, i))
    return given


def quantised(bits: int) -> float:
    """Squared error of the best quantiser of a unit Gaussian."""
    last = len(QUANTISED) - 1
    return QUANTISED[bits] if bits <= last else QUANTISED[last] / 4 ** (bits - last)


def lloyd(values: Tensor, bits: int, rounds: int = 30) -> Tensor:
    """Levels (2^bits,), rising, of the quantiser of values (n,) that Lloyd's iteration finds from their quantiles."""
    n = 2**bits
    levels = torch.quantile(values, (torch.arange(n, dtype=values.dtype) + 0.5) / n)
    for _ in range(rounds):
        index = nearest_level(levels, values)
        count = torch.bincount(index, minlength=n)
        total = torch.zeros(n, dtype=values.dtype).index_add_(0, index, values)
        levels = torch.where(count > 0, total / count.clamp(min=1), levels).sort().values
    return levels


def nearest_level(levels: Tensor, values: Tensor) -> Tensor:
    """Index (n,) of the level nearest to each value."""
    return torch.bucketize(values, (levels[1:] + levels[:-1]) / 2)


@dataclass(frozen=True)
class Delivered:
    """What a link delivers.

    Attributes:
        images: (N, C, H, W), float64.
        bit_error_rate: Share of the source's bits that were decided wrong.
    """

    images: Tensor
    bit_error_rate: float


class BitLink:
    """Karhunen-Loeve transform, a quantiser for each coefficient, BPSK with every bit sent again and again.

    All uses of the channel are taken: use u sends bit u modulo their number. The receiver adds up what arrives of a bit
    by its likelihood and decides. Nothing else corrects errors.

    Args:
        moments: Of the training images.
        images: Training images (M, C, H, W), whose coefficients the quantisers are made for.
        bits: Bits of an image.
    """

    def __init__(self, moments: Moments, images: Tensor, bits: int) -> None:
        self.moments, self.images = moments, images
        self.allocation = [b for b in allocate(moments.variances, bits) if b]
        self.bits = sum(self.allocation)

    @cached_property
    def quantisers(self) -> list[Tensor]:
        """Levels of each coefficient that is sent; the largest variances come first and so do their bits."""
        c = self._coefficients(self.images)
        return [lloyd(c[:, i].contiguous(), b) for i, b in enumerate(self.allocation)]

    def _coefficients(self, x: Tensor) -> Tensor:
        return (x.flatten(1).double() - self.moments.mean) @ self.moments.basis[:, : len(self.allocation)]

    def encode(self, x: Tensor) -> Tensor:
        """Bits (N, bits), 0 and 1, of images: the index of each coefficient's level, the highest bit first."""
        c = self._coefficients(x)
        parts = []
        for i, (levels, b) in enumerate(zip(self.quantisers, self.allocation, strict=True)):
            places = torch.arange(b - 1, -1, -1)
            parts.append(nearest_level(levels, c[:, i].contiguous())[:, None] >> places & 1)
        return torch.cat(parts, 1)

    def decode(self, bits: Tensor, shape: Sequence[int]) -> Tensor:
        """Images of a shape (N, C, H, W) from bits (N, bits)."""
        parts = []
        for levels, b, part in zip(self.quantisers, self.allocation, bits.split(self.allocation, 1), strict=True):
            parts.append(levels[(part << torch.arange(b - 1, -1, -1)).sum(1)])
        c = torch.stack(parts, 1)
        return (self.moments.mean + c @ self.moments.basis[:, : c.shape[1]].T).reshape(tuple(shape))

    def send(self, x: Tensor, noise: Tensor, sigma: Tensor) -> Delivered:
        """Images (N, C, H, W) through a channel whose zero-forced noise, one number for each use, is given.

        Args:
            x: The images.
            noise: (N, C, H, W), in the scale in which symbols have the data's power.
            sigma: Its standard deviation, which broadcasts over it.
        """
        bits = self.encode(x)
        noise, weight = noise.flatten(1).double(), 1 / sigma.double().square().expand_as(noise).flatten(1)
        use = torch.arange(noise.shape[1]) % self.bits
        arrived = (2 * bits[:, use] - 1) * self.moments.power**0.5 + noise
        total = torch.zeros(bits.shape, dtype=torch.float64).index_add_(1, use, arrived * weight)
        decided = (total > 0).long()
        return Delivered(self.decode(decided, x.shape), float((decided != bits).double().mean()))


def pixel_link(moments: Moments, images: Tensor) -> BitLink:
    """One bit for every pixel, sent once: no transform and no code."""
    D = len(moments.mean)
    ones, identity = torch.ones(D, dtype=torch.float64), torch.eye(D, dtype=torch.float64)
    return BitLink(replace(moments, variances=ones, basis=identity), images, D)


def best_link(moments: Moments, images: Tensor, noise: Tensor, sigma: Tensor) -> BitLink:
    """The link whose number of bits serves training images best, by trial over their own noise (see `BitLink.send`)."""
    uses = noise[0].numel()
    links = [BitLink(moments, images, uses // r) for r in REPETITIONS if uses // r]
    errors = [float((link.send(images, noise, sigma).images - images).square().mean()) for link in links]
    return links[min(range(len(links)), key=errors.__getitem__)]
