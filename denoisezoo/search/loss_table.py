"""The loss table: how much worse each effort denoises at each noise level, and what a sampler makes of that.

Nothing is sampled. Every effort sees the same held-out images under the same noise (common random numbers), so that
differences between efforts are far more certain than the losses themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from denoisezoo.archs import Effort
from denoisezoo.diffusion import NOTHING, Denoiser, Given
from denoisezoo.diffusion.capabilities import clean_state, dropped_at
from denoisezoo.diffusion.network_denoiser import cropped
from denoisezoo.diffusion.processes.process import Process
from denoisezoo.errors import UserError
from denoisezoo.plans.plan import Plan
from denoisezoo.search.propagation import Propagation

Floats = NDArray[np.float64]
PER_LEVEL = 128


@dataclass(frozen=True)
class Level:
    """Neighbouring denoiser calls of a sampler that get the same effort.

    Attributes:
        t: Time at which they are measured: that of the middle one.
        log_snr: Its noise level.
        edge: Log-SNR between this level and the noisier one; -inf for the first.
        calls: Which ones, by their number in the walk.
        step: Share of an error in the predicted image that a deterministic step over the level hands on: 1 - r, with r
            the ratio of the noise levels (in units of the image) after and before it (DDIM, arXiv 2010.02502, eq. 12).
        sigma: Noise level after the step.
    """

    t: float
    log_snr: float
    edge: float
    calls: tuple[int, ...]
    step: float
    sigma: float


def _log_snr(process: Process, times: Sequence[float]) -> Floats:
    """Log-SNR of times, -inf where no signal is left."""
    log_snr: Floats = process.log_snr(torch.tensor(list(times), dtype=torch.float64)).numpy()
    return np.maximum(log_snr, -1400.0)  # exp(700) is the largest noise level that a double holds


def make_levels(times: Sequence[float], process: Process, most: int) -> list[Level]:
    """At most `most` levels of a sampler's calls, from noise to image.

    Args:
        times: Time of each call, in any order.
        process: The process.
        most: Levels; each has about as many distinct times.
    """
    log_snr = _log_snr(process, times)
    groups = np.array_split(np.unique(log_snr), min(most, len(np.unique(log_snr))))
    levels: list[Level] = []
    for k, group in enumerate(groups):
        middle = int(np.flatnonzero(log_snr == group[len(group) // 2])[0])
        before = float(np.exp(-0.5 * group[0]))
        after = float(np.exp(-0.5 * groups[k + 1][0])) if k + 1 < len(groups) else 0.0
        levels.append(
            Level(
                t=float(times[middle]),
                log_snr=float(log_snr[middle]),
                edge=_between(float(groups[k - 1][-1]), float(group[0])) if k else -np.inf,
                calls=tuple(int(i) for i in np.flatnonzero(np.isin(log_snr, group))),
                step=1 - after / before,
                sigma=after,
            )
        )
    return levels


def _between(low: float, high: float) -> float:
    """A noise level between two; close to the higher one if the lower has no signal."""
    return (max(low, high - 2.0) + high) / 2


@dataclass(frozen=True)
class LossTable:
    """Losses by level and effort.

    Attributes:
        efforts: The efforts, cheapest first; the last is the full network.
        levels: The levels, from noise to image.
        loss: Mean squared error of the predicted image per pixel (K, E); where coefficients have left the state, of
            what is left.
        standard_error: Of `loss` minus the full network's, images paired (K, E).
        effect: What a step's errors are at the end of the walk, mean square per pixel (K, E).
        effect_error: Standard error of `effect` minus the full network's, images paired (K, E).
        images: Images at each level.
    """

    efforts: tuple[Effort, ...]
    levels: tuple[Level, ...]
    loss: Floats
    standard_error: Floats
    effect: Floats
    effect_error: Floats
    images: int

    @property
    def excess(self) -> Floats:
        """What using an effort instead of the full network adds to the error of the final image (K, E)."""
        result: Floats = self.effect - self.effect[:, -1:]
        return result

    def costs(self, of_calls: Floats) -> Floats:
        """Cost of each effort at each level (K, E), from that of each effort at each call (calls, E)."""
        return np.stack([np.asarray(of_calls)[list(level.calls)].sum(axis=0) for level in self.levels])

    def excess_error(self, efforts: Sequence[int]) -> float:
        """Standard error of a plan's excess: levels have noise of their own, and mostly other images."""
        return float(np.sqrt(np.square(self.effect_error[np.arange(len(efforts)), list(efforts)]).sum()))

    def plan(self, efforts: Sequence[int]) -> Plan:
        """The plan of an effort, given by its number, for each level."""
        return make_plan(self.levels, [self.efforts[e] for e in efforts])

    def to_rows(self) -> list[dict[str, Any]]:
        """A row for each level and effort, for CSV and JSON."""
        return [
            asdict(level)
            | {"calls": len(level.calls), "sigma": float(np.exp(-level.log_snr / 2))}
            | {"edge": None if np.isinf(level.edge) else level.edge, "effort": effort}
            | {"loss": float(self.loss[k, e]), "standard_error": float(self.standard_error[k, e])}
            | {"effect": float(self.effect[k, e]), "excess": float(self.excess[k, e])}
            | {"excess_standard_error": float(self.effect_error[k, e])}
            for k, level in enumerate(self.levels)
            for e, effort in enumerate(self.efforts)
        ]


