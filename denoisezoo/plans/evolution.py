"""Evolutionary search for plans with optuna's NSGA-II, where quality is measured and not predicted.

It starts from the plans of the exact solver, which it evaluates first, so that its front is never worse than theirs.
The study lives in a file or a data base: the same command on several machines works on one study, and a killed one
goes on. DDSM (arXiv 2310.03337, `main.py search()`) searches the same way, with a gene for each of 1,000 steps, from
uniform and random plans.
"""

from __future__ import annotations

import itertools
import os
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from denoisezoo.errors import UserError

Efforts = tuple[int, ...]
"""Index of the effort at each level, from noise to image."""

WORKER, FINGERPRINT = "worker", "problem"
GRACE = 5
"""Seconds after which the lock of a study, or a trial without its worker's name, is taken for that of a dead worker;
writing takes milliseconds."""


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


def open_storage(text: str) -> Any:
    """optuna's storage: a data base for an URL such as sqlite:///study.db, otherwise a journal file.

    Raises:
        UserError: optuna is not installed, or the file is not a study.
    """
    try:
        import optuna
    except ImportError:
        raise UserError("optuna is not installed", "pip install 'denoisezoo[search]', or use --method exact") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        if "://" in text:
            return optuna.storages.RDBStorage(text, heartbeat_interval=60, grace_period=180)
        Path(text).parent.mkdir(parents=True, exist_ok=True)
        from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

        # A worker that was killed while it wrote leaves its lock behind, which others break after the grace period.
        lock = JournalFileSymlinkLock(text, grace_period=GRACE)
        return optuna.storages.JournalStorage(JournalFileBackend(text, lock_obj=lock))
    except Exception as error:  # optuna, SQLAlchemy and json each have their own
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"the study {text} cannot be read: {first}", "delete it, or give another --storage") from error


class Evolution:
    """One worker of a study.

    Args:
        storage: From `open_storage`, or its text.
        name: Name of the study in it.
        genome: How plans are written.
        grids: Time grids to choose from.
        fingerprint: What the study is about; a study about something else is refused.
        population: Plans of a generation.
        seed: Seed of mutation and crossover; workers of one study should differ in it.
        mutation: Chance that a gene is drawn anew; one in all genes unless given (DDSM: 0.001).

    Raises:
        UserError: The study is damaged or about something else.
    """

    def __init__(
        self,
        storage: str,
        name: str,
        genome: Genome,
        *,
        grids: Sequence[str],
        fingerprint: str,
        population: int = 20,
        seed: int | None = None,
        mutation: float | None = None,
    ) -> None:
        import optuna

        self.genome, self.grids = genome, tuple(grids)
        sampler = optuna.samplers.NSGAIISampler(population_size=population, seed=seed, mutation_prob=mutation)
        opened = open_storage(storage)
        try:
            self.study = optuna.create_study(
                storage=opened,
                study_name=name,
                sampler=sampler,
                directions=["minimize", "minimize"],
                load_if_exists=True,
            )
            found = self.study.user_attrs.get(FINGERPRINT)
        except Exception as error:
            what = f"the study {storage} is damaged: {type(error).__name__}"
            raise UserError(what, "delete it, or give another --storage") from error
        if found is None:
            self.study.set_user_attr(FINGERPRINT, fingerprint)
        elif found != fingerprint:
            raise UserError(f"the study {storage} is about another search ({found})", "give another --storage")
        self._bury_the_dead()

    def seed(self, candidates: Iterable[Candidate]) -> None:
        """Have these evaluated before all others, unless they have been or will be."""
        for candidate in candidates:
            self.study.enqueue_trial(self._encode(candidate), skip_if_exists=True)

    def run(self, evaluate: Callable[[Candidate], tuple[float, float]], trials: int) -> None:
        """Work until the study has `trials` evaluations, counting those that others are at.

        Args:
            evaluate: Quality and cost of a candidate.
            trials: Evaluations in all.
        """
        while self._begun() < trials or self._waiting():
            trial = self.study.ask()
            trial.set_user_attr(WORKER, f"{socket.gethostname()}:{os.getpid()}")
            candidate = self._decode(trial)
            known = {e.candidate: (e.quality, e.cost) for e in self.evaluated()}
            self.study.tell(trial, known.get(candidate) or evaluate(candidate))

    def evaluated(self) -> list[Evaluated]:
        """All that was evaluated, by any worker."""
        from optuna.trial import FixedTrial, TrialState

        done = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return [Evaluated(self._decode(FixedTrial(t.params)), float(t.values[0]), float(t.values[1])) for t in done]

    def _decode(self, trial: Any) -> Candidate:
        efforts = self.genome.suggest(trial)
        grid = trial.suggest_categorical("grid", self.grids) if len(self.grids) > 1 else self.grids[0]
        return Candidate(efforts, grid)

    def _encode(self, candidate: Candidate) -> dict[str, Any]:
        genes: dict[str, Any] = dict(self.genome.encode(candidate.efforts))
        return genes | ({"grid": candidate.grid} if len(self.grids) > 1 else {})

    def _begun(self) -> int:
        from optuna.trial import TrialState

        return len(self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.RUNNING)))

    def _waiting(self) -> bool:
        from optuna.trial import TrialState

        return bool(self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)))

    def _bury_the_dead(self) -> None:
        """Give up trials of workers on this machine that were killed; what they were to evaluate is queued again.

        A worker may have been killed before it had written down all genes of a candidate that was queued for it, or
        even its own name.
        """
        from optuna.trial import TrialState

        if any(WORKER not in trial.user_attrs for trial in self._running()):
            time.sleep(GRACE)  # the worker that has just begun it says who it is at once
        for trial in self._running():
            host, _, pid = str(trial.user_attrs.get(WORKER, "")).partition(":")
            if not host or (host == socket.gethostname() and not _alive(int(pid))):
                self.study.tell(trial.number, state=TrialState.FAIL)
                genes = trial.system_attrs.get("fixed_params", {}) | trial.params
                if genes:
                    self.study.enqueue_trial(genes)

    def _running(self) -> list[Any]:
        from optuna.trial import TrialState

        return self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))


def _alive(pid: int) -> bool:
    """Whether a process of this machine still runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
