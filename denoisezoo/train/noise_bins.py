"""Mean loss in ten bins of log-SNR: where in noise a denoiser is good or bad."""

from __future__ import annotations

import torch
from torch import Tensor, nn

LOWEST, HIGHEST, BINS = -10.0, 10.0, 10


def bin_edges() -> list[tuple[float, float]]:
    """(lower, upper) log-SNR of each bin, noisiest first; the outer two also take what lies beyond."""
    width = (HIGHEST - LOWEST) / BINS
    return [(LOWEST + i * width, LOWEST + (i + 1) * width) for i in range(BINS)]


def bin_of(log_snr: Tensor) -> Tensor:
    """Index of the bin (B,) int64 of each log-SNR (B,)."""
    return ((log_snr - LOWEST) / (HIGHEST - LOWEST) * BINS).floor().clamp(0, BINS - 1).long()


class NoiseBins(nn.Module):
    """Sums losses by noise level, on the device, without waiting for it."""

    def __init__(self) -> None:
        super().__init__()
        self.total: Tensor
        self.count: Tensor
        self.register_buffer("total", torch.zeros(BINS), persistent=False)
        self.register_buffer("count", torch.zeros(BINS), persistent=False)

    def add(self, log_snr: Tensor, loss: Tensor) -> None:
        """Add losses (B,) at log-SNRs (B,)."""
        index = bin_of(log_snr)
        self.total.index_add_(0, index, loss.to(self.total.dtype))
        self.count.index_add_(0, index, torch.ones_like(loss, dtype=self.count.dtype))

    def means(self) -> dict[str, Tensor]:
        """Mean loss of each bin that was hit, by a name such as "-10_to_-8"."""
        hit = self.count > 0
        means = self.total / self.count.clamp(min=1)
        names = [f"{low:g}_to_{high:g}" for low, high in bin_edges()]
        return {name: means[i] for i, name in enumerate(names) if bool(hit[i])}

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
