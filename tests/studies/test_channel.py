"""The channel from the command line, on networks that have hardly been trained."""

import json

import pytest
import torch
import yaml

from denoisezoo import cli
from denoisezoo.data import Digits
from denoisezoo.evaluation import digital, recognition
from denoisezoo.evaluation.linear import Moments
from denoisezoo.pixels import to_float
from denoisezoo.studies.noisy_channel import METHODS, rows_of
from denoisezoo.train.fit import train

MEASURED = {"process": {"class_path": "Measured", "init_args": {"x": "EDM", "channels": 1}}}
SEES_Y = {"network": {"cond_channels": 2}}
PLAIN_Y = {"equaliser": "zero_forcing"}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """A classifier that hardly learns, and a link that is tried at one rate."""
    monkeypatch.setattr(recognition, "STEPS", 5)
    monkeypatch.setattr(recognition, "_trained", {})
    monkeypatch.setattr(digital, "REPETITIONS", (10,))


FOLDERS = {}


@pytest.fixture
def channel_run(recipe, tmp_path_factory):
    """Trains the recipe on a channel, once for all tests; returns its folder."""

    def make(folder, model=SEES_Y, seed=0, **options):
        if folder in FOLDERS:
            return FOLDERS[folder]
        config = yaml.safe_load(recipe.read_text())
        config["model"]["network"] |= model.get("network", {})
        config["model"]["process"] = model.get("process", config["model"]["process"])
        config["samples"] |= {"sampler": "ddim", "steps": 2}
        task = {"class_path": "Channel", "init_args": {"snr_db": [-20.0, 20.0], "power": 0.645} | options}
        config["data"] = {"class_path": "Paired", "init_args": {"data": config["data"], "task": task}}
        home = tmp_path_factory.mktemp("runs")
        path = home / "channel.yaml"
        path.write_text(yaml.safe_dump(config))
        words = ["--config", str(path), "--seed_everything", str(seed), "--trainer.max_steps", "2"]
        train([*words, "--trainer.default_root_dir", str(home / folder)])
        FOLDERS[folder] = str(home / folder)
        return FOLDERS[folder]

    return make


def study(tmp_path, *words):
    rows = tmp_path / "rows.json"
    words = ["study", "channel", *words, "--num", "60", "--draws", "2", "--device", "cpu"]
    assert cli.main([*words, "--out", str(tmp_path / "page.html"), "--json", str(rows)]) == 0
    return json.loads(rows.read_text())


def closed_form(snr_db, kappa2=0.0):
    """tr(C - C (C + s^2)^-1 C) / D of training images in dB; held-out ones are a little worse."""
    data = Digits(batch_size=8)
    data.setup()
    v = Moments.of(to_float(data.images("train"))).variances
    s2 = 0.645 * (10 ** (-snr_db / 10) + kappa2)
    return 10 * (v * s2 / (v + s2)).sum().div(256).log10().item()


