"""The verdict on comparisons made by hand."""

from __future__ import annotations

import math

import pytest

from denoisezoo.report.summary import entries, front_of, shown_keys
from denoisezoo.report.table import results_table
from denoisezoo.report.verdict import automatic_notes, verdict
from tests.report.test_summary import compared, run


def seeds(name, values, **costs):
    return [run(name, seed, fd_pixels=value, **costs) for seed, value in enumerate(values)]


def said(sentence):
    return "".join(sentence)


def all_said(found):
    return "\n".join(said(sentence) for sentence in [found.headline, *found.sentences])


def test_best_and_cheapest_near_it():
    best = seeds("best", [1.00, 1.01, 0.99], macs_per_image=8e9, latency_ms_per_image=50.0)
    near = seeds("near", [1.07, 1.08, 1.09], macs_per_image=2e9, latency_ms_per_image=60.0)
    poor = seeds("poor", [3.0, 3.1, 2.9], macs_per_image=1e6, latency_ms_per_image=1.0)
    found = verdict(compared(*poor, *near, *best))
    assert (
        said(found.headline) == "best gives the best images; near comes within 10 % for 4 times fewer MACs per image."
    )
    assert [(a.name, a.value) for a in found.answers] == [
        ("best", "fd_pixels 1.00 ± 0.01"),
        ("near", "2.00 G MAC per image"),
        ("best", "50 ms per image"),
    ]
    text = all_said(found)
    assert "near is 8 % worse for 4 times fewer MACs per image (2.00 G instead of 8.00 G MAC)." in text
    assert "none is cheaper than it by time per image." in text
    assert "Every other denoiser differs from it by more than the seeds' spread." in text


def test_times_within_the_spread_are_level():
    """A better one that is slower by less than the seeds' spread is as fast, in words, on the front and by its star."""

    def timed(name, quality, times):
        return [run(name, i, fd_pixels=quality + i / 1e3, latency_ms_per_image=ms) for i, ms in enumerate(times)]

    best, hasty = timed("best", 1.0, [50.0, 56.0, 53.0]), timed("hasty", 1.05, [49.0, 54.0, 52.0])
    found = compared(*hasty, *best, *timed("slow", 2.0, [90.0, 90.1, 89.9]))
    answer = verdict(found).answers[-1]
    assert (answer.name, answer.value) == ("best", "53 ms per image; hasty within the seeds' spread of it")
    assert "hasty is" not in all_said(verdict(found))
    assert [entry.name for entry in front_of(entries(found), "latency_ms_per_image", "fd_pixels")] == ["best"]
    stars = [row.count("★") for row in str(results_table(found, entries(found))).split("<tr>")[2:]]
    assert stars == [2, 1, 0]


def test_another_feature_space_is_told():
    """Who is best there, those that its seeds do not tell apart together, and its column beside the deciding one."""
    space = {"fd_efflite0_halves": 30.0, "fd_efflite0_over_halves": 2.0}
    found = compared(
        *(run("a", i, fd_pixels=1.0 + i / 1e3, fd_efflite0=v, **space) for i, v in enumerate([90.0, 91.0])),
        *(run("b", i, fd_pixels=2.0 + i / 1e3, fd_efflite0=v, **space) for i, v in enumerate([50.0, 52.0])),
        *(run("c", i, fd_pixels=3.0 + i / 1e3, fd_efflite0=v, **space) for i, v in enumerate([50.5, 52.5])),
    )
    assert "By fd_efflite0 b and c are best, 51.0 ± 1.4." in all_said(verdict(found))
    assert shown_keys(found)[:2] == ["fd_pixels", "fd_efflite0"]


def test_within_the_spread_nobody_wins():
    found = verdict(compared(*seeds("a", [1.0, 1.4]), *seeds("b", [1.1, 1.5]), *seeds("c", [9.0, 9.1])))
    assert said(found.headline) == "a and b give the best images; between them the seeds decide."
    assert "The difference to b lies within the seeds' spread" in all_said(found)


def test_equal_values_tie_even_with_one_seed():
    found = verdict(compared(run("a", fd_pixels=1.0), run("b", fd_pixels=1.0), run("c", fd_pixels=1.0)))
    assert said(found.headline).startswith("a, b and c give the best images")
    assert "One seed each" in all_said(found)


def test_one_seed_each_says_that_chance_is_unknown():
    found = verdict(compared(run("a", fd_pixels=1.0), run("b", fd_pixels=1.01)))
    assert said(found.headline) == "a gives the best images."
    assert "One seed each: the spread between seeds is not known" in all_said(found)


def test_one_denoiser_is_not_ranked():
    found = verdict(compared(run("a", fd_pixels=1.5, fd_pixels_halves=0.5)))
    assert "only denoiser here with a result" in said(found.headline)
    assert "3.00 times what two halves of the real images score (0.500)" in all_said(found)
    assert [answer.question for answer in found.answers] == ["Best images"]


def test_nobody_near_is_said():
    found = verdict(compared(run("a", fd_pixels=1.0, macs_per_image=9), run("b", fd_pixels=2.0, macs_per_image=1)))
    assert "No other denoiser comes within 10 % of that fd_pixels." in all_said(found)
    assert found.answers[1].name == "a"


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nothing_finite_gives_no_ranking(value):
    found = verdict(compared(run("a", fd_pixels=value), run("b", error="boom")))
    assert "nothing to rank" in said(found.headline)
    assert found.answers == []


def test_a_best_denoiser_without_costs_gives_no_saving():
    found = verdict(compared(run("a", fd_pixels=1.0), run("b", fd_pixels=1.05, macs_per_image=1)))
    assert "MAC" not in all_said(found)
    assert len(found.answers) == 1


def test_higher_is_better_where_the_metric_says_so():
    a, b = run("a", precision=0.90, macs_per_image=9e6), run("b", precision=0.85, macs_per_image=3e6)
    found = verdict(compared(b, a, quality="precision"))
    assert found.answers[0].name == "a"
    assert "b is 5.6 % worse for 3 times fewer MACs per image" in all_said(found)


def test_notes_tell_of_failures_and_of_lost_seeds():
    notes = automatic_notes(
        compared(
            *seeds("a", [1.0, math.nan, 2.0]),
            run("b", 4, error="the loss is NaN at step 120"),
            run("c", fd_pixels=math.inf),
            *seeds("d", [1.0]),
        )
    )
    assert sorted(notes) == [
        "a: 1 of 3 seeds without a finite fd_pixels; its mean is over the others.",
        "b, seed 4, failed: the loss is NaN at step 120",
        "c: no finite fd_pixels from any seed.",
    ]
