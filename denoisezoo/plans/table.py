"""The loss table: how much worse each effort denoises at each noise level, weighted by what a sampler does with it.

Nothing is sampled. Every effort sees the same held-out images under the same noise (common random numbers), so that
differences between efforts are far more certain than the losses themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from denoisezoo.archs import Effort
from denoisezoo.diffusion import Denoiser
from denoisezoo.diffusion.process import Process
from denoisezoo.errors import UserError
from denoisezoo.plans.exact import Choice
from denoisezoo.plans.plan import Plan

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Level:
    """Neighbouring denoiser calls of a sampler that get the same effort.

    Attributes:
        t: Time at which they are measured: that of the middle one.
        log_snr: Its noise level.
        edge: Log-SNR between this level and the noisier one; -inf for the first.
        calls: How many calls they are.
        weight: Sum over them of the share of an error in the predicted image that a step hands on.
    """

    t: float
    log_snr: float
    edge: float
    calls: int
    weight: float


def call_weights(times: Sequence[float], process: Process) -> Floats:
    """What a sampler's step does with an error of the predicted image, for each of its calls.

    A deterministic step from t to s moves u/A by (1 - r) times the predicted image, with r = sigma_s / sigma_t in the
    units of the image (DDIM, arXiv 2010.02502, equation 12). Errors of neighbouring steps, made by one network on
    nearly the same input, add up rather than average out; so the weight is 1 - r and not its square: the sum over
    levels is then the mean of the squared error over the walk, however many steps it takes.

    Args:
        times: Time of each call. Several calls at one time, as Heun makes them, share its weight.
        process: The process.
    """
    sigma = np.exp(-0.5 * _log_snr(process, times))
    distinct = np.unique(sigma)
    ratio = np.concatenate([[0.0], distinct[:-1]]) / distinct
    ratio[~np.isfinite(distinct)] = 0.0
    place = np.searchsorted(distinct, sigma)
    result: Floats = (1 - ratio[place]) / np.bincount(place)[place]
    return result


def _log_snr(process: Process, times: Sequence[float]) -> Floats:
    """Log-SNR of times, -inf where no signal is left."""
    found: Floats = process.log_snr(torch.tensor(list(times), dtype=torch.float64)).numpy()
    return np.maximum(found, -1400.0)  # exp(700) is the largest noise level that a double holds


def make_levels(times: Sequence[float], process: Process, most: int) -> list[Level]:
    """At most `most` levels of a sampler's calls, from noise to image.

    Args:
        times: Time of each call, in any order.
        process: The process.
        most: Levels; each has about as many distinct times.
    """
    log_snr, weight = _log_snr(process, times), call_weights(times, process)
    distinct = np.unique(log_snr)
    levels: list[Level] = []
    previous = -np.inf
    for group in np.array_split(distinct, min(most, len(distinct))):
        members = np.isin(log_snr, group)
        middle = int(np.flatnonzero(log_snr == group[len(group) // 2])[0])
        edge = -np.inf if np.isinf(previous) else max(previous, float(group[0]) - 2.0) / 2 + float(group[0]) / 2
        count, total = int(members.sum()), float(weight[members].sum())
        levels.append(Level(float(times[middle]), float(log_snr[middle]), float(edge), count, total))
        previous = float(group[-1])
    return levels


@dataclass(frozen=True)
class LossTable:
    """Losses by level and effort.

    Attributes:
        efforts: The efforts, cheapest first; the last is the full network.
        levels: The levels, from noise to image.
        loss: Mean squared error of the predicted image per pixel (K, E).
        standard_error: Of `loss` minus the full network's, pixels and images paired (K, E).
        images: Images at each level.
    """

    efforts: tuple[Effort, ...]
    levels: tuple[Level, ...]
    loss: Floats
    standard_error: Floats
    images: int

    @property
    def excess(self) -> Floats:
        """What using an effort instead of the full network adds to the weighted loss (K, E)."""
        weight = np.array([level.weight for level in self.levels])
        result: Floats = weight[:, None] * (self.loss - self.loss[:, -1:])
        return result

    def costs(self, per_call: Sequence[float]) -> Floats:
        """Cost of each effort at each level (K, E), from the cost of a call at each effort."""
        calls = np.array([level.calls for level in self.levels], dtype=np.float64)
        result: Floats = calls[:, None] * np.asarray(per_call, dtype=np.float64)
        return result

    def plan(self, choice: Choice) -> Plan:
        """The plan of an effort for each level."""
        return make_plan(self.levels, [self.efforts[e] for e in choice.efforts])

    def score(self, plan: Plan, per_call: Sequence[float]) -> tuple[float, float]:
        """Weighted excess loss and cost of any plan for the same sampler."""
        index = [self.efforts.index(plan.effort(level.log_snr)) for level in self.levels]
        rows = np.arange(len(index))
        return float(self.excess[rows, index].sum()), float(self.costs(per_call)[rows, index].sum())

    def to_rows(self) -> list[dict[str, Any]]:
        """A row for each level and effort, for CSV and JSON."""
        return [
            asdict(level)
            | {"edge": None if np.isinf(level.edge) else level.edge, "effort": effort}
            | {"loss": float(self.loss[k, e]), "standard_error": float(self.standard_error[k, e])}
            | {"excess": float(self.excess[k, e])}
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
    *,
    per_level: int = 128,
    label: Tensor | None = None,
    seed: int = 0,
    batch_size: int = 128,
) -> LossTable:
    """Measure the table.

    Args:
        denoiser: In evaluation mode.
        images: Held-out images (N, C, H, W) in [-1, 1]. Each level takes the next `per_level` of them, round and round.
        levels: From `make_levels`.
        per_level: Images at each level.
        label: Classes of the images (N,), for conditional networks.
        seed: Seed of the noise.
        batch_size: Images at a time.

    Raises:
        UserError: Fewer than two images, whose spread is unknown.
    """
    if per_level < 2 or len(images) < 2:
        raise UserError(f"{min(per_level, len(images))} image has no standard error", "give at least 2 held-out images")
    device = next(denoiser.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    loss, error = [], []
    for k, level in enumerate(levels):
        chosen = torch.arange(k * per_level, (k + 1) * per_level) % len(images)
        u_0 = denoiser.process.encode(images[chosen].to(device))
        eps = torch.randn(u_0.shape, generator=generator).to(device, u_0.dtype)
        t = torch.full((per_level,), level.t, dtype=torch.float64, device=device)
        classes = None if label is None else label[chosen].to(device)
        found = _losses(denoiser, u_0, eps, t, classes, batch_size)
        loss.append(found.mean(dim=0).numpy())
        error.append(((found - found[:, -1:]).std(dim=0) / per_level**0.5).numpy())
    return LossTable(denoiser.efforts, tuple(levels), np.stack(loss), np.stack(error), per_level)


def _losses(
    denoiser: Denoiser, u_0: Tensor, eps: Tensor, t: Tensor, label: Tensor | None, batch_size: int
) -> Tensor:
    """Mean squared error of the predicted image for every image and effort (N, E), float64 on the CPU."""
    u_t = denoiser.process.perturb(u_0, eps, t)
    columns = []
    for effort in denoiser.efforts:
        parts = []
        for low in range(0, len(u_t), batch_size):
            part = slice(low, low + batch_size)
            found = denoiser(u_t[part], t[part], label=None if label is None else label[part], effort=effort)
            parts.append((found.u_0 - u_0[part]).double().square().mean(dim=(1, 2, 3)).cpu())
        columns.append(torch.cat(parts))
    return torch.stack(columns, dim=1)
