"""Figures: valid for Plotly, true to the records, and without what is missing."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from denoisezoo.files import json_safe
from denoisezoo.report.axes import linear_axis, log_axis, value_axis
from denoisezoo.report.curves import (
    loss_by_noise,
    loss_curves,
    pixel_loss_by_noise,
    smoothed,
    training_figures,
    trajectory_costs,
)
from denoisezoo.report.figures import pareto, pareto_figures
from denoisezoo.report.summary import entries
from denoisezoo.report.theme import COLOURS, SHAPES, styles
from tests.report.fixtures import FLOOR, comparison
from tests.report.test_summary import compared, run


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return comparison(tmp_path_factory.mktemp("figures"))


def traces(figure, **wanted):
    return [trace for trace in figure.data if all(trace.get(key) == value for key, value in wanted.items())]


def test_plotly_accepts_every_figure(whole):
    go = pytest.importorskip("plotly.graph_objects")
    found = entries(whole)
    figures = pareto_figures(whole, found) + training_figures(found)
    assert [f.key for f in figures] == [
        *("pareto-macs_per_image", "pareto-latency_ms_per_image", "pareto-params"),
        *("loss", "noise", "trajectory", "speed"),
    ]
    for figure in figures:
        go.Figure(json_safe({"data": figure.data, "layout": figure.layout}))


def test_pareto_shows_means_spread_seeds_front_and_floor(whole):
    found = entries(whole)
    figure = pareto(whole, found, "latency_ms_per_image")
    means = {text: (x, y) for t in traces(figure, mode="markers") if "error_y" in t for text, x, y in points(t)}
    assert len(means) == 5
    entry = found[0]
    assert means[entry.name] == (entry.mean("latency_ms_per_image"), entry.mean("fd_pixels"))
    bars = [spread for trace in figure.data if "error_y" in trace for spread in trace["error_y"]["array"]]
    assert sorted(bars) == pytest.approx(sorted(e.stat("fd_pixels").std for e in found))
    assert sum(len(trace["x"]) for trace in traces(figure, name="single seeds")) == 15
    (floor,) = [trace for trace in figure.data if trace["name"].startswith("floor")]
    assert floor["y"] == [FLOOR, FLOOR]
    assert any("seed 2: " in text for trace in figure.data for text in trace.get("hovertext", []))
    assert figure.layout["xaxis"]["type"] == "log"
    assert "lower is better" in figure.layout["yaxis"]["title"]["text"]
    assert sorted(label["text"] for label in figure.layout["meta"]["labels"]) == sorted(e.name for e in found)


def points(trace):
    names = [text.split("<br>")[0].removeprefix("<b>").removesuffix("</b>") for text in trace["hovertext"]]
    return zip(names, trace["x"], trace["y"], strict=True)


def test_front_is_drawn_as_steps_through_the_undominated():
    runs = [run(n, fd_pixels=q, macs_per_image=c) for n, q, c in (("a", 3.0, 1e6), ("b", 2.0, 1e7), ("c", 2.5, 1e8))]
    found = entries(compared(*runs))
    (front,) = traces(pareto(compared(*runs), found, "macs_per_image"), name="Pareto front")
    assert front["line"]["shape"] == "hv"
    assert list(zip(front["x"], front["y"], strict=True))[1:-1] == [(1e6, 3.0), (1e7, 2.0)]
    assert front["y"][-1] == 2.0
    assert front["x"][-1] > 1e8


def test_pareto_leaves_out_what_has_no_cost_or_no_quality():
    a, b = run("a", fd_pixels=1.0, macs_per_image=5), run("b", fd_pixels=math.nan, macs_per_image=3)
    c = run("c", fd_pixels=2.0, macs_per_image=0)
    found = compared(a, b, c)
    labels = pareto(found, entries(found), "macs_per_image").layout["meta"]["labels"]
    assert [label["text"] for label in labels] == ["a"]
    assert pareto(found, entries(found), "params") is None


def test_names_cannot_carry_markup_into_a_figure():
    found = compared(run("<a href='x'>&", fd_pixels=1.0, macs_per_image=5))
    figure = pareto(found, entries(found), "macs_per_image")
    assert figure.layout["meta"]["labels"][0]["text"] == "&lt;a href='x'&gt;&amp;"
    assert not any("<a" in text for trace in figure.data for text in trace.get("hovertext", []))


def test_families_differ_in_colour_and_shape_and_members_in_dash():
    runs = [replace(run(f"n{i}"), family=f"family{i % 7}") for i in range(14)]
    looks = styles(entries(compared(*runs)))
    assert len({look.colour for look in looks.values()}) == 7
    assert len({look.shape for look in looks.values()}) == 7
    assert looks["n0"].colour == looks["n7"].colour
    assert looks["n0"].dash != looks["n7"].dash
    assert math.gcd(len(SHAPES), COLOURS) == 1


def test_smoothing_is_the_mean_of_each_span_and_skips_what_is_not_finite():
    curve = [(0, 1.0), (1, 3.0), (5, math.nan), (9, 5.0), (10, 7.0)]
    assert smoothed(curve, 0, 10, bins=2) == [(0.5, 2.0), (9.5, 6.0)]
    assert smoothed([(4, 2.0)], 4, 4, bins=3) == [(4.0, 2.0)]


def test_loss_curves_draw_each_seed_and_their_mean(whole):
    figure = loss_curves(entries(whole))
    assert len(traces(figure, showlegend=True)) == 5
    assert len(traces(figure, showlegend=False)) == 15
    assert len(figure.layout["meta"]["ends"]) == 5


def test_errors_in_pixels_are_drawn_beside_those_of_denoisers_of_pixels():
    latent = replace(run("a"), loss_by_noise=[(-2, 0, 9.0, 1)], pixel_loss_by_noise=[(-2, 0, 0.5, 1)])
    plain = replace(run("b"), loss_by_noise=[(-2, 0, 0.25, 1)])
    figure = pixel_loss_by_noise(entries(compared(latent, plain)))
    assert {trace["name"]: trace["y"] for trace in figure.data} == {"a": [0.5], "b": [0.25]}
    assert pixel_loss_by_noise(entries(compared(plain))) is None


def test_loss_by_noise_weighs_bins_by_count_and_states_the_direction():
    a = replace(run("a", 0), loss_by_noise=[(-2, 0, 1.0, 1), (0, 2, 4.0, 10), (2, 4, math.nan, 3), (4, 6, 1.0, 0)])
    b = replace(run("a", 1), loss_by_noise=[(-2, 0, 2.0, 3)])
    figure = loss_by_noise(entries(compared(a, b)))
    (trace,) = figure.data
    assert list(zip(trace["x"], trace["y"], strict=True)) == [(-1.0, 1.75), (1.0, 4.0)]
    assert figure.layout["xaxis"]["title"]["text"] == "← noise · log-SNR · image →"


def test_trajectory_runs_from_noise_to_image_and_skips_broken_rows():
    rows = [{"call": i, "sigma": s, "macs": m} for i, (s, m) in enumerate([(80.0, 5), (1.0, 9), (0.0, 9), (None, 9)])]
    figure = trajectory_costs(entries(compared(replace(run("a"), trajectory=[*rows, {"sigma": 2.0, "macs": None}]))))
    assert figure.data[0]["x"] == [80.0, 1.0]
    low, high = figure.layout["xaxis"]["range"]
    assert low > high
    assert "macs: 5" in figure.data[0]["hovertext"][0]


def test_no_data_gives_no_figure():
    found = compared(run("a"), run("b", error="boom"))
    assert pareto_figures(found, entries(found)) == []
    assert training_figures(entries(found)) == []


def test_log_axis_spans_the_values_with_readable_ticks():
    axis = log_axis("MACs", [3e8, 9e9, -1.0, math.nan, None], "count")
    assert axis["range"][0] < math.log10(3e8)
    assert axis["range"][1] > math.log10(9e9)
    assert axis["ticktext"] == ["200 M", "500 M", "1 G", "2 G", "5 G", "10 G"]
    assert len(log_axis("wide", [1e-6, 1e12])["tickvals"]) <= 10
    assert 1.0 in log_axis("none", [])["tickvals"]
    narrow = log_axis("MACs", [205e6, 255e6], "count")
    assert narrow["ticktext"] == ["180 M", "200 M", "220 M", "240 M", "260 M", "280 M"]


def test_value_axis_is_log_only_for_a_wide_positive_span():
    assert value_axis("y", [1.0, 100.0])["type"] == "log"
    assert value_axis("y", [1.0, 2.0])["type"] == "linear"
    assert value_axis("y", [0.0, 100.0])["type"] == "linear"
    assert linear_axis("y", [5.0, 9.0])["range"][0] == 0
    assert linear_axis("y", [-5.0, 9.0])["range"][0] < -5
