"""Budgets of plans on latents: the decoder is part of the price, whatever the plan."""

import json
import math

import pytest

from denoisezoo.cli import main
from tests.examples import latents  # noqa: F401 - registers the codec

SIZES = {"num_classes": 0, "cond_channels": 0, "augment_dim": 0, "in_channels": 4, "out_channels": 4, "resolution": 8}
NETWORK = [f"--model.network.{name}={size}" for name, size in SIZES.items()]
TERMS = ("--sampler", "ddim", "--steps", "6", "--num", "40", "--images", "16", "--trust", "tests")
# A convolution of 2x2 that doubles the size, from 4 channels to 8, then one of 3x3 to the image's channel.
DECODE = 8 * 8 * 4 * 8 * 4 + 16 * 16 * 9 * 8 * 1


@pytest.fixture
def run(trained):
    words = ("--model.denoiser=slim_tiny", "--model.effort=sandwich", *NETWORK, "--trainer.max_steps=1")
    return str(trained("--model.codec=toy_autoencoder", "--imports=[tests.examples.latents]", *words))


def rows_of(run, tmp_path, *words):
    file = tmp_path / "rows.json"
    assert main(["search", run, *TERMS, *words, "--json", str(file)]) == 0
    return {row["plan"]: row for row in json.loads(file.read_text())}


def test_a_budget_counts_the_decoder(run, tmp_path, capsys):
    found = rows_of(run, tmp_path, "--budget", "0.7")
    full, least, plan = (found[name] for name in ("effort 1", "effort 0.5", "exact 0.7"))
    assert full["cost_share"] == full["macs_share"] == 1
    assert plan["cost_share"] == pytest.approx(plan["macs_per_image"] / full["macs_per_image"])
    assert plan["cost_share"] <= 0.7
    for row in found.values():
        calls = row["macs_per_image"] - DECODE
        assert calls % 6 == 0 or row is plan  # six calls of one network
        assert row["codec_share"] == pytest.approx(DECODE / row["macs_per_image"])
        assert row["codec_calls"] == pytest.approx(DECODE / (calls / 6))
    assert f"below {max(1, math.ceil(least['codec_calls']))} of its cheapest" in " ".join(
        capsys.readouterr().out.split()
    )
    # Of a budget that the calls alone would fit, the decoder leaves too little.
    calls = (least["macs_per_image"] - DECODE) / (full["macs_per_image"] - DECODE)
    share = (calls + least["cost_share"]) / 2
    assert calls < share < least["cost_share"]
    assert main(["search", run, *TERMS, "--budget", str(share)]) == 2
    assert "below the smallest network's" in capsys.readouterr().err


def test_a_latency_budget_counts_the_decoder_too(run, tmp_path):
    found = rows_of(run, tmp_path, "--budget", "1", "--cost", "latency", "--batch-size", "8")
    full = found["effort 1"]
    assert full["cost_share"] == pytest.approx(1)
    assert 0 < full["codec_share"] < 1
    for row in found.values():  # the same milliseconds in each
        assert row["codec_share"] * row["cost_share"] == pytest.approx(full["codec_share"])
