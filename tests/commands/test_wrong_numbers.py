"""Numbers out of range and recipes that hold themselves: one line that names the key, status 2."""

import pytest

from denoisezoo.cli import main
from denoisezoo.runs.build import denoiser_of
from tests.train.test_allowed import MODEL


def refused(words, capsys):
    """The one line of a mistake."""
    capsys.readouterr()
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    return line


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("model.optimizer.lr", value) for value in ("-1", "0", ".nan", ".inf")),
        ("model.optimizer.weight_decay", "-1"),
        ("model.optimizer.betas", "[2, 3]"),
        ("model.optimizer.warmup_steps", "-3"),
        ("trainer.gradient_clip_val", "-1"),
        ("trainer.gradient_clip_val", ".nan"),
        ("trainer.min_steps", "-5"),
        ("trainer.devices", "0"),
        ("trainer.accelerator", "zzz"),
        ("trainer.max_time", "zz"),
        ("trainer.strategy", "zzz"),
        ("trainer.precision", "zz"),
    ],
)
def test_a_recipe(arguments, capsys, key, value):
    assert key.rpartition(".")[2] in refused(["train", *arguments(f"--{key}", value)], capsys)


@pytest.mark.parametrize("text", ["images=inf", "minutes=inf", "macs=nan", "images=-1"])
def test_a_budget(recipe, capsys, text):
    assert text in refused(["compare", str(recipe), "--budget", text], capsys)


def test_a_recipe_that_holds_itself(tmp_path, capsys):
    path = tmp_path / "recipe.yaml"
    path.write_text("model: &a [*a]\n")
    assert "YAML alias" in refused(["train", "--config", str(path)], capsys)


def test_a_checkpoint_s_wrong_value_is_named_with_its_key():
    process = {"class_path": MODEL["process"]["class_path"], "init_args": {"sigma_min": "zzz"}}
    with pytest.raises(ValueError, match="sigma_min"):
        denoiser_of(MODEL | {"process": process})
