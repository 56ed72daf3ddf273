"""The studies from the command line, on a network that has hardly been trained."""

import json
from pathlib import Path

import pytest
import torch

from denoisezoo import cli
from denoisezoo.archs import create_backbone
from denoisezoo.archs.multiscale import Multiscale
from denoisezoo.evaluation.card import device_name
from denoisezoo.runs.run import load_run
from denoisezoo.studies.cards import training_facts
from denoisezoo.studies.study import titles_of

NETWORK = "missing_u_second_order_tiny"


@pytest.fixture
def run(trained):
    return trained("--model.denoiser", NETWORK, "--checkpoint.keep_all", "true")


def study(tmp_path, *words):
    rows, page = tmp_path / "rows.json", tmp_path / "page.html"
    assert cli.main(["study", *map(str, words), "--out", str(page), "--json", str(rows)]) == 0
    assert "plotly" in page.read_text()
    return json.loads(rows.read_text())


def check_cards(rows, **expected):
    """Every row says where, when and with what it was made, and by what command."""
    for row in rows:
        card = row["card"]
        assert {key: card[key] for key in expected} == expected
        assert card["date"].startswith("20")
        assert card["versions"]["torch"].startswith(torch.__version__.split("+")[0])
        assert (card["threads"], card["device_name"]) == (torch.get_num_threads(), device_name("cpu"))
        assert row["command"].startswith("denoisezoo ")


SAMPLING = ["--sampler", "euler", "--steps", "2", "--num", "40", "--device", "cpu"]


def test_solvers(run, tmp_path):
    rows = study(tmp_path, "solvers", run, "--solvers", "euler,rk4,dopri5", "--solver-steps", "1,2", *SAMPLING)
    check_cards(rows, weights="ema", images_seen=128, train_steps=4, training_seed=0, dtype="float32")
    blocks = 5  # three levels: two blocks on the way down, one in the middle, two on the way up
    assert [(row["solver"], row["solver_steps"]) for row in rows] == [
        ("run euler", 1), ("run euler", 2), ("run rk4", 1), ("run rk4", 2), ("run dopri5", None),
    ]  # fmt: skip
    assert [row["inner_nfe"] for row in rows[:4]] == [2 * blocks * n for n in (1, 2, 4, 8)]
    assert rows[4]["inner_nfe"] >= 2 * blocks * 6  # dopri5 takes at least six evaluations
    assert all(row["quality"] == row["fd_pixels"] > 0 for row in rows)
    assert rows[0]["macs_per_image"] < rows[1]["macs_per_image"] < rows[3]["macs_per_image"]


def test_adaptive_over_the_checkpoints(run, tmp_path):
    rows = study(tmp_path, "adaptive", run, "--tolerances", "0.1,0.001", *SAMPLING)
    assert [row["checkpoint"] for row in rows] == ["step_00000002.ckpt"] * 2 + ["step_00000004.ckpt"] * 2
    assert [row["images_seen"] for row in rows] == [64, 64, 128, 128]
    assert [row["card"]["images_seen"] for row in rows] == [64, 64, 128, 128]
    check_cards(rows, weights="ema", training_seed=0)
    assert all(row["inner_nfe_per_call"] == row["inner_nfe"] / row["nfe"] for row in rows)
    assert rows[1]["inner_nfe"] >= rows[0]["inner_nfe"]  # a finer tolerance never costs less


def test_robustness(run, tmp_path):
    words = ["--levels", "0.05,0.2", "--denoising-steps", "1,3", "--num", "20", "--device", "cpu"]
    rows = study(tmp_path, "robustness", run, *words)
    assert [(row["eps"], row["steps"]) for row in rows] == [(0.05, 1), (0.05, 3), (0.2, 1), (0.2, 3)]
    assert rows[0]["noisy_psnr"] == pytest.approx(26.0, abs=0.2)  # -20 log10 0.05
    assert {row["images"] for row in rows} == {20}
    check_cards(rows, weights="ema", images_seen=128)


