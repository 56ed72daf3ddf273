"""`sample --interpolate` and `--perturb` as their user types them."""

import json

import numpy as np
import pytest
from PIL import Image

from denoisezoo.cli import main
from denoisezoo.runs import run
from denoisezoo.train.module import DiffusionModule


@pytest.fixture
def run_folder(arguments, tmp_path, monkeypatch):
    """A run of one step."""
    monkeypatch.setattr(DiffusionModule, "training_macs", lambda self: 1)
    assert main(["train", *arguments("--trainer.max_steps", 1)]) == 0
    return tmp_path / "run"


def cell(path, row, column):
    """One image of a grid of 16x16 images magnified four times, with gaps of two pixels."""
    pixels = np.asarray(Image.open(path))
    top, left = 2 + row * 66, 2 + column * 66
    return pixels[top : top + 64, left : left + 64]


def test_pictures_of_latents(run_folder, tmp_path):
    out = tmp_path / "out"
    words = ["sample", str(run_folder), "--sampler", "ddpm", "--steps", "2", "--num", "4", "--seed", "3"]
    assert main([*words, "--out", str(out), "--interpolate", "5", "--perturb", "0.5"]) == 0
    assert Image.open(out / "interpolation.png").size == (5 * 66 + 2, 2 * 66 + 2)  # two pairs
    assert Image.open(out / "perturbation.png").size == (3 * 66 + 2, 4 * 66 + 2)  # plain, the start, one draw after it
    for pair in (0, 1):
        for column, i in ((0, 2 * pair), (4, 2 * pair + 1)):
            end, image = cell(out / "interpolation.png", pair, column).astype(int), cell(out / "grid.png", pair, i % 2)
            assert np.abs(end - image).max() <= 1  # the ends are the images of the seeds, up to rounding
    assert np.array_equal(cell(out / "perturbation.png", 0, 0), cell(out / "grid.png", 0, 0))
    assert not np.array_equal(cell(out / "perturbation.png", 0, 1), cell(out / "perturbation.png", 0, 0))
    note = json.loads((out / "samples.json").read_text())
    assert note["interpolation"] == {"pairs": 2, "images": 5}
    assert note["perturbation"] == {"share": 0.5, "draws": 2}


def test_black_images_of_nan_are_not_written(run_folder, tmp_path, monkeypatch, capsys):
    def broken(*args, **kwargs):
        found = load_run(*args, **kwargs)
        found.denoiser.backbone.head.bias.data.fill_(float("nan"))
        return found

    load_run = run.load_run
    monkeypatch.setattr(run, "load_run", broken)
    for command in (["sample"], ["evaluate"]):
        assert main([*command, str(run_folder), "--num", "3", "--steps", "2", "--out", str(tmp_path / "out")]) == 2
        assert "3 of 3 images are not finite, first the prediction of call 1" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--interpolate", "1"], "at least 2"),
        (["--perturb", "0"], "above 0"),
        (["--perturb", "1.5"], "at most 1"),
        (["--perturb", "much"], "much"),
        (["--sampler", "ddpm", "--steps", "30", "--perturb", "0.5"], "deterministic"),
        (["--sampler", "udpm", "--steps", "3"], "EDM"),
    ],
)
def test_mistakes_are_one_line_with_status_two(run_folder, tmp_path, capsys, more, said):
    capsys.readouterr()
    assert main(["sample", str(run_folder), "--num", "1", "--out", str(tmp_path / "out"), *more]) == 2
    lines = [line for line in capsys.readouterr().err.strip().splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert said in lines[0]
    assert not (tmp_path / "out").exists()