def test_runs_and_baselines_over_snr(channel_run, tmp_path):
    runs = [channel_run("see/0"), channel_run("see/1", seed=1), channel_run("matched", MEASURED, **PLAIN_Y)]
    rows = study(tmp_path, *runs, "--snr=-5,10")
    table = {(row["method"], row["snr_db"]): row for row in rows}
    names = ["see", "see, mean of 2", "matched", "matched, mean of 2", *METHODS]
    assert list(table) == [(name, snr) for snr in (-5, 10) for name in names]
    assert {row["images"] for row in rows} == {30}
    assert [table[name, -5]["seeds"] for name in names[:4]] == [2, 2, 1, 1]
    assert table["see", -5]["mse_db_std"] > 0
    assert [table[name, -5]["card"].get("training_seed") for name in names[:5]] == [[0, 1], [0, 1], 0, 0, None]
    assert table["see", -5]["card"]["threads"] == torch.get_num_threads()
    assert table["see, mean of 2", -5]["mse_db"] < table["see", -5]["mse_db"]
    # What each method knows more than the one before; all of them gain from a better channel.
    chain = [table[name, -5]["mse_db"] for name in ("as received", "pixelwise MMSE", "linear MMSE")]
    assert chain == sorted(chain, reverse=True)
    assert all(table[name, 10]["mse_db"] < table[name, -5]["mse_db"] for name in METHODS)
    assert table["linear MMSE", -5]["gain_db"] == 0
    assert table["ideal Gaussian link", -5]["mse_db"] < table["BPSK link", -5]["mse_db"]
    assert table["BPSK link", -5]["bits"] == 25
    # Ten or eleven symbols a bit, and one: Q(sqrt(r SNR)).
    assert table["BPSK link", -5]["bit_error_rate"] == pytest.approx(0.037, abs=0.02)
    assert table["uncoded pixels", -5]["bit_error_rate"] == pytest.approx(0.287, abs=0.02)
    assert all(0 <= row["class_accuracy"] <= 1 for row in rows)
    for snr in (-5, 10):
        assert table["linear MMSE", snr]["mse_db"] == pytest.approx(closed_form(snr), abs=0.7)  # 30 images, clamped


def test_options_of_the_channel_change(channel_run, tmp_path):
    """Hardware whose noise is as large as that of 7.4 dB, whatever the SNR; and fades of four bands."""
    words = ["--snr", "20", "--task", "transmitter=0.3,receiver=0.3,fading=rayleigh,blocks=4"]
    rows = {row["method"]: row for row in study(tmp_path, channel_run("see/0"), *words)}
    assert closed_form(20) + 3 < closed_form(20, 0.18) < rows["linear MMSE"]["mse_db"] + 0.7
    assert rows["linear MMSE"]["mse_db"] < rows["pixelwise MMSE"]["mse_db"]


def test_rows_average_seeds():
    found = {"a": [{"mse_db": -10.0}, {"mse_db": -12.0}], "linear MMSE": [{"mse_db": -8.0}]}
    a, b = rows_of(found, 0.0, 3)
    assert (a["mse_db"], a["mse_db_std"], a["gain_db"], a["seeds"]) == (-11.0, 2**0.5, 3.0, 2)
    assert "mse_db_std" not in b


def test_mistakes_end_with_one_line(channel_run, trained, tmp_path, capsys):
    run, other = channel_run("see/0"), channel_run("other", power=0.62)
    cases = {
        (str(trained()),): "was not trained on a channel",
        (run, other): "runs of one channel",
        (run, "--task", "fadin=rayleigh"): "fading",
        (run, "--task", "transmitter=0.5"): "kappa",
        (run, "--task", "fading=raileigh"): "rayleigh",
        (run, "--snr", "x"): "--snr",
    }
    for words, expected in cases.items():
        capsys.readouterr()
        assert cli.main(["study", "channel", *words]) == 2
        error = capsys.readouterr().err.strip().splitlines()
        assert expected in error[-1]


def test_evaluate_at_one_snr_of_a_range(channel_run, tmp_path, capsys):
    """A run that was trained over a range, at one SNR; with the accuracy of what arrives."""
    run, path = channel_run("matched", MEASURED, **PLAIN_Y), tmp_path / "row.json"
    words = ["evaluate", run, "--sampler", "ddim", "--steps", "2", "--num", "20"]
    assert cli.main([*words, "--task", "snr_db=-5", "--json", str(path)]) == 0
    row = json.loads(path.read_text())[0]
    assert row["task"].startswith("channel -5 dB")
    assert {"mse_db", "mse_db_mean", "cosine", "class_accuracy", "class_accuracy_clean", "psnr", "ssim"} <= set(row)
    assert cli.main([*words, "--task", "fading=rayleigh,blocks=4"]) == 2
    assert "differs within an image" in capsys.readouterr().err.strip().splitlines()[-1]
