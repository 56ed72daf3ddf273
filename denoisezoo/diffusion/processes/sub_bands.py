"""Non-uniform diffusion: one speed per band of a Haar pyramid; bands that are pure noise leave the state."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from denoisezoo.diffusion.basis import Clamp, HaarBasis, clamped
from denoisezoo.diffusion.capabilities import Staged
from denoisezoo.diffusion.processes.diagonal import LogSNRProcess
from denoisezoo.diffusion.processes.lookup import Table
from denoisezoo.diffusion.processes.process import PROCESSES, Process, check_finite
from denoisezoo.diffusion.transforms import haar_bands
from denoisezoo.errors import UserError


@PROCESSES.register("multiscale")
class MultiScale(Staged, LogSNRProcess):
    """Non-uniform diffusion (MSDiff: Batzolis et al. 2022, arXiv 2207.09786): one speed per band of a Haar pyramid.

    Band k has log-SNR falling linearly from `highest` at `t_min` to `lowest` at its end T_k, under a preserved
    variance. Finer bands end sooner; after its end a band is pure noise, and with `drop` it leaves the state, which
    then is a quarter of the size: `levels` + 1 stages, walked back from the smallest.

    Args:
        resolution: Height and width of the images.
        levels: Halvings of the pyramid.
        ends: T_k of each band, finest first, increasing; the last is the approximation's and the prior's time. k / K
            unless given.
        highest: Log-SNR at `t_min`.
        lowest: Log-SNR at the end of each band.
        drop: Whether bands leave the state. Without it, one network sees all of it at all times.
        rescale: Divide the approximation by 2^levels, its scale against the image; the published code does not.
        band_std: What each band is divided by besides, finest first: its standard deviation in the data, so that all
            bands reach the network at one scale and an equal log-SNR means equally much noise. 1 unless given.
        t_min: Smallest time.
    """

    def __init__(
        self,
        resolution: int = 32,
        levels: int = 2,
        ends: list[float] | None = None,
        highest: float = 10.0,
        lowest: float = -10.0,
        drop: bool = True,
        rescale: bool = False,
        t_min: float = 1e-3,
        band_std: list[float] | None = None,
    ) -> None:
        ends = [(k + 1) / (levels + 1) for k in range(levels + 1)] if ends is None else list(ends)
        check_finite(ends=ends, highest=highest, lowest=lowest, t_min=t_min, band_std=band_std)
        check_ends(ends, levels, t_min)
        if lowest >= highest:
            raise UserError(f"lowest {lowest} is not below highest {highest}", "give log-SNRs such as -10 and 10")
        self.resolution, self.levels, self.ends = resolution, levels, ends
        self.highest, self.lowest, self.drop = highest, lowest, drop
        self.t_min, self.t_max = t_min, ends[-1]
        self.bands = haar_bands(resolution, levels)
        band_std = [1.0] * len(ends) if band_std is None else list(band_std)
        if len(band_std) != len(ends) or min(band_std) <= 0:
            raise UserError(f"band_std {band_std} for {len(ends)} bands", "give a positive number for each band")
        divisors = [*band_std[:-1], band_std[-1] * (2.0**levels if rescale else 1.0)]
        self.basis = ScaledHaarBasis(levels, self.bands, divisors)
        self._ends, self._stages = Table(ends), Table(self.stages[::-1])

    @classmethod
    def for_images(cls, resolution: int, stages: int = 1) -> Process:
        """As many levels as the network's stages need; 2 for a network without any."""
        return cls(resolution=resolution, levels=stages - 1 if stages > 1 else 2)

    def log_snrs(self, t: Tensor) -> Tensor:
        """highest - (highest - lowest) (t - t_min) / (T_k - t_min), constant beyond T_k; (B, 1, N, N)."""
        return self._laid_out(self._by_band(t))

    def _laid_out(self, by_band: Tensor) -> Tensor:
        """Values (B, K) of the bands as a map (B, 1, N, N)."""
        laid_out = by_band[:, :1, None, None].expand(-1, 1, *self.bands.shape).clone()
        for k in range(1, by_band.shape[1]):  # the classical mosaic: what is coarser lies in the top left quarter
            side = len(self.bands) >> k
            laid_out[..., :side, :side] = by_band[:, k, None, None, None]
        return laid_out

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """See `LogSNRProcess`: of a few numbers, then laid out; maps are most of what a step of small images costs."""
        log_snr = torch.where((t <= 0)[:, None], torch.inf, self._by_band(t))
        both = self._laid_out(torch.sigmoid(torch.cat([log_snr, -log_snr])).sqrt())
        alpha, sigma = both[: t.shape[0]], both[t.shape[0] :]
        return alpha, sigma

    def _by_band(self, t: Tensor) -> Tensor:
        share = (t[:, None] - self.t_min) / (self._ends.like(t) - self.t_min)
        share = torch.where(share > 1, 1.0, share)  # unlike clamp, with its slope up to the very end
        return self.highest - (self.highest - self.lowest) * share

    def log_snr_rates(self, t: Tensor) -> Tensor:
        """-(highest - lowest) / (T_k - t_min), and 0 beyond T_k; (B, 1, N, N)."""
        length = self._ends.like(t) - self.t_min
        return self._laid_out(torch.where(t[:, None] - self.t_min > length, 0.0, (self.lowest - self.highest) / length))

    def log_snr(self, t: Tensor) -> Tensor:
        """The mean over bands, which count alike."""
        return self._by_band(t).mean(1)

    @property
    def stages(self) -> tuple[tuple[float, float], ...]:
        """(T_k, T_(k-1)), noisiest first; the last ends at t_min. One stage where nothing is dropped."""
        if not self.drop:
            return ((self.t_max, self.t_min),)
        return tuple(zip(reversed(self.ends), [*reversed(self.ends[:-1]), self.t_min], strict=True))

    def dropped(self, t: float) -> int:
        """Number of bands that have ended before t."""
        return sum(t > end for end in self.ends[:-1]) if self.drop else 0

    def sample_times(self, uniform: Tensor) -> Tensor:
        """Every stage gets the same share of the images, whatever its length; uniform in t within it."""
        stages = self._stages.like(uniform)
        place = uniform * len(stages)
        index = place.floor().long().clamp(max=len(stages) - 1)
        last, first = stages[index, 1], stages[index, 0]
        return last + (first - last) * (place - index)

    def grid(self, steps: int) -> Tensor:
        """The steps shared evenly between stages, uniform in t in each; what is left over goes to the noisiest.

        Raises:
            UserError: Fewer steps than stages.
        """
        counts = shares(steps, len(self.stages))
        times = []
        for (first, last), n in zip(self.stages, counts, strict=True):
            final = last == self.t_min
            times.append(torch.linspace(first, last, n if final and n > 1 else n + 1, dtype=torch.float64)[:n])
        return torch.cat([*times, torch.zeros(1, dtype=torch.float64)])