def test_memory(tmp_path):
    words = ["--solvers", "rk4", "--solver-steps", "4,16", "--memory-batch", "2"]
    rows = study(tmp_path, "memory", NETWORK, *words)
    peak = {(row["gradient"], row["solver_steps"]): row["peak_memory_bytes"] for row in rows}
    assert peak["back-propagation", 16] > 2 * peak["back-propagation", 4]
    check_cards(rows, device="cpu", weights=None)
    assert peak["adjoint", 16] < 1.1 * peak["adjoint", 4]
    assert create_backbone(NETWORK).config.solver == "midpoint"  # the registered network has another one


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["solver", "x"], "error: unknown study 'solver'; did you mean solvers"),
        (["solvers", "/nowhere"], "error: there is no run /nowhere"),
        (["adaptive", "/nowhere"], "error: /nowhere holds no numbered checkpoints"),
        (["memory", "ddpm_tiny"], "error: unknown argument of ddpm_tiny 'solver'"),
        (["memory", NETWORK, NETWORK], "error: memory studies one registered network"),
        (["memory", NETWORK, "--solvers", "rk5"], "error: unknown solver 'rk5'"),
        (["resolutions", "a", "b", "--num", "3"], "error: resolutions has no use for --num"),
        (["resolutions", "a", "b", "--seed", "3"], "error: resolutions has no use for --seed"),
        (["resolutions", "a", "b", "--plan", "p.json"], "error: resolutions has no use for --plan"),
        (["resolutions", "a", "b", "--batch-size", "4"], "error: resolutions has no use for --batch-size"),
        (["samplers", "a", "--steps", "30"], "error: samplers has no use for --steps; give --nfe"),
        (["resolutions", "a", "b", "--device", "tpu"], "error: "),
    ],
)
def test_mistakes_end_with_one_line(words, line, capsys):
    assert cli.main(["study", *words]) == 2
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)
    assert err.startswith(line)


def test_calls(trained, tmp_path):
    """Each run by its own sampler; what is best for its price is told."""
    small = trained("--samples.sampler", "flow_map", folder="small")
    large = trained("--samples.sampler", "heun", "--model.network.channels", "16", folder="large")
    rows = study(tmp_path, "calls", small, large, "--nfe", "1,2,4", "--num", "40", "--device", "cpu")
    check_cards(rows, weights="ema", train_steps=4)
    assert [(row["run"], row["sampler"], row["nfe"]) for row in rows] == [
        *(("small", "flow_map", nfe) for nfe in (1, 2, 4)),
        *(("large", "heun", nfe) for nfe in (1, 3)),
    ]
    one, two, _, wide, three = rows
    assert two["macs_per_image"] == 2 * one["macs_per_image"]
    assert three["macs_per_image"] == 3 * wide["macs_per_image"] > 3 * one["macs_per_image"]
    ordered = sorted(rows, key=lambda row: (row["macs_per_image"], row["quality"]))
    lowest = [min(row["quality"] for row in ordered[: i + 1]) for i in range(len(ordered))]
    assert [row["best"] for row in ordered] == [
        row["quality"] == low and row["quality"] not in lowest[:i]
        for i, (row, low) in enumerate(zip(ordered, lowest, strict=True))
    ]


def test_samplers(run, tmp_path):
    words = [
        "--samplers",
        "gddim:q=2",
        "heun",
        "rk45:rtol=0.1,atol=0.1",
        "--nfe",
        "5,9",
        "--num",
        "40",
        "--device",
        "cpu",
    ]
    rows = study(tmp_path, "samplers", run, *words)
    assert [(row["sampler"], row["steps"]) for row in rows[:4]] == [
        ("gddim:q=2", 5), ("gddim:q=2", 9), ("heun", 3), ("heun", 5),
    ]  # fmt: skip
    assert [row["nfe"] for row in rows[:4]] == [5, 9, 5, 9]
    assert len(rows) == 5  # an adaptive sampler has one row, with the calls that its tolerances took
    assert rows[4]["nfe"] > 7
    assert all(row["quality"] == row["fd_pixels"] for row in rows)
    check_cards(rows, weights="ema", images_seen=128, seeds="0-39")


def test_runs_of_one_name_are_told_apart(trained, tmp_path):
    """As compare lays them out, every run's folder is named after its seed."""
    first = trained("--model.denoiser", NETWORK, folder="a/seed_0")
    second = trained("--model.denoiser", "ddpm_tiny", folder="b/seed_0")
    words = ["--samplers", "euler", "--nfe", "2", "--num", "40", "--device", "cpu"]
    rows = study(tmp_path, "samplers", first, second, *words)
    assert [row["line"] for row in rows] == ["a/seed_0 euler", "b/seed_0 euler"]
    params = [sum(p.numel() for p in load_run(run).denoiser.backbone.parameters()) for run in (first, second)]
    assert [row["card"]["params"] for row in rows] == params


