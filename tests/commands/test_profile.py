import csv
import json
import os
import signal
import sys
from types import SimpleNamespace

import pytest
import torch

from denoisezoo import cli
from denoisezoo.archs import create_backbone, get_variant, list_denoisers
from denoisezoo.diffusion import create_denoiser
from denoisezoo.profiling.isolation import in_own_process


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny tensors gain nothing from threads, and lose much on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def profile(tmp_path, *words):
    path = tmp_path / "rows.json"
    assert cli.main(["profile", *words, "--json", str(path)]) == 0
    return json.loads(path.read_text())


def error_line(capsys, *words):
    assert cli.main(["profile", *words]) == 2
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)
    return err


def test_counts_of_a_big_network_need_no_weights(tmp_path, capsys):
    (row,) = profile(tmp_path, "ddpm_cifar10", "--counts-only")
    assert (row["params"], row["macs"], row["flops"]) == (35_746_307, 6_221_856_768, 2 * 6_221_856_768)
    assert row["macs_attention"] == 167_903_232
    assert (row["latency_ms"], row["peak_memory_bytes"], row["uncounted_ops"]) == (None, None, {})
    out = capsys.readouterr().out
    assert "6.22 G" in out
    assert "latency" not in out  # no column without a value


def test_a_pattern_prices_all_that_match(tmp_path):
    rows = profile(tmp_path, "*_tiny", list_denoisers("*_tiny")[0], "--counts-only")
    expected = [(name, effort) for name in list_denoisers("*_tiny") for effort in get_variant(name).efforts]
    assert [(row["name"], row["effort"]) for row in rows] == expected
    costs = [cost.macs for name in list_denoisers("*_tiny") for cost in get_variant(name).costs]
    assert [row["macs"] for row in rows] == costs


def test_measured_with_a_sampler(tmp_path, capsys):
    path = tmp_path / "rows.csv"
    words = ["--device", "cpu", "--runs", "1", "--batch-size", "1,2", "--sampler", "heun", "--steps", "3"]
    rows = profile(tmp_path, "ddpm_tiny", *words, "--csv", str(path))
    assert [row["batch_size"] for row in rows] == [1, 2]
    for row in rows:
        assert (row["nfe"], len(row["trajectory"])) == (5, 5)
        assert row["macs_per_image"] == sum(call["macs"] for call in row["trajectory"])
        assert row["latency_ms"]["runs"] == 1
    table = list(csv.DictReader(path.open()))
    assert [int(line["macs_per_image"]) for line in table] == [row["macs_per_image"] for row in rows]
    assert float(table[0]["latency_ms.median"]) == rows[0]["latency_ms"]["median"]
    assert "heun, 3 steps, NFE 5" in capsys.readouterr().out


def test_modules_and_a_second_counter(tmp_path, capsys):
    (row,) = profile(tmp_path, "ddpm_tiny", "--counts-only", "--by-module", "--depth", "1", "--counter", "torch,fvcore")
    assert row["modules"][0]["macs"] == row["macs"]
    assert {module["depth"] for module in row["modules"]} == {0, 1}
    assert sum(module["macs"] for module in row["modules"][1:]) == row["macs"]
    assert row["macs_fvcore"] > 0
    assert row["uncounted_by_fvcore"]["aten::scaled_dot_product_attention"] > 0
    out = capsys.readouterr().out
    assert "100.0%" in out
    assert "fvcore" in out


def test_without_fvcore_only_its_column_is_lost(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "fvcore.nn", None)
    (row,) = profile(tmp_path, "ddpm_tiny", "--counts-only", "--counter", "torch,fvcore")
    assert row["macs"] == get_variant("ddpm_tiny").costs[0].macs
    assert "macs_fvcore" not in row
    assert "note: fvcore is not installed" in capsys.readouterr().err


def test_a_lower_bound_is_marked(tmp_path, capsys, monkeypatch):
    from denoisezoo.profiling import profile as module
    from denoisezoo.profiling.counting import Counts

    monkeypatch.setattr(module, "count_backbone", lambda *_: Counts(5, 0, {"aten._fft_c2c": 3}, {}, {}, 5, 8, 8, {}))
    profile(tmp_path, "ddpm_tiny", "--counts-only")
    out = capsys.readouterr().out
    assert "≥ 5" in out
    assert "MACs are a lower bound; no formula for aten._fft_c2c (3 calls)" in out


def test_variants_side_by_side(tmp_path, capsys):
    rows = profile(tmp_path, "ddpm_tiny", "--device", "cpu", "--runs", "1", "--variants", "eager,bf16")
    assert [(row["variant"], row["dtype"], row["layout"]) for row in rows] == [
        ("eager", "float32", "contiguous"),
        ("bf16", "bfloat16", "channels_last"),
    ]
    assert set(rows[0]["cold_start_ms"]) == {"build", "first_call"}
    out = capsys.readouterr().out
    assert all(word in out for word in ("variant", "of peak", "cold start ms", "threads"))


def test_two_networks_in_turns(tmp_path, capsys):
    words = ["--compare", "--device", "cpu", "--runs", "7", "--batch-size", "1,2"]
    rows = profile(tmp_path, "ddpm_tiny", "adm_tiny", *words)
    assert [row["batch_size"] for row in rows] == [1, 2]
    a, b = (get_variant(name).costs[-1] for name in ("ddpm_tiny", "adm_tiny"))
    for row in rows:
        assert (row["a"], row["b"]) == ("ddpm_tiny", "adm_tiny")
        assert row["macs_ratio"] == b.macs / a.macs
        assert row["params_ratio"] == b.params / a.params
        assert row["low"] <= row["latency_ratio"] <= row["high"]
        assert row["latency_a_ms"]["runs"] == 7
    assert "adm_tiny over ddpm_tiny" in capsys.readouterr().out