def make_plan(levels: Sequence[Level], efforts: Sequence[Effort]) -> Plan:
    """The plan with one effort for each level; equal neighbours become one segment."""
    changes = [k for k in range(1, len(levels)) if efforts[k] != efforts[k - 1]]
    return Plan((efforts[0], *(efforts[k] for k in changes)), tuple(levels[k].edge for k in changes))


@torch.inference_mode()
def measure(
    denoiser: Denoiser,
    images: Tensor,
    levels: Sequence[Level],
    propagation: Propagation,
    *,
    per_level: int = PER_LEVEL,
    given: Given = NOTHING,
    seed: int = 0,
    batch_size: int = 128,
) -> LossTable:
    """Measure the table, in the numbers that the process diffuses: of latents where there is a codec.

    Args:
        denoiser: In evaluation mode.
        images: Held-out images (N, C, H, W) in [-1, 1]. Each level takes the next `per_level` of them, round and round.
        levels: From `make_levels`.
        propagation: What the walk makes of errors.
        per_level: Images at each level.
        given: What the images are told (N, ...).
        seed: Seed of the noise.
        batch_size: Images at a time.

    Raises:
        UserError: Fewer than two images, whose spread is unknown.
    """
    if per_level < 2 or len(images) < 2:
        raise UserError(f"{min(per_level, len(images))} image has no standard error", "give at least 2 held-out images")
    device = next(denoiser.parameters()).device
    clean = denoiser.codec.encode_all(images, device, batch_size)
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for k, level in enumerate(levels):
        chosen = torch.arange(k * per_level, (k + 1) * per_level) % len(images)
        u_0 = clean_state(denoiser.process, clean[chosen], generator).to(device)
        eps = torch.randn(u_0.shape, generator=generator).to(device, u_0.dtype)
        t = torch.full((per_level,), level.t, dtype=torch.float64, device=device)
        told = given.take(chosen).to(device)
        errors = [_error(denoiser, u_0, eps, t, told, effort, batch_size) for effort in denoiser.efforts]
        rows.append(_row(errors, level, propagation, u_0.shape[-2:]))
    loss, standard_error, effect, effect_error = (np.stack(column) for column in zip(*rows, strict=True))
    return LossTable(denoiser.efforts, tuple(levels), loss, standard_error, effect, effect_error, per_level)


def _row(
    errors: Sequence[Tensor], level: Level, propagation: Propagation, size: torch.Size
) -> tuple[Floats, Floats, Floats, Floats]:
    """Loss, effect on whole states of a size, each before its paired standard error, at one level, each (E,)."""
    loss = torch.stack([error.double().square().mean(dim=(1, 2, 3)).cpu() for error in errors], dim=1)
    effect = torch.stack([propagation.effect(_whole(error, size), level.sigma).cpu() for error in errors], dim=1)
    effect = level.step**2 * effect
    statistics = (loss.mean(dim=0), _paired(loss), effect.mean(dim=0), _paired(effect))
    return tuple(values.numpy() for values in statistics)  # type: ignore[return-value]


def _paired(values: Tensor) -> Tensor:
    """Standard error of the means of (N, E) minus those of the last column, (E,)."""
    return (values - values[:, -1:]).std(dim=0) / len(values) ** 0.5


def _whole(error: Tensor, size: torch.Size) -> Tensor:
    """An error of a stage's state in a state of (H, W): what has left it has no error that a plan could change."""
    return F.pad(error, (0, size[1] - error.shape[-1], 0, size[0] - error.shape[-2]))


def _error(
    denoiser: Denoiser, u_0: Tensor, eps: Tensor, t: Tensor, given: Given, effort: Effort, batch_size: int
) -> Tensor:
    """Predicted minus clean states (N, C, H, W), of the size that a sampler's have at the one time in `t`."""
    halvings = dropped_at(denoiser.process, float(t[0]))
    u_t = denoiser.process.perturb(cropped(u_0, halvings), cropped(eps, halvings), t)
    parts = []
    for low in range(0, len(u_t), batch_size):
        part = slice(low, low + batch_size)
        u_0_hat = denoiser(u_t[part], t[part], given.take(part), effort).u_0
        # A network that enlarges also answers what enters the state next.
        parts.append(u_0_hat - u_0[part, :, : u_0_hat.shape[-2], : u_0_hat.shape[-1]])
    return torch.cat(parts)
