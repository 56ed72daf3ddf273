"""Evolution on a problem whose answer is known: genomes, elitism, resuming after a kill, two workers, bad studies."""

import multiprocessing
import os
import signal
import socket
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from denoisezoo.errors import UserError
from denoisezoo.plans.evolution import (
    WORKER,
    Candidate,
    Evaluated,
    Evolution,
    LevelGenome,
    SegmentGenome,
    pareto,
    segments_of,
)
from denoisezoo.plans.exact import exact_front

pytest.importorskip("optuna")

LEVELS, EFFORTS = 12, 3
COST = np.tile([1.0, 3.0, 7.0], (LEVELS, 1))
LOSS = np.linspace(0.1, 2.0, LEVELS)[:, None] * np.array([1.0, 0.35, 0.0])


def evaluate(candidate):
    rows = np.arange(LEVELS)
    # The truth differs from the table: other levels matter, and it is not additive.
    quality = float(LOSS[::-1][rows, candidate.efforts].sum() ** 1.5 + 0.02 * segments_of(candidate.efforts))
    return quality, float(COST[rows, candidate.efforts].sum())


def genome(segments=4):
    return SegmentGenome(LEVELS, EFFORTS, segments)


def seeds(count=6):
    front = exact_front(LOSS, COST, min_segment=3)
    chosen = [front[i] for i in np.linspace(0, len(front) - 1, count).round().astype(int)]
    return [Candidate(choice.efforts, "process") for choice in chosen]


def evolution(path, **options):
    options = {"grids": ("process",), "fingerprint": "p", "population": 8, "seed": 0} | options
    return Evolution(str(path), "plans", options.pop("genome", genome()), **options)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, EFFORTS - 1), min_size=LEVELS, max_size=LEVELS).map(tuple))
def test_genomes_give_back_the_plan(efforts):
    from optuna.trial import FixedTrial

    for written in (genome(LEVELS), LevelGenome(LEVELS, EFFORTS)):
        assert written.suggest(FixedTrial(written.encode(efforts))) == efforts


def test_a_plan_of_too_many_segments():
    with pytest.raises(UserError, match="12 segments in a genome of 4"):
        genome().encode((0, 1) * 6)


def test_pareto():
    points = [
        Evaluated(Candidate((i,), "g"), q, c) for i, (q, c) in enumerate([(3, 1), (2, 2), (2, 3), (1, 9), (5, 0.5)])
    ]
    assert [p.candidate.efforts[0] for p in pareto(points)] == [4, 0, 1, 3]


def dominated(point, front):
    return any(q <= point[0] and c <= point[1] and (q, c) != point for q, c in front)


def test_the_front_is_never_worse_than_the_exact_plans_and_gets_better(tmp_path):
    search = evolution(tmp_path / "study.log")
    search.seed(seeds())
    search.run(evaluate, 60)
    found = search.evaluated()
    assert len(found) == 60
    front = [(e.quality, e.cost) for e in pareto(found)]
    start = [evaluate(candidate) for candidate in seeds()]
    assert not any(dominated(point, start) for point in front)
    assert {e.candidate for e in found} >= set(seeds())
    assert any(dominated(point, front) for point in start), "60 evaluations found nothing better"


def test_the_same_plan_is_not_evaluated_twice(tmp_path):
    asked = []

    def once(candidate):
        asked.append(candidate)
        return evaluate(candidate)

    search = evolution(tmp_path / "study.log", genome=genome(2))
    search.run(once, 40)
    assert len(asked) == len(set(asked))


def test_time_grids_are_searched_too(tmp_path):
    search = evolution(tmp_path / "study.log", grids=("process", "edm"))
    search.run(lambda c: (evaluate(c)[0] + (c.grid == "process"), evaluate(c)[1]), 40)
    assert {e.candidate.grid for e in search.evaluated()} == {"process", "edm"}
    assert min(search.evaluated(), key=lambda e: e.quality).candidate.grid == "edm"


def slowly(candidate):
    time.sleep(0.05)
    return evaluate(candidate)


def work(path, seed, trials):
    search = evolution(path, seed=seed)
    search.seed(seeds())
    search.run(slowly, trials)


def test_a_killed_search_goes_on_and_loses_nothing(tmp_path):
    path = tmp_path / "study.log"
    context = multiprocessing.get_context("fork")
    process = context.Process(target=work, args=(path, 0, 30))
    process.start()
    while process.is_alive() and (not path.exists() or path.read_text().count('"state":1') < 4):
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    before = {(e.candidate, e.quality) for e in evolution(path).evaluated()}
    assert 0 < len(before) < 30
    search = evolution(path)
    search.seed(seeds())
    search.run(evaluate, 30)
    after = search.evaluated()
    assert before <= {(e.candidate, e.quality) for e in after}
    assert {e.candidate for e in after} >= set(seeds())
    assert len(after) == 30


@pytest.mark.parametrize("written", [0, 1])
def test_a_plan_that_a_killed_worker_had_only_begun_is_not_lost(tmp_path, written):
    """It was killed after some of the plan's genes, or before the first."""
    path = tmp_path / "study.log"
    gone = multiprocessing.get_context("fork").Process(target=int)
    gone.start()
    gone.join()
    search = evolution(path)
    search.seed(seeds())
    trial = search.study.ask()
    trial.set_user_attr(WORKER, f"{socket.gethostname()}:{gone.pid}")
    for _ in range(written):
        trial.suggest_int("cut_1", 0, LEVELS)
    again = evolution(path)
    again.seed(seeds())
    again.run(evaluate, 10)
    assert {e.candidate for e in again.evaluated()} >= set(seeds())


def test_a_worker_that_was_killed_before_it_said_who_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr("denoisezoo.plans.evolution.GRACE", 0.01)
    path = tmp_path / "study.log"
    search = evolution(path)
    search.seed(seeds())
    search.study.ask()
    again = evolution(path)
    again.seed(seeds())
    again.run(evaluate, 10)
    assert {e.candidate for e in again.evaluated()} >= set(seeds())
    assert len(again.evaluated()) == 10


def test_two_processes_share_one_search(tmp_path):
    path = tmp_path / "study.log"
    evolution(path).seed(seeds())
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=work, args=(path, seed, 24)) for seed in (1, 2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    trials = evolution(path).study.get_trials(deepcopy=False)
    by_worker = [sum(t.user_attrs.get(WORKER, "").endswith(f":{w.pid}") for t in trials) for w in workers]
    assert min(by_worker) >= 6
    # each may have begun one more while the other told its last
    assert 24 <= len(evolution(path).evaluated()) <= 26


@pytest.mark.parametrize("content", ["not a study\n", '{"op_code": 0}\n', "\x00\x01\n"])
def test_a_damaged_study(tmp_path, content):
    path = tmp_path / "study.log"
    path.write_text(content)
    with pytest.raises(UserError, match=r"study .*(damaged|cannot be read)"):
        evolution(path)


def test_a_study_of_another_problem(tmp_path):
    evolution(tmp_path / "study.log")
    with pytest.raises(UserError, match=r"about another search \(p\)"):
        evolution(tmp_path / "study.log", fingerprint="q")


def test_a_data_base_holds_a_study_as_well(tmp_path):
    search = evolution(f"sqlite:///{tmp_path}/study.db")
    search.seed(seeds(2))
    search.run(evaluate, 3)
    assert len(evolution(f"sqlite:///{tmp_path}/study.db").evaluated()) == 3
