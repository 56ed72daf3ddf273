"""The best plan at every budget, exactly, for a quality that is a sum over noise levels.

Dynamic programming over the levels, from noise to image. For each effort that a level may end with, it keeps every
partial plan that no other beats in both cost and loss; so the whole front comes out, not its convex hull only, as a
Lagrangian would give.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from denoisezoo.errors import UserError

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Choice:
    """An effort for every level.

    Attributes:
        cost: Sum of the costs.
        loss: Sum of the losses, and of the penalties for switching.
        efforts: Index of the effort at each level, from noise to image.
    """

    cost: float
    loss: float
    efforts: tuple[int, ...]


@dataclass(frozen=True)
class _Front:
    """Partial plans that end with one effort, none beaten by another: rising cost, falling loss.

    `source` is the effort that the plan had before its last piece, `index` its place in that effort's front, and
    `piece` the levels of the last piece.
    """

    cost: Floats
    loss: Floats
    source: Indices
    index: Indices
    piece: Indices


def exact_front(
    loss: Floats, cost: Floats, *, switch_penalty: float = 0.0, min_segment: int = 1, resolution: float = 0.0
) -> list[Choice]:
    """All plans that no other plan beats, cheapest first.

    Args:
        loss: Loss of each effort at each level (K, E), weights included.
        cost: Cost of each effort at each level (K, E).
        switch_penalty: Added to the loss for every change of effort.
        min_segment: Levels that an effort must last at least.
        resolution: Of partial plans whose costs differ by less than this share of the dearest plan's cost, only the
            best is kept; 0 keeps all, and the front is exact.

    Raises:
        UserError: Tables of different or no size, values that are not finite, or a segment longer than the plan.
    """
    loss, cost = np.asarray(loss, dtype=np.float64), np.asarray(cost, dtype=np.float64)
    if loss.ndim != 2 or loss.shape != cost.shape or not loss.size:
        raise UserError(
            f"tables of loss {loss.shape} and cost {cost.shape} do not fit", "give both as (levels, efforts)"
        )
    if not (np.isfinite(loss).all() and np.isfinite(cost).all()):
        raise UserError("the table of losses or costs has values that are not finite", "measure it again")
    if not 1 <= min_segment <= len(loss):
        raise UserError(f"a segment of {min_segment} levels in a plan of {len(loss)}", "give 1 to the number of levels")
    table = _fronts(loss, cost, switch_penalty, min_segment, resolution * float(cost.max(axis=1).sum()))
    last = len(loss)
    ends = _merge([_tagged(table[last][e], e) for e in range(loss.shape[1])], 0.0)
    return [
        Choice(float(ends.cost[i]), float(ends.loss[i]), _trace(table, last, int(ends.source[i]), int(ends.index[i])))
        for i in range(len(ends.cost))
    ]


def _fronts(loss: Floats, cost: Floats, penalty: float, least: int, unit: float) -> list[list[_Front]]:
    """Fronts [levels done][last effort]."""
    K, E = loss.shape
    sums = [np.concatenate([np.zeros((1, E)), np.cumsum(t, axis=0)]) for t in (loss, cost)]
    table = [[_EMPTY] * E for _ in range(K + 1)]
    for done in range(least, K + 1):
        for e in range(E):
            start = done - least
            piece_loss, piece_cost = (float(s[done, e] - s[start, e]) for s in sums)
            candidates = [_extend(table[done - 1][e], e, float(loss[done - 1, e]), float(cost[done - 1, e]), 1)]
            if start == 0:
                candidates.append(_single(piece_loss, piece_cost, least))
            else:
                candidates += [
                    _extend(table[start][other], other, piece_loss + penalty, piece_cost, least)
                    for other in range(E)
                    if other != e
                ]
            table[done][e] = _merge(candidates, unit)
    return table


_NONE = np.zeros(0, dtype=np.int64)
_EMPTY = _Front(np.zeros(0), np.zeros(0), _NONE, _NONE, _NONE)


def _single(loss: float, cost: float, piece: int) -> _Front:
    """The plan that begins with this piece."""
    return _Front(np.array([cost]), np.array([loss]), np.array([-1]), np.array([-1]), np.array([piece]))


def _extend(front: _Front, source: int, loss: float, cost: float, piece: int) -> _Front:
    """Every plan of a front with one more piece."""
    n = len(front.cost)
    return _Front(front.cost + cost, front.loss + loss, np.full(n, source), np.arange(n), np.full(n, piece))


def _tagged(front: _Front, source: int) -> _Front:
    return _extend(front, source, 0.0, 0.0, 0)


def _merge(fronts: Sequence[_Front], unit: float) -> _Front:
    """Of several fronts, the plans that none beats; within a `unit` of cost only the best."""
    fields = [
        np.concatenate([getattr(f, name) for f in fronts]) for name in ("cost", "loss", "source", "index", "piece")
    ]
    cost, loss = fields[0], fields[1]
    order = np.lexsort((loss, cost))
    best_before = np.minimum.accumulate(np.concatenate([[np.inf], loss[order][:-1]])) if len(order) else loss
    kept = order[loss[order] < best_before]
    if unit > 0 and len(kept):
        cell = np.floor(cost[kept] / unit)
        last_of_cell = np.append(cell[1:] != cell[:-1], True)  # the dearest in a cell has the lowest loss
        kept = kept[last_of_cell]
    return _Front(*(f[kept] for f in fields))


def _trace(table: list[list[_Front]], done: int, effort: int, index: int) -> tuple[int, ...]:
    """The efforts of one plan, found from its end."""
    efforts: list[int] = []
    while done:
        front = table[done][effort]
        piece, source, place = int(front.piece[index]), int(front.source[index]), int(front.index[index])
        efforts += [effort] * piece
        done, effort, index = done - piece, source, place
    return tuple(reversed(efforts))


def best(front: Sequence[Choice], budget: float) -> Choice:
    """The best plan that costs at most `budget`.

    Raises:
        UserError: None is that cheap.
    """
    affordable = [choice for choice in front if choice.cost <= budget * (1 + 1e-12)]
    if not affordable:
        share = front[0].cost / front[-1].cost if front else 0.0
        raise UserError(
            f"the budget {budget:.4g} is below the cheapest plan's {front[0].cost:.4g}",
            f"give at least {rounded_up(share)} of the dearest",
        )
    return affordable[-1]


def rounded_up(share: float) -> str:
    """A share with three decimals that is not below it: a budget as told is never refused."""
    return f"{math.ceil(share * 1000) / 1000:.3f}"
