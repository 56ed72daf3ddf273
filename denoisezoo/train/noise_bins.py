"""Mean loss in ten bins of log-SNR: where in noise a denoiser is good or bad."""

from __future__ import annotations

import torch
from torch import Tensor

from denoisezoo.nn.transfer import to_device

LOWEST, HIGHEST, BINS = -10.0, 10.0, 10


def bin_edges() -> list[tuple[float, float]]:
    """(lower, upper) log-SNR of each bin, noisiest first; the outer two also take what lies beyond."""
    width = (HIGHEST - LOWEST) / BINS
    return [(LOWEST + i * width, LOWEST + (i + 1) * width) for i in range(BINS)]


def bin_names() -> list[str]:
    """Names of the bins, such as "-10_to_-8"."""
    return [f"{low:g}_to_{high:g}" for low, high in bin_edges()]


def bin_of(log_snr: Tensor) -> Tensor:
    """Index of the bin (B,) int64 of each log-SNR (B,)."""
    return ((log_snr - LOWEST) / (HIGHEST - LOWEST) * BINS).floor().clamp(0, BINS - 1).long()


class NoiseBins:
    """Sums losses by noise level, on the device, without waiting for it.

    Float64 adds float32 losses exactly, so that sums do not depend on who adds what. Each process has its own, and they
    are no buffers of a module: DDP gives the first process's buffers to all.

    Attributes:
        latest: Log-SNRs (B,) and losses (B,) that were added last.
    """

    def __init__(self) -> None:
        self.latest: tuple[Tensor, Tensor] | None = None
        self.total, self.count = (torch.zeros(BINS, dtype=torch.float64) for _ in range(2))

    def to(self, device: torch.device) -> None:
        """Go on there."""
        self.total, self.count = self.total.to(device), self.count.to(device)

    def add(self, log_snr: Tensor, loss: Tensor) -> None:
        """Add losses (B,) at log-SNRs (B,); those that are not finite do not count here (see `guard`)."""
        loss = loss.detach()  # else the sums would keep what all steps have computed
        index, finite = to_device(bin_of(log_snr), loss.device), loss.isfinite()
        self.latest = (log_snr, loss)
        self.total.index_add_(0, index, torch.where(finite, loss, 0.0).to(self.total.dtype))
        self.count.index_add_(0, index, finite.to(self.count.dtype))

    def stacked(self) -> Tensor:
        """Sum and number of the losses of each bin, (2, BINS)."""
        return torch.stack([self.total, self.count])

    @staticmethod
    def means(sums: list[float], prefix: str = "") -> dict[str, float]:
        """Mean loss of each bin that was hit, by a name such as "-10_to_-8", of `stacked` as flat numbers."""
        total, count = sums[:BINS], sums[BINS:]
        return {prefix + name: total[i] / count[i] for i, name in enumerate(bin_names()) if count[i]}

    def sums(self) -> dict[str, Tensor]:
        """What a checkpoint keeps, on the CPU."""
        return {"total": self.total.cpu().clone(), "count": self.count.cpu().clone()}

    def load_sums(self, sums: dict[str, Tensor]) -> None:
        """Go on from what `sums` gave."""
        for name, value in sums.items():
            getattr(self, name).copy_(value)

    def reset(self) -> None:
        """Forget everything."""
        self.total.zero_()
        self.count.zero_()
