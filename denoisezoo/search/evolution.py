"""Evolutionary search for plans with optuna's NSGA-II, where quality is measured and not predicted.

It starts from the plans of the exact solver, which it evaluates first, so that its front is never worse than theirs.
The study lives in a file or a data base: the same command on several machines works on one study, and a killed one
goes on. DDSM (arXiv 2310.03337, `main.py search()`) searches the same way, with a gene for each of 1,000 steps, from
uniform and random plans.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from denoisezoo.errors import UserError
from denoisezoo.search.trials import SharedStudy

Efforts = tuple[int, ...]
"""Index of the effort at each level, from noise to image."""

MACS = "macs"


@dataclass(frozen=True)
class Candidate:
    """What is searched for.

    Attributes:
        efforts: An effort for each level.
        grid: Name of the sampler's time grid.
    """

    efforts: Efforts
    grid: str


@dataclass(frozen=True)
class Judged:
    """What an evaluation found; less is better.

    Attributes:
        quality: Quality of the candidate.
        cost: Its cost.
        macs: Multiply-adds that it took to find out.
    """

    quality: float
    cost: float
    macs: int = 0


@dataclass(frozen=True)
class Evaluated:
    """A candidate and what was measured of it; less is better in both.

    Attributes:
        candidate: The candidate.
        quality: Its quality.
        cost: Its cost.
    """

    candidate: Candidate
    quality: float
    cost: float


class Genome(Protocol):
    """How a plan is written as numbers that evolution mixes."""

    @property
    def levels(self) -> int:
        """Levels K of a plan."""
        ...

    @property
    def efforts(self) -> int:
        """Efforts E to choose from."""
        ...

    def suggest(self, trial: Any) -> Efforts:
        """The plan of a trial's numbers."""
        ...

    def encode(self, efforts: Efforts) -> dict[str, int]:
        """The numbers of a plan."""
        ...


@dataclass(frozen=True)
class SegmentGenome:
    """An effort for each of a few segments and the levels where they begin; equal or empty segments are allowed.

    Attributes:
        levels: Levels K of a plan.
        efforts: Efforts E.
        segments: Segments at most.
    """

    levels: int
    efforts: int
    segments: int

    def suggest(self, trial: Any) -> Efforts:
        """See `Genome`."""
        cuts = sorted(trial.suggest_int(f"cut_{i}", 0, self.levels) for i in range(1, self.segments))
        efforts = [trial.suggest_int(f"effort_{i}", 0, self.efforts - 1) for i in range(self.segments)]
        lengths = [b - a for a, b in itertools.pairwise([0, *cuts, self.levels])]
        return tuple(effort for effort, n in zip(efforts, lengths, strict=True) for _ in range(n))

    def encode(self, efforts: Efforts) -> dict[str, int]:
        """See `Genome`; the plan may have at most `segments` segments."""
        runs = [(effort, len(list(group))) for effort, group in itertools.groupby(efforts)]
        if len(runs) > self.segments:
            raise UserError(f"a plan of {len(runs)} segments in a genome of {self.segments}", "allow more segments")
        runs += [(runs[-1][0], 0)] * (self.segments - len(runs))
        ends = list(itertools.accumulate(n for _, n in runs))
        genes = {f"effort_{i}": effort for i, (effort, _) in enumerate(runs)}
        return genes | {f"cut_{i}": ends[i - 1] for i in range(1, self.segments)}


@dataclass(frozen=True)
class LevelGenome:
    """A gene for each level, as DDSM has one for each step.

    Attributes:
        levels: Levels K of a plan.
        efforts: Efforts E.
    """

    levels: int
    efforts: int

    def suggest(self, trial: Any) -> Efforts:
        """See `Genome`."""
        return tuple(trial.suggest_int(f"gene_{k:04d}", 0, self.efforts - 1) for k in range(self.levels))

    def encode(self, efforts: Efforts) -> dict[str, int]:
        """See `Genome`."""
        return {f"gene_{k:04d}": effort for k, effort in enumerate(efforts)}