def test_titles_are_as_short_as_they_tell_folders_apart():
    paths = [Path("runs/a/0"), Path("runs/b/0"), Path("runs/b/1")]
    assert titles_of(paths) == ["a/0", "b/0", "b/1"]
    assert titles_of(paths[1:]) == ["0", "1"]
    assert titles_of([Path("x/0"), Path("0")]) == ["x/0", "0"]
    assert titles_of([paths[0]] * 2) == ["0", "0"]


def test_a_sampler_that_cannot_start_has_a_row_that_says_so(run, tmp_path):
    words = ["--samplers", "gddim:q=4", "--nfe", "2,5", "--num", "40", "--device", "cpu"]
    rows = study(tmp_path, "samplers", run, *words)
    assert "larger than steps" in rows[0]["error"]
    assert rows[1]["quality"] > 0


def test_resolutions(tmp_path):
    names = ["multiscale_digits", "ddpm_digits"]
    words = ["--processes", "multiscale,diagonal", "--resolutions", "16,32", "--sampler", "gddim", "--steps", "6"]
    rows = study(tmp_path, "resolutions", *names, *words, "--batch-sizes", "1", "--channels-last", "--rounds", "2")
    assert {row["rounds"] for row in rows} == {2}
    assert [(row["name"], row["resolution"]) for row in rows] == [(n, r) for r in (16, 32) for n in names]
    assert rows[0]["macs_ratio"] == pytest.approx(6 * 13_673_984 / (2 * (1_258_752 + 6_360_960 + 5_984_768)))
    assert rows[0]["speed_up"] == rows[1]["ms_per_image"] / rows[0]["ms_per_image"]
    assert {(row["layout"], row["compiled"]) for row in rows} == {("channels_last", False)}
    check_cards(rows, device="cpu", dtype="float32", weights=None)


def test_resolutions_in_another_dtype(tmp_path, monkeypatch):
    seen, forward = [], Multiscale.forward
    monkeypatch.setattr(
        Multiscale, "forward", lambda self, x, *args, **given: seen.append(x.dtype) or forward(self, x, *args, **given)
    )
    words = ["--processes", "multiscale,multiscale", "--resolutions", "16", "--sampler", "gddim", "--steps", "3"]
    names = ["multiscale_digits", "multiscale_digits"]
    rows = study(
        tmp_path, "resolutions", *names, *words, "--batch-sizes", "1", "--device", "cpu", "--dtype", "bfloat16"
    )
    assert seen[-1] == torch.bfloat16
    check_cards(rows, device="cpu", dtype="bfloat16")


def test_the_card_of_a_mean_over_runs_has_what_differs_of_each():
    facts = [{"training_seed": seed, "images_seen": 64} for seed in (0, 1)]
    assert training_facts(facts) == {"training_seed": [0, 1], "images_seen": 64}
    assert training_facts([]) == {}


def test_one_network_on_two_processes_has_two_lines(tmp_path):
    words = ["--processes", "multiscale,diagonal", "--resolutions", "16", "--steps", "3", "--batch-sizes", "1"]
    rows = study(tmp_path, "resolutions", "ddpm_digits", "ddpm_digits", *words, "--sampler", "gddim")
    lines = ["ddpm_digits (multiscale), batch 1", "ddpm_digits (diagonal), batch 1"]
    assert [row["line_of_network"] for row in rows] == lines
    assert [row.get("line") for row in rows] == ["batch 1", None]
    check_cards(rows, sampler="gddim", steps=3, params=rows[0]["params"])


def test_semigroup(trained, tmp_path):
    run = trained("--model.network.second_time", "true", "--samples.sampler", "flow_map", folder="jumps")
    rows = study(tmp_path, "semigroup", run, "--nfe", "1,4", "--num", "30")
    check_cards(rows, weights="ema", train_steps=4)
    assert [(row["jumps"], row["images"], row["second_time"]) for row in rows] == [(1, 30, True), (4, 30, True)]
    assert all(0 < row["error"] < 1 and row["difference"] > 0 for row in rows)