class ScaledHaarBasis(HaarBasis):
    """A Haar mosaic whose bands are divided by numbers of their own; networks see the pixels of the scaled mosaic.

    Args:
        levels: Halvings of the pyramid.
        bands: Band of every coefficient (resolution, resolution), finest 0.
        divisors: Of each band.
    """

    def __init__(self, levels: int, bands: Tensor, divisors: Sequence[float]) -> None:
        super().__init__(levels, len(bands))
        self.scales = Table(torch.tensor(divisors, dtype=torch.float64, device="cpu").reciprocal()[bands])

    def _scales(self, u: Tensor) -> Tensor:
        """By what each coefficient of a state is multiplied; (H, W)."""
        side = u.shape[-1]
        return self.scales.like(u)[:side, :side]

    def encode(self, image: Tensor) -> Tensor:
        """The mosaic, its bands scaled if so set."""
        u = self.from_pixels(image)
        return u * self._scales(u)

    def decode(self, state: Tensor) -> Tensor:
        """Inverse of `encode`."""
        return self.to_pixels(state / self._scales(state))

    def clip(self, u_0: Tensor, clamp: Clamp = clamped) -> Tensor:
        """A small image stands for averages times 2 for every level that is gone."""
        most = self.scales.shape[-1] // u_0.shape[-1]
        return self.encode(clamp(self.decode(u_0), most))


def check_ends(ends: Sequence[float], levels: int, t_min: float) -> None:
    """Refuse ends that are not one per band, increasing, and above t_min to at most 1.

    Raises:
        UserError: Saying which.
    """
    if levels < 1:
        raise UserError(f"levels is {levels}", "give at least 1; the log-SNR-linear process of one band is Diagonal")
    if len(ends) != levels + 1:
        raise UserError(f"{len(ends)} ends for {levels + 1} bands", "give one for each band, the finest first")
    even = [round((k + 1) / (levels + 1), 2) for k in range(levels + 1)]
    if not 0 < t_min < ends[0] or any(a >= b for a, b in itertools.pairwise(ends)):
        raise UserError(
            f"ends {list(ends)} do not increase from above t_min {t_min}", f"finer bands end sooner: give e.g. {even}"
        )
    if ends[-1] > 1:
        raise UserError(f"ends {list(ends)} go beyond 1, the time of the prior", f"give e.g. {even}")


def shares(steps: int, stages: int) -> list[int]:
    """`steps` in whole numbers for each stage, noisiest first.

    Raises:
        UserError: Fewer steps than stages.
    """
    if steps < stages:
        raise UserError(f"{steps} steps for {stages} stages", f"give at least {stages} steps")
    return [steps // stages + (i < steps % stages) for i in range(stages)]
