"""Processes with a log-SNR of their own for every coefficient, by any curves you like.

Networks see pixels: the process's basis is undone before them and redone after them, so that any network of the zoo
serves.
"""

from __future__ import annotations

import itertools
from abc import abstractmethod
from typing import Literal

import torch
from torch import Tensor

from denoisezoo.diffusion.basis import Basis, DCTBasis, HaarBasis, PixelBasis
from denoisezoo.diffusion.processes.lookup import Table
from denoisezoo.diffusion.processes.process import PROCESSES, DiagonalProcess, Process, check_finite
from denoisezoo.diffusion.processes.scalar import uniform_grid
from denoisezoo.diffusion.transforms import haar_bands, laplacian
from denoisezoo.errors import UserError


def slope_of(curve: object, t: Tensor) -> Tensor:
    """Derivative in t of a function of times (B,), by forward-mode differentiation; also under inference mode."""
    with torch.inference_mode(False):
        t = t.clone()
        return torch.func.jvp(curve, (t,), (torch.ones_like(t),))[1]  # type: ignore[arg-type]


class LogSNRProcess(DiagonalProcess):
    """A process given by the log-SNR of every coefficient; subclass it for any curve.

    "preserving": alpha^2 = sigmoid(log-SNR), sigma^2 = sigmoid(-log-SNR). "exploding": alpha = 1, sigma^2 = 1 / SNR.
    Time 0 is the image itself, wherever the curves begin.
    """

    default_preconditioning = "eps"
    variance: Literal["preserving", "exploding"] = "preserving"

    @abstractmethod
    def log_snrs(self, t: Tensor) -> Tensor:
        """Log-SNR at times (B,), all above 0: (B,) or a map (B, C or 1, H or 1, W or 1); falling in t."""

    def log_snr_rates(self, t: Tensor) -> Tensor:
        """Derivative of `log_snrs` in t, of its shape: by differentiation, unless a process has a formula."""
        return slope_of(self.log_snrs, t)

    def _log_snrs(self, t: Tensor) -> Tensor:
        found = self.log_snrs(t)
        at_image = (t <= 0).reshape(-1, *[1] * (found.ndim - 1))
        return torch.where(at_image, torch.inf, found)

    def alpha(self, t: Tensor) -> Tensor:
        """sqrt(sigmoid(log-SNR)), or 1."""
        return self.alpha_sigma(t)[0]

    def sigma(self, t: Tensor) -> Tensor:
        """sqrt(sigmoid(-log-SNR)), or exp(-log-SNR / 2)."""
        return self.alpha_sigma(t)[1]

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Both from one map of log-SNRs."""
        found = self._log_snrs(t)
        if self.variance == "preserving":
            return torch.sigmoid(found).sqrt(), torch.sigmoid(-found).sqrt()
        return torch.ones_like(found), torch.exp(-found / 2)

    def derivatives(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """alpha' = l' sigma^2 alpha / 2 and sigma' = -l' alpha^2 sigma / 2 (preserving), with l the log-SNR."""
        alpha, sigma = self.alpha_sigma(t)  # before any differentiation, so that the tables are copied outside of it
        half_rate = self.log_snr_rates(t) / 2
        if self.variance == "exploding":
            return torch.zeros_like(alpha), -half_rate * sigma
        return half_rate * sigma**2 * alpha, -half_rate * alpha**2 * sigma

    def log_snr(self, t: Tensor) -> Tensor:
        """The mean over the map."""
        found = self._log_snrs(t)
        return found if found.ndim == 1 else found.flatten(1).mean(1)

    def time_label(self, t: Tensor) -> Tensor:
        """999 t, the range that sinusoidal embeddings are made for."""
        return 999 * t

    def grid(self, steps: int) -> Tensor:
        """Uniform in t."""
        return uniform_grid(self.t_max, self.t_min, steps)


@PROCESSES.register("diagonal")
class Diagonal(LogSNRProcess):
    """A general diagonal process: piecewise linear log-SNR curves, one for all coefficients or one for each group.

    Groups are the bands of a Haar pyramid, finest details first and the approximation last, or rings of DCT
    frequencies, slowest first, with curves between two rings mixed linearly. For curves of any other form subclass
    `LogSNRProcess`.

    Args:
        curves: Log-SNR of each group at times that divide [0, 1] evenly; the first value holds at `t_min` and before.
        basis: What the coefficients are.
        resolution: Height and width of the images.
        variance: See `LogSNRProcess`.
        t_min: Smallest time.
    """

    def __init__(
        self,
        curves: list[list[float]] = [[10.0, -10.0]],  # noqa: B006 (read only; the type is the recipe's)
        basis: Literal["pixels", "dct", "haar"] = "pixels",
        resolution: int = 32,
        variance: Literal["preserving", "exploding"] = "preserving",
        t_min: float = 1e-3,
    ) -> None:
        if not curves or len({len(curve) for curve in curves}) > 1 or len(curves[0]) < 2:
            raise UserError("curves differ in length or are too short", "give each at least 2 values, all equally many")
        check_finite(curves=curves)
        if any(a <= b for curve in curves for a, b in itertools.pairwise(curve)):
            raise UserError("a curve does not fall", "give log-SNRs that decrease, such as [10, -10]")
        if not 0 < t_min < 1:
            raise UserError(f"t_min is {t_min}", "give a time above 0 and below 1")
        if basis == "pixels" and len(curves) > 1:
            raise UserError(f"{len(curves)} curves for pixels", "give one, or basis: haar or dct")
        bases: dict[str, Basis] = {"pixels": PixelBasis(), "dct": DCTBasis(), "haar": HaarBasis(len(curves) - 1)}
        self.basis = bases[basis]
        self.resolution = None if basis == "pixels" else resolution
        self.variance, self.t_min, self.t_max = variance, t_min, 1.0
        self.curves = Table(curves)
        self.weights = Table(group_weights(basis, resolution, len(curves)))

    @classmethod
    def for_images(cls, resolution: int, stages: int = 1) -> Process:
        """See `Process.for_images`."""
        return cls(resolution=resolution)

    def _place(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Where times (B,) lie among the knots, and the knot before them."""
        last = self.curves.shape[1] - 2
        place = (t - self.t_min) / (1 - self.t_min) * (last + 1)
        return place, place.detach().floor().clamp(0, last).long()

    def _mixed(self, values: Tensor) -> Tensor:
        """Values (groups, B) of the curves in each coefficient."""
        if self.resolution is None:  # one curve for all pixels
            return values[0]
        return torch.einsum("gb,ghw->bhw", values, self.weights.like(values))[:, None]

    def log_snrs(self, t: Tensor) -> Tensor:
        """Interpolated between the knots, then mixed over groups."""
        curves, (place, left) = self.curves.like(t), self._place(t)
        share = torch.where(place < 0, 0.0, place) - left  # unlike clamp, with its slope at t_min itself
        return self._mixed(curves[:, left] + (curves[:, left + 1] - curves[:, left]) * share)

    def log_snr_rates(self, t: Tensor) -> Tensor:
        """The slope of the curve between two knots; 0 before t_min."""
        curves, (place, left) = self.curves.like(t), self._place(t)
        per_time = (place >= 0).to(t.dtype) * (1 / (1 - self.t_min) * (self.curves.shape[1] - 1))
        return self._mixed((curves[:, left + 1] - curves[:, left]) * per_time)


def group_weights(basis: str, resolution: int, groups: int) -> Tensor:
    """Share (groups, N, N) of each group's curve in each coefficient, float64; sums to 1 over groups.

    Pixels have one group, whatever the size: (1, 1, 1).
    """
    if basis == "pixels":
        return torch.ones(1, 1, 1, dtype=torch.float64, device="cpu")
    if basis == "haar":
        return torch.stack([(haar_bands(resolution, groups - 1) == g).double() for g in range(groups)])
    frequency = laplacian(resolution).sqrt()
    place = frequency / frequency.max() * (groups - 1)
    index = torch.arange(groups, dtype=torch.float64, device="cpu")[:, None, None]
    return (1 - (place - index).abs()).clamp(min=0)
