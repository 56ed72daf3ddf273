"""`denoisezoo ema`: averages made after training, and a guide, from the command line and from Python."""

import json

import pytest
import torch

import denoisezoo as dz
from denoisezoo.cli import main
from denoisezoo.runs.ema_sweep import reconstruct
from denoisezoo.train.checkpoint import read_checkpoint
from denoisezoo.train.power_averages import stored

FEW = ["--num", "8", "--steps", "2", "--sampler", "euler", "--device", "cpu"]


@pytest.fixture
def run(trained):
    return trained("--posthoc.every_n_steps", "1")


def test_the_best_becomes_a_checkpoint(run, tmp_path, capsys):
    rows = tmp_path / "rows.json"
    assert main(["ema", str(run), "--sigma-rel", "0.06,0.2", "--metric", "recall", *FEW, "--json", str(rows)]) == 0
    shown = capsys.readouterr().out
    found = json.loads(rows.read_text())
    assert [row["sigma_rel"] for row in found] == [None, 0.06, 0.2]
    assert [row["best"] for row in found].count(True) == 1
    best = max(found[1:], key=lambda row: row["recall"])
    assert best["best"]
    assert best["weights"] == f"ema of sigma_rel {best['sigma_rel']:g}"
    path = run / "checkpoints" / f"ema_{best['sigma_rel']:g}.ckpt"
    assert str(path) in shown
    written, made = read_checkpoint(path), reconstruct(run, best["sigma_rel"])
    assert made.step == written["global_step"] == 4
    assert made.images == written["denoisezoo"]["images_seen"] == 128
    for name, tensor in made.weights.items():
        assert torch.equal(written["state_dict"][name], tensor)
    loaded = dz.load(path)
    assert loaded.run.folder == run
    assert loaded.run.facts["sigma_rel"] == best["sigma_rel"]
    again = dz.evaluate(path, num=8, steps=2, sampler="euler", device="cpu")
    assert again.metrics["recall"] == best["recall"]
    assert main(["sample", str(path), *FEW]) == 0
    assert main(["sample", str(path), "--weights", "raw", *FEW]) == 2
    # The run goes on from its own checkpoint, not from this one.
    assert dz.load(run).run.checkpoint.name == "step_00000004.ckpt"


def test_mistakes(run, trained, capsys):
    bare = trained(folder="bare")
    for words, expected in [
        ([str(bare)], "stored no averages; train with --posthoc.every_n_steps set"),
        ([str(run), "--sigma-rel", "0.4"], "sigma_rel is 0.4; give a number above 0 and up to 0.25"),
        ([str(run), "--sigma-rel", "x"], "list of numbers"),
        ([str(run), "--metric", "recal"], "unknown metric 'recal'; did you mean recall"),
        ([str(run), "--guide", str(run)], "--guide is given without --guidance"),
    ]:
        assert main(["ema", *words, *FEW]) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("error: ")
        assert expected in error
    path = stored(run)[-1]
    path.write_bytes(path.read_bytes()[:-100])
    assert main(["ema", str(run), *FEW]) == 2
    assert "is damaged" in capsys.readouterr().err


def test_a_guide_is_sampled_priced_and_named(trained, tmp_path, capsys):
    run = trained()
    earlier = run / "checkpoints" / "step_00000002.ckpt"
    words = ["--guide", str(earlier), "--guidance", "1.5"]
    assert main(["sample", str(run), *FEW, *words, "--out", str(tmp_path / "guided")]) == 0
    note = json.loads((tmp_path / "guided" / "samples.json").read_text())
    assert note["nfe"] == 4
    assert note["guidance"] == f"1.5 by {earlier}"
    rows = tmp_path / "rows.json"
    price = ["--sampler", "heun", "--steps", "3", "--counts-only", "--json", str(rows)]
    assert main(["profile", str(run), *price, *words]) == 0
    (row,) = json.loads(rows.read_text())
    assert row["nfe"] == 10
    assert row["macs_per_image"] == 10 * row["macs"]
    other = dz.create_denoiser("ddpm_tiny", process="vp")
    with pytest.raises(dz.UserError, match="different processes"):
        dz.evaluate(run, guidance=1.5, guide=other, num=4, steps=2)
    capsys.readouterr()
    assert main(["profile", "ddpm_tiny", *price, "--guide", str(earlier)]) == 2
    assert "--guide is given without --guidance" in capsys.readouterr().err