def segments_of(efforts: Efforts) -> int:
    """Segments of a plan."""
    return len(list(itertools.groupby(efforts)))


def pareto(found: Iterable[Evaluated]) -> list[Evaluated]:
    """Those that no other beats in both, cheapest first."""
    best: list[Evaluated] = []
    for one in sorted(found, key=lambda e: (e.cost, e.quality)):
        if not best or one.quality < best[-1].quality:
            best.append(one)
    return best


class Evolution:
    """One worker of a study.

    Args:
        study: From `SharedStudy`.
        genome: How plans are written.
        grids: Time grids to choose from.
        population: Plans of a generation.
        seed: Seed of mutation and crossover, to which each worker of a study adds its rank.
        mutation: Chance that a gene is drawn anew; one in all genes unless given (DDSM: 0.001).
    """

    def __init__(
        self,
        study: SharedStudy,
        genome: Genome,
        *,
        grids: Sequence[str],
        population: int = 20,
        seed: int = 0,
        mutation: float | None = None,
    ) -> None:
        import optuna

        self.shared, self.genome, self.grids = study, genome, tuple(grids)
        study.study.sampler = optuna.samplers.NSGAIISampler(
            population_size=population, seed=seed + study.rank, mutation_prob=mutation
        )

    def seed(self, candidates: Iterable[Candidate]) -> None:
        """Have these evaluated before all others, unless they have been or will be."""
        for candidate in candidates:
            self.shared.study.enqueue_trial(self._encode(candidate), skip_if_exists=True)

    def run(self, evaluate: Callable[[Candidate], Judged], trials: int) -> None:
        """Work until the study has `trials` evaluations, counting those that others are at.

        Args:
            evaluate: Measures a candidate.
            trials: Evaluations in all.
        """
        while self.shared.begun() < trials or self.shared.trials("WAITING"):
            self.shared.bury_the_dead()
            trial = self.shared.take()
            if trial is not None:
                with self.shared.working(trial):
                    self._work(trial, evaluate)

    def _work(self, trial: Any, evaluate: Callable[[Candidate], Judged]) -> None:
        candidate = self._decode(trial)
        known = {e.candidate: Judged(e.quality, e.cost) for e in self.evaluated()}
        found = known.get(candidate) or evaluate(candidate)
        trial.set_user_attr(MACS, found.macs)
        self.shared.tell(trial, (found.quality, found.cost))

    def evaluated(self) -> list[Evaluated]:
        """All that was evaluated, by any worker.

        Raises:
            UserError: The study holds something else than such plans.
        """
        from optuna.trial import FixedTrial

        done = self.shared.trials("COMPLETE")
        return [Evaluated(self._decode(FixedTrial(t.params)), float(t.values[0]), float(t.values[1])) for t in done]

    @property
    def macs(self) -> int:
        """Multiply-adds of all evaluations, by any worker."""
        return sum(int(trial.user_attrs.get(MACS, 0)) for trial in self.shared.trials())

    @property
    def seconds(self) -> float:
        """Time that all evaluations took, added up over the workers."""
        done = [trial for trial in self.shared.trials() if MACS in trial.user_attrs and trial.duration is not None]
        return sum(trial.duration.total_seconds() for trial in done)

    def _decode(self, trial: Any) -> Candidate:
        try:
            efforts = self.genome.suggest(trial)
            grid = trial.suggest_categorical("grid", self.grids) if len(self.grids) > 1 else self.grids[0]
        except ValueError as error:
            raise self.shared.damaged(f"a trial is no plan of this search ({error})") from error
        if len(efforts) != self.genome.levels or not set(efforts) <= set(range(self.genome.efforts)):
            raise self.shared.damaged("a trial is no plan of this search")
        return Candidate(efforts, grid)

    def _encode(self, candidate: Candidate) -> dict[str, Any]:
        genes: dict[str, Any] = dict(self.genome.encode(candidate.efforts))
        return genes | ({"grid": candidate.grid} if len(self.grids) > 1 else {})