def test_a_network_that_fails_does_not_end_the_rest(tmp_path, capsys):
    path = tmp_path / "rows.json"
    # ddpm_digits halves twice and cannot take 30 pixels; ddpm_tiny halves once.
    words = ["profile", "ddpm_digits", "ddpm_tiny", "--resolution", "30", "--runs", "1", "--device", "cpu"]
    status = cli.main([*words, "--json", str(path)])
    failed, found = sorted(json.loads(path.read_text()), key=lambda row: "error" not in row)
    out, err = capsys.readouterr()
    assert status == 1
    assert (failed["name"], found["name"]) == ("ddpm_digits", "ddpm_tiny")
    assert "resolution 30" in failed["error"]
    assert f"ddpm_digits failed: {failed['error']}" in err
    assert found["latency_ms"]["runs"] == 1
    assert "ddpm_tiny" in out


def test_a_process_that_is_killed_leaves_a_row():
    (row,) = in_own_process(die, "net", SimpleNamespace())
    assert row["name"] == "net"
    assert "killed, most likely for lack of memory" in row["error"]


def die(name, args):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_plan_and_guidance_are_priced_and_plotted(tmp_path):
    plan, page = tmp_path / "plan.json", tmp_path / "page.html"
    plan.write_text('{"efforts": [1.0]}')
    words = ["--sampler", "heun", "--steps", "3", "--plan", str(plan), "--guidance", "2", "--plot", str(page)]
    (row,) = profile(tmp_path, "adm_tiny", "--counts-only", *words)
    assert (row["nfe"], row["guidance"], row["plan"]) == (10, 2.0, {"efforts": [1.0], "edges": []})
    text = page.read_text()
    assert "adm_tiny, heun, 3 steps" in text
    assert "cdn" not in text.split("<script", 1)[0]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run folder, as far as `load_run` knows."""
    from denoisezoo.runs import subjects

    denoiser = create_denoiser(create_backbone("ddpm_tiny", num_classes=0), "flow").eval()
    monkeypatch.setattr(
        subjects, "load_run", lambda path: SimpleNamespace(name="ddpm_tiny", denoiser=denoiser, config={})
    )
    folder = tmp_path / "run"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("counts_only", [True, False])
def test_a_run_is_priced_with_its_own_process(run, tmp_path, counts_only):
    how = ["--counts-only"] if counts_only else ["--runs", "1", "--device", "cpu"]
    (row,) = profile(tmp_path, str(run), "--sampler", "euler", "--steps", "2", *how)
    assert (row["name"], row["run"]) == ("ddpm_tiny", str(run))
    assert row["trajectory"][0]["sigma"] is None  # rectified flow ends in pure noise
    assert (row["latency_ms"] is None) == counts_only


def test_a_run_has_its_own_process(run, capsys):
    assert "has a process of its own" in error_line(capsys, str(run), "--process", "vp")


def test_a_path_that_is_not_there(capsys, tmp_path):
    assert error_line(capsys, str(tmp_path / "nothing")).startswith("error: ")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["ddpm_cifar11"], "error: unknown denoiser 'ddpm_cifar11'; did you mean ddpm_cifar10"),
        (["ddpm_tiny", "--sampler", "hevn", "--steps", "3"], "error: unknown sampler 'hevn'; did you mean heun"),
        (
            ["ddpm_tiny", "--sampler", "heun"],
            "error: --sampler is given without --steps; give both, e.g. --sampler heun and --steps 18",
        ),
        (["ddpm_tiny", "--steps", "3"], "error: --steps is given without --sampler; give both"),
        (["ddpm_tiny", "--sampler", "heun", "--steps", "-3"], "error: --steps: '-3' should be at least 1"),
        (["ddpm_tiny", "--batch-size", "1,0"], "error: --batch-size: '1,0' should be at least 1"),
        (["ddpm_tiny", "--batch-size", "x"], "error: --batch-size: invalid list of ints value: 'x'"),
        (["ddpm_tiny", "--effort", "nan"], "error: --effort: 'nan' should be at least 0"),
        (["ddpm_tiny", "--effort", "0.5", "--counts-only"], "error: effort 0.5 is not offered by this network"),
        (["ddpm_tiny", "--dtype", "float23"], "error: unknown dtype 'float23'; did you mean float32"),
        (["ddpm_tiny", "--device", "gpu0"], "error: 'gpu0' is no device"),
        (["ddpm_tiny", "--counter", "fvcor"], "error: --counter: unknown counter 'fvcor'; did you mean fvcore"),
        (["ddpm_tiny", "--resolution", "33"], "error: resolution 33 cannot be halved 1 times; use a multiple of 2"),
        (["ddpm_tiny", "--device", "cuda:99"], "error: this machine has no device cuda:99"),
        (["ddpm_tiny", "--variants", "eagre"], "error: unknown variant 'eagre'; did you mean eager"),
        (["ddpm_tiny", "--compare"], "error: --compare takes two networks, not 1"),
        (["ddpm_tiny", "--plan", "x.json"], "error: --plan is given without --sampler; give both"),
        (
            ["ddpm_tiny", "--sampler", "heun", "--steps", "3", "--plan", "/nowhere/x.json"],
            "error: there is no plan /nowhere/x.json",
        ),
        (
            ["ddpm_digits", "--counts-only", "--sampler", "heun", "--steps", "3", "--guidance", "nan"],
            "error: this network has no classes to guide to",
        ),
        (["ddpm_tiny", "--process", "vq"], "error: unknown process 'vq'; did you mean vp"),
    ],
)
def test_mistakes_end_with_one_line(words, line, capsys):
    assert error_line(capsys, *words).startswith(line)
