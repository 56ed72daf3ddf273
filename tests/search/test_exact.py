"""The exact solver against every plan there is."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from denoisezoo.errors import UserError
from denoisezoo.search.exact import best, exact_front


def runs(efforts):
    return [len(list(group)) for _, group in itertools.groupby(efforts)]


def value(loss, cost, efforts, penalty):
    rows = range(len(efforts))
    switches = len(runs(efforts)) - 1
    return sum(cost[k, efforts[k]] for k in rows), sum(loss[k, efforts[k]] for k in rows) + penalty * switches


def everything(loss, cost, penalty, least):
    """(cost, loss) of every plan whose segments are long enough."""
    K, E = loss.shape
    plans = itertools.product(range(E), repeat=K)
    return [value(loss, cost, plan, penalty) for plan in plans if min(runs(plan)) >= least]


tables = st.tuples(st.integers(1, 6), st.integers(1, 3)).flatmap(
    lambda shape: st.tuples(
        hnp.arrays(np.float64, shape, elements=st.integers(-20, 20).map(float)),
        hnp.arrays(np.float64, shape, elements=st.integers(1, 9).map(float)),
    )
)


@settings(max_examples=150, deadline=None)
@given(tables, st.integers(0, 5), st.integers(1, 3))
def test_it_agrees_with_brute_force_at_every_budget(table, penalty, least):
    loss, cost = table
    least = min(least, len(loss))
    front = exact_front(loss, cost, switch_penalty=penalty, min_segment=least)
    plans = everything(loss, cost, penalty, least)
    for budget in sorted({c for c, _ in plans}):
        expected = min(value for c, value in plans if c <= budget)
        found = best(front, budget)
        assert found.loss == expected
        assert found.cost <= budget
        assert value(loss, cost, found.efforts, penalty) == (found.cost, found.loss)
        assert min(runs(found.efforts)) >= least


@settings(max_examples=50, deadline=None)
@given(tables, st.floats(0, 3))
def test_it_is_monotone_in_the_budget(table, penalty):
    front = exact_front(*table, switch_penalty=penalty)
    assert all(a.cost < b.cost and a.loss > b.loss for a, b in itertools.pairwise(front))
    losses = [best(front, budget).loss for budget in np.linspace(front[0].cost, front[-1].cost + 1, 20)]
    assert losses == sorted(losses, reverse=True)


def test_resolution_keeps_valid_plans_near_the_exact_front():
    generator = np.random.default_rng(0)
    cost = np.tile([1.0, 2.7, 5.3, 9.1], (20, 1)) * generator.uniform(0.5, 1.5, (20, 1))
    loss = np.sort(generator.random((20, 4)), axis=1)[:, ::-1]
    exact, coarse = exact_front(loss, cost), exact_front(loss, cost, resolution=5e-3)
    assert len(coarse) < len(exact) / 3
    for choice in coarse:
        assert value(loss, cost, choice.efforts, 0) == pytest.approx((choice.cost, choice.loss))
        # at a budget larger by the resolution of every level, it is at least as good
        assert choice.loss <= best(exact, max(exact[0].cost, choice.cost - 20 * 5e-3 * exact[-1].cost)).loss + 1e-12


def test_a_thousand_levels_take_seconds():
    """The paper's table: 1,000 steps, four widths, whose costs are whole numbers."""
    cost = np.tile([382.5, 1520.0, 3420.0, 6070.0], (1000, 1))
    loss = np.geomspace(1, 100, 1000)[:, None] * np.array([1.0, 0.4, 0.1, 0.0])
    front = exact_front(loss, cost, switch_penalty=5.0, min_segment=50, resolution=1e-3)
    half = best(front, cost[:, -1].sum() / 2)
    assert len(runs(half.efforts)) <= 4
    assert list(half.efforts) == sorted(half.efforts)


@pytest.mark.parametrize(
    ("loss", "cost", "options", "told"),
    [
        (np.zeros((2, 3)), np.zeros((3, 2)), {}, "do not fit"),
        (np.zeros((0, 2)), np.zeros((0, 2)), {}, "do not fit"),
        (np.array([[np.nan]]), np.ones((1, 1)), {}, "not finite"),
        (np.zeros((2, 1)), np.ones((2, 1)), {"min_segment": 3}, "segment of 3"),
    ],
)
def test_tables_that_cannot_be(loss, cost, options, told):
    with pytest.raises(UserError, match=told):
        exact_front(loss, cost, **options)


def test_a_budget_below_the_cheapest_plan():
    front = exact_front(np.array([[1.0, 0.0]] * 4), np.array([[1.0, 4.0]] * 4))
    with pytest.raises(UserError, match=r"below the cheapest plan's 4.*at least 0\.250"):
        best(front, 3.9)
