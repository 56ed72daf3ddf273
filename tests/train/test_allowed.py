"""A file cannot choose what is imported, in whatever form it asks for it."""

import sys

import pytest
import torch
import yaml

from denoisezoo.cli import main
from denoisezoo.diffusion.objectives.regression import EDMLoss
from denoisezoo.errors import UserError
from denoisezoo.plugins import trusting
from denoisezoo.runs.build import build_data, denoiser_of
from denoisezoo.train.allowed import check_arguments
from denoisezoo.train.checkpoint import AtomicCheckpointIO, read_checkpoint
from denoisezoo.train.described import with_codec
from denoisezoo.train.module import DiffusionModule
from denoisezoo.train.recipe import parse_recipe, plain_config
from denoisezoo.train.recipe_names import list_recipes
from tests.conftest import RECIPE

MODULE = "evil_canary"
NAME = f"{MODULE}.X"
EDM = "denoisezoo.diffusion.processes.scalar.EDM"
MODEL = yaml.safe_load(RECIPE.replace("NAME", "ddpm_tiny"))["model"] | {
    "process": {"class_path": EDM},
    "preconditioning": {"class_path": "denoisezoo.diffusion.preconditioning.EDMPreconditioning"},
    "objective": {"class_path": "denoisezoo.diffusion.objectives.regression.EDMLoss"},
}


@pytest.fixture
def canary(tmp_path, monkeypatch):
    """A module on the path that leaves a file when it is imported."""
    home, mark = tmp_path / "modules", tmp_path / "was_here"
    home.mkdir()
    (home / f"{MODULE}.py").write_text(f"open({str(mark)!r}, 'w').close()\nclass X: pass\n")
    monkeypatch.syspath_prepend(str(home))
    yield mark
    assert not mark.exists()
    assert MODULE not in sys.modules


