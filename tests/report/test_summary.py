"""Means over seeds, the Pareto front, and how numbers are written."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from denoisezoo.report import Comparison, RunRecord
from denoisezoo.report.columns import column, format_spread, format_value
from denoisezoo.report.summary import entries, floor_of, front_of, pareto_front, shown_keys

POINTS = st.lists(st.tuples(st.integers(0, 6).map(float), st.integers(0, 6).map(float)), max_size=12)


def run(name, seed=0, error=None, **values):
    metrics = {key: value for key, value in values.items() if not key.startswith(("macs", "params", "latency"))}
    costs = {key: value for key, value in values.items() if key not in metrics}
    return RunRecord(name, f"{name}_16", "family", "process", seed, metrics, costs, error=error)


def compared(*runs, **more):
    return Comparison("title", "command", list(runs), **more)


@given(POINTS)
def test_front_equals_brute_force(points):
    def beaten(p):
        return any(q[0] <= p[0] and q[1] <= p[1] and q != p for q in points)

    front = pareto_front(points)
    assert sorted(front) == [i for i, p in enumerate(points) if not beaten(p)]
    assert [points[i] for i in front] == sorted(points[i] for i in front)


def test_front_of_leaves_out_what_has_no_cost_and_respects_direction():
    a = run("a", precision=0.5, macs_per_image=1)
    b = run("b", precision=0.9, macs_per_image=5)
    c = run("c", precision=0.8, macs_per_image=9)
    d = run("d", precision=1.0)
    found = entries(compared(a, b, c, d, quality="precision"))
    assert [entry.name for entry in found] == ["d", "b", "c", "a"]
    assert [entry.name for entry in front_of(found, "macs_per_image", "precision")] == ["a", "b"]


def test_mean_and_deviation_are_over_finite_seeds_that_did_not_fail():
    runs = [run("a", 2, fd_pixels=3.0), run("a", 0, fd_pixels=1.0), run("a", 1, fd_pixels=math.nan)]
    (entry,) = entries(compared(*runs, run("a", 3, error="boom", fd_pixels=100.0)))
    stat = entry.stat("fd_pixels")
    assert stat.values == (1.0, 3.0)
    assert stat.seeds == (0, 2)
    assert (stat.mean, stat.std) == (2.0, pytest.approx(math.sqrt(2)))
    assert entry.seeds == (0, 1, 2)
    assert [r.seed for r in entry.failed] == [3]
    assert entry.stat("recall") is None


def test_a_single_seed_has_no_deviation():
    assert entries(compared(run("a", fd_pixels=1.0)))[0].stat("fd_pixels").std is None


def test_entries_are_best_first_and_those_without_a_value_last():
    found = entries(compared(run("none"), run("worse", fd_pixels=2.0), run("better", fd_pixels=1.0)))
    assert [entry.name for entry in found] == ["better", "worse", "none"]


def test_floor_ignores_failed_runs():
    a, b = run("a", fd_pixels_halves=0.5), run("b", fd_pixels_halves=math.nan)
    assert floor_of(compared(a, b, run("c", error="boom", fd_pixels_halves=9.0))) == 0.5
    assert floor_of(compared(b)) is None


def test_shown_keys_lead_with_what_decides():
    a = run("a", recall=0.1, fd_pixels_halves=0.5, fd_pixels=1.0, macs_per_call=4, macs_per_image=3, latency_ms_p10=1.0)
    b = replace(a, name="b", metrics={"own": 1.0, "lost": math.nan}, costs={"macs_odd": 1})
    assert shown_keys(compared(a, b)) == ["fd_pixels", "macs_per_image", "recall", "own", "macs_per_call", "macs_odd"]


@pytest.mark.parametrize(
    ("mean", "std", "kind", "shown"),
    [
        (0.612, 0.013, "plain", "0.612 ± 0.013"),
        (123.4, 0.41, "plain", "123.4 ± 0.4"),
        (1_234_567, None, "count", "1.23 M"),
        (1_234_567, 23_456, "count", "1.23 ± 0.02 M"),
        (999_700, None, "count", "1.00 M"),
        (35, None, "plain", "35"),
        (0, None, "plain", "0"),
        (3 * 2**20, None, "bytes", "3.00 MiB"),
        (90, None, "seconds", "1.50 min"),
        (0.01234, None, "plain", "0.0123"),
        (math.nan, 1.0, "plain", "–"),
        (None, None, "count", "–"),
    ],
)
def test_format(mean, std, kind, shown):
    assert format_spread(mean, std, kind) == shown


@given(st.floats(1e-3, 1e14), st.sampled_from(["count", "bytes", "seconds"]))
def test_format_loses_less_than_half_a_percent(value, kind):
    number, _, suffix = format_value(value, kind).partition(" ")
    sizes = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
    sizes |= {"TiB": 2**40, "s": 1, "min": 60, "h": 3600}
    assert float(number) * sizes[suffix] == pytest.approx(value, rel=5.1e-3)


@pytest.mark.parametrize(
    ("key", "better"),
    [
        ("fd_pixels", "low"),
        ("fid", "low"),
        ("recall", "high"),
        ("fd_pixels_halves", None),
        ("odd", None),
        ("memorised_share", "low"),
        ("nearer_than_held_out", None),
        ("nfe", "low"),
    ],
)
def test_direction_of_a_column(key, better):
    assert column(key).better == better
