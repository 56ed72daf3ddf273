"""The ranking of feature extractors, on digits degraded by known amounts."""

import json

import pytest
import torch
from scipy.stats import kendalltau

from denoisezoo import cli
from denoisezoo.data import Digits
from denoisezoo.evaluation.degradations import DEGRADATIONS, blur, jpeg, lose_modes, noise, repeat
from denoisezoo.pixels import to_float
from denoisezoo.studies.feature_ranking import kendall


def drawn(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def digits():
    return Digits(resolution=16).images("train")[:200]


def test_changes_are_of_the_amount_they_say(digits):
    grey = torch.full((20, 1, 16, 16), 128, dtype=torch.uint8)
    assert float(to_float(noise(grey, 0.1, drawn())).std()) == pytest.approx(0.1, rel=0.03)
    assert torch.equal(blur(grey, 0.1, drawn()), grey)
    point = torch.zeros(1, 1, 33, 33, dtype=torch.uint8)
    point[..., 16, 16] = 255
    seen = (blur(point, 0.05, drawn())[0, 0].double() / 255).sum(0)  # columns of a Gaussian of 1.65 pixels
    place = torch.arange(33) - 16
    assert float((seen * place**2).sum() / seen.sum()) ** 0.5 == pytest.approx(0.05 * 33, rel=0.1)
    errors = [
        float((jpeg(digits[:20], amount, drawn()).float() - digits[:20]).square().mean()) for amount in (0, 50, 95)
    ]
    assert errors[0] < 2 < errors[1] < errors[2]
    assert jpeg(digits[:2].expand(-1, 3, -1, -1), 20, drawn()).shape == (2, 3, 16, 16)


def test_choices_keep_the_number_and_lose_what_they_say(digits):
    assert len(repeat(digits, 0.9, drawn())) == 200
    assert len(repeat(digits, 0.9, drawn()).unique()) == 20
    few, fewer = (set(lose_modes(digits, share, drawn(3)).tolist()) for share in (0.3, 0.8))
    assert len(lose_modes(digits, 0.3, drawn())) == 200
    assert fewer < few < set(range(200))


def test_the_correlation_is_kendalls():
    values = [0.3, 0.1, 0.5, 0.4, 0.9]
    expected = kendalltau(range(5), values).statistic
    assert kendall([[value] for value in values]) == pytest.approx(expected)
    assert kendall([[0.0, 5.0], [1.0, 4.0]]) == 0


def test_the_study(tmp_path):
    rows = tmp_path / "rows.json"
    words = ["features", "digits/ddpm", "--among", "pixels", "--num", "150", "--rounds", "2", "--json", str(rows)]
    assert cli.main(["study", *words, "--out", str(tmp_path / "page.html")]) == 0
    found = json.loads(rows.read_text())
    assert len(found) == 5 * (len(DEGRADATIONS) + 1)
    by = {(row["degradation"], row["level"]): row for row in found}
    assert by["noise", 0]["distance"] == by["blur", 0]["distance"]
    assert by["noise", 4]["over_clean"] > 2
    assert by["noise", 0]["rank_correlation"] == 1
    assert by["copies", 4]["distance"] < by["copies", 0]["distance"]  # which a distance calls better, ...
    assert by["copies", 4]["copying"] < -5  # ... and the test does not
    assert by["noise", 1]["card"]["dataset_sha256"] == by["noise", 1]["dataset_sha256"]
    assert "over_clean noise" in (tmp_path / "page.html").read_text()


def test_mistakes_are_one_line(tmp_path, capsys):
    for words, expected in (
        (["digits/ddpm", "--num", "50"], "has 50 images for the study; give at least 100"),
        (["digits/ddpm", "photos32/ddpm"], "features studies one data set; name a recipe"),
        (["digits/ddpm", "--features", "pixels16"], "no use for --features; leave it out"),
        (["digits/ddpm", "--among", "pixel"], "unknown feature extractor 'pixel'; did you mean pixels"),
        (["digits/dpm"], "digits/ddpm"),
    ):
        assert cli.main(["study", "features", *words, "--out", str(tmp_path / "page.html")]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert expected in line