FORMS = {
    "text": NAME,
    "YAML in text": f"{{class_path: {NAME}}}",
    "a mapping": {"class_path": NAME},
    "a list": {"class_path": [NAME]},
    "list of mappings": [{"class_path": NAME}],
    "a mapping in a mapping": {"class_path": {"class_path": NAME}},
    "arguments of our class": {"class_path": EDM, "init_args": {"class_path": NAME}},
    "more arguments of our class": {"class_path": EDM, "dict_kwargs": {"x": {"class_path": NAME}}},
    "our package's imports": {"class_path": "denoisezoo.runs.build.ArgumentParser"},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("key", ["process", "preconditioning", "objective"])
def test_a_model_names_classes_of_this_package_alone(canary, form, key):
    with pytest.raises(UserError, match=rf"model\.{key}"):
        denoiser_of(MODEL | {key: FORMS[form]})


@pytest.mark.parametrize("form", FORMS)
def test_so_do_the_classes_within_them(canary, form):
    objective = {"class_path": "denoisezoo.diffusion.objectives.regression.Simple", "init_args": {"times": FORMS[form]}}
    with pytest.raises(UserError, match=r"model\.objective\.times"):
        denoiser_of(MODEL | {"objective": objective})


@pytest.mark.parametrize("form", FORMS)
def test_so_do_data(canary, form):
    with pytest.raises(UserError, match="data"):
        build_data(FORMS[form])
    paired = {"class_path": "denoisezoo.data.Paired", "init_args": {"data": FORMS[form]}}
    with pytest.raises(UserError, match=r"data\.data"):
        build_data(paired)


@pytest.mark.parametrize(
    "network",
    [NAME, {"hidden": {"class_path": NAME}}, {"hidden": f"class_path: {NAME}"}, {"hidden.class_path": NAME}, [NAME]],
)
def test_nothing_hides_where_any_value_is_taken(canary, network):
    with pytest.raises(UserError):
        denoiser_of(MODEL | {"network": network})


@pytest.mark.parametrize("key", ["process.class_path", "optimizer.class_path", "class_path"])
def test_nothing_hides_in_a_dotted_key(canary, key):
    with pytest.raises(UserError, match=key):
        denoiser_of({**MODEL, key: NAME})


@pytest.mark.parametrize("value", [NAME, {"class_path": NAME}, f"{{class_path: {NAME}}}"])
def test_nothing_hides_in_a_group(canary, value):
    with pytest.raises(UserError, match=r"model\.optimizer"):
        denoiser_of(MODEL | {"optimizer": value})


@pytest.mark.parametrize("form", FORMS)
def test_a_checkpoint_of_such_a_kind_is_one_line(canary, trained, tmp_path, capsys, form):
    trained()
    found = read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")
    found["denoisezoo"]["recipe"]["model"]["process"] = FORMS[form]
    path = tmp_path / "evil.ckpt"
    AtomicCheckpointIO().save_checkpoint(found, path)
    capsys.readouterr()
    for command in ("sample", "export", "evaluate"):
        assert main([command, str(path)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "model.process" in line


@pytest.mark.parametrize("imports", [[MODULE], [NAME], ["json", MODULE], MODULE, {MODULE: None}, [[MODULE]]])
def test_a_checkpoint_imports_nothing_unasked(canary, trained, tmp_path, capsys, imports):
    found = read_checkpoint(trained() / "checkpoints" / "last.ckpt")
    found["denoisezoo"]["recipe"]["imports"] = imports
    path = tmp_path / "evil.ckpt"
    AtomicCheckpointIO().save_checkpoint(found, path)
    capsys.readouterr()
    for command in (["sample"], ["export"], ["evaluate"], ["profile", "--counts-only", "--trust", "json"]):
        assert main([*command, str(path)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "the checkpoint" in line
        assert "imports" in line


def test_what_the_shipped_recipes_hold_is_allowed(untrained_codecs):
    """A few of each data set: everything that they resolve to is built again."""
    for name in [*list_recipes()[::9], "digits/autoencoder", "digits/ddpm_latent"]:
        with torch.device("meta"):  # whole, they take gigabytes
            cli = parse_recipe(["--config", name, "--trainer.logger", "false"])
            config = with_codec(plain_config(cli), cli.model.denoiser.codec)
            denoiser, *_ = denoiser_of(config["model"])
        data = build_data(config["data"])
        assert type(data).__name__ == config["data"]["class_path"].rpartition(".")[2]
        assert type(denoiser.process).__name__ == config["model"]["process"]["class_path"].rpartition(".")[2]


OLD = {
    "process": "denoisezoo.diffusion.processes.EDM",
    "preconditioning": "denoisezoo.diffusion.preconditioning.EDMPreconditioning",
    "objective": "denoisezoo.diffusion.objectives.EDMLoss",
}
"""Where classes lived when checkpoints of an earlier version were written."""


def test_classes_are_found_by_name_wherever_they_lived():
    section = MODEL | {key: {"class_path": path} for key, path in OLD.items()}
    denoiser, *_ = denoiser_of(section)
    assert type(denoiser.process).__name__ == "EDM"
    objective = check_arguments(section, DiffusionModule, "model")["objective"]["class_path"]
    assert objective == f"{EDMLoss.__module__}.{EDMLoss.__qualname__}"
    data = build_data({"class_path": "denoisezoo.train.data.embedded.Digits", "init_args": {"batch_size": 8}})
    assert type(data).__name__ == "Digits"


def test_a_class_of_another_package_is_taken_where_it_is_trusted(tmp_path, monkeypatch):
    home = tmp_path / "modules"
    home.mkdir()
    (home / "their_flows.py").write_text(
        "from denoisezoo.diffusion.processes.scalar import EDM\n\n\nclass Flow(EDM):\n    pass\n"
    )
    monkeypatch.syspath_prepend(str(home))
    section = MODEL | {"process": {"class_path": "their_flows.Flow"}}
    with pytest.raises(UserError, match=r"their_flows, whose code is not trusted; .*`trust=their_flows`"):
        denoiser_of(section)
    assert "their_flows" not in sys.modules
    with trusting(["their_flows"]):
        assert type(denoiser_of(section)[0].process).__name__ == "Flow"
    del sys.modules["their_flows"]
