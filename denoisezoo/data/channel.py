"""A noisy channel as a task: pixels sent as symbols, and what the receiver makes of them.

A stand-in in the spirit of arXiv 2310.19460 and 2309.08568 (Letafati, Ali, Latva-aho), whose method is not public.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from denoisezoo.data.pairs import Pair
from denoisezoo.data.tasks import TASKS, Task
from denoisezoo.errors import UserError, unknown

FADINGS = ("none", "rayleigh")
NOISES = ("gaussian", "laplace")
EQUALISERS = ("zero_forcing", "unit_power")
LARGEST_KAPPA = 0.3
LARGEST_ERROR = 1.1
"""Factor by which `power` may be off: 0.4 dB of SNR."""
SMALLEST_GAIN = 1e-6
"""Fades deeper than 60 dB count as 60 dB."""


class Received(NamedTuple):
    """What the channel delivers.

    Attributes:
        y: The zero-forced image x + sigma n (B, C, H, W).
        sigma: Standard deviation of its noise, which the receiver knows, (B, 1, H, 1).
    """

    y: Tensor
    sigma: Tensor


@TASKS.register("channel")
class Channel(Task):
    """The image from what a channel has left of it: r = h (x + n_tx + n_rx) + n, one pixel per real channel use.

    Symbols are pixels over sqrt(`power`), so that they have unit power over the data set. n has the variance 1/SNR,
    n_tx and n_rx have kappa^2 of each end; h is known at the receiver. Zero forcing gives r/h, which in the scale of
    the image is x plus noise of variance sigma^2 = power (kappa_tx^2 + kappa_rx^2 + 1 / (SNR h^2)).

    Args:
        snr_db: 10 log10 SNR, at h = 1; two numbers are a range in which every image has one of its own, uniform in dB.
        fading: "none", h = 1; or "rayleigh", h^2 exponential of mean 1.
        blocks: Fades of an image, each for a band of so many of its rows; 1 fades it as a whole.
        transmitter: kappa of the transmitter's hardware, 0 to 0.3.
        receiver: kappa of the receiver's.
        noise: Distribution of n, "gaussian" or "laplace"; that of hardware is Gaussian.
        power: Mean square of a pixel of the data set; refused where it is more than a tenth off.
        equaliser: "zero_forcing", y = x + noise; or "unit_power", that over sqrt(1 + sigma^2 / power), which has the
            power of the image at every SNR.
        tell: Give ln sigma, what the receiver knows of the channel, as one more channel of y.

    Raises:
        UserError: A value out of range, or a name that is none.
    """

    random = True
    classified = True

    def __init__(
        self,
        snr_db: float | list[float] = -5.0,
        fading: str = "none",
        blocks: int = 1,
        transmitter: float = 0.0,
        receiver: float = 0.0,
        noise: str = "gaussian",
        power: float = 1.0,
        equaliser: str = "unit_power",
        tell: bool = True,
    ) -> None:
        self.low, self.high = snr_range(snr_db)
        for kind, name, known in (
            ("fading", fading, FADINGS),
            ("noise", noise, NOISES),
            ("equaliser", equaliser, EQUALISERS),
        ):
            if name not in known:
                raise unknown(kind, name, known)
        for end, kappa in (("transmitter", transmitter), ("receiver", receiver)):
            if not 0 <= kappa <= LARGEST_KAPPA:
                raise UserError(f"kappa of the {end} is {kappa}", f"give a number from 0 to {LARGEST_KAPPA}")
        if blocks < 1 or (blocks > 1 and fading == "none"):
            raise UserError(f"blocks is {blocks} with fading {fading}", "give 1, or more of them with fading rayleigh")
        if not (power > 0 and math.isfinite(power)):
            raise UserError(f"power is {power}", "give the mean square of a pixel, a positive number")
        self.fading, self.blocks, self.noise = fading, blocks, noise
        self.transmitter, self.receiver = transmitter, receiver
        self.power, self.equaliser, self.tell = power, equaliser, tell

    @property
    def title(self) -> str:
        """See `Task`."""
        parts = [f"channel {self.low:g}" + (f" to {self.high:g}" if self.high > self.low else "") + " dB"]
        parts += [f"{self.fading} in {self.blocks} blocks"] if self.fading != "none" else []
        parts += [f"kappa {self.transmitter:g} {self.receiver:g}"] if self.transmitter or self.receiver else []
        parts += [self.noise] if self.noise != "gaussian" else []
        return " ".join([*parts, f"power {self.power:g}", self.equaliser, *(["sigma told"] if self.tell else [])])

    def check(self, channels: int, resolution: int) -> None:
        """The blocks must divide the rows."""
        if resolution % self.blocks:
            raise UserError(f"{self.blocks} blocks do not divide {resolution} rows", "give a divisor of it")

    def check_images(self, image: Tensor) -> None:
        """`power` must be theirs: else the SNR of the symbols is another than `snr_db`."""
        measured = float(image.square().mean())
        if not 1 / LARGEST_ERROR <= self.power / measured <= LARGEST_ERROR:
            raise UserError(
                f"power is {self.power:g}, and the mean square of a pixel of these data is {measured:.3f}",
                f"give power {measured:.3f}",
            )

    def cond_channels(self, channels: int) -> int:
        """One more with sigma."""
        return channels + self.tell

    def receive(self, image: Tensor, generator: torch.Generator | None = None) -> Received:
        """What arrives of images (B, C, H, W), zero-forced."""
        B, _, H, _ = image.shape
        db = self.low + (self.high - self.low) * torch.rand(B, 1, generator=generator)
        gain = -torch.log1p(-torch.rand(B, self.blocks, generator=generator))  # |h|^2, exponential of mean 1
        gain = gain.clamp(min=SMALLEST_GAIN) if self.fading == "rayleigh" else torch.ones_like(gain)
        fresh = (self.power / (10 ** (db / 10) * gain)).sqrt().repeat_interleave(H // self.blocks, 1)[:, None, :, None]
        hardware = (self.power * (self.transmitter**2 + self.receiver**2)) ** 0.5
        n = (
            laplace(image.shape, generator)
            if self.noise == "laplace"
            else torch.randn(image.shape, generator=generator)
        )
        y = image + fresh * n
        if hardware:
            y = y + hardware * torch.randn(image.shape, generator=generator)
        return Received(y, (fresh**2 + hardware**2).sqrt())

    def __call__(self, image: Tensor, generator: torch.Generator | None = None) -> Pair:
        """See `Task`."""
        y, sigma = self.receive(image, generator)
        if self.equaliser == "unit_power":
            y = y / (1 + sigma**2 / self.power).sqrt()
        return Pair(image, torch.cat([y, sigma.log().expand_as(image[:, :1])], 1) if self.tell else y)


def snr_range(snr_db: float | list[float]) -> tuple[float, float]:
    """The lower and the upper end; one number is both.

    Raises:
        UserError: No range, or out of order.
    """
    ends = list(snr_db) if isinstance(snr_db, (list, tuple)) else [snr_db, snr_db]
    if len(ends) != 2 or not all(map(math.isfinite, ends)) or ends[0] > ends[1]:
        raise UserError(f"snr_db {snr_db} is no range", "give one number, or two of which the first is the smaller")
    return float(ends[0]), float(ends[1])


def laplace(shape: torch.Size, generator: torch.Generator | None) -> Tensor:
    """Laplace noise of unit variance: scale 1/sqrt(2)."""
    u = torch.rand(shape, generator=generator) - 0.5
    return -u.sign() * torch.log1p(-2 * u.abs().clamp(max=0.5 - 1e-7)) / math.sqrt(2)
