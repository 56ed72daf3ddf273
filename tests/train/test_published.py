"""Published weights: what the file holds, that it works as a run, and that damage is noticed."""

import json
import random

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from denoisezoo.cli import main
from denoisezoo.errors import UserError
from denoisezoo.train.fit import train
from denoisezoo.train.published import KEY, publish
from denoisezoo.train.runs import load_run


@pytest.fixture
def published(arguments, tmp_path):
    """A published run."""
    train(arguments())
    path = tmp_path / "out" / "x.safetensors"
    assert main(["export", str(tmp_path / "run"), "--format", "safetensors", "--out", str(path)]) == 0
    return path


def test_the_header_holds_card_and_configuration(published, tmp_path):
    with safe_open(str(published), framework="pt") as file:
        header = json.loads(file.metadata()[KEY])
    run = load_run(tmp_path / "run")
    assert header["recipe"] == json.loads(json.dumps(run.config))
    facts = {"images_seen": 128, "train_steps": 4, "training_seed": 0, "weights": "ema", "dataset": "digits"}
    assert facts.items() <= header["card"].items()
    assert header["card"]["params"] == sum(p.numel() for p in run.denoiser.backbone.parameters())
    assert len(header["card"]["dataset_sha256"]) == 64


def test_it_is_a_run_wherever_one_is_asked_for(published, tmp_path, capsys):
    ours, theirs = load_run(published), load_run(tmp_path / "run")
    assert ours.facts == theirs.facts
    for name, value in theirs.denoiser.state_dict().items():
        assert torch.equal(ours.denoiser.state_dict()[name], value)
    for run, out in ((published, "a"), (tmp_path / "run", "b")):
        assert main(["sample", str(run), "--num", "2", "--steps", "2", "--out", str(tmp_path / out)]) == 0
    assert (tmp_path / "a" / "grid.png").read_bytes() == (tmp_path / "b" / "grid.png").read_bytes()
    assert main(["profile", str(published), "--counts-only"]) == 0


def test_weights_that_are_not_finite_are_not_published(published, tmp_path):
    run, path = load_run(tmp_path / "run"), tmp_path / "nan.safetensors"
    name, weight = next(iter(run.denoiser.named_parameters()))
    weight.data.flatten()[0] = float("nan")
    with pytest.raises(UserError, match=f"1 of the .* tensors of .* hold NaN or infinity, first denoiser.{name}"):
        publish(run, path)
    assert not path.exists()


def test_raw_weights_are_others_and_say_so(published, tmp_path):
    raw = tmp_path / "raw.safetensors"
    assert main(["export", str(tmp_path / "run"), "--weights", "raw", "--out", str(raw)]) == 0
    assert load_run(raw, "raw").weights == "raw"
    with pytest.raises(UserError, match="--weights raw"):
        load_run(raw)


def test_the_evaluation_goes_with_it(published, tmp_path):
    run = str(tmp_path / "run")
    assert main(["evaluate", run, "--steps", "2", "--num", "40"]) == 0
    assert main(["export", run, "--out", str(published)]) == 0
    with safe_open(str(published), framework="pt") as file:
        result = json.loads(file.metadata()[KEY])["card"]["result"]
    assert result["fd_pixels"] == json.loads((tmp_path / "run" / "evaluation" / "result.json").read_text())["fd_pixels"]


def test_every_flipped_bit_is_noticed(published):
    whole = published.read_bytes()
    positions = [*random.Random(0).sample(range(len(whole)), 40), *random.Random(1).sample(range(1000), 10)]
    for position in positions:
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        published.write_bytes(damaged)
        with pytest.raises(UserError, match=r"damaged|no file of denoisezoo"):
            load_run(published)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_file_is_refused(published, share):
    whole = published.read_bytes()
    published.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(UserError, match="damaged"):
        load_run(published)


def test_a_foreign_file_is_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.zeros(2)}, path)
    with pytest.raises(UserError, match="no file of denoisezoo"):
        load_run(path)
    torch.save({"a": 1}, path)
    with pytest.raises(UserError, match="damaged or no safetensors"):
        load_run(path)


@pytest.mark.parametrize("out", ["weights.bin", "."])
def test_wrong_names_are_refused(arguments, tmp_path, out, capsys):
    train(arguments("--trainer.max_steps", 1))
    assert main(["export", str(tmp_path / "run"), "--out", str(tmp_path / out)]) == 2
    assert "--out" in capsys.readouterr().err
